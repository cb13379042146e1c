//! Exporters that are killed and started again under load, each of which continues the counts of the last.

use std::{panic::resume_unwind, thread};

use anyhow::Result;
use sched_exporter_tests::{
    pins::Restarts,
    workload::{Load, online},
};

use crate::{Shared, cgroups, invariant::Invariant};

/// Checks this number of restarts, with a storm of switches and cgroups that come and go.
pub(crate) fn run(count: u32, shared: &Shared) -> Result<Vec<Invariant>> {
    let mut forward = Invariant::new("no counter decreases or is lost in a restart");
    let mut load = Invariant::new("cgroups come and go meanwhile");
    let cgroups = thread::scope(|scope| {
        let cgroups = scope.spawn(|| cgroups::churn(shared));
        let storm = Load::storm(&online());
        let mut restarts = Restarts::new();
        for number in 1..=count {
            if shared.is_over() {
                break;
            }
            let result = restarts.cycle();
            let wrong = result.err();
            forward.check(wrong.is_none(), || wrong.clone().unwrap_or_default());
            if !forward.holds() {
                break;
            }
            if number % 50 == 0 {
                eprintln!("{}", restarts.summary());
            }
        }
        forward.note(restarts.summary());
        shared.end();
        drop(storm);
        cgroups.join()
    });
    let cgroups = cgroups.unwrap_or_else(|panic| resume_unwind(panic))?;
    load.check(cgroups > 0, || "no cgroup came".to_owned());
    load.note(format!("{cgroups} cgroups"));
    Ok(vec![forward, load])
}
