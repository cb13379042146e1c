//! What TLS and passwords cost: scrapes and handshakes of exporters with a web configuration.

use std::{panic::resume_unwind, thread};

use anyhow::{Context as _, Result};
use sched_exporter_tests::{
    process::PATIENCE,
    tls::{ALICE, Certificates, USERS},
    workload::{online, pin},
};

use crate::{
    Effort,
    daemon::Daemon,
    memory,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, number, us},
};

const NOTE: &str = "\
CPU time of the exporter, user and system, over all threads. All exporters are bound to the last CPU, and their
client to the first. Scrapes are consecutive, over one connection, in OpenMetrics; those with a password send it
each time. A handshake is a new connection with a certificate of P-256, by TLS 1.3, that asks for `/-/ready` once;
the cost of the same without TLS is not subtracted. Memory is measured after both, without the mapped counts.";

const SCRAPE: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

/// The exporters that are compared.
const NAMES: [&str; 4] = ["plain", "TLS", "TLS and a client's certificate", "TLS and a password"];

/// A scraped exporter.
struct Target {
    daemon: Daemon,
    headers: String,
}

/// Results of a target in a round, in microseconds of CPU time.
struct Round {
    scrape: f64,
    connection: f64,
}

pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let files = Certificates::new();
    let start = |tls: &str, more: &str, certificate, header: &str| -> Result<_> {
        let files = Certificates::new();
        let web = files.web(tls, more);
        let daemon = Daemon::start_with_tls(&web, files.client(certificate))?;
        // The files are read at the start, and followed.
        Ok((Target { daemon, headers: format!("{SCRAPE}{header}") }, files))
    };
    let verify = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let password = format!("{}: {}\r\n", ALICE.0, ALICE.1);
    let plain = Target { daemon: Daemon::start()?, headers: SCRAPE.to_owned() };
    let started = [
        (plain, files),
        start("", "", None, "")?,
        start(verify, "", Some("client"), "")?,
        start("", USERS, None, &password)?,
    ];
    let (targets, _files): (Vec<_>, Vec<_>) = started.into_iter().unzip();
    for Target { daemon, .. } in &targets {
        daemon.bind(*online().last().context("no CPU is online")?)?;
    }
    let client = || -> Result<_> {
        pin(*online().first().context("no CPU is online")?);
        in_turn(&targets, effort.choose(7, 3), |target| round(target, effort))
    };
    // On a thread of its own, because it stays bound to its CPU.
    let results = thread::scope(|scope| scope.spawn(client).join());
    let results = results.unwrap_or_else(|panic| resume_unwind(panic))?;
    let mut group = Group::new("TLS and passwords", NOTE);
    let scrapes =
        |index: usize| results[index].iter().map(|round| round.scrape).collect::<Vec<_>>();
    for (index, name) in NAMES.iter().enumerate() {
        let of = |value: fn(&Round) -> f64| Summary::of(results[index].iter().map(value));
        group.push(Row::new(format!("{name}: scrape"), Unit::Us, of(|round| round.scrape)));
        let row = Row::new(format!("{name}: new connection"), Unit::Us, of(|it| it.connection));
        group.push(if index == 0 { row } else { row.at_most(3_000.0) });
    }
    let ratio = Summary::of_ratios(&scrapes(1), &scrapes(0));
    group.push(Row::new("TLS / plain: scrape".to_owned(), Unit::Ratio, ratio).at_most(1.3));
    for (name, Target { daemon, .. }) in NAMES.iter().zip(&targets) {
        let memory = Summary::of([memory::unmapped_mib(daemon)?]);
        let what = format!("{name}: resident memory, without the mapped counts");
        group.push(Row::new(what, Unit::Mib, memory).at_most(10.0));
    }
    Ok(group)
}

fn round(Target { daemon, headers }: &Target, effort: Effort) -> Result<Round> {
    const WARM_UP: usize = 50;
    let (scrapes, connections) = (effort.choose(2_000, 300), effort.choose(300, 50));
    let mut connection = daemon.connect()?;
    for _ in 0..WARM_UP {
        connection.get("/metrics", headers)?;
    }
    let before = daemon.cpu_time()?;
    for _ in 0..scrapes {
        connection.get("/metrics", headers)?;
    }
    let scrape = us(daemon.cpu_time()?.saturating_sub(before)) / number(scrapes);
    drop(connection);
    let before = daemon.cpu_time()?;
    for _ in 0..connections {
        daemon.connect()?.get("/-/ready", "")?;
    }
    // The exporter learns of the last end later.
    thread::sleep(PATIENCE / 200);
    let connection = us(daemon.cpu_time()?.saturating_sub(before)) / number(connections);
    Ok(Round { scrape, connection })
}
