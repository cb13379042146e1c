//! Sends user space the path of each new cgroup, so that even one that lives for milliseconds has a name.
//!
//! The kernel passes the path from the root of the hierarchy: it is the same in every namespace, and no
//! mount is needed. If the ring buffer is full or a path too long, user space looks for the path itself
//! once a task runs in the cgroup.

use core::{arch::asm, mem::MaybeUninit, slice};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{btf_tracepoint, map},
    maps::RingBuf,
    programs::BtfTracePointContext,
};
use sched_exporter_ebpf::{BIRTH_PATH, BIRTHS_BYTES, CgroupBirth, Global};

use crate::{Object, cgroups};

/// The cgroups that were created or renamed. A new one wakes user space only when the buffer is half full: a
/// cgroup in which nothing runs needs no name yet, and when a task first runs in it, its slot's event wakes
/// user space.
#[map]
static CGROUP_BIRTHS: RingBuf = RingBuf::with_byte_size(BIRTHS_BYTES, 0);

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`: the cgroup is complete, and not visible yet, so no
/// task is in it. <https://github.com/torvalds/linux/blob/v6.12/kernel/cgroup/cgroup.c>, `cgroup_mkdir`.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    tell(&ctx, CgroupBirth::CREATED);
    0
}

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`: only version 1 can rename a cgroup, and only its last
/// name. <https://github.com/torvalds/linux/blob/v6.12/kernel/cgroup/cgroup-v1.c>, `cgroup1_rename`.
#[btf_tracepoint(function = "cgroup_rename")]
pub fn cgroup_rename(ctx: BtfTracePointContext) -> i32 {
    tell(&ctx, CgroupBirth::RENAMED);
    0
}

#[inline(always)]
fn tell(ctx: &BtfTracePointContext, event: u64) {
    let cgroup = Object(ctx.arg(0));
    // Cgroups of two hierarchies can have the same number.
    if cgroups::hierarchy(cgroup) as usize != global!(HierarchyId) {
        return;
    }
    let mut birth = MaybeUninit::<CgroupBirth>::uninit();
    let birth = birth.as_mut_ptr();
    // SAFETY: the fields are those of `birth`, and the helper writes no more than it is allowed to.
    let read = unsafe {
        (&raw mut (*birth).id).write(cgroups::id(cgroup));
        (&raw mut (*birth).event).write(event);
        let path = (&raw mut (*birth).path).cast();
        bpf_probe_read_kernel_str(path, BIRTH_PATH as u32, ctx.arg(1))
    };
    // Includes the final zero. The helper cuts a path that does not fit, so one that fills the field may be cut.
    let mut length = if read < 0 { 0 } else { read.cast_unsigned() };
    // SAFETY: the statement changes only its operand.
    unsafe { asm!("{0} &= 511", inout(reg) length, options(pure, nomem, nostack)) };
    if length >= BIRTH_PATH as u64 {
        length = 0;
    }
    // SAFETY: the fields before the path are written, and so is this much of the path.
    let told =
        unsafe { slice::from_raw_parts(birth.cast::<u8>(), CgroupBirth::HEADER + length as usize) };
    let is_filling = CGROUP_BIRTHS.query(BPF_RB_AVAIL_DATA.into()) > u64::from(BIRTHS_BYTES) / 2;
    let is_urgent = is_filling || event == CgroupBirth::RENAMED;
    let wakeup = if is_urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    let _ = CGROUP_BIRTHS.output::<[u8]>(told, wakeup.into());
}
