//! The cost of the exporter while nobody scrapes it, besides that of the kernel program.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    Effort,
    daemon::Daemon,
    report::{Group, Row, Unit},
    summary::{Summary, ms},
};

const NOTE: &str = "\
CPU time of the exporter's process while nobody scrapes it, scaled to a minute. It then checks once a
minute whether its configuration changed, and ranks the sets of cgroups.";

/// Time after the start until the exporter is idle.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures an idle exporter.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let length = Duration::from_secs(effort.choose(60, 5));
    let daemon = Daemon::start()?;
    thread::sleep(SETTLE);
    let before = daemon.cpu_time()?;
    thread::sleep(length);
    let cpu = ms(daemon.cpu_time()?.saturating_sub(before)) * 60.0 / length.as_secs_f64();
    let mut group = Group::new("Idle", NOTE);
    let row =
        Row::new(format!("CPU for each minute, over {length:?}"), Unit::Ms, Summary::of([cpu]));
    group.push(row.at_most(1.0));
    Ok(group)
}
