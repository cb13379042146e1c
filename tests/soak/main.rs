//! Checks the exporter's invariants under all loads at once, for `cargo xtask soak`: a storm of
//! switches, fork bombs, cgroups that come and go, a configuration that changes ten times a second,
//! misbehaving clients, and a hundred scrapes a second, each of which is checked completely. Then attacks
//! its connections.
//!
//! Leaves nothing behind: the exporter ends with this process for whatever reason. SIGINT and
//! SIGTERM end the soak early.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a terminal program: results on standard output, progress on standard error"
)]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use nix::sys::signal::Signal;
use sched_exporter_tests::{
    process::{Exporter, PATIENCE},
    workload::{Load, online},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

mod attacks;
mod cgroups;
mod clients;
mod files;
mod forks;
mod invariant;
mod logs;
mod resources;
mod restarts;
mod scrapes;

use invariant::Invariant;
use logs::Logs;
use resources::{Course, Resources};
use scrapes::Scrapes;

#[derive(Parser)]
#[command(bin_name = "cargo xtask soak", about = "Checks the exporter's invariants under load")]
struct Args {
    /// Duration of the loads in minutes, which may be a fraction; the attacks take a minute more
    #[arg(long, default_value = "1", value_parser = minutes)]
    minutes: Duration,
    /// Instead of all that: kill the exporter and start it again this many times, under load, with pins
    #[arg(long, conflicts_with = "minutes")]
    restarts: Option<u32>,
}

fn minutes(text: &str) -> Result<Duration> {
    let minutes: f64 = text.parse()?;
    ensure!((0.5..=100_000.0).contains(&minutes), "must be from 0.5 to 100000");
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Period of scrapes.
const SCRAPE_PERIOD: Duration = Duration::from_millis(10);

/// Period of checks of the exporter's resources and log.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Period of progress reports.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// Cgroups that the machine may create during a soak.
const SLOTS_OF_OTHERS: u64 = 16;

/// Time for the exporter to notice closed connections.
const MOMENT: Duration = Duration::from_millis(200);

/// State shared by the threads.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    over: Arc<AtomicBool>,
    /// Whether a signal ends the soak early.
    interrupted: Arc<AtomicBool>,
    /// Number of the latest valid configuration written.
    config: Arc<AtomicU64>,
    /// Number of the latest valid configuration that no signal announces.
    untold: Arc<AtomicU64>,
}

impl Shared {
    /// Whether the loads must end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.is_interrupted()
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Number of the next valid configuration, which may be served from now on.
    pub(crate) fn next_config(&self) -> u64 {
        self.config.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn latest_config(&self) -> u64 {
        self.config.load(Ordering::SeqCst)
    }

    /// Notes that no signal will announce the latest configuration.
    pub(crate) fn leave_untold(&self) {
        self.untold.store(self.latest_config(), Ordering::SeqCst);
    }

    pub(crate) fn is_untold(&self, config: u64) -> bool {
        self.untold.load(Ordering::SeqCst) == config
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let shared = Shared::default();
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&shared.interrupted))?;
    }
    let started = Instant::now();
    let invariants = match args.restarts {
        Some(count) => restarts::run(count, &shared)?,
        None => soak(args.minutes, &shared)?,
    };
    for invariant in &invariants {
        println!("{invariant}");
    }
    if shared.is_interrupted() {
        println!("interrupted after {:.0?}", started.elapsed());
    }
    let all_hold = invariants.iter().all(Invariant::holds);
    Ok(if all_hold && !shared.is_interrupted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all loads and checks, and returns the invariants.
fn soak(total: Duration, shared: &Shared) -> Result<Vec<Invariant>> {
    let mut exporter = Exporter::start_with(&files::good(shared.next_config()), &[]);
    // The first reload starts a thread that keeps running.
    exporter.signal(Signal::SIGHUP);
    let first = exporter.wait_until("reloaded", |scrape| {
        scrape.sum("sched_exporter_config_reloads_total", &[]) > 0
    });
    thread::sleep(MOMENT);
    let before = Resources::of(exporter.pid())?;

    let mut scrapes = Scrapes::new(exporter.address, shared);
    let mut watch = Watch { logs: Logs::new(), course: Course::new(total) };
    let mut cut_off = Invariant::new("stalling clients are disconnected");
    let mut loads = Loads::new();
    let is_alive = thread::scope(|scope| {
        let files = scope.spawn(|| files::change(exporter.config(), exporter.pid(), shared));
        let processes = scope.spawn(|| forks::bombs(shared));
        let cgroups = scope.spawn(|| cgroups::churn(shared));
        let gone = scope.spawn(|| clients::misbehave(exporter.address, shared, &mut cut_off));
        let storm = Load::storm(&online());
        let started = Instant::now();
        let is_alive = watch.run(&exporter, total, shared, &mut scrapes);
        loads.over = started.elapsed();
        shared.end();
        drop(storm);
        loads.add("scrapes", Ok(Ok(scrapes.count())), 90);
        loads.add("files", files.join(), 9);
        loads.add("switches", Ok(Ok(scrapes.switches())), 1_000);
        loads.add("processes", processes.join(), 100);
        loads.add("cgroups", cgroups.join(), 20);
        loads.add("clients that disconnected during a response", gone.join(), 5);
        is_alive
    });

    let mut last = Invariant::new("the last valid file is served in the end");
    let mut slots = Invariant::new("removed cgroups give their slots back");
    let mut after = before;
    let mut beside_attacks = Vec::new();
    if is_alive {
        scrapes.disconnect();
        beside_attacks.extend(attacks::run(exporter.address, exporter.pid(), shared)?);
        let number = shared.next_config();
        files::put(exporter.config(), &files::good(number))?;
        exporter.signal(Signal::SIGHUP);
        let deadline = Instant::now() + PATIENCE;
        while scrapes.served() < number && Instant::now() < deadline {
            scrapes.scrape();
        }
        let served = scrapes.served();
        last.check(served == number, || {
            format!("number {served} is served, but {number} is in the file")
        });
        let used = first.sum("sched_exporter_cgroup_slots_used", &[]);
        slots.at_most(scrapes.cgroup_slots(), used + SLOTS_OF_OTHERS, "slots used", String::new);
        scrapes.disconnect();
        after = settled(&exporter, before)?;
        exporter.signal(Signal::SIGTERM);
    }
    let mut end = Invariant::new("the exporter ends on SIGTERM, and not before");
    let status = exporter.wait();
    end.check(is_alive && status.success(), || format!("it ended with {status}"));
    watch.logs.read(&exporter.take_log());

    let mut invariants = vec![loads.into_invariant(&scrapes)];
    invariants.extend(scrapes.into_invariants());
    invariants.extend([last, slots, cut_off]);
    invariants.extend(beside_attacks);
    invariants.extend(watch.course.judge(before, after));
    invariants.extend([watch.logs.into_invariant(), end]);
    Ok(invariants)
}

/// Checks of the exporter from outside.
struct Watch {
    logs: Logs,
    course: Course,
}

impl Watch {
    /// Scrapes and checks the process until the time is over or the soak ends. Returns whether the
    /// exporter is still running.
    fn run(
        &mut self,
        exporter: &Exporter,
        total: Duration,
        shared: &Shared,
        scrapes: &mut Scrapes,
    ) -> bool {
        let started = Instant::now();
        let (mut scrape, mut look, mut progress) = (started, started, started + PROGRESS_PERIOD);
        while !shared.is_over() && started.elapsed() < total {
            scrapes.scrape();
            if Instant::now() >= look {
                look += LOOK_PERIOD;
                self.logs.read(&exporter.take_log());
                let Ok(resources) = Resources::of(exporter.pid()) else { return false };
                self.course.push(started.elapsed(), resources);
                if Instant::now() >= progress {
                    progress += PROGRESS_PERIOD;
                    let done = format!("{:.0?} of {total:.0?}", started.elapsed());
                    eprintln!("{done}: {} scrapes, {resources}", scrapes.count());
                }
            }
            scrape += SCRAPE_PERIOD;
            thread::sleep(scrape.saturating_duration_since(Instant::now()));
        }
        true
    }
}

/// Resources of the exporter once it has released those of clients, or after a timeout.
fn settled(exporter: &Exporter, before: Resources) -> Result<Resources> {
    /// Longer than the idle timeout of its threads.
    const WHILE: Duration = Duration::from_secs(12);
    let deadline = Instant::now() + WHILE;
    loop {
        thread::sleep(MOMENT);
        let now = Resources::of(exporter.pid())?;
        let is_settled = now.descriptors <= before.descriptors && now.threads <= before.threads;
        if is_settled || Instant::now() >= deadline {
            return Ok(now);
        }
    }
}

/// Checks the rate of each load, because the soak proves nothing without load.
struct Loads {
    over: Duration,
    invariant: Invariant,
}

impl Loads {
    const fn new() -> Self {
        Self { over: Duration::ZERO, invariant: Invariant::new("all loads are running") }
    }

    /// Checks a load: how much of it there was, and the minimum per second.
    fn add(&mut self, what: &str, count: thread::Result<Result<u64>>, least: u64) {
        match count {
            Ok(Ok(count)) => {
                let rate = u64::try_from(u128::from(count) * 1_000 / self.over.as_millis().max(1));
                let rate = rate.unwrap_or_default();
                self.invariant.note(format!("{rate} {what}"));
                self.invariant.check(rate >= least, || format!("{rate} {what} per second"));
            }
            Ok(Err(error)) => self.invariant.check(false, || format!("{what}: {error:#}")),
            Err(_) => self.invariant.check(false, || format!("{what}: panicked")),
        }
    }

    fn into_invariant(mut self, scrapes: &Scrapes) -> Invariant {
        self.invariant.note("per second".to_owned());
        let (reloads, untold) = (scrapes.reloads(), scrapes.untold());
        self.invariant.note(format!("{reloads} reloads"));
        self.invariant.note(format!("{untold} files noticed without a signal"));
        let is_reloaded = reloads > untold && untold > 0;
        self.invariant
            .check(is_reloaded, || format!("{reloads} reloads, {untold} without a signal"));
        self.invariant
    }
}
