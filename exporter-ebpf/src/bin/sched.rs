//! The kernel program. On every context switch it charges the interval that just ended to one
//! mode, counts the switch, and takes how long the next task waited: a fixed number of steps, on
//! one record that only this CPU writes. It neither loops nor allocates, and reads kernel structs
//! directly, at offsets that user space looks up in the kernel's BTF.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the macro for programs adds a function of its own"
)]
#![expect(clippy::needless_pass_by_value, reason = "the macro for programs asks for it")]
#![expect(clippy::inline_always, reason = "BPF has no calls worth the name")]
#![expect(clippy::cast_possible_truncation, reason = "usize has 64 bits on BPF")]

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::info;
use sched_exporter_ebpf::{CpuRecord, Mode, Reason, WAIT_BUCKETS, wait_bucket};

#[map]
static CPU: PerCpuArray<CpuRecord> = PerCpuArray::with_max_entries(1, 0);

/// Declares globals that user space overrides before loading. They are read through a volatile
/// load, so that the compiler keeps them; the verifier sees constants, since `.rodata` is frozen.
macro_rules! globals {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        static $name: u32 = 0;
    )* };
}

globals! {
    TASK_FLAGS TASK_PRIO TASK_POLICY TASK_STATE TASK_LAST_QUEUED TASK_CFS_RQ CFS_RQ_RQ RQ_CLOCK
    HOOK_HAS_PREV_STATE COUNT_SWITCHES MEASURE_WAITS
}

#[inline(always)]
fn global(value: &'static u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { read_volatile(value) }
}

/// A kernel object that the verifier knows by its BTF type.
#[derive(Clone, Copy)]
struct Object(*const u8);

impl Object {
    /// Reads the field at `offset`.
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier accepts the load only inside a field; through a bad pointer that was
        // followed, it reads as zero.
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/bpf/btf.c#L7020
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/bpf/verifier.c#L20282
        // https://elixir.bootlin.com/linux/v6.12.107/source/arch/x86/net/bpf_jit_comp.c#L1329
        unsafe { read_volatile(self.0.add(offset as usize).cast()) }
    }

    /// Follows the pointer at `offset`.
    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.read(offset))
    }
}

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/trace/events/sched.h#L224>
///
/// It fires with interrupts off, once the next task is picked and before `context_switch`.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/core.c#L6729>
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let Some(record) = CPU.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map's own value for this CPU, which nothing else writes: the hook runs with
    // interrupts off, and no NMI handler switches tasks.
    let record = unsafe { &mut *record };
    let (prev, next) = (Object(ctx.arg(1)), Object(ctx.arg(2)));
    let next_mode = mode(next);

    // Before the clock is read: a virtual machine's CPU can be taken away at any point, and a reader
    // must not take a record for current whose next interval began before the reader's own clock.
    let turn = begin(record);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if record.open == 0 {
        seed(&ctx, record, now, next, next_mode);
        end(record, turn);
        return 0;
    }
    let (since, mut prev_mode) = CpuRecord::open(record.open);
    // The kernel's clock can step back by some nanoseconds while it is being adjusted.
    // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/time/timekeeping.c#L359
    let now = if now < since { since } else { now };

    if record.current == prev.0 as u64 {
        record.mode_ns[prev_mode as usize] += now - since;
    } else if record.open & CpuRecord::MAY_GO_OFFLINE != 0 {
        // A CPU goes down in its stopper thread, and tracepoints are silent until it is up again:
        // its idle task follows the stopper without a switch between them.
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/cpu.c#L1268
        // https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/tracepoint.h#L454
        let elapsed = now - since;
        let stopper = if elapsed < CpuRecord::STOPPER_NS { elapsed } else { CpuRecord::STOPPER_NS };
        record.mode_ns[prev_mode as usize] += stopper;
        record.offline_ns += elapsed - stopper;
        prev_mode = Mode::Idle as u64;
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        info!(&ctx, "cpu {} was offline: {} ns charged to no mode", cpu, elapsed - stopper);
    } else {
        // Readers may have seen the open interval in its mode already: there it stays.
        record.mode_ns[prev_mode as usize] += now - since;
        record.missed += 1;
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        info!(&ctx, "cpu {} missed a switch from mode {} to pid {}", cpu, prev_mode, ctx.pid());
    }
    record.current = next.0 as u64;
    record.open = CpuRecord::pack_open(now, next_mode);
    if global(&COUNT_SWITCHES) != 0 {
        record.switches[reason(&ctx, prev_mode) as usize] += 1;
    }
    if global(&MEASURE_WAITS) != 0 && next_mode != Mode::Idle as u64 {
        measure_wait(record, next);
    }
    end(record, turn);
    0
}

/// Accounting begins with the first switch on a CPU.
#[inline(always)]
fn seed(
    ctx: &BtfTracePointContext,
    record: &mut CpuRecord,
    now: u64,
    next: Object,
    next_mode: u64,
) {
    record.seeded_at = now;
    record.current = next.0 as u64;
    record.open = CpuRecord::pack_open(now, next_mode);
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    info!(ctx, "cpu {} is seeded by pid {}", cpu, ctx.pid());
}

/// Announces a write to readers.
#[inline(always)]
fn begin(record: &mut CpuRecord) -> u64 {
    let turn = record.done + 1;
    record.started = turn;
    compiler_barrier();
    turn
}

/// Completes it.
#[inline(always)]
fn end(record: &mut CpuRecord, turn: u64) {
    compiler_barrier();
    record.done = turn;
}

/// Keeps the compiler from moving a store across it: an empty statement that may touch memory. LLVM
/// has no fence for BPF.
#[inline(always)]
fn compiler_barrier() {
    // SAFETY: no instruction is emitted.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched.h#L1684>
const PF_IDLE: u32 = 0x0000_0002;
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched.h#L1705>
const PF_KTHREAD: u32 = 0x0020_0000;
/// The stopper's threads have this priority, and few others.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/core.c#L3436>
const STOPPER_PRIO: i32 = 0;
/// Priorities below are of the real-time class, and below zero of the deadline class.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched/prio.h#L16>
const MAX_RT_PRIO: i32 = 100;
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/uapi/linux/sched.h#L117>
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_EXT: u32 = 7;

/// The mode of a task that is being switched in, with [`CpuRecord::MAY_GO_OFFLINE`] where it applies.
#[inline(always)]
fn mode(task: Object) -> u64 {
    let flags: u32 = task.read(global(&TASK_FLAGS));
    if flags & (PF_IDLE | PF_KTHREAD) != 0 {
        if flags & PF_IDLE != 0 {
            return Mode::Idle as u64;
        }
        let prio: i32 = task.read(global(&TASK_PRIO));
        let stopper = if prio == STOPPER_PRIO { CpuRecord::MAY_GO_OFFLINE } else { 0 };
        return Mode::Kthread as u64 | stopper;
    }
    let prio: i32 = task.read(global(&TASK_PRIO));
    if prio < MAX_RT_PRIO {
        let mode = if prio < 0 { Mode::Deadline } else { Mode::Realtime };
        return mode as u64;
    }
    let mode = match task.read::<u32>(global(&TASK_POLICY)) {
        SCHED_BATCH => Mode::Batch,
        SCHED_IDLE => Mode::IdlePolicy,
        SCHED_EXT => Mode::Ext,
        _ => Mode::Fair,
    };
    mode as u64
}

/// The kernel's own rule for `nvcsw` and `nivcsw`, with switches away from idle set apart. Only a
/// task kept from sleeping by a signal differs: it is reported as running, yet counted as `nvcsw`.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/core.c#L6680>
#[inline(always)]
fn reason(ctx: &BtfTracePointContext, prev_mode: u64) -> u64 {
    if prev_mode == Mode::Idle as u64 {
        return Reason::Idle as u64;
    }
    let preempt = ctx.arg::<u64>(0) & 1 != 0;
    let prev_state: u32 = if global(&HOOK_HAS_PREV_STATE) != 0 {
        ctx.arg(3)
    } else {
        Object(ctx.arg(1)).read(global(&TASK_STATE))
    };
    let reason = if preempt || prev_state == 0 { Reason::Preempted } else { Reason::Voluntary };
    reason as u64
}

/// Adds the wait of the task that is being switched in: what the kernel is about to add to its
/// `run_delay`, from the same two numbers. What it waited on CPUs that it was moved away from is not
/// in it: the kernel added that on each move.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/stats.h#L268>
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/stats.h#L250>
#[inline(always)]
fn measure_wait(record: &mut CpuRecord, task: Object) {
    let last_queued: u64 = task.read(global(&TASK_LAST_QUEUED));
    if last_queued == 0 {
        return;
    }
    let rq = task.follow(global(&TASK_CFS_RQ)).follow(global(&CFS_RQ_RQ));
    let clock: u64 = rq.read(global(&RQ_CLOCK));
    // One clock that never goes back: a task that moves is stamped anew. This is only a guard.
    let wait = clock.saturating_sub(last_queued);
    record.wait_ns += wait;
    let mut bucket = wait_bucket(wait);
    const { assert!(WAIT_BUCKETS == 64) };
    // The compiler knows the bound too well to keep a mask, and the verifier not at all.
    // SAFETY: the statement touches nothing but its operand, which is an index then.
    unsafe {
        asm!("{0} &= 63", inout(reg) bucket, options(pure, nomem, nostack));
        *record.wait_buckets.get_unchecked_mut(bucket as usize) += 1;
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Unreachable: `cargo xtask ebpf` refuses an object in which anything calls it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
