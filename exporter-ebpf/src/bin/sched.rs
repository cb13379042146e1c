//! The kernel program. On every context switch it charges the interval that just ended to one
//! mode, counts the switch, and records how long the next task waited. It takes a fixed number of
//! steps on one record that only this CPU writes. `sched/cgroups.rs` divides the counts among cgroups, and
//! `sched/births.rs` sends their paths. It neither loops nor allocates, and reads kernel structs directly, at
//! offsets that user space looks up in the kernel's BTF.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, unreachable_pub, reason = "the program macro adds a function")]
#![expect(clippy::needless_pass_by_value, reason = "the program macro requires it")]
#![expect(clippy::inline_always, reason = "BPF functions are inlined into their program")]
#![expect(clippy::cast_possible_truncation, reason = "usize has 64 bits on BPF")]

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::info;
use sched_exporter_ebpf::{CpuEntry, CpuRecord, Global, Mode, Reason, WAIT_SLOTS, wait_slot};

/// The entry of each CPU number; user space sets how many there are.
#[map]
static CPU: Array<CpuEntry> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Until when two versions of this program may be attached that share the maps, while one takes over from
/// the other: nanoseconds of `CLOCK_MONOTONIC`, which user space writes.
#[map]
static HANDOVER: Array<u64> = Array::with_max_entries(1, 0);

/// The value of a constant that user space sets before loading.
macro_rules! global {
    ($name:ident) => {
        $crate::immediate::<{ Global::$name.placeholder() }>()
    };
}

/// A placeholder in a `mov` instruction, which user space replaces. It has 64 bits, or LLVM would clear
/// the upper half at each use.
#[inline(always)]
fn immediate<const PLACEHOLDER: i32>() -> usize {
    let value: usize;
    // SAFETY: the instruction only sets its operand.
    unsafe {
        asm!("{0} = {1}", out(reg) value, const PLACEHOLDER, options(pure, nomem, nostack));
    }
    value
}

#[path = "sched/births.rs"]
mod births;
#[path = "sched/cgroups.rs"]
mod cgroups;

/// A pointer to a kernel object whose BTF type the verifier knows.
#[derive(Clone, Copy)]
struct Object(*const u8);

impl Object {
    /// Reads the field at `offset`.
    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier accepts the load only inside a field; a load through a bad pointer that
        // was followed returns zero.
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/bpf/btf.c#L7020
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/bpf/verifier.c#L20282
        // https://elixir.bootlin.com/linux/v6.12.107/source/arch/x86/net/bpf_jit_comp.c#L1329
        unsafe { read_volatile(self.0.add(offset).cast()) }
    }

    /// Follows the pointer at `offset`.
    #[inline(always)]
    fn follow(self, offset: usize) -> Self {
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
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(entry) = CPU.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: this CPU's entry of the map, which nothing else writes: the hook runs with interrupts
    // off, and no NMI handler switches tasks.
    let entry = unsafe { &mut *entry };
    let record = &mut entry.record;
    let (prev, next) = (Object(ctx.arg(1)), Object(ctx.arg(2)));
    let next_mode = mode(next);

    // Mark the write before reading the clock: a hypervisor can preempt this CPU at any point, and a
    // reader must not accept a record that lacks an interval which began before the reader's own
    // clock reading.
    let turn = begin(record);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if record.open == 0 {
        seed(&ctx, record, now, next, next_mode);
        if global!(CountCgroups) != 0 {
            cgroups::seed(entry, cpu, next, next_mode);
        }
        end(&mut entry.record, turn);
        return 0;
    }
    let (since, mut prev_mode) = CpuRecord::open(record.open);
    // The kernel's clock can step back by a few nanoseconds while it is adjusted.
    // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/time/timekeeping.c#L359
    let now = if now < since { since } else { now };

    if record.current == prev.0 as u64 {
        record.totals.mode_ns[prev_mode as usize] += now - since;
    } else if record.current == next.0 as u64 && is_handing_over(now) {
        // The other version has counted this switch already.
        end(record, turn);
        return 0;
    } else if record.open & CpuRecord::MAY_GO_OFFLINE != 0 {
        // A CPU goes down in its stopper thread, and tracepoints are silent until it is up again:
        // its idle task follows the stopper without a switch between them.
        // https://elixir.bootlin.com/linux/v6.12.107/source/kernel/cpu.c#L1268
        // https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/tracepoint.h#L454
        let elapsed = now - since;
        let stopper = if elapsed < CpuRecord::STOPPER_NS { elapsed } else { CpuRecord::STOPPER_NS };
        record.totals.mode_ns[prev_mode as usize] += stopper;
        record.offline_ns += elapsed - stopper;
        prev_mode = Mode::Idle as u64;
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        info!(&ctx, "cpu {} was offline: {} ns charged to no mode", cpu, elapsed - stopper);
    } else {
        // Readers may already have charged the open interval to its mode: leave it there.
        record.totals.mode_ns[prev_mode as usize] += now - since;
        record.totals.missed_switches += 1;
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        info!(&ctx, "cpu {} missed a switch from mode {} to pid {}", cpu, prev_mode, ctx.pid());
    }
    record.current = next.0 as u64;
    record.open = CpuRecord::pack_open(now, next_mode);
    if global!(CountSwitches) != 0 {
        record.totals.switches[reason(&ctx, prev_mode) as usize] += 1;
    }
    if next_mode != Mode::Idle as u64 {
        if global!(CountCgroups) != 0 {
            cgroups::enter(entry, next);
        }
        if global!(MeasureWaits) != 0 {
            measure_wait(&mut entry.record, next);
        }
    }
    end(&mut entry.record, turn);
    0
}

/// Whether another version of this program may be attached. Asked only after a switch that does not follow
/// the last one: in any other, no other version can have been first.
#[inline(always)]
fn is_handing_over(now: u64) -> bool {
    // SAFETY: an aligned word of the map.
    HANDOVER.get_ptr(0).is_some_and(|until| now < unsafe { until.read_volatile() })
}

/// Starts the accounting of a CPU, at its first switch.
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

/// Marks the start of a write and returns its number.
#[inline(always)]
fn begin(record: &mut CpuRecord) -> u64 {
    let turn = record.done + 1;
    record.started = turn;
    compiler_barrier();
    turn
}

/// Marks the end of a write.
#[inline(always)]
fn end(record: &mut CpuRecord, turn: u64) {
    if global!(KeepChecks) != 0 {
        record.check = record.checksum();
    }
    compiler_barrier();
    record.done = turn;
}

/// Keeps the compiler from moving stores across it. LLVM has no fence for BPF, so this is an empty
/// statement that may touch memory.
#[inline(always)]
fn compiler_barrier() {
    // SAFETY: no instruction is emitted.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched.h#L1684>
const PF_IDLE: u32 = 0x0000_0002;
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched.h#L1705>
const PF_KTHREAD: u32 = 0x0020_0000;
/// Priority of the stopper threads, which few other threads share.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/core.c#L3436>
const STOPPER_PRIO: i32 = 0;
/// Priorities below this are real-time, and those below zero deadline.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/sched/prio.h#L16>
const MAX_RT_PRIO: i32 = 100;
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/uapi/linux/sched.h#L117>
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_EXT: u32 = 7;

/// The mode of a task that is being switched in, with [`CpuRecord::MAY_GO_OFFLINE`] for the stopper.
#[inline(always)]
fn mode(task: Object) -> u64 {
    let flags: u32 = task.read(global!(TaskFlags));
    if flags & (PF_IDLE | PF_KTHREAD) != 0 {
        if flags & PF_IDLE != 0 {
            return Mode::Idle as u64;
        }
        let prio: i32 = task.read(global!(TaskPrio));
        let stopper = if prio == STOPPER_PRIO { CpuRecord::MAY_GO_OFFLINE } else { 0 };
        return Mode::Kthread as u64 | stopper;
    }
    let prio: i32 = task.read(global!(TaskPrio));
    if prio < MAX_RT_PRIO {
        let mode = if prio < 0 { Mode::Deadline } else { Mode::Realtime };
        return mode as u64;
    }
    let mode = match task.read::<u32>(global!(TaskPolicy)) {
        SCHED_BATCH => Mode::Batch,
        SCHED_IDLE => Mode::IdlePolicy,
        SCHED_EXT => Mode::Ext,
        _ => Mode::Fair,
    };
    mode as u64
}

/// Applies the kernel's own rule for `nvcsw` and `nivcsw`, except that leaving the idle task is a
/// reason of its own. One case differs: a task that a signal keeps from sleeping is reported as
/// running, yet the kernel counts it as `nvcsw`.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/core.c#L6680>
#[inline(always)]
fn reason(ctx: &BtfTracePointContext, prev_mode: u64) -> u64 {
    if prev_mode == Mode::Idle as u64 {
        return Reason::Idle as u64;
    }
    let preempt = ctx.arg::<u64>(0) & 1 != 0;
    let prev_state: u32 = if global!(HookHasPrevState) != 0 {
        ctx.arg(3)
    } else {
        Object(ctx.arg(1)).read(global!(TaskState))
    };
    let reason = if preempt || prev_state == 0 { Reason::Preempted } else { Reason::Voluntary };
    reason as u64
}

/// Adds the wait of the task that is being switched in: the amount that the kernel is about to add to
/// the task's `run_delay`, from the same two numbers. Waits on CPUs that the task was moved away from
/// are not included: the kernel added those at each move.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/stats.h#L268>
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/sched/stats.h#L250>
#[inline(always)]
fn measure_wait(record: &mut CpuRecord, task: Object) {
    let last_queued: u64 = task.read(global!(TaskLastQueued));
    if last_queued == 0 {
        return;
    }
    let rq = task.follow(global!(TaskCfsRq)).follow(global!(CfsRqRq));
    let clock: u64 = rq.read(global!(RqClock));
    // Both are of one clock that never goes back, since a task that moves gets a new time; the
    // subtraction saturates only as a guard.
    let wait = clock.saturating_sub(last_queued);
    record.totals.wait_ns += wait;
    record.cgroups.waits += 1;
    let mut slot = wait_slot(wait);
    // LLVM proves the bound and would delete the comparison; the verifier cannot prove it. So hide from
    // LLVM where the number comes from. The statement must not be empty: two lines of source at one
    // instruction are an error for the verifier.
    // SAFETY: the statement changes only its operand, and the index is in bounds.
    unsafe {
        asm!("{0} &= 255", inout(reg) slot, options(pure, nomem, nostack));
        if slot < WAIT_SLOTS {
            *record.totals.wait_slots.get_unchecked_mut(slot) += 1;
        }
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Unreachable: `cargo xtask ebpf` rejects an object in which anything calls it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
