//! The file of a configuration.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Config, Diagnostics};
use crate::os::files::{self, FileError};

/// Size of the largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: String,
}

impl Source {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the file in lowercase hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Validates the file. Fails if it is not UTF-8 or has diagnostics.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        let path = || self.path.clone();
        let text = str::from_utf8(&self.bytes)
            .map_err(|error| ConfigError::NotUtf8 { path: path(), offset: error.valid_up_to() })?;
        Config::parse(text)
            .map_err(|diagnostics| ConfigError::Invalid { path: path(), diagnostics })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read, or is larger than 1 MiB.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not UTF-8.
    #[error("`{}` is not UTF-8 at byte {offset}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// How many bytes are UTF-8 before the first that is not.
        offset: usize,
    },
    /// The file has diagnostics. The message has a line for each.
    #[error("{}", lines(path, diagnostics))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its diagnostics.
        diagnostics: Diagnostics,
    },
}

impl ConfigError {
    /// The message in one line, for the log.
    pub fn one_line(&self) -> String {
        match self {
            Self::Invalid { path, diagnostics } => places(path, diagnostics).join("; "),
            _ => self.to_string(),
        }
    }
}

fn lines(path: &Path, diagnostics: &Diagnostics) -> String {
    let places = places(path, diagnostics).join("\n");
    match diagnostics.shown.len() + diagnostics.more {
        1 => places,
        count => format!("{count} errors in `{}`\n{places}", path.display()),
    }
}

/// Each mistake behind its place, in the form that editors and terminals make a link of.
fn places(path: &Path, diagnostics: &Diagnostics) -> Vec<String> {
    let shown =
        diagnostics.shown.iter().map(|diagnostic| format!("{}:{diagnostic}", path.display()));
    let more = (diagnostics.more > 0).then(|| format!("and {} more", diagnostics.more));
    shown.chain(more).collect()
}

/// Reads a regular file of at most 1 MiB.
pub fn read(path: &Path) -> Result<Source, ConfigError> {
    let bytes = files::read(path, MAX_FILE_BYTES)?;
    let mut sha256 = String::new();
    for byte in Sha256::digest(&bytes) {
        write!(sha256, "{byte:02x}").expect("a string takes all that is written to it");
    }
    Ok(Source { path: path.into(), bytes, sha256 })
}
