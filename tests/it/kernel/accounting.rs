//! The invariants of the counters, on the real scheduler.

use std::{
    process, thread,
    time::{Duration, Instant},
};

use sched_exporter::{
    accounting::{Cpu, Snapshot},
    kernel::scheduler::Scheduler,
};
use sched_exporter_ebpf::{Mode, Reason};
use sched_exporter_tests::{
    exposition::Exposition,
    kernel::{Schedstat, Stat, attach, times},
    process::{Exporter, PATIENCE},
    quiet,
    workload::{
        Favored, Gate, Load, is_emulated, monotonic_ns, online, pin, realtime, set_policy,
        sleep_until, spin_until, thread_cpu_ns,
    },
};

/// The CPU that workloads are pinned to; the test itself runs on CPU 0.
const CPU: u32 = 1;

fn pin_to_cpu_0() {
    pin(0);
}

/// Takes snapshots before and after `work`. Repeats all three if the kernel did not report a switch
/// on [`CPU`] meanwhile, because it is then unknown whose time that was.
#[track_caller]
fn around<T>(scheduler: &Scheduler, work: impl Fn() -> T) -> (Snapshot, T, Snapshot) {
    for _ in 0..10 {
        let before = scheduler.snapshot().unwrap();
        let result = work();
        let after = scheduler.snapshot().unwrap();
        if times(&before, CPU).missed_switches == times(&after, CPU).missed_switches {
            return (before, result, after);
        }
    }
    panic!("switches of CPU {CPU} were not reported in each of 10 tries");
}

/// Nanoseconds since attach that a CPU's record accounts for.
fn accounted(cpu: &Cpu) -> u64 {
    cpu.totals.as_ref().unwrap().mode_ns.iter().sum::<u64>() + cpu.unattributed_ns
}

/// Whether the record of a CPU accounts for exactly the time up to the snapshot's instant, as it
/// does unless a switch came between reading the clock and reading the record.
fn is_settled(scheduler: &Scheduler, snapshot: &Snapshot, cpu: u32) -> bool {
    let cpu = snapshot.cpus.iter().find(|found| found.id == cpu).unwrap();
    scheduler.attached_at() + accounted(cpu) == snapshot.taken_at
}

/// Takes a snapshot and checks that each CPU's time adds up to within 100 µs. An emulated machine
/// is interrupted often: records may be ahead by the duration of the snapshot, and a stopper's open
/// interval, of which at most a millisecond is shown, may be long.
#[track_caller]
fn check_conserved(scheduler: &Scheduler, load: &str) {
    let before = monotonic_ns();
    let snapshot = scheduler.snapshot().unwrap();
    let after = monotonic_ns();
    assert!(before - 1_000 <= snapshot.taken_at && snapshot.taken_at <= after);
    assert_eq!(snapshot.cpus.len(), online().len());
    let (mut least, mut most) = (snapshot.taken_at - 100_000, snapshot.taken_at + 100_000);
    if is_emulated() {
        least -= 100_000_000;
        most = most.max(after);
    }
    for cpu in &snapshot.cpus {
        let accounted = scheduler.attached_at() + accounted(cpu);
        let range = least..=most;
        assert!(range.contains(&accounted), "{load}: CPU {}: {accounted} not in {range:?}", cpu.id);
    }
}

#[test]
fn modes_add_up_to_the_time_since_attach_under_load() {
    pin_to_cpu_0();
    let scheduler = attach();
    let check = |load: &str| {
        for _ in 0..300 {
            check_conserved(&scheduler, load);
            thread::sleep(Duration::from_millis(1));
        }
    };
    check("no load");
    let spinner = Load::spinner(CPU as usize);
    check("a spinner");
    drop(spinner);
    let storm = Load::storm(&online());
    check("a storm");
    drop(storm);
}

/// Taking snapshots without a pause on a busy CPU gets some of them preempted.
#[test]
fn interrupted_snapshots_are_exact() {
    pin_to_cpu_0();
    let scheduler = attach();
    let _load = (Load::spinner(0), Load::storm(&[CPU as usize]));
    let end = monotonic_ns() + 2_000_000_000;
    while monotonic_ns() < end {
        check_conserved(&scheduler, "a storm, and a spinner on the reader's CPU");
    }
}

#[test]
fn intervals_without_a_switch_are_counted_exactly_while_idle() {
    quiet::attempt(|| check_intervals_without_a_switch(Mode::Idle));
}

#[test]
fn intervals_without_a_switch_are_counted_exactly_while_busy() {
    quiet::attempt(|| {
        let _favored = Favored::thread();
        let _spinner = Load::spinner(CPU as usize).favored();
        thread::sleep(Duration::from_millis(20));
        check_intervals_without_a_switch(Mode::Fair);
    });
}

#[track_caller]
fn check_intervals_without_a_switch(mode: Mode) {
    pin_to_cpu_0();
    let scheduler = attach();
    let (mut found, mut tried) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while tried < 200 || found < 20 {
        assert!(
            Instant::now() < deadline,
            "{mode:?}: only {found} of {tried} intervals were without a switch on CPU {CPU}"
        );
        tried += 1;
        let before = scheduler.snapshot().unwrap();
        thread::sleep(Duration::from_millis(5));
        let after = scheduler.snapshot().unwrap();
        let (old, new) = (times(&before, CPU), times(&after, CPU));
        if old.switches != new.switches {
            continue;
        }
        let grown = new.mode_ns[mode as usize] - old.mode_ns[mode as usize];
        let settled =
            [&before, &after].iter().all(|snapshot| is_settled(&scheduler, snapshot, CPU));
        if grown == 0 || !settled {
            continue;
        }
        found += 1;
        assert_eq!(grown, after.taken_at - before.taken_at, "{mode:?}");
    }
}

#[test]
fn counters_never_decrease_at_a_thousand_snapshots_a_second() {
    let scheduler = attach();
    let storm = Load::storm(&online());
    let mut last = scheduler.snapshot().unwrap();
    let end = Instant::now() + PATIENCE;
    for round in 0..30_000 {
        // A slow machine takes fewer.
        if round > 1_000 && Instant::now() > end {
            break;
        }
        // Back-to-back snapshots catch decreases that later switches would hide.
        if round % 10 == 0 {
            thread::sleep(Duration::from_micros(700));
        }
        let next = scheduler.snapshot().unwrap();
        for cpu in &next.cpus {
            let (old, new) = (times(&last, cpu.id), times(&next, cpu.id));
            let pairs = old.mode_ns.iter().zip(&new.mode_ns);
            let pairs = pairs.chain(old.switches.iter().zip(&new.switches));
            let mut pairs = pairs.chain(old.wait_slots.iter().zip(&new.wait_slots));
            assert!(pairs.all(|(old, new)| old <= new), "{old:?}\n{new:?}");
            assert!(old.wait_ns <= new.wait_ns);
        }
        last = next;
    }
    let waits: u64 = times(&last, CPU).wait_slots.iter().sum();
    assert!(waits > 1_000, "the load caused only {waits} waits");
    drop(storm);
}

#[test]
fn counters_never_decrease_over_http() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let storm = Load::storm(&online());
    let mut last = exporter.scrape();
    let end = Instant::now() + PATIENCE;
    for round in 0..1_000 {
        if round > 50 && Instant::now() > end {
            break;
        }
        let text = client.get("/metrics").text();
        let next = Exposition::parse(&text);
        let is_gauge = |series: &str| series.contains("in_flight") || series.contains("_open");
        for (series, value) in
            next.iter().filter(|(series, _)| series.starts_with("sched_") && !is_gauge(series))
        {
            let Some((_, old)) = last.iter().find(|(old, _)| *old == series) else { continue };
            let (old, new): (f64, f64) = (old.parse().unwrap(), value.parse().unwrap());
            assert!(old <= new, "{series} fell from {old} to {new}");
        }
        last = next;
    }
    drop(storm);
}

/// Most nanoseconds that interrupts may take of `own_ns` of work. We charge them to the task; many
/// kernels leave them out of the task's own clock. Under emulation an interrupt can take
/// milliseconds.
fn interrupts_at_most(own_ns: u64) -> u64 {
    if is_emulated() { own_ns / 20 } else { own_ns / 200 }
}

/// Spins for `ns` nanoseconds. Returns how long that was by the wall clock, and how much of it the
/// task's own clock leaves out: time stolen by a hypervisor and, on many kernels, interrupts.
fn spin(ns: u64) -> (u64, u64) {
    let (start, own) = (monotonic_ns(), thread_cpu_ns());
    spin_until(start + ns);
    let own = thread_cpu_ns() - own;
    let spun = monotonic_ns() - start;
    (spun, spun.saturating_sub(own))
}

#[test]
fn long_runs_match_the_tasks_own_clock() {
    quiet::attempt(check_long_runs);
}

fn check_long_runs() {
    pin_to_cpu_0();
    let scheduler = attach();
    let work = || {
        pin(CPU as usize);
        realtime();
        // The mode is that of the switch in.
        thread::sleep(Duration::from_millis(1));
        let start = thread_cpu_ns();
        let mut left_out = 0;
        for _ in 0..10 {
            left_out += spin(80_000_000).1;
            thread::sleep(Duration::from_millis(20));
        }
        thread_cpu_ns() - start + left_out
    };
    let (before, own, after) = around(&scheduler, || thread::spawn(work).join().unwrap());
    let realtime = Mode::Realtime as usize;
    let ours = times(&after, CPU).mode_ns[realtime] - times(&before, CPU).mode_ns[realtime];
    let error = ours.abs_diff(own);
    assert!(
        error <= interrupts_at_most(own),
        "charged {ours} ns, {own} ns by the task's own clock"
    );
}

/// Runs bursts at a phase of a 4 ms tick. The time charged must lie between the time spent spinning
/// and the task's own clock, which starts earlier, at the wakeup.
#[track_caller]
fn check_bursts(offset_ns: u64, burst_ns: u64) {
    const TICK_NS: u64 = 4_000_000;
    // Few enough that on a kernel that misses some switches, most windows are without a missed one.
    const BURSTS: u32 = 60;
    pin_to_cpu_0();
    let scheduler = attach();
    let bursts = move || {
        pin(CPU as usize);
        realtime();
        let own = thread_cpu_ns();
        let (mut spun, mut left_out) = (0, 0);
        let mut tick = (monotonic_ns() / TICK_NS + 2) * TICK_NS;
        for _ in 0..BURSTS {
            sleep_until(tick + offset_ns);
            let (wall, not_own) = spin(burst_ns);
            spun += wall;
            left_out += not_own;
            tick += TICK_NS;
        }
        (spun, thread_cpu_ns() - own + left_out)
    };
    let (before, (spun, own), after) = around(&scheduler, || thread::spawn(bursts).join().unwrap());
    let realtime = Mode::Realtime as usize;
    let ours = times(&after, CPU).mode_ns[realtime] - times(&before, CPU).mode_ns[realtime];
    assert!(spun <= ours, "charged {ours} ns of {spun} ns of spinning");
    // The thread's first moments and its end are not in its own reading.
    let own = own + interrupts_at_most(own) + 500_000;
    assert!(ours <= own, "charged {ours} ns, {own} ns by the task's own clock");
}

#[test]
fn bursts_that_dodge_the_tick_are_charged_in_full() {
    quiet::attempt(|| check_bursts(150_000, 1_600_000));
}

#[test]
fn bursts_that_meet_the_tick_are_charged_once() {
    quiet::attempt(|| check_bursts(3_800_000, 400_000));
}

/// Waits on [`CPU`]: total nanoseconds and number.
fn waits(snapshot: &Snapshot) -> (u64, u64) {
    let times = times(snapshot, CPU);
    (times.wait_ns, times.wait_slots.iter().sum())
}

/// Each reading of the kernel's figure is taken between two of ours. So the kernel's difference
/// lies between our smallest and our largest, and equals ours if no task was switched in during the
/// readings. The kernel's figure is that of two tasks of ours, which keep others off the CPU.
#[test]
fn run_queue_waits_match_run_delay_to_the_nanosecond() {
    quiet::attempt(check_run_queue_waits);
}

fn check_run_queue_waits() {
    pin_to_cpu_0();
    let _favored = Favored::thread();
    let scheduler = attach();
    let sharing = Gate::default();
    let sharer = sharing.clone();
    let spinners = [
        Load::spinner(CPU as usize).favored(),
        Load::on(&[CPU as usize], move || sharer.pass()).favored(),
    ];
    let run_delay_ns = || -> u64 {
        let tasks = spinners.iter().flat_map(Load::ids).map(|task| task.as_raw().cast_unsigned());
        tasks.map(|task| Schedstat::of(process::id(), task).unwrap().run_delay_ns).sum()
    };
    let mut rounds = Vec::new();
    let mut exact = 0;
    while rounds.len() < 100 && exact < 3 {
        thread::sleep(Duration::from_millis(20));
        let (early, _) = waits(&scheduler.snapshot().unwrap());
        let kernel_before = run_delay_ns();
        let (before, count_before) = waits(&scheduler.snapshot().unwrap());
        sharing.open(true);
        thread::sleep(Duration::from_millis(60));
        sharing.open(false);
        thread::sleep(Duration::from_millis(20));
        let (after, count_after) = waits(&scheduler.snapshot().unwrap());
        let kernel_after = run_delay_ns();
        let (late, _) = waits(&scheduler.snapshot().unwrap());

        let kernel = kernel_after - kernel_before;
        let (least, most) = (after - before, late - early);
        let waits = count_after - count_before;
        // Under emulation the readings take milliseconds, and some task always waits meanwhile.
        let spread = if is_emulated() { least / 50 } else { 0 };
        // A virtual CPU whose host is busy may run too briefly for the spinners to alternate.
        let is_shared = waits > 5;
        let is_exact = most - least <= spread && (least..=most).contains(&kernel);
        exact += u32::from(is_shared && is_exact);
        rounds.push((waits, kernel, least, most));
    }
    // Other tasks may run on the CPU in some rounds, but not in all.
    let last = &rounds[rounds.len().saturating_sub(10)..];
    assert!(
        exact == 3,
        "equal in {exact} of {} rounds; last ones as (waits, kernel, our least, our most): {last:?}",
        rounds.len()
    );
}

#[test]
fn context_switches_match_proc_stat() {
    let scheduler = attach();
    let count = || {
        let snapshot = scheduler.snapshot().unwrap();
        let times = || snapshot.cpus.iter().filter_map(|cpu| cpu.totals.as_ref());
        let switches: u64 = times().flat_map(|times| times.switches).sum();
        // An unreported switch is counted as missed; two in a row look like one.
        let missed: u64 = times().map(|times| times.missed_switches).sum();
        (switches, switches + 2 * missed)
    };
    let (early, kernel_before, before) = (count(), Stat::read().ctxt, count());
    let storm = Load::storm(&online());
    thread::sleep(Duration::from_millis(500));
    drop(storm);
    let (after, kernel_after, late) = (count(), Stat::read().ctxt, count());
    let kernel = kernel_after - kernel_before;
    assert!(kernel > 1_000, "the load caused only {kernel} switches");
    let range = after.0 - before.0..=late.1 - early.1;
    assert!(range.contains(&kernel), "{kernel} not in {range:?}");
}

#[test]
fn switches_are_counted_by_reason() {
    quiet::attempt(check_reasons);
}

fn check_reasons() {
    pin_to_cpu_0();
    let scheduler = attach();
    let grown = |work: &dyn Fn()| {
        let before = scheduler.snapshot().unwrap();
        work();
        let after = scheduler.snapshot().unwrap();
        let (old, new) = (times(&before, CPU), times(&after, CPU));
        Reason::ALL.map(|reason| new.switches[reason as usize] - old.switches[reason as usize])
    };
    // A CPU that other tasks keep busy never leaves its idle task, so try several times.
    let mut left_idle = Vec::new();
    while left_idle.last().is_none_or(|count| *count <= 50) {
        assert!(
            left_idle.len() < 20,
            "sleeping: CPU {CPU} left its idle task too rarely in each try: {left_idle:?}"
        );
        let [voluntary, _, idle] = grown(&|| {
            let sleeper = Load::on(&[CPU as usize], || thread::sleep(Duration::from_micros(200)));
            thread::sleep(Duration::from_millis(200));
            drop(sleeper);
        });
        assert!(voluntary > 50, "sleeping: {voluntary} voluntary");
        left_idle.push(idle);
    }
    let [voluntary, preempted, _] = grown(&|| {
        let _favored = Favored::thread();
        let spinner = || Load::spinner(CPU as usize).favored();
        let spinners = (spinner(), spinner());
        thread::sleep(Duration::from_millis(400));
        drop(spinners);
    });
    assert!(preempted > 2 * voluntary, "sharing: {preempted} preempted, {voluntary} voluntary");
}

#[test]
fn each_policy_is_charged_to_its_mode() {
    pin_to_cpu_0();
    let scheduler = attach();
    for (policy, mode) in [
        (libc::SCHED_OTHER, Mode::Fair),
        (libc::SCHED_BATCH, Mode::Batch),
        (libc::SCHED_IDLE, Mode::IdlePolicy),
        (libc::SCHED_FIFO, Mode::Realtime),
        (libc::SCHED_RR, Mode::Realtime),
    ] {
        let spin = move || {
            pin(CPU as usize);
            set_policy(policy, i32::from(mode == Mode::Realtime));
            // The mode is that of the switch in.
            thread::sleep(Duration::from_millis(1));
            let start = thread_cpu_ns();
            spin_until(monotonic_ns() + 50_000_000);
            thread_cpu_ns() - start
        };
        let (before, own, after) = around(&scheduler, || thread::spawn(spin).join().unwrap());
        let grown =
            times(&after, CPU).mode_ns[mode as usize] - times(&before, CPU).mode_ns[mode as usize];
        assert!(grown >= own - own / 100, "{mode:?} grew by {grown} ns in {own} ns of spinning");
    }
}
