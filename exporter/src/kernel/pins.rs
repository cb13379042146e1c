//! The directory in which the kernel's objects outlive this process: its checks, and its removal.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aya::maps::MapError;
use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};
use sched_exporter_ebpf::{BIRTH_HOOK, HOOK, REMOVAL_HOOK, RENAME_HOOK, SHARED_MAPS};

/// Where pins usually are.
pub const DEFAULT_PATH: &str = "/sys/fs/bpf/sched_exporter";

/// The name of the pin of user space's own part.
pub(super) const STATE: &str = "state";

/// The names of the pins of programs' links.
pub(super) const HOOKS: [&str; 4] = [HOOK, REMOVAL_HOOK, BIRTH_HOOK, RENAME_HOOK];

/// The ending of the pin of a link that takes over. Names on this filesystem have no dots.
const NEXT: &str = "_next";

/// The pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The directory is not on a BPF filesystem.
    #[error(
        "`{}` is not on a BPF filesystem; mount one (mount -t bpf bpf /sys/fs/bpf), or choose another \
         --ebpf.pin-path", path.display()
    )]
    NotBpf {
        /// The directory.
        path: PathBuf,
    },
    /// Another process uses the pins.
    #[error(
        "`{}` is in use by another sched_exporter; stop that one, or choose another --ebpf.pin-path",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Something is not as the exporter leaves it.
    #[error(
        "`{}` {reason}; nothing was changed. If no exporter needs the pins, remove them with \
         `sched_exporter unpin --ebpf.pin-path={}`", path.display(), directory.display()
    )]
    Foreign {
        /// What is wrong.
        path: PathBuf,
        /// How it is wrong, as a continuation of the path.
        reason: String,
        /// The directory of pins.
        directory: PathBuf,
    },
    /// A path is there that `unpin` does not remove.
    #[error("`{}` is not a pin of sched_exporter; nothing was removed", path.display())]
    Unknown {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What failed.
        action: &'static str,
        /// At which path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// User space's part cannot be created.
    #[error("cannot create the map for what user space counts")]
    State(#[source] MapError),
}

/// A directory of pins, which no other process uses as long as this exists.
#[derive(Debug)]
pub struct PinDirectory {
    path: PathBuf,
    /// Locked until it is closed, at the latest with the process, however that ends.
    _lock: File,
}

impl PinDirectory {
    /// Opens the directory and locks it; creates it if only its last part is missing. It must belong to this
    /// user, and be closed to others.
    pub fn open(path: &Path) -> Result<Self, PinError> {
        let is_new = create(path)?;
        let opened = Self::lock(path);
        if is_new && opened.is_err() {
            let _ = fs::remove_dir(path);
        }
        let directory = opened?;
        let metadata = fs::symlink_metadata(path).map_err(failed("read", path))?;
        let user = geteuid().as_raw();
        if metadata.uid() != user {
            let reason = format!("belongs to user {}, and this is user {user}", metadata.uid());
            return Err(directory.foreign("", reason));
        }
        if metadata.mode() & 0o077 != 0 {
            if !directory.names()?.is_empty() {
                let reason = format!(
                    "has mode {:04o}, which lets others in; set it to 0700",
                    metadata.mode() & 0o7777
                );
                return Err(directory.foreign("", reason));
            }
            fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(failed("chmod", path))?;
        }
        Ok(directory)
    }

    /// Locks a directory that exists.
    fn lock(path: &Path) -> Result<Self, PinError> {
        check_filesystem(path)?;
        let metadata = fs::symlink_metadata(path).map_err(failed("read", path))?;
        if !metadata.is_dir() {
            let (path, reason) = (path.to_owned(), "is not a directory".to_owned());
            return Err(PinError::Foreign { directory: path.clone(), path, reason });
        }
        let file = File::open(path).map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(PinError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
        }
    }

    /// The path of a pin.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of the pin of a link that takes over.
    pub(super) fn next_pin(&self, hook: &str) -> PathBuf {
        self.path.join(format!("{hook}{NEXT}"))
    }

    /// Whether a pin exists.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.pin(name)).is_ok()
    }

    /// The error about a pin that is not as the exporter leaves it.
    pub(super) fn foreign(&self, name: &str, reason: impl Into<String>) -> PinError {
        let path = if name.is_empty() { self.path.clone() } else { self.pin(name) };
        PinError::Foreign { path, reason: reason.into(), directory: self.path.clone() }
    }

    /// Whether there are pins. Fails if something else is there, or a pin of another user.
    pub(super) fn check(&self) -> Result<bool, PinError> {
        let names = self.names()?;
        let user = geteuid().as_raw();
        for name in &names {
            if !is_ours(name) {
                return Err(self.foreign(name, "is not a pin of sched_exporter"));
            }
            let metadata = fs::symlink_metadata(self.pin(name));
            let owner = metadata.map_err(failed("read", &self.pin(name)))?.uid();
            if owner != user {
                return Err(
                    self.foreign(name, format!("belongs to user {owner}, and this is user {user}"))
                );
            }
        }
        Ok(!names.is_empty())
    }

    /// Removes every pin: first those of links, which detaches the programs.
    pub(super) fn clear(&self) -> Result<(), PinError> {
        for hook in HOOKS {
            remove(&self.next_pin(hook))?;
            remove(&self.pin(hook))?;
        }
        for name in SHARED_MAPS.into_iter().chain([STATE]) {
            remove(&self.pin(name))?;
        }
        Ok(())
    }

    /// The names in the directory.
    fn names(&self) -> Result<Vec<String>, PinError> {
        let entries = fs::read_dir(&self.path).map_err(failed("read", &self.path))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().map_err(failed("read", &self.path))
    }
}

/// Removes the pins in a directory, and the directory, so that the kernel program ends unless a process has it
/// attached. Returns whether there were any. Fails if an exporter uses them, or if something else is there.
pub fn unpin(path: &Path) -> Result<bool, PinError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", path)(error)),
        Ok(_) => {}
    }
    let directory = PinDirectory::lock(path)?;
    let names = directory.names()?;
    if let Some(unknown) = names.iter().find(|name| !is_ours(name)) {
        return Err(PinError::Unknown { path: directory.pin(unknown) });
    }
    directory.clear()?;
    // A mount point stays, and so does a directory in one that belongs to another user.
    let _ = fs::remove_dir(path);
    Ok(!names.is_empty())
}

/// Whether there seem to be pins at [`DEFAULT_PATH`], as far as this user may know.
pub fn are_left() -> bool {
    fs::symlink_metadata(DEFAULT_PATH).is_ok_and(|found| found.is_dir())
        && fs::read_dir(DEFAULT_PATH).map_or(true, |mut names| names.next().is_some())
}

/// Removes a path if it is there.
pub(super) fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The error of an action at a path.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { action, path, source }
}

fn is_ours(name: &str) -> bool {
    let hook = name.strip_suffix(NEXT).unwrap_or(name);
    HOOKS.contains(&hook) || SHARED_MAPS.contains(&name) || name == STATE
}

/// Creates a directory if it is missing, and only on a BPF filesystem. Returns whether it is new.
fn create(path: &Path) -> Result<bool, PinError> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(false);
    }
    check_filesystem(path.parent().unwrap_or(path))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("create", path)(error)),
    }
}

fn check_filesystem(path: &Path) -> Result<(), PinError> {
    let filesystem = statfs(path).map_err(|error| failed("read", path)(error.into()))?;
    if filesystem.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(PinError::NotBpf { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::chain;

    #[test]
    fn only_a_bpf_filesystem_has_pins() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("pins");
        for path in [directory.path(), &missing] {
            let error = PinDirectory::open(path).unwrap_err();
            let expected = format!("`{}` is not on a BPF filesystem", directory.path().display());
            assert!(chain(&error).starts_with(&expected), "{error}");
        }
        assert!(!missing.exists());
        assert!(matches!(unpin(directory.path()), Err(PinError::NotBpf { .. })));
        assert!(!unpin(&missing).unwrap());
    }

    #[test]
    fn names_are_those_of_pins() {
        for ours in ["state", "CPU", "HANDOVER", "sched_switch", "sched_switch_next"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["", "_next", "state_next", "CPU_next", "sched_switch_next_next", "cpu"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
