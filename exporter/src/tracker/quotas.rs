//! Reads the CPU quotas of cgroups while there are scrapes.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{NamesBySerial, Tracked, failure::Failure};
use crate::{
    accounting::{QuotaCounts, QuotaReading},
    cgroup::{
        paths::{self, Limits},
        quota::{self, QuotaReader, QuotaStats},
    },
    os::blocking::{BlockingSlot, JobStatus},
};

/// Reading makes the kernel sum up its statistics over all CPUs, so it is done rarely.
const PERIOD: Duration = Duration::from_secs(5);

/// How many times to read after a scrape, so that the next one finds recent values.
const READINGS: u32 = 12;

/// Time limit of a reading, which takes milliseconds unless the filesystem hangs.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the quotas of cgroups below `mount` as long as the runtime runs.
pub(super) async fn follow(tracked: Tracked, mount: PathBuf, reader: QuotaReader) {
    let reader = Arc::new(Mutex::new(reader));
    let first = Arc::clone(&reader);
    let reading = move || read_all(&mount, &first);
    let before = match BlockingSlot::new("quotas").run(TIMEOUT, reading).await {
        JobStatus::Done(before) => before,
        _ => Counts::new(),
    };
    let mut known = Known { before, ..Known::default() };
    let (mut slot, mut failure) = (BlockingSlot::new("quotas"), Failure::default());
    let mut schedule = Schedule::default();
    loop {
        schedule.wait(&tracked).await;
        let (names, reader) = (tracked.names(), Arc::clone(&reader));
        let limited = Arc::clone(&names);
        match slot.run(TIMEOUT, move || read(&limited, &reader)).await {
            JobStatus::Done(readings) => {
                failure.end();
                tracked.read_quotas(known.update(readings, &names));
            }
            status => {
                let reason = status.reason();
                if failure.is_news(&reason) {
                    tracing::warn!(reason, "cannot read quotas of cgroups; trying again");
                }
            }
        }
    }
}

/// When to read: at most once in each [`PERIOD`], and [`READINGS`] times after the last scrape.
#[derive(Default)]
struct Schedule {
    /// How many more readings there are, unless there is another scrape.
    left: u32,
}

impl Schedule {
    /// Waits until the next reading.
    async fn wait(&mut self, tracked: &Tracked) {
        if self.left > 0 {
            sleep(PERIOD).await;
            self.left -= 1;
        }
        let is_scraped = if self.left == 0 {
            tracked.scraped().await;
            true
        } else {
            timeout(Duration::ZERO, tracked.scraped()).await.is_ok()
        };
        if is_scraped {
            self.left = READINGS;
        }
    }
}

/// Counts by the id of the cgroup that has the quota.
type Counts = BTreeMap<u64, QuotaCounts>;

/// Quotas by the serial number of one of the cgroups that the quota limits.
type Readings = BTreeMap<u64, Owned>;

/// A quota, and the id of the cgroup that has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Owned {
    owner: u64,
    reading: QuotaReading,
}

/// Reads what the quotas of all cgroups have counted so far.
fn read_all(mount: &Path, reader: &Mutex<QuotaReader>) -> Counts {
    let Ok(found) = paths::all(mount, Limits::default()) else { return Counts::new() };
    let cgroups: Vec<_> = found.paths.iter().map(|(id, path)| (*id, path.as_path())).collect();
    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    reader.read(&cgroups).into_iter().map(|(id, quota)| (id, counts(&quota.stats))).collect()
}

fn read(names: &NamesBySerial, reader: &Mutex<QuotaReader>) -> Readings {
    let cgroups: Vec<_> = names.values().map(|it| (it.id, it.path.as_path())).collect();
    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    by_serial(names, reader.read(&cgroups))
}

/// Gives each quota to one of the cgroups that it limits: the first of those at or below its path. Runtimes
/// can set a quota above the cgroup that has the processes.
fn by_serial(names: &NamesBySerial, quotas: BTreeMap<u64, quota::QuotaReading>) -> Readings {
    let mut quotas: HashMap<_, _> =
        quotas.into_iter().map(|(owner, it)| (it.path, (owner, it.stats))).collect();
    let mut readings = Readings::new();
    for (serial, named) in names {
        if quotas.is_empty() {
            break;
        }
        let nearest = |path: &&Path| quotas.contains_key(*path);
        let Some(path) = named.path.ancestors().find(nearest) else { continue };
        let Some((owner, stats)) = quotas.remove(path) else { continue };
        let (cpus, counts) = (Some(stats.quota_cpus), counts(&stats));
        let reading = QuotaReading { serial: *serial, cpus, counts };
        readings.insert(*serial, Owned { owner, reading });
    }
    readings
}

const fn counts(stats: &QuotaStats) -> QuotaCounts {
    QuotaCounts {
        throttled_ns: stats.throttled_ns,
        periods: stats.periods,
        throttled_periods: stats.throttled_periods,
    }
}

/// What is known of quotas between readings.
#[derive(Debug, Default)]
struct Known {
    /// What was counted before the exporter started. Cgroups that are not here were created later, so
    /// everything that their quotas count is new.
    before: Counts,
    last: Readings,
}

impl Known {
    /// Takes readings, and returns what they mean for the sets: before the first reading of a cgroup, the
    /// counts to start from; after its last one, that its quota is gone.
    ///
    /// A cgroup that exists without a reading keeps its counts, since the quota may only be unreadable.
    fn update(&mut self, mut readings: Readings, names: &NamesBySerial) -> Vec<QuotaReading> {
        let of_owners = self.last.values().map(|it| (it.owner, it.reading.counts));
        let of_owners: Counts = of_owners.collect();
        let mut all = Vec::new();
        for (serial, Owned { owner, reading }) in &readings {
            if self.last.get(serial).is_none_or(|last| last.owner != *owner) {
                let known = of_owners.get(owner).or_else(|| self.before.get(owner));
                all.push(QuotaReading { counts: known.copied().unwrap_or_default(), ..*reading });
            }
            all.push(*reading);
        }
        for (serial, last) in &self.last {
            if readings.contains_key(serial) {
                continue;
            }
            let ended = QuotaReading { cpus: None, ..last.reading };
            if last.reading.cpus.is_some() {
                all.push(ended);
            }
            if names.contains_key(serial) {
                readings.insert(*serial, Owned { reading: ended, ..*last });
            }
        }
        self.last = readings;
        all
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout_at};

    use super::*;
    use crate::{accounting::Snapshot, tracker::naming::named};

    fn names(paths: &[(u64, &str)]) -> NamesBySerial {
        let named =
            |(serial, path): &(u64, &str)| (*serial, Arc::new(named(*serial + 100, path.into())));
        paths.iter().map(named).collect()
    }

    fn quota(owner: u64, path: &str, periods: u64) -> (u64, quota::QuotaReading) {
        let stats = QuotaStats { quota_cpus: 0.5, periods, ..QuotaStats::default() };
        (owner, quota::QuotaReading { path: path.into(), stats })
    }

    /// Serial number, whether there is a quota, and periods.
    fn shown(readings: &[QuotaReading]) -> Vec<(u64, bool, u64)> {
        readings.iter().map(|it| (it.serial, it.cpus.is_some(), it.counts.periods)).collect()
    }

    #[test]
    fn a_quota_counts_once_however_many_cgroups_it_limits() {
        let names = names(&[(3, "/a.scope/init"), (4, "/a.scope/main"), (5, "/b.scope")]);
        let quotas = [quota(1, "/a.scope", 7), quota(2, "/b.scope", 8)];
        let readings = by_serial(&names, quotas.into());
        let periods = |serial| readings.get(&serial).map(|it: &Owned| it.reading.counts.periods);
        assert_eq!([3, 4, 5].map(periods), [Some(7), None, Some(8)]);
    }

    #[test]
    fn quotas_count_everything_since_the_start() {
        let with = |cgroups: &[(u64, &str)], periods| {
            by_serial(&names(cgroups), [quota(105, "/b", periods)].into())
        };
        let mut new = Known::default();
        let both = [(5, "/b"), (6, "/b/c")];
        let all = names(&both);
        assert_eq!(shown(&new.update(with(&both, 8), &all)), [(5, true, 0), (5, true, 8)]);
        assert_eq!(shown(&new.update(with(&both, 9), &all)), [(5, true, 9)]);
        // Unreadable for a while.
        assert_eq!(shown(&new.update(Readings::new(), &all)), [(5, false, 9)]);
        assert_eq!(new.update(Readings::new(), &all), []);
        assert_eq!(shown(&new.update(with(&both, 10), &all)), [(5, true, 10)]);
        // Another cgroup stands for the quota from now on, and starts where the first one ended.
        let rest = names(&both[1..]);
        let second = new.update(with(&both[1..], 11), &rest);
        assert_eq!(shown(&second), [(6, true, 10), (6, true, 11), (5, false, 10)]);
        assert_eq!(shown(&new.update(Readings::new(), &names(&[]))), [(6, false, 11)]);
        assert_eq!(new.update(Readings::new(), &names(&[])), []);

        let before = QuotaCounts { periods: 7, ..QuotaCounts::default() };
        let mut old = Known { before: [(105, before)].into(), ..Known::default() };
        assert_eq!(shown(&old.update(with(&both, 8), &all)), [(5, true, 7), (5, true, 8)]);
    }

    #[tokio::test(start_paused = true)]
    async fn quotas_are_read_for_a_minute_after_the_last_scrape() {
        let tracked = Tracked::new(0, None);
        let scrape = || {
            let snapshot = Snapshot { taken_at: 1, cpus: vec![], offline: vec![], cgroups: None };
            tracked.scrape(&snapshot, |_| ());
        };
        let mut schedule = Schedule::default();
        let mut readings_until = async |end| {
            let mut readings = 0;
            while timeout_at(end, schedule.wait(&tracked)).await.is_ok() {
                readings += 1;
            }
            readings
        };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(readings_until(after(60)).await, 0);
        scrape();
        assert_eq!(readings_until(after(91)).await, 7);
        scrape();
        assert_eq!(readings_until(after(600)).await, 12);
    }
}
