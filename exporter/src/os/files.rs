//! Reads whole files of limited size.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::progress::Stamp;

/// The error when a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("reading `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// It is a directory, a FIFO, a socket or a device.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It exceeds the limit.
    #[error("`{}` is larger than {max_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Maximum size.
        max_bytes: u64,
    },
}

/// Reads a regular file of at most `max_bytes`. Follows symbolic links, rejects anything but a regular
/// file, and never blocks on a FIFO.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    read_between_stamps(path, max_bytes).map(|(bytes, ..)| bytes)
}

/// Reads like [`read`]. Also returns what the file was like before and after it was read.
pub fn read_between_stamps(
    path: &Path,
    max_bytes: u64,
) -> Result<(Vec<u8>, Stamp, Stamp), FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.into(), source };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        // A socket, or a missing device.
        Some(libc::ENXIO) => FileError::NotAFile { path: path.into() },
        _ => unreadable(error),
    })?;
    let before = file.metadata().map_err(unreadable)?;
    if !before.is_file() {
        return Err(FileError::NotAFile { path: path.into() });
    }
    let mut bytes = Vec::new();
    (&file).take(max_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::TooLarge { path: path.into(), max_bytes });
    }
    let after = file.metadata().map_err(unreadable)?;
    Ok((bytes, Stamp::of(&before), Stamp::of(&after)))
}
