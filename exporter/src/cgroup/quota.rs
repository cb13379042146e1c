//! Reads the CPU quotas of cgroups, and how often and how long they were throttled.
//!
//! Runtimes may set a quota on a directory above the one with the processes: podman and CRI-O run
//! processes in `libpod-<id>.scope/container` and set the quota of the scope. So the nearest quota counts,
//! of the cgroup or of one above it in the same unit and container. Quotas of slices and pods do not count.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::{
        linux::fs::MetadataExt as _,
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
};

use super::{
    hierarchy::{Hierarchy, QuotaMount},
    names::Names,
    paths::label,
};

/// Maximum number of `cpu.stat` files to keep open. Each takes 4.5 KiB of the kernel's memory, most of it
/// for the buffer of its contents.
const MAX_DESCRIPTORS: u64 = 1024;

/// The share of the descriptors that this process may open; connections need some, too.
const DESCRIPTORS_SHARE: u64 = 4;

/// How soon to look again for a quota of a cgroup without one. Runtimes set it after the first process
/// has started, so look soon at first, then twice as late each time.
const FIRST_RECHECK: Duration = Duration::from_secs(5);
const LAST_RECHECK: Duration = Duration::from_mins(1);

/// A quota, and its effect since the cgroup was created.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuotaStats {
    /// The quota in CPUs: the time that may be used in each period, by the period.
    pub quota_cpus: f64,
    /// Periods in which the cgroup had runnable tasks.
    pub periods: u64,
    /// Periods in which it used up its quota.
    pub throttled_periods: u64,
    /// Nanoseconds during which it could not run for that reason, on all CPUs together.
    pub throttled_ns: u64,
}

/// The quota of a cgroup.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaReading {
    /// The path of the cgroup that has the quota.
    pub path: PathBuf,
    /// Its state.
    pub stats: QuotaStats,
}

/// Reads quotas repeatedly. Blocks, so it needs a thread of its own.
#[derive(Debug)]
pub struct QuotaReader {
    files: Files,
    max_descriptors: usize,
    descriptors: usize,
    /// What is known of each cgroup that was looked at, by path.
    entries: HashMap<Vec<u8>, Entry>,
    /// The number of the current call of `read`.
    round: u64,
    is_short: bool,
}

/// Where the files are.
#[derive(Debug)]
struct Files {
    /// The mount of the hierarchy whose ids are used.
    tree: PathBuf,
    quotas: QuotaMount,
}

/// What is known of a cgroup.
#[derive(Debug)]
struct Entry {
    id: u64,
    /// How many paths to look at: its own, and those above it.
    levels: usize,
    /// The last call that looked at it.
    round: u64,
    /// What that call found.
    stats: Option<QuotaStats>,
    /// Its `cpu.stat`, if it has a quota and few others have one.
    stat_file: Option<File>,
    /// When to look for a quota again, and how long that was after the last time.
    recheck: Option<(Instant, Duration)>,
}

/// The reason why there is no reading.
enum ReadError {
    /// The cgroup has been removed, or another one is at its path.
    Gone,
    Io(io::Error),
}

impl QuotaReader {
    /// Prepares to read the quotas of cgroups whose ids are those of directories below `tree`. At most a
    /// quarter of the descriptors that this process may open are kept open.
    pub fn new(tree: PathBuf, quotas: QuotaMount) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let kept = (limit / DESCRIPTORS_SHARE).min(MAX_DESCRIPTORS);
        Self::with_descriptors(tree, quotas, usize::try_from(kept).unwrap_or(usize::MAX))
    }

    /// Keeps at most `max_descriptors` files open. Other cgroups with quotas are read too, but their files
    /// are opened each time, which takes longer.
    pub fn with_descriptors(tree: PathBuf, quotas: QuotaMount, max_descriptors: usize) -> Self {
        Self {
            files: Files { tree, quotas },
            max_descriptors,
            descriptors: 0,
            entries: HashMap::new(),
            round: 0,
            is_short: false,
        }
    }

    /// Reads the quotas that limit these cgroups, by the id of the cgroup that has the quota: one of
    /// these, or one above it. A cgroup that is missing in a call is forgotten, and its file closed.
    ///
    /// Leaves out cgroups that have been removed. If descriptors or memory are short, leaves out those that
    /// could not be read, and logs when that begins and ends. A quota that is set on a cgroup without one
    /// is found within 5 seconds to a minute, a changed one by the next call.
    pub fn read(&mut self, cgroups: &[(u64, &Path)]) -> BTreeMap<u64, QuotaReading> {
        self.read_at(Instant::now(), cgroups)
    }

    fn read_at(&mut self, now: Instant, cgroups: &[(u64, &Path)]) -> BTreeMap<u64, QuotaReading> {
        self.round += 1;
        let mut readings = BTreeMap::new();
        let mut shortage = None;
        for (id, path) in cgroups {
            let known = self.entries.get(path.as_os_str().as_bytes());
            let levels = known.map_or_else(|| levels(path), |entry| entry.levels);
            for (level, path) in path.ancestors().take(levels).enumerate() {
                match self.look(now, (level == 0).then_some(*id), path) {
                    Ok(None) | Err(ReadError::Gone) => {}
                    Ok(Some((id, stats))) => {
                        readings.insert(id, QuotaReading { path: path.into(), stats });
                        break;
                    }
                    Err(ReadError::Io(error)) => {
                        shortage.get_or_insert((path.to_owned(), error));
                        break;
                    }
                }
            }
        }
        let round = self.round;
        self.entries.retain(|_, entry| entry.round == round);
        self.descriptors = self.entries.values().filter(|it| it.stat_file.is_some()).count();
        self.report(shortage);
        readings
    }

    /// Looks at the quota of one cgroup, once in each round. The ids of cgroups above others are unknown.
    fn look(
        &mut self,
        now: Instant,
        id: Option<u64>,
        path: &Path,
    ) -> Result<Option<(u64, QuotaStats)>, ReadError> {
        let key = path.as_os_str().as_bytes();
        let known = self.entries.get(key).map(|entry| entry.id);
        if known.is_none_or(|known| id.is_some_and(|id| id != known)) {
            let id = id.map_or_else(|| self.files.id(path), Ok)?;
            self.entries.insert(key.to_vec(), Entry::new(id, path));
        }
        let Some(entry) = self.entries.get_mut(key) else { return Ok(None) };
        if entry.round != self.round {
            entry.round = self.round;
            let was_kept = entry.stat_file.is_some();
            let is_room = self.descriptors < self.max_descriptors;
            if let Err(error) = entry.update(&self.files, now, path, is_room) {
                self.entries.remove(key);
                return Err(error);
            }
            self.descriptors += usize::from(!was_kept && entry.stat_file.is_some());
        }
        Ok(entry.stats.map(|stats| (entry.id, stats)))
    }

    /// Logs when cgroups begin to be left out, and when that is over.
    fn report(&mut self, shortage: Option<(PathBuf, io::Error)>) {
        match shortage {
            Some((path, error)) if !self.is_short => {
                tracing::warn!(cgroup = %label(&path), %error, "cannot read all CPU quotas");
                self.is_short = true;
            }
            None if self.is_short => {
                tracing::info!("all CPU quotas can be read again");
                self.is_short = false;
            }
            _ => {}
        }
    }
}

impl Entry {
    fn new(id: u64, path: &Path) -> Self {
        let levels = levels(path);
        Self { id, levels, round: 0, stats: None, stat_file: None, recheck: None }
    }

    /// Reads the quota if it is time to. Keeps the file open if there is room for it.
    fn update(
        &mut self,
        files: &Files,
        now: Instant,
        path: &Path,
        is_room: bool,
    ) -> Result<(), ReadError> {
        if self.recheck.is_some_and(|(at, _)| now < at) {
            return Ok(());
        }
        let kept = self.stat_file.take();
        let is_room = is_room || kept.is_some();
        self.stats = None;
        if let Some((stats, file)) = files.stats(path, kept)? {
            // Ids are never reused, so if the path leads to this id now, it did before, too.
            if files.id(path)? != self.id {
                return Err(ReadError::Gone);
            }
            self.stats = Some(stats);
            self.stat_file = is_room.then_some(file);
        }
        self.recheck = self.stats.is_none().then(|| self.next_recheck(now));
        Ok(())
    }

    fn next_recheck(&self, now: Instant) -> (Instant, Duration) {
        let doubled = |(_, delay): (_, Duration)| (delay * 2).min(LAST_RECHECK);
        let delay = self.recheck.map_or(FIRST_RECHECK, doubled);
        (now + delay, delay)
    }
}

impl Files {
    /// The id of the cgroup at a path.
    fn id(&self, path: &Path) -> Result<u64, ReadError> {
        Ok(fs::symlink_metadata(below(&self.tree, path))?.st_ino())
    }

    /// A cgroup's quota and statistics, with the file of the latter, unless it has no quota.
    fn stats(
        &self,
        path: &Path,
        kept: Option<File>,
    ) -> Result<Option<(QuotaStats, File)>, ReadError> {
        let directory = below(&self.quotas.path, path);
        let hierarchy = self.quotas.hierarchy;
        let Some(quota_cpus) = quota_cpus(hierarchy, &directory)? else { return Ok(None) };
        let file = kept.map_or_else(|| File::open(directory.join("cpu.stat")), Ok)?;
        let stats = throttling(hierarchy, &read(&file)?);
        Ok(stats.map(|stats| (QuotaStats { quota_cpus, ..stats }, file)))
    }
}

impl From<io::Error> for ReadError {
    /// A file that is still open returns `ENODEV` when its cgroup is removed.
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENOTDIR) => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// How many paths to look at for a quota: that of the cgroup, and those above it that belong to the same
/// unit and container.
fn levels(path: &Path) -> usize {
    let text = label(path);
    let own = Names::of(&text);
    if own.unit.is_none() && own.container_id.is_none() {
        return 1;
    }
    let is_same = |above: &&Path| {
        let text = label(above);
        let above = Names::of(&text);
        (above.unit, above.container_id) == (own.unit, own.container_id)
    };
    1 + path.ancestors().skip(1).take_while(is_same).count()
}

/// The directory of a cgroup, by its path in the hierarchy.
fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// Reads a cgroup's quota in CPUs, if it has one.
fn quota_cpus(hierarchy: Hierarchy, directory: &Path) -> io::Result<Option<f64>> {
    // Without the controller there are no such files, and the root of v2 never has them.
    let text = |name: &str| match File::open(directory.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        file => read(&file?),
    };
    if hierarchy == Hierarchy::Unified {
        return Ok(cpu_max(&text("cpu.max")?));
    }
    let quota = text("cpu.cfs_quota_us")?;
    // Most cgroups have no quota; for these, do not read the period.
    if quota.starts_with('-') {
        return Ok(None);
    }
    Ok(cpus(&quota, &text("cpu.cfs_period_us")?))
}

/// Reads a small file from its beginning.
fn read(file: &File) -> io::Result<String> {
    let mut page = [0; 4096];
    let length = file.read_at(&mut page, 0)?;
    Ok(String::from_utf8_lossy(&page[..length]).into_owned())
}

/// Parses `cpu.max` of v2: the quota and the period in microseconds, such as `50000 100000`. Without a
/// quota it is `max 100000`.
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files>
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    cpus(quota, period)
}

/// Divides a quota by its period. The quota is `max` in v2, or negative in v1, if there is none.
/// <https://docs.kernel.org/scheduler/sched-bwc.html>
fn cpus(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| text.trim_end().parse::<f64>().ok().filter(|it| it.is_finite());
    let (quota, period) = (number(quota)?, number(period)?);
    (quota >= 0.0 && period > 0.0).then(|| quota / period)
}

/// Parses `cpu.stat`. Throttled time is in microseconds in v2, and in nanoseconds in v1.
fn throttling(hierarchy: Hierarchy, text: &str) -> Option<QuotaStats> {
    let (time, unit_ns) = match hierarchy {
        Hierarchy::Unified => ("throttled_usec", 1000),
        Hierarchy::Legacy => ("throttled_time", 1),
    };
    let value = |wanted: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(name, _)| *name == wanted)?.1.parse::<u64>().ok()
    };
    Some(QuotaStats {
        quota_cpus: 0.0,
        periods: value("nr_periods")?,
        throttled_periods: value("nr_throttled")?,
        throttled_ns: value(time)?.saturating_mul(unit_ns),
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ID: &str = "a61627ef0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac199";

    /// A hierarchy of plain files, with a reader of it.
    struct Host {
        tree: TempDir,
        reader: QuotaReader,
        now: Instant,
    }

    impl Host {
        fn new(hierarchy: Hierarchy, max_descriptors: usize) -> Self {
            let tree = tempfile::tempdir().unwrap();
            let path = tree.path().to_owned();
            let quotas = QuotaMount { hierarchy, path: path.clone() };
            let reader = QuotaReader::with_descriptors(path, quotas, max_descriptors);
            Self { tree, reader, now: Instant::now() }
        }

        fn write(&self, cgroup: &str, file: &str, text: &str) {
            let directory = below(self.tree.path(), Path::new(cgroup));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(file), text).unwrap();
        }

        /// Creates a cgroup of v2.
        fn add(&self, cgroup: &str, max: &str, throttled_usec: u64) {
            self.write(cgroup, "cpu.max", max);
            let stat = format!("nr_periods 9\nnr_throttled 3\nthrottled_usec {throttled_usec}\n");
            self.write(cgroup, "cpu.stat", &stat);
        }

        fn id(&self, cgroup: &str) -> u64 {
            fs::metadata(below(self.tree.path(), Path::new(cgroup))).unwrap().st_ino()
        }

        fn read(&mut self, cgroups: &[&str]) -> Vec<(String, QuotaStats)> {
            let cgroups: Vec<_> = cgroups.iter().map(|it| (self.id(it), Path::new(it))).collect();
            self.read_ids(&cgroups)
        }

        fn read_ids(&mut self, cgroups: &[(u64, &Path)]) -> Vec<(String, QuotaStats)> {
            let readings = self.reader.read_at(self.now, cgroups);
            let mut found = Vec::new();
            for (id, reading) in readings {
                let path = reading.path.to_str().unwrap().to_owned();
                assert_eq!(id, self.id(&path), "{path}");
                found.push((path, reading.stats));
            }
            found.sort_by(|a, b| a.0.cmp(&b.0));
            found
        }

        fn quotas(&mut self, cgroups: &[&str]) -> Vec<(String, f64)> {
            let found = self.read(cgroups).into_iter();
            found.map(|(path, stats)| (path, stats.quota_cpus)).collect()
        }

        fn kept(&self) -> usize {
            self.reader.entries.values().filter(|entry| entry.stat_file.is_some()).count()
        }
    }

    fn quota(path: &str, cpus: f64) -> (String, f64) {
        (path.to_owned(), cpus)
    }

    #[test]
    fn reads_quotas_and_throttling_of_v2() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        host.add("/a.service", "150000 100000\n", 7);
        host.add("/b.service", "max 100000\n", 7);
        host.write("/c.service", "cpu.stat", "usage_usec 5\n");
        let stats =
            QuotaStats { quota_cpus: 1.5, periods: 9, throttled_periods: 3, throttled_ns: 7_000 };
        let found = host.read(&["/a.service", "/b.service", "/c.service"]);
        assert_eq!(found, [("/a.service".to_owned(), stats)]);
    }

    #[test]
    fn reads_quotas_and_throttling_of_v1() {
        let mut host = Host::new(Hierarchy::Legacy, 8);
        for (path, quota) in [("/a.service", "5000\n"), ("/b.service", "-1\n")] {
            host.write(path, "cpu.cfs_quota_us", quota);
            host.write(path, "cpu.cfs_period_us", "100000\n");
            host.write(path, "cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 7\n");
        }
        let stats =
            QuotaStats { quota_cpus: 0.05, periods: 9, throttled_periods: 3, throttled_ns: 7 };
        let found = host.read(&["/a.service", "/b.service"]);
        assert_eq!(found, [("/a.service".to_owned(), stats)]);
    }

    #[test]
    fn reads_quotas_from_another_mount_by_the_ids_of_the_tree() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        let cpu = tempfile::tempdir().unwrap();
        host.reader.files.quotas.path = cpu.path().to_owned();
        host.add("/a.service", "max 100000\n", 0);
        fs::create_dir(cpu.path().join("a.service")).unwrap();
        fs::write(cpu.path().join("a.service/cpu.max"), "200000 100000\n").unwrap();
        let stat = "nr_periods 1\nnr_throttled 0\nthrottled_usec 0\n";
        fs::write(cpu.path().join("a.service/cpu.stat"), stat).unwrap();
        assert_eq!(host.quotas(&["/a.service"]), [quota("/a.service", 2.0)]);
    }

    #[test]
    fn the_nearest_quota_of_the_same_unit_and_container_counts_once() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        let scope = format!("/machine.slice/libpod-{ID}.scope");
        let (first, second) = (format!("{scope}/container"), format!("{scope}/other"));
        host.add("/machine.slice", "900000 100000", 0);
        host.add(&scope, "200000 100000", 0);
        host.add(&first, "max 100000", 0);
        host.add(&second, "max 100000", 0);
        assert_eq!(host.quotas(&[&first, &second]), [quota(&scope, 2.0)]);
        host.add(&second, "50000 100000", 0);
        host.now += LAST_RECHECK;
        assert_eq!(host.quotas(&[&first, &second]), [quota(&scope, 2.0), quota(&second, 0.5)]);
    }

    #[test]
    fn looks_no_higher_than_the_unit_and_the_container() {
        let unit = "/system.slice/k3s.service";
        let container = format!("{unit}/kubepods/{ID}");
        assert_eq!(levels(Path::new(&format!("{container}/a/b"))), 3);
        assert_eq!(levels(Path::new(&container)), 1);
        assert_eq!(levels(Path::new(&format!("{unit}/agent"))), 2);
        assert_eq!(levels(Path::new("/user.slice/a/b")), 1);
        assert_eq!(levels(Path::new("/user.slice/user-0.slice/user@0.service/a.slice/b")), 3);
        assert_eq!(levels(Path::new("/")), 1);
    }

    #[test]
    fn reads_changed_quotas_and_counts_at_once() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        for (max, throttled_usec) in [("100000 100000", 1), ("200000 100000", 2)] {
            host.add("/a.service", max, throttled_usec);
            let found = host.read(&["/a.service"]);
            assert_eq!(found[0].1.throttled_ns, throttled_usec * 1000);
        }
        assert_eq!(host.quotas(&["/a.service"]), [quota("/a.service", 2.0)]);
        host.add("/a.service", "max 100000", 3);
        assert_eq!(host.read(&["/a.service"]), []);
        assert_eq!(host.kept(), 0);
    }

    #[test]
    fn looks_for_new_quotas_less_and_less_often() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        host.add("/a.service", "max 100000", 0);
        let start = host.now;
        for after in [0, 5, 15, 35, 75, 135, 195] {
            host.add("/a.service", "100000 100000", 0);
            if let Some(before) = u64::checked_sub(after * 1_000, 1) {
                host.now = start + Duration::from_millis(before);
                assert_eq!(host.read(&["/a.service"]), [], "{after}");
            }
            host.add("/a.service", "max 100000", 0);
            host.now = start + Duration::from_secs(after);
            assert_eq!(host.read(&["/a.service"]), [], "{after}");
        }
        host.add("/a.service", "100000 100000", 0);
        host.now += LAST_RECHECK;
        assert_eq!(host.quotas(&["/a.service"]), [quota("/a.service", 1.0)]);
    }

    #[test]
    fn leaves_out_removed_cgroups_and_others_at_their_paths() {
        let mut host = Host::new(Hierarchy::Unified, 8);
        host.add("/a.service", "100000 100000", 0);
        host.add("/b.service", "100000 100000", 0);
        let id = host.id("/a.service");
        assert_eq!(host.read(&["/a.service", "/b.service"]).len(), 2);
        // The new one must not get the same inode number.
        fs::rename(host.tree.path().join("a.service"), host.tree.path().join("old")).unwrap();
        let known =
            [(id, Path::new("/a.service")), (host.id("/b.service"), Path::new("/b.service"))];
        assert_eq!(host.read_ids(&known).len(), 1);
        host.add("/a.service", "200000 100000", 0);
        host.now += LAST_RECHECK;
        assert_eq!(host.read_ids(&known).len(), 1);
        assert_eq!(host.kept(), 1);
        assert_eq!(host.quotas(&["/a.service"]), [quota("/a.service", 2.0)]);
    }

    #[test]
    fn reads_all_cgroups_with_few_descriptors() {
        let mut host = Host::new(Hierarchy::Unified, 2);
        let cgroups = ["/a.service", "/b.service", "/c.service"];
        for cgroup in cgroups {
            host.add(cgroup, "100000 100000", 0);
        }
        for _ in 0..3 {
            assert_eq!(host.read(&cgroups).len(), 3);
            assert_eq!(host.kept(), 2);
        }
        // Another one takes the place of one that is forgotten.
        assert_eq!(host.read(&["/c.service"]).len(), 1);
        assert_eq!(host.read(&["/c.service"]).len(), 1);
        assert_eq!(host.kept(), 1);
        assert_eq!(host.reader.entries.len(), 1);
    }

    #[test]
    fn errors_other_than_removal_are_a_shortage_until_they_end() {
        let mut host = Host::new(Hierarchy::Unified, 2);
        host.add("/a.service", "100000 100000", 0);
        host.add("/b.service", "100000 100000", 0);
        let stat = host.tree.path().join("a.service/cpu.stat");
        fs::remove_file(&stat).unwrap();
        // Reading a directory fails.
        fs::create_dir(&stat).unwrap();
        let found = host.quotas(&["/a.service", "/b.service"]);
        assert_eq!((found, host.reader.is_short), (vec![quota("/b.service", 1.0)], true));
        fs::remove_dir(&stat).unwrap();
        host.add("/a.service", "100000 100000", 0);
        assert_eq!(host.read(&["/a.service", "/b.service"]).len(), 2);
        assert!(!host.reader.is_short);
    }

    #[test]
    fn parses_quotas() {
        for (text, expected) in [
            ("max 100000\n", None),
            ("50000 100000\n", Some(0.5)),
            ("17592186044415 1000\n", Some(17_592_186_044.415)),
            ("1000 1000000\n", Some(0.001)),
            ("50000 0\n", None),
            ("-1 100000\n", None),
            ("inf 100000\n", None),
            ("nan 100000\n", None),
            ("50000", None),
            ("", None),
        ] {
            assert_eq!(cpu_max(text), expected, "{text:?}");
        }
    }

    #[test]
    fn statistics_of_the_other_hierarchy_or_without_a_controller_are_none() {
        let v1 = "nr_periods 0\nnr_throttled 0\nthrottled_time 0\nnr_bursts 0\nburst_time 0\n";
        assert!(throttling(Hierarchy::Legacy, v1).is_some());
        assert_eq!(throttling(Hierarchy::Unified, v1), None);
        assert_eq!(throttling(Hierarchy::Unified, "usage_usec 1\nnice_usec 5\n"), None);
        assert_eq!(throttling(Hierarchy::Legacy, "nr_periods x\n"), None);
    }
}
