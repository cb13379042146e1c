//! CPU quotas of cgroups, and what they have held back.

use std::ops::AddAssign;

/// What the kernel reports about one cgroup's quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaReading {
    /// The cgroup's serial number.
    pub serial: u64,
    /// The quota in CPUs, which is the quota of a period divided by the period; `None` without a quota.
    pub cpus: Option<f64>,
    /// The kernel's counters.
    pub counts: QuotaCounts,
}

/// Counters of quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaCounts {
    /// Nanoseconds that tasks were throttled.
    pub throttled_ns: u64,
    /// Periods in which a cgroup was runnable.
    pub periods: u64,
    /// Periods in which a cgroup was throttled.
    pub throttled_periods: u64,
}

/// What a series shows about the quotas of its cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quotas {
    /// What its cgroups counted while they were its members.
    pub counts: QuotaCounts,
    /// The sum of the quotas of the cgroups that exist and have one; `None` if none has one.
    pub cpus: Option<f64>,
}

/// The last reading of one cgroup.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastQuota {
    counts: QuotaCounts,
    pub(super) cpus: Option<f64>,
}

impl From<QuotaReading> for LastQuota {
    fn from(reading: QuotaReading) -> Self {
        Self { counts: reading.counts, cpus: reading.cpus }
    }
}

impl LastQuota {
    pub(super) const fn counts(&self) -> QuotaCounts {
        self.counts
    }

    /// Replaces the last reading. Returns what the counters gained: nothing if they went back.
    pub(super) fn update(&mut self, reading: &QuotaReading) -> QuotaCounts {
        let gained = reading.counts.since(self.counts);
        *self = (*reading).into();
        gained
    }
}

impl QuotaCounts {
    fn since(self, last: Self) -> Self {
        Self {
            throttled_ns: self.throttled_ns.saturating_sub(last.throttled_ns),
            periods: self.periods.saturating_sub(last.periods),
            throttled_periods: self.throttled_periods.saturating_sub(last.throttled_periods),
        }
    }
}

impl AddAssign for QuotaCounts {
    fn add_assign(&mut self, gained: Self) {
        self.throttled_ns += gained.throttled_ns;
        self.periods += gained.periods;
        self.throttled_periods += gained.throttled_periods;
    }
}
