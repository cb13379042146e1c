//! Reloads of a configuration with a thousand rules: their duration, and how much they slow down
//! scrapes.

use std::{
    iter::zip,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sched_exporter::{
    config::Config, cpu::topology::Topology, expr::values::Values, generation::Generation,
    metrics::catalog::SERIES,
};
use sched_exporter_tests::{
    client::Client,
    rendering::snapshot,
    rules,
    workload::{online, pin},
};

use crate::{
    Effort,
    daemon::Daemon,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, ms, percentile, us},
};

const NOTE: &str = "\
Reloads by POST to `/-/reload` of a file with 1,000 rules, 500 for the host and 500 for each CPU;
the file is different each time. The time is from the request to the response that it was applied.
Scrapes are as above, over one connection by a client bound to the first CPU, alternately without
other work and while another connection requests one reload after another; \"more\" is the difference
within a round. Labels are made on a thread of their own, which shares the CPUs of this machine with
the scraping thread and the client. So the same is measured with the exporter bound to the last CPU,
where a scrape also waits for as long as the kernel lets the reload keep running. The costs that
grow with the number of CPUs are measured without the exporter, for a synthetic machine. A scrape
can wait only for one of them: continuing the series, each of which gets a new label.";

/// Time after a start or a reload until the exporter has checked the file once more.
const SETTLE: Duration = Duration::from_millis(500);

/// A different file for each reload.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Scrapes with or without concurrent reloads.
struct Situation<'a> {
    daemon: &'a Daemon,
    reloading: bool,
}

/// Results of a round, in microseconds.
struct Round {
    p50: f64,
    p99: f64,
}

/// Measures reloads alone, then scrapes in rounds, alternately with and without reloads.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let cpus = online();
    let (first, last) = cpus.first().zip(cpus.last()).context("no CPU is online")?;
    let [anywhere, bound] = [next_file(), next_file()].map(|file| Daemon::start_with(&file));
    let (anywhere, bound) = (anywhere?, bound?);
    bound.bind(*last)?;
    let mut group = Group::new("Reloads", NOTE);

    thread::sleep(SETTLE);
    let mut client = anywhere.client()?;
    let mut times = (0..effort.choose(400, 50))
        .map(|_| reload(&anywhere, &mut client))
        .collect::<Result<Vec<_>>>()?;
    let p99 = Summary::of([percentile(&mut times, 99)]);
    group.push(Row::new("a reload: time".into(), Unit::Ms, Summary::of(times)).at_most(50.0));
    group.push(Row::new("a reload: 99th percentile".into(), Unit::Ms, p99).at_most(50.0));
    for (what, times) in on_512_cpus(effort)? {
        group.push(Row::new(format!("512 CPUs: {what}"), Unit::Ms, Summary::of(times)));
    }

    let situations = [(&anywhere, false), (&anywhere, true), (&bound, false), (&bound, true)]
        .map(|(daemon, reloading)| Situation { daemon, reloading });
    let length = Duration::from_millis(effort.choose(1_000, 300));
    let rounds = in_turn(&situations, effort.choose(9, 3), |it| scrape(it, *first, length))?;
    for (whose, rounds, target) in [
        ("scrapes", &rounds[..2], Some(1_000.0)),
        ("exporter bound to one CPU, scrapes", &rounds[2..], None),
    ] {
        for (what, of) in
            [("median time", (|it| it.p50) as fn(&Round) -> f64), ("99th percentile", |it| it.p99)]
        {
            let [without, with] = [0, 1].map(|at| rounds[at].iter().map(of).collect::<Vec<_>>());
            let more: Vec<_> = zip(&with, &without).map(|(with, without)| with - without).collect();
            for (when, values) in [("no reloads", without), ("reloads", with), ("more", more)] {
                let row =
                    Row::new(format!("{whose}: {what}, {when}"), Unit::Us, Summary::of(values));
                group.push(match target {
                    Some(most) if (what, when) == ("99th percentile", "more") => row.at_most(most),
                    _ => row,
                });
            }
        }
    }
    Ok(group)
}

fn next_file() -> String {
    rules::config(NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Replaces the file and returns the milliseconds of its reload.
fn reload(daemon: &Daemon, client: &mut Client) -> Result<f64> {
    daemon.configure(&next_file())?;
    let started = Instant::now();
    let answer = client.try_request("POST", "/-/reload", &[])?;
    let took = ms(started.elapsed());
    ensure!(answer.body == b"applied\n", "the reload returned {}", answer.text());
    Ok(took)
}

/// Milliseconds of the steps of a reload: parsing the file and making the labels, on its own
/// thread, and continuing the series, between two scrapes.
fn on_512_cpus(effort: Effort) -> Result<[(&'static str, Vec<f64>); 3]> {
    let topology = Topology::of((0..512).collect());
    let snapshot = snapshot(512);
    let mut last = Generation::default();
    let (mut parse, mut labels, mut continue_from) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.choose(15, 3) {
        let file = next_file().replace("Example-Host", &format!("host-{round}"));
        let started = Instant::now();
        let config = Config::parse(&file).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        parse.push(ms(started.elapsed()));
        let started = Instant::now();
        let (mut next, _) = Generation::new(&config, "", &Values::default(), &topology, SERIES);
        labels.push(ms(started.elapsed()));
        let started = Instant::now();
        next.continue_from(&last, &snapshot);
        continue_from.push(ms(started.elapsed()));
        last = next;
    }
    Ok([
        ("a file is understood", parse),
        ("its labels are made", labels),
        ("its series continue", continue_from),
    ])
}

/// Runs a round of scrapes from a CPU.
fn scrape(situation: &Situation<'_>, cpu: usize, length: Duration) -> Result<Round> {
    let Situation { daemon, reloading } = *situation;
    thread::sleep(SETTLE);
    let done = AtomicBool::new(false);
    let reload_on = || -> Result<()> {
        let mut client = daemon.client()?;
        while reloading && !done.load(Ordering::Relaxed) {
            reload(daemon, &mut client)?;
        }
        Ok(())
    };
    let scrape_on = || -> Result<Vec<f64>> {
        pin(cpu);
        let mut connection = daemon.connect()?;
        let mut times = Vec::new();
        let end = Instant::now() + length;
        while Instant::now() < end {
            let started = Instant::now();
            connection.get("/metrics", "")?;
            times.push(us(started.elapsed()));
        }
        Ok(times)
    };
    let (times, reloads) = thread::scope(|scope| {
        let reloads = scope.spawn(reload_on);
        let times = scope.spawn(scrape_on).join();
        done.store(true, Ordering::Relaxed);
        (times, reloads.join())
    });
    reloads.unwrap_or_else(|panic| resume_unwind(panic))?;
    let mut times = times.unwrap_or_else(|panic| resume_unwind(panic))?;
    Ok(Round { p50: percentile(&mut times, 50), p99: percentile(&mut times, 99) })
}
