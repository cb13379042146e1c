//! The file of a configuration, and how its errors are reported.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Config, Diagnostics};
use crate::os::{
    files::{self, FileError},
    log,
    watch::{Contents, FileWatch, Stamp},
};

/// Maximum size of the file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The contents of a configuration file at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) stamp: Stamp,
    pub(super) sha256: String,
}

/// Reads a configuration file: a regular file of at most 1 MiB.
pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let (bytes, _, stamp) = files::read_between_stamps(path, MAX_FILE_BYTES)?;
    Ok(ConfigFile::new(path, bytes, stamp))
}

/// Reads a configuration file again, for someone who requested it or because it may have changed.
/// Returns `None` while a writer is at work on it.
pub fn read_if_complete(
    path: &Path,
    watch: &FileWatch,
    is_requested: bool,
) -> Result<Option<ConfigFile>, ConfigError> {
    let Contents { bytes, stamp, is_complete } = watch.read(path, MAX_FILE_BYTES, is_requested)?;
    Ok(is_complete.then(|| ConfigFile::new(path, bytes, stamp)))
}

impl ConfigFile {
    fn new(path: &Path, bytes: Vec<u8>, stamp: Stamp) -> Self {
        let sha256 = hex(&Sha256::digest(&bytes));
        Self { path: path.into(), bytes, stamp, sha256 }
    }

    /// The path that the file was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the contents, in lowercase hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the file was like when it was read.
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Parses and validates the contents.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        let path = || self.path.clone();
        let text = str::from_utf8(&self.bytes)
            .map_err(|error| ConfigError::NotUtf8 { path: path(), offset: error.valid_up_to() })?;
        if is_empty(text) {
            return Err(ConfigError::Empty { path: path() });
        }
        Config::parse(text)
            .map_err(|diagnostics| ConfigError::Invalid { path: path(), diagnostics })
    }
}

/// Bytes in lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Whether a text has nothing but blanks, comments and YAML's document markers.
fn is_empty(text: &str) -> bool {
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.all(|line| {
        let rest = line.strip_prefix("---").or(line.strip_prefix("...")).unwrap_or(line);
        rest.is_empty() || rest.trim_start().starts_with('#')
    })
}

/// The error when a file yields no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or is larger than 1 MiB.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not UTF-8.
    #[error("`{}` is not UTF-8 at byte {offset}", path.display())]
    NotUtf8 {
        /// The path of the file.
        path: PathBuf,
        /// The number of valid bytes before the first invalid one.
        offset: usize,
    },
    /// The file has no keys. That is more often an accident, such as a full disk, than intended.
    #[error("`{}` is empty; write `{{}}` for a configuration without labels", path.display())]
    Empty {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file is invalid. The message has a line for each diagnostic.
    #[error("{}", lines(path, diagnostics))]
    Invalid {
        /// The path of the file.
        path: PathBuf,
        /// What is invalid.
        diagnostics: Diagnostics,
    },
}

impl ConfigError {
    /// The message and its causes in one line, for the log.
    pub fn one_line(&self) -> String {
        match self {
            Self::Invalid { path, diagnostics } => diagnostics.located(path).join("; "),
            Self::File(_) | Self::NotUtf8 { .. } | Self::Empty { .. } => log::chain(self),
        }
    }
}

fn lines(path: &Path, diagnostics: &Diagnostics) -> String {
    let located = diagnostics.located(path).join("\n");
    match diagnostics.count() {
        1 => located,
        count => format!("{count} errors in `{}`\n{located}", path.display()),
    }
}
