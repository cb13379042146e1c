//! Watches files through one inotify instance, and reads them when they are complete.
//!
//! It detects that a file is written in place, replaced by rename, deleted and created again, or swapped
//! behind a symbolic link as kubelet does with a ConfigMap. It watches directories, since a watch on the
//! file itself follows the old inode; a directory is watched once, however many files are in it.
//!
//! If watches run out, or the filesystem sends no events, only polling detects changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, fs, io, mem,
    os::unix::fs::MetadataExt as _,
    path::{self, Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use notify::{
    Config, ErrorKind, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::{
    files::{self, FileError},
    progress::{FileEvent, Now, Progress},
};

pub use super::progress::Stamp;

/// A file that changed while it was read is read again after this long.
const TORN: Duration = Duration::from_millis(100);

/// How long the events of a system call that has returned may take to be handled.
const DELIVERY: Duration = Duration::from_millis(50);

/// Watches a set of files. Clones share it.
#[derive(Clone)]
pub struct FileWatch(Arc<Shared>);

struct Shared {
    on_change: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    /// `None` until the first renewal, and if inotify is exhausted. Its thread locks `state`, so `state`
    /// must not be locked while it is called.
    watcher: Mutex<Option<INotifyWatcher>>,
}

#[derive(Default)]
struct State {
    directories: Directories,
    files: BTreeMap<PathBuf, Progress>,
    /// When to read the first of the files again that were not complete.
    due: Option<Instant>,
    /// Why directories are not watched.
    failures: BTreeSet<String>,
}

/// The watched directories by absolute path.
type Directories = BTreeMap<PathBuf, Directory>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    /// Device and inode, which tell it from one that replaces it.
    identity: (u64, u64),
    /// The names in it that lead to files.
    names: BTreeMap<OsString, BTreeSet<PathBuf>>,
}

/// The contents of a file.
#[derive(Debug)]
pub struct Contents {
    /// At most as many as were asked for.
    pub bytes: Vec<u8>,
    /// What the file was like when it was read.
    pub stamp: Stamp,
    /// Whether no writer seems to be at work on it.
    pub is_complete: bool,
}

impl FileWatch {
    /// Returns a watch on nothing. `on_change` is called, on any thread, when a file may have changed; it
    /// must not block.
    pub fn new(on_change: impl Fn() + Send + Sync + 'static) -> Self {
        let on_change = Box::new(on_change);
        Self(Arc::new(Shared { on_change, state: Mutex::default(), watcher: Mutex::default() }))
    }

    /// Reads a file of at most `max_bytes`, and judges whether it is complete. Someone who requests a
    /// reload vouches for a file that its writer has closed. Blocks as long as the filesystem hangs.
    pub fn read(
        &self,
        path: &Path,
        max_bytes: u64,
        is_requested: bool,
    ) -> Result<Contents, FileError> {
        let (bytes, before, stamp) = files::read_between_stamps(path, max_bytes)?;
        let is_torn = before != stamp;
        let started = Instant::now();
        // The event that explains the file as it is may be on its way.
        let wait = loop {
            let now = Now::read();
            let mut state = self.state();
            let progress = state.files.entry(path.to_owned()).or_default();
            let wait = match progress.wait(stamp, is_requested, now) {
                None if is_torn => Some(now.monotonic + TORN),
                wait => wait,
            };
            if wait.is_none() || is_torn || started.elapsed() >= DELIVERY {
                break wait;
            }
            drop(state);
            thread::sleep(DELIVERY / 10);
        };
        if let Some(ready) = wait {
            let mut state = self.state();
            state.due = Some(state.due.map_or(ready, |due| due.min(ready)));
        }
        Ok(Contents { bytes, stamp, is_complete: wait.is_none() })
    }

    /// Takes note that a file was complete when it was like this.
    pub fn completed(&self, path: &Path, stamp: Stamp) {
        self.state().files.entry(path.to_owned()).or_default().completed(stamp);
    }

    /// Returns when to read again, if a file was not complete since the last call.
    pub fn take_due(&self) -> Option<Instant> {
        self.state().due.take()
    }

    /// Watches exactly these files, the first ones first. Returns whether directories or names in them are
    /// new or gone: if so, earlier changes may have gone unnoticed, and it also calls `on_change`. A failure
    /// is logged once, and each call tries again. Blocks as long as a filesystem hangs; the files before
    /// the one that hangs are watched.
    pub fn renew(&self, files: &[PathBuf]) -> bool {
        let mut watcher = self.0.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state().directories.clone();
        let mut directories = Directories::new();
        let mut failures = BTreeSet::new();
        if watcher.is_none() {
            match self.start() {
                Ok(started) => *watcher = Some(started),
                Err(reason) => drop(failures.insert(reason)),
            }
        }
        if let Some(watcher) = watcher.as_mut() {
            for file in files {
                for Step { directory, names } in steps(file) {
                    let Ok(directory) = path::absolute(directory) else { continue };
                    if let Err(reason) =
                        self.watch(watcher, &mut directories, directory, &names, file)
                    {
                        failures.insert(reason);
                    }
                }
            }
            for gone in before.keys().filter(|it| !directories.contains_key(*it)) {
                // Fails if the directory was deleted; then it is no longer watched.
                let _ = watcher.unwatch(gone);
            }
        }
        let is_changed = before != directories;
        self.state().keep_only(directories, failures, files);
        if is_changed {
            (self.0.on_change)();
        }
        is_changed
    }

    /// Watches a directory, unless it is watched already, and adds the names in it that lead to a file to
    /// `directories`.
    fn watch(
        &self,
        watcher: &mut INotifyWatcher,
        directories: &mut Directories,
        path: PathBuf,
        names: &[OsString],
        file: &Path,
    ) -> Result<(), String> {
        // It may come later.
        let Some(identity) = identity_of(&path) else { return Ok(()) };
        // By another path, it may be watched already; inotify would watch it once.
        let known = {
            let state = self.state();
            let known = directories.iter().chain(&state.directories);
            let same = known.filter(|(_, known)| known.identity == identity);
            same.map(|(path, _)| path.clone()).collect::<Vec<_>>()
        };
        let path = known.into_iter().find(|it| identity_of(it) == Some(identity)).unwrap_or(path);
        let directory = directories
            .entry(path.clone())
            .or_insert_with(|| Directory { identity, names: BTreeMap::new() });
        for name in names {
            directory.names.entry(name.clone()).or_default().insert(file.to_owned());
        }
        // Its events count from now on.
        let old = self.state().directories.insert(path.clone(), directory.clone());
        if old.is_some_and(|old| old.identity == identity) {
            return Ok(());
        }
        // What was there before has the same path. It may be gone already.
        let _ = watcher.unwatch(&path);
        let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive) else { return Ok(()) };
        directories.remove(&path);
        self.state().directories.remove(&path);
        match error.kind {
            ErrorKind::PathNotFound => Ok(()),
            _ => Err(failure(Some(&path), &error)),
        }
    }

    /// Starts to watch nothing. Only this takes an inotify instance and a thread.
    fn start(&self) -> Result<INotifyWatcher, String> {
        let no_thread = |error: Option<io::Error>| {
            let reason = error.map_or(String::new(), |error| format!(": {error}"));
            format!("cannot start a thread{reason}")
        };
        // Without its thread, the watcher panics when it is used or dropped.
        let probe = thread::Builder::new().name("notify".into()).spawn(|| ());
        let _ = probe.map_err(|error| no_thread(Some(error)))?.join();
        let handler = {
            let watch = Arc::downgrade(&self.0);
            move |event: notify::Result<Event>| {
                if let Some(shared) = watch.upgrade() {
                    Self(shared).handle(event);
                }
            }
        };
        let watcher = INotifyWatcher::new(handler, Config::default())
            .map_err(|error| failure(None, &error))?;
        if Arc::weak_count(&self.0) == 0 {
            // The handler is gone, and so is the thread that would have owned it.
            mem::forget(watcher);
            return Err(no_thread(None));
        }
        Ok(watcher)
    }

    /// Handles an event, on the watcher's thread.
    fn handle(&self, event: notify::Result<Event>) {
        if self.state().handle(event, Now::read()) {
            (self.0.on_change)();
        }
    }

    /// Locks the state. It stays valid even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets all other directories and files, and logs failures that are new. Directories that are known no
    /// more were deleted in the meantime.
    fn keep_only(
        &mut self,
        mut directories: Directories,
        failures: BTreeSet<String>,
        files: &[PathBuf],
    ) {
        for reason in failures.difference(&self.failures) {
            tracing::warn!(
                reason,
                "cannot watch for changes; relying on polling and reload requests"
            );
        }
        self.failures = failures;
        self.files.retain(|path, _| files.contains(path));
        directories.retain(|path, _| self.directories.contains_key(path));
        self.directories = directories;
    }

    /// Handles an event. Returns whether a file may have changed.
    fn handle(&mut self, event: notify::Result<Event>, now: Now) -> bool {
        let Some(event) = event.ok().filter(|event| !event.need_rescan()) else {
            // Events were lost.
            self.files.values_mut().for_each(Progress::forget_events);
            return true;
        };
        let kind = match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => FileEvent::Written,
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => FileEvent::Closed,
            EventKind::Modify(ModifyKind::Metadata(_)) => FileEvent::Touched,
            EventKind::Access(_) => return false,
            _ => FileEvent::Replaced,
        };
        let mut is_changed = false;
        for path in &event.paths {
            if kind == FileEvent::Replaced && self.directories.contains_key(path) {
                is_changed = true;
                if !matches!(event.kind, EventKind::Create(_)) {
                    // The watch ends with the directory, or stays with it under another name.
                    self.directories.remove(path);
                }
            }
            let directory = path.parent().and_then(|parent| self.directories.get(parent));
            let files = directory.zip(path.file_name()).and_then(|(it, name)| it.names.get(name));
            for file in files.into_iter().flatten() {
                is_changed = true;
                self.files.entry(file.clone()).or_default().event(kind, now);
            }
        }
        is_changed
    }
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch").finish_non_exhaustive()
    }
}

/// Device and inode, if there is something.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Says why a directory cannot be watched, or none, and what to do.
/// <https://man7.org/linux/man-pages/man7/inotify.7.html>
fn failure(directory: Option<&Path>, error: &notify::Error) -> String {
    let errno = match &error.kind {
        ErrorKind::Io(error) => error.raw_os_error(),
        _ => None,
    };
    match (directory, &error.kind) {
        (_, ErrorKind::MaxFilesWatch) => {
            "this user's inotify watches are used up; raise fs.inotify.max_user_watches".into()
        }
        (None, _) if errno == Some(libc::EMFILE) => {
            "this user's inotify instances or this process's file descriptors are used up; raise \
             fs.inotify.max_user_instances or the limit on open files"
                .into()
        }
        (None, kind) => format!("inotify: {}", reason(kind)),
        (Some(directory), kind) => format!("`{}`: {}", directory.display(), reason(kind)),
    }
}

fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::Io(error) => error.to_string(),
        kind => format!("{kind:?}"),
    }
}

/// A directory on the way to a file.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    directory: PathBuf,
    /// The names in it that lead to the file.
    names: Vec<OsString>,
}

/// Returns the directory of the file, after that of each symbolic link on the way to it. Links to
/// directories are followed, but only noticed if a link to the file starts with them.
fn steps(path: &Path) -> Vec<Step> {
    /// Maximum number of links that the kernel follows. <https://man7.org/linux/man-pages/man7/path_resolution.7.html>
    const MAX_LINKS: usize = 40;
    let mut steps = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let Some(name) = path.file_name() else { break };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut names = vec![name.to_owned()];
        let target = fs::read_link(&path).ok();
        let mut target_parts = target.iter().flat_map(|target| target.components());
        if let Some(Component::Normal(first)) = target_parts.find(|it| *it != Component::CurDir) {
            names.push(first.to_owned());
        }
        let next = target.map(|target| directory.join(target));
        steps.push(Step { directory, names });
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Write as _,
        os::unix::fs::symlink,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tempfile::TempDir;
    use tokio::time::sleep;

    use super::*;

    /// A watch in a directory of its own, and the number of changes that it reported.
    struct Watched {
        top: TempDir,
        watch: FileWatch,
        changes: Arc<AtomicUsize>,
    }

    impl Watched {
        fn new() -> Self {
            let changes = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&changes);
            let on_change = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            Self { top: TempDir::new().unwrap(), watch: FileWatch::new(on_change), changes }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.top.path().join(name)
        }

        fn renew(&self, names: &[&str]) -> bool {
            let files: Vec<_> = names.iter().map(|name| self.path(name)).collect();
            self.changes.store(0, Ordering::Relaxed);
            let is_renewed = self.watch.renew(&files);
            let is_reported = self.changes.swap(0, Ordering::Relaxed) > 0;
            assert!(is_reported || !is_renewed);
            is_renewed
        }

        /// Whether something was reported since the last call.
        async fn noticed(&self) -> bool {
            for _ in 0..20 {
                if self.changes.swap(0, Ordering::Relaxed) > 0 {
                    return true;
                }
                sleep(Duration::from_millis(5)).await;
            }
            false
        }

        /// Whether a file is complete for someone who requested a reload.
        fn is_complete(&self, name: &str) -> bool {
            self.watch.read(&self.path(name), 100, true).unwrap().is_complete
        }
    }

    #[test]
    fn each_step_to_a_file_has_the_names_that_lead_on() {
        let top = TempDir::new().unwrap();
        let top = top.path();
        fs::create_dir_all(top.join("mount/..2026")).unwrap();
        fs::write(top.join("mount/..2026/exporter.yaml"), "").unwrap();
        symlink("..2026", top.join("mount/..data")).unwrap();
        symlink("..data/exporter.yaml", top.join("mount/exporter.yaml")).unwrap();
        symlink("./mount/exporter.yaml", top.join("link")).unwrap();
        let step = |directory: &str, names: &[&str]| Step {
            directory: if directory.is_empty() { top.into() } else { top.join(directory) },
            names: names.iter().map(Into::into).collect(),
        };
        let expected = [
            step("", &["link", "mount"]),
            step("mount", &["exporter.yaml", "..data"]),
            step("mount/..data", &["exporter.yaml"]),
        ];
        let found = steps(&top.join("link"));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.names, expected.names);
            let canonical = |step: &Step| step.directory.canonicalize().unwrap();
            assert_eq!(canonical(found), canonical(expected));
        }
        let bare = steps(Path::new("no-such-file"));
        assert_eq!(bare, [Step { directory: ".".into(), names: vec!["no-such-file".into()] }]);
    }

    #[tokio::test]
    async fn watches_a_directory_that_replaces_another() {
        let files = Watched::new();
        fs::create_dir(files.path("mount")).unwrap();
        assert!(files.renew(&["mount/a"]));
        assert!(!files.renew(&["mount/a"]));
        fs::rename(files.path("mount"), files.path("old")).unwrap();
        assert!(files.noticed().await);
        fs::create_dir(files.path("mount")).unwrap();
        assert!(files.renew(&["mount/a"]));
        assert!(!files.renew(&["mount/a"]));
        fs::remove_dir(files.path("mount")).unwrap();
        assert!(files.noticed().await);
        assert!(!files.renew(&["mount/a"]));
        fs::create_dir(files.path("mount")).unwrap();
        assert!(files.renew(&["mount/a"]));
    }

    #[tokio::test]
    async fn files_in_one_directory_share_a_watch_and_others_are_ignored() {
        let files = Watched::new();
        files.renew(&["a", "b"]);
        assert_eq!(files.watch.state().directories.len(), 1);
        for name in ["a", "b"] {
            fs::write(files.path(name), "x").unwrap();
            assert!(files.noticed().await, "{name}");
        }
        // A write has several events.
        while files.noticed().await {}
        fs::write(files.path("c"), "x").unwrap();
        assert_eq!(fs::read(files.path("a")).unwrap(), b"x");
        assert!(!files.noticed().await);
        assert!(files.renew(&["b"]));
        fs::write(files.path("b"), "y").unwrap();
        assert!(files.noticed().await);
        assert!(files.renew(&[]));
        fs::write(files.path("b"), "z").unwrap();
        assert!(!files.noticed().await);
    }

    #[tokio::test]
    async fn a_file_is_complete_once_its_writer_has_closed_it() {
        let files = Watched::new();
        files.renew(&["a"]);
        assert_eq!(files.watch.take_due(), None);
        let mut writer = File::create(files.path("a")).unwrap();
        writer.write_all(b"x").unwrap();
        // Until the event of the write arrives, the file is taken for a new one.
        while files.noticed().await {}
        assert!(!files.is_complete("a"));
        assert!(files.watch.take_due().is_some());
        assert_eq!(files.watch.take_due(), None);
        drop(writer);
        // Its event may come late on a busy machine.
        assert!((0..100).any(|_| files.is_complete("a")));
    }

    #[tokio::test]
    async fn a_new_file_behind_a_link_is_complete_at_once() {
        let files = Watched::new();
        let swap = |to: &str| {
            fs::create_dir(files.path(to)).unwrap();
            fs::write(files.path(to).join("a"), to).unwrap();
            symlink(to, files.path("new")).unwrap();
            fs::rename(files.path("new"), files.path("data")).unwrap();
        };
        swap("one");
        symlink("data/a", files.path("a")).unwrap();
        files.renew(&["a"]);
        swap("two");
        assert!(files.noticed().await);
        assert!((0..100).any(|_| files.is_complete("a")));
    }

    #[test]
    fn without_events_a_new_file_is_not_complete() {
        let files = Watched::new();
        fs::write(files.path("a"), "x").unwrap();
        let contents = files.watch.read(&files.path("a"), 100, true).unwrap();
        assert!(!contents.is_complete);
        files.watch.completed(&files.path("a"), contents.stamp);
        assert!(files.is_complete("a"));
    }

    #[test]
    fn a_directory_deleted_during_a_renewal_is_watched_by_the_next_one() {
        use notify::event::RemoveKind;
        let path = PathBuf::from("/mount");
        let directory = Directory { identity: (1, 2), names: BTreeMap::new() };
        let directories = Directories::from([(path.clone(), directory)]);
        let mut state = State { directories: directories.clone(), ..State::default() };
        let deleted = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path(path);
        assert!(state.handle(Ok(deleted), Now::read()));
        state.keep_only(directories, BTreeSet::new(), &[]);
        assert!(state.directories.is_empty());
    }

    #[test]
    fn failures_say_which_limit_to_raise() {
        let io = |errno| notify::Error::io(io::Error::from_raw_os_error(errno));
        let watches = notify::Error::new(ErrorKind::MaxFilesWatch);
        let top = Path::new("/etc");
        assert!(failure(None, &io(libc::EMFILE)).contains("fs.inotify.max_user_instances"));
        assert!(failure(Some(top), &watches).contains("fs.inotify.max_user_watches"));
        let denied = failure(Some(top), &io(libc::EACCES));
        assert_eq!(denied, "`/etc`: Permission denied (os error 13)");
    }
}
