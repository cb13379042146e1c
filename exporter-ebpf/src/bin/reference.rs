//! Baselines that `cargo xtask bench` measures next to the exporter's program, on the same hook in the
//! same run: a program that does nothing, a minimal one that splits a CPU's time into idle and busy, and
//! one that splits it by cgroup in a hash map.

#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "the program macro adds a function")]
#![expect(clippy::needless_pass_by_value, reason = "the program macro requires it")]

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    helpers::{bpf_get_current_cgroup_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::{PerCpuArray, PerCpuHashMap},
    programs::BtfTracePointContext,
};

/// Start of the open interval, idle time, busy time; all in nanoseconds.
#[map]
static TIMES: PerCpuArray<[u64; 3]> = PerCpuArray::with_max_entries(1, 0);

/// Nanoseconds of each cgroup, by its number.
#[map]
static CGROUPS: PerCpuHashMap<u64, u64> = PerCpuHashMap::with_max_entries(4_096, 0);

/// Offset of `task_struct.pid`.
#[unsafe(no_mangle)]
static TASK_PID: u32 = 0;

/// Does nothing.
#[btf_tracepoint(function = "sched_switch")]
pub fn empty(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Adds the interval that ends to idle or busy.
#[btf_tracepoint(function = "sched_switch")]
pub fn minimal(ctx: BtfTracePointContext) -> i32 {
    let Some(times) = TIMES.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's value of the map; the helper has no preconditions.
    let (times, now) = unsafe { (&mut *times, bpf_ktime_get_ns()) };
    let prev: *const u8 = ctx.arg(1);
    // SAFETY: the verifier accepts the load only inside a field of this size.
    let pid: u32 =
        unsafe { read_volatile(prev.add(read_volatile(addr_of!(TASK_PID)) as usize).cast()) };
    let elapsed = now - times[0];
    if pid == 0 {
        times[1] += elapsed;
    } else {
        times[2] += elapsed;
    }
    times[0] = now;
    0
}

/// Adds the interval that ends to the cgroup of its task, which is still the current one.
#[btf_tracepoint(function = "sched_switch")]
pub fn hash(_ctx: BtfTracePointContext) -> i32 {
    let Some(times) = TIMES.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's value of the map; the helpers have no preconditions.
    let (times, now, cgroup) =
        unsafe { (&mut *times, bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    let elapsed = now - times[0];
    times[0] = now;
    if let Some(time) = CGROUPS.get_ptr_mut(cgroup) {
        // SAFETY: this CPU's value of the map.
        unsafe { *time += elapsed };
    } else {
        let _ = CGROUPS.insert(cgroup, elapsed, 0);
    }
    0
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Unreachable.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
