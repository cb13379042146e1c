//! Cgroups that come and go, and checks of what each scrape shows of cgroups.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;
use sched_exporter_tests::{
    cgroups::{Account, Process, Tree, bursts},
    exposition::Exposition,
    sample::Sample,
};

use crate::{Shared, invariant::Invariant};

/// Cgroups alive at any time.
const ALIVE: u64 = 8;

/// Time between a removal of all of them and the next creation: the kernel's own threads, which clean up,
/// need CPU time, too.
const PAUSE: Duration = Duration::from_millis(20);

/// Creates cgroups in which a process works briefly, and removes them, until the soak ends. Returns their
/// number.
#[expect(clippy::unnecessary_wraps, reason = "a load like the others")]
pub(crate) fn churn(shared: &Shared) -> Result<u64> {
    let (work, rest) = (Duration::from_micros(200), Duration::from_micros(100));
    let tree = Tree::new();
    let mut count = 0;
    while !shared.is_over() {
        let cgroups: Vec<_> =
            (0..ALIVE).map(|number| tree.create(&(count + number).to_string())).collect();
        let start = || bursts(work * 2, work, rest);
        let processes: Vec<_> = cgroups.iter().map(|cgroup| cgroup.start(start)).collect();
        processes.into_iter().for_each(Process::wait);
        for cgroup in cgroups {
            cgroup.remove();
        }
        count += ALIVE;
        thread::sleep(PAUSE);
    }
    Ok(count)
}

/// Checks of the series of cgroups.
pub(crate) struct Cgroups {
    /// Last values of counters, by series without the labels of the host.
    counters: BTreeMap<String, f64>,
    /// Slots in use.
    used: u64,
    conserved: Invariant,
    forward: Invariant,
    slots: Invariant,
}

impl Cgroups {
    pub(crate) const fn new() -> Self {
        Self {
            counters: BTreeMap::new(),
            used: 0,
            conserved: Invariant::new("the times of cgroups add up to the busy times of CPUs"),
            forward: Invariant::new("no counter of a cgroup decreases from scrape to scrape"),
            slots: Invariant::new("there are slots for all cgroups"),
        }
    }

    /// Slots in use at the last scrape.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn check(&mut self, exposition: &Exposition, samples: &[Sample]) {
        let account = Account::of(exposition);
        self.conserved.check(account.is_conserved(), || format!("{account:?}"));

        // A series that was gone may begin again at zero, and so do all with the labels of a new configuration.
        let mut counters = BTreeMap::new();
        for sample in samples.iter().filter(|sample| is_counter(sample)) {
            let series = format!("{}{:?}", sample.name, sample.labels);
            let value = sample.value.parse().unwrap_or(f64::NAN);
            let old = self.counters.get(&series).copied().unwrap_or(0.0);
            self.forward.check(old <= value, || format!("{series} fell from {old} to {value}"));
            counters.insert(series, value);
        }
        self.counters = counters;

        let of = |name: &str| exposition.sum(&format!("sched_exporter_cgroup_{name}"), &[]);
        self.used = of("slots_used");
        let refused = of("slots_refused_total");
        self.slots.at_most(self.used, of("slots"), "slots used", String::new);
        self.slots.check(refused == 0, || format!("{refused} cgroups got none"));
    }

    pub(crate) fn into_invariants(self) -> [Invariant; 3] {
        [self.conserved, self.forward, self.slots]
    }
}

/// Whether a sample is of a cgroup's series.
pub(crate) fn is_of_cgroup(sample: &Sample) -> bool {
    sample.name.starts_with("sched_cgroup_")
}

fn is_counter(sample: &Sample) -> bool {
    is_of_cgroup(sample) && !sample.name.ends_with("_quota_cpus")
}
