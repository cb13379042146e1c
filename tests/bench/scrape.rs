//! Scrapes over loopback, of the real exporter and of peers: latency and CPU time.

use std::{panic::resume_unwind, thread, time::Instant};

use anyhow::{Context as _, Result};
use sched_exporter_tests::{
    rules,
    workload::{online, pin},
};

use crate::{
    Effort,
    daemon::Daemon,
    peers::Peers,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, number, percentile, us},
};

const NOTE: &str = "\
Consecutive scrapes over one connection, by a client bound to the first CPU; the exporter runs where
the kernel puts it. CPU is that of the exporter per scrape, user and system, over all threads. Two
more exporters are bound to the last CPU, so that their CPU can be compared: one as shipped, and one
that makes the same labels by 1,000 rules. The latter has a few more lines, which show whether the
sources of its templates are up. Peers are scraped in text 0.0.4; they keep running and are scraped
in turn.";

/// Formats by name, with the headers that Prometheus sends for them.
const FORMS: [(&str, &str); 3] = [
    ("OpenMetrics", "Accept: application/openmetrics-text;version=1.0.0\r\n"),
    ("text 0.0.4", TEXT),
    (
        "OpenMetrics, gzip",
        "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n",
    ),
];
/// The targets whose CPU time is compared.
const BOUND: [&str; 2] = ["OpenMetrics, bound", "OpenMetrics, bound, 1,000 rules"];
const TEXT: &str = "Accept: text/plain;version=0.0.4\r\n";

/// A scraped exporter.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// Its name on the page.
    name: &'static str,
    daemon: &'a Daemon,
    headers: &'static str,
    /// Number of scrapes in each round.
    scrapes: usize,
}

/// Results of a target in a round; times in microseconds.
struct Round {
    p50: f64,
    p99: f64,
    cpu: f64,
    bytes: f64,
}

/// Scrapes all targets in turn, in each round.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let exporter = Daemon::start()?;
    let bound = [Daemon::start()?, Daemon::start_with(&rules::config(0))?];
    for daemon in &bound {
        daemon.bind(*online().last().context("no CPU is online")?)?;
    }
    let others = peers.exporters().map(|peer| Ok((peer.name, Daemon::start_peer(peer)?)));
    let others = others.collect::<Result<Vec<_>>>()?;
    let mut targets = Vec::new();
    for (name, headers) in FORMS {
        let scrapes = effort.choose(2_000, 500);
        targets.push(Target { name, daemon: &exporter, headers, scrapes });
    }
    let first = targets[0];
    for (name, daemon) in BOUND.into_iter().zip(&bound) {
        targets.push(Target { name, daemon, ..first });
    }
    for (name, daemon) in &others {
        targets.push(Target { name, daemon, headers: TEXT, scrapes: effort.choose(300, 100) });
    }
    let client = || -> Result<_> {
        pin(*online().first().context("no CPU is online")?);
        in_turn(&targets, effort.choose(7, 3), scrape)
    };
    // On a thread of its own, because it stays bound to its CPU.
    let results = thread::scope(|scope| scope.spawn(client).join());
    let results = results.unwrap_or_else(|panic| resume_unwind(panic))?;
    let mut group = Group::new("Scrapes", NOTE);
    for (index, (Target { name, .. }, rounds)) in targets.iter().zip(&results).enumerate() {
        let of = |value: fn(&Round) -> f64| Summary::of(rounds.iter().map(value));
        // The targets apply to the default format.
        let target = |row: Row, most| if index == 0 { row.at_most(most) } else { row };
        group.push(target(
            Row::new(format!("{name}: median time"), Unit::Us, of(|round| round.p50)),
            200.0,
        ));
        group.push(Row::new(
            format!("{name}: 99th percentile of the time"),
            Unit::Us,
            of(|round| round.p99),
        ));
        group
            .push(target(Row::new(format!("{name}: CPU"), Unit::Us, of(|round| round.cpu)), 120.0));
        group.push(Row::new(format!("{name}: size"), Unit::Bytes, of(|round| round.bytes)));
    }
    let cpu = |index: usize| results[index].iter().map(|round| round.cpu).collect::<Vec<_>>();
    let ratio = Summary::of_ratios(&cpu(FORMS.len() + 1), &cpu(FORMS.len()));
    group.push(
        Row::new("1,000 rules / as shipped: CPU".to_owned(), Unit::Ratio, ratio).at_most(1.1),
    );
    Ok(group)
}

fn scrape(target: &Target<'_>) -> Result<Round> {
    const WARM_UP: usize = 50;
    let Target { daemon, headers, scrapes, .. } = *target;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: bench\r\n{headers}\r\n");
    let mut connection = daemon.connect()?;
    for _ in 0..WARM_UP {
        connection.send(request.as_bytes())?;
    }
    let mut times = Vec::with_capacity(scrapes);
    let mut bytes = 0;
    let before = daemon.cpu_time()?;
    for _ in 0..scrapes {
        let started = Instant::now();
        bytes = connection.send(request.as_bytes())?;
        times.push(us(started.elapsed()));
    }
    let cpu = us(daemon.cpu_time()?.saturating_sub(before)) / number(scrapes);
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    Ok(Round { p50, p99, cpu, bytes: number(bytes) })
}
