//! Detects that a file may have changed: written in place, replaced by rename, deleted and created
//! again, or swapped behind a symbolic link as kubelet does with a ConfigMap.
//!
//! It watches directories, since a watch on the file itself follows the old inode. It does not read the
//! file, and can report a change when there is none. If inotify watches run out, or the filesystem sends no
//! events, only polling detects changes.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{Config, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};

/// A watch on one file.
pub struct Watch {
    path: PathBuf,
    on_change: Arc<dyn Fn() + Send + Sync>,
    watcher: Option<INotifyWatcher>,
    watched: Vec<Directory>,
}

/// A directory identified by inode, so that a replacement is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Watch {
    /// Starts watching `path`; earlier changes go unnoticed. `on_change` runs on another thread and must
    /// not block.
    pub fn new(path: &Path, on_change: impl Fn() + Send + Sync + 'static) -> Self {
        let on_change = Arc::new(on_change);
        let mut watch =
            Self { path: path.to_owned(), on_change, watcher: None, watched: Vec::new() };
        watch.renew();
        watch
    }

    /// Updates the directories that are watched. Returns whether they changed: if so, earlier changes of
    /// the file may have gone unnoticed.
    pub fn renew(&mut self) -> bool {
        let directories = directories(&self.path);
        if directories == self.watched {
            return false;
        }
        self.watcher = match self.start(&directories) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    path = %self.path.display(),
                    %error,
                    "cannot watch the file; relying on polling and reload requests"
                );
                None
            }
        };
        self.watched = directories;
        true
    }

    fn start(&self, directories: &[Directory]) -> notify::Result<INotifyWatcher> {
        let on_change = Arc::clone(&self.on_change);
        let handler = move |event: notify::Result<Event>| {
            // Reading the file raises an event, too. An error may hide a change.
            if !matches!(event, Ok(Event { kind: EventKind::Access(_), .. })) {
                on_change();
            }
        };
        let mut watcher = INotifyWatcher::new(handler, Config::default())?;
        for directory in directories {
            watcher.watch(&directory.path, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The directory of the file, and that of each symbolic link on the way to it.
fn directories(path: &Path) -> Vec<Directory> {
    /// Maximum number of links that the kernel follows. <https://man7.org/linux/man-pages/man7/path_resolution.7.html>
    const MAX_LINKS: usize = 40;
    let mut directories: Vec<Directory> = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if let Ok(metadata) = fs::metadata(&parent) {
            let (device, inode) = (metadata.dev(), metadata.ino());
            if !directories.iter().any(|known| (known.device, known.inode) == (device, inode)) {
                directories.push(Directory { path: parent.clone(), device, inode });
            }
        }
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => break,
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn watches_each_directory_on_the_path_once() {
        let top = std::env::temp_dir().join(format!("sched_exporter-watch-{}", std::process::id()));
        fs::create_dir_all(top.join("mount/..2026")).unwrap();
        fs::write(top.join("mount/..2026/exporter.yaml"), "").unwrap();
        symlink("..2026", top.join("mount/..data")).unwrap();
        symlink("..data/exporter.yaml", top.join("mount/exporter.yaml")).unwrap();
        symlink("mount/exporter.yaml", top.join("exporter.yaml")).unwrap();
        let paths: Vec<_> =
            directories(&top.join("exporter.yaml")).into_iter().map(|found| found.path).collect();
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(paths, [top.clone(), top.join("mount"), top.join("mount/..data")]);
    }

    #[test]
    fn watches_a_directory_that_replaces_another() {
        let top = std::env::temp_dir().join(format!("sched_exporter-renew-{}", std::process::id()));
        fs::create_dir_all(top.join("mount")).unwrap();
        let mut watch = Watch::new(&top.join("mount/exporter.yaml"), || ());
        let mut renewed = vec![watch.renew()];
        // Keep the old one, so that the new one gets another inode.
        fs::rename(top.join("mount"), top.join("old")).unwrap();
        fs::create_dir(top.join("mount")).unwrap();
        renewed.extend([watch.renew(), watch.renew()]);
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(renewed, [false, true, false]);
    }

    #[test]
    fn bare_file_name_is_in_the_working_directory() {
        let paths: Vec<_> =
            directories(Path::new("no-such-file")).into_iter().map(|found| found.path).collect();
        assert_eq!(paths, [PathBuf::from(".")]);
    }
}
