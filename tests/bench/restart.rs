//! Starts that continue the counts of an exporter that was killed.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sched_exporter_tests::{
    pins::{BpfFs, kill},
    process::Exporter,
    rendering::SHIPPED_CONFIG,
};

use crate::{
    Effort,
    report::{Group, Row, Unit},
    summary::{Summary, ms},
};

const NOTE: &str = "\
The exporter has `--ebpf.pin-path`, is killed, and starts again. It says itself how long it took to continue
the counts: to check the pins and open the maps, or also to load its own programs, attach them, and detach those
that were attached, if they differ. Start-up is the time from the start of the process to its first scrape.";

/// How a start must have continued the counts.
#[derive(Clone, Copy)]
enum By {
    Adoption,
    Takeover,
}

/// Measures starts with the same program, and with another.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let bpf = BpfFs::mount();
    let mut group = Group::new("Restarts", NOTE);
    let begun = start(&bpf, &[])?;
    group.push(Row::new("start-up, nothing pinned".into(), Unit::Ms, Summary::of([begun.1])));
    kill(begun.0);
    let rounds = effort.choose(30, 5);
    for (what, by, flags) in [
        ("the same program", By::Adoption, [&[][..], &[]]),
        ("another program", By::Takeover, [&["--log.ebpf"][..], &[]]),
    ] {
        let (mut continued, mut startups) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (exporter, startup) = start(&bpf, flags[round % 2])?;
            continued.push(continuation(&exporter, by)?);
            startups.push(startup);
            kill(exporter);
        }
        let row = Row::new(format!("{what}: counts continue"), Unit::Ms, Summary::of(continued));
        group.push(match by {
            By::Adoption => row.at_most(100.0),
            By::Takeover => row,
        });
        group.push(Row::new(format!("{what}: start-up"), Unit::Ms, Summary::of(startups)));
    }
    Ok(group)
}

/// Starts an exporter; also returns the milliseconds to its first scrape.
fn start(bpf: &BpfFs, flags: &[&str]) -> Result<(Exporter, f64)> {
    let started = Instant::now();
    let exporter = Exporter::start_with(SHIPPED_CONFIG, &[&[bpf.flag().as_str()], flags].concat());
    ensure!(exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]) > 0, "nothing is counted");
    Ok((exporter, ms(started.elapsed())))
}

/// The milliseconds that the exporter has logged.
fn continuation(exporter: &Exporter, by: By) -> Result<f64> {
    let message = match by {
        By::Adoption => "adopted the program",
        By::Takeover => "took over",
    };
    let log = exporter.log();
    let line = log.lines().find(|line| line.contains(message));
    let line = line.with_context(|| format!("the log lacks `{message}`:\n{log}"))?;
    let field = line.split("milliseconds=").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(field.context("no duration in the log")?.parse()?)
}
