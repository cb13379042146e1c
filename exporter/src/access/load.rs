//! Reads the web configuration with the files that it names, and builds what applies from them.

use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::{
    Access,
    rate::Bucket,
    tls::{self, Material, TlsError},
};
use crate::{
    config::{
        Diagnostics, hex,
        web::{Pem, WebConfig},
    },
    os::{
        files::{self, FileError},
        log,
        watch::{FileWatch, Stamp},
    },
};

/// Maximum size of each file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The error when there is no valid web configuration.
#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    /// A file cannot be read, or is larger than 1 MiB.
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
    /// The file is invalid. The message has a line for each diagnostic.
    #[error("{}", diagnostics.located(path).join("\n"))]
    Invalid {
        /// The path of the file.
        path: PathBuf,
        /// What is invalid.
        diagnostics: Diagnostics,
    },
    /// TLS cannot be offered with it.
    #[error("`{}`", path.display())]
    Tls {
        /// The path of the file.
        path: PathBuf,
        /// Why.
        source: TlsError,
    },
    /// A change would turn TLS on or off.
    #[error(
        "`{}` turns TLS {}, which needs a restart", path.display(), if *on { "on" } else { "off" }
    )]
    Switched {
        /// The path of the file.
        path: PathBuf,
        /// Whether the change turns it on.
        on: bool,
    },
    /// The file was emptied. That is more often an accident, such as a full disk, than intended.
    #[error("`{}` is empty now; restart the exporter to serve without protection", path.display())]
    Emptied {
        /// The path of the file.
        path: PathBuf,
    },
}

impl WebConfigError {
    /// The message and its causes in one line, for the log.
    pub fn one_line(&self) -> String {
        match self {
            Self::Invalid { path, diagnostics } => diagnostics.located(path).join("; "),
            _ => log::chain(self),
        }
    }
}

/// What was read, and what follows from it.
#[derive(Debug)]
pub struct Loaded {
    /// What applies.
    pub access: Access,
    /// What is valid in the file, but probably not meant.
    pub warnings: Diagnostics,
    /// Whether the file has no keys.
    pub(super) is_empty: bool,
    /// What identifies it: the SHA-256 of all that was read, in lowercase hexadecimal.
    pub(super) sha256: String,
    /// The files that were read, the web configuration first.
    pub(super) files: Vec<(PathBuf, Stamp)>,
}

/// Reads the web configuration and the files that it names. Blocks as long as the filesystem hangs.
pub fn load(path: &Path) -> Result<Loaded, WebConfigError> {
    let mut read = |path: &Path| {
        let (bytes, _, stamp) = files::read_between_stamps(path, MAX_FILE_BYTES)?;
        Ok((bytes, stamp))
    };
    load_with(path, &mut read).1
}

/// Reads only the web configuration itself, and no certificate.
pub fn read(path: &Path) -> Result<WebConfig, WebConfigError> {
    parse(path, &files::read(path, MAX_FILE_BYTES)?)
}

/// The files that were to be read again, and what was loaded; `None` while a writer is at work on one of them.
pub(super) type Again = (Vec<PathBuf>, Result<Option<Loaded>, WebConfigError>);

/// Reads everything again, for someone who requested it or because it may have changed.
pub(super) fn load_if_complete(path: &Path, watch: &FileWatch, is_requested: bool) -> Again {
    let mut is_complete = true;
    let mut read = |path: &Path| {
        let contents = watch.read(path, MAX_FILE_BYTES, is_requested)?;
        is_complete &= contents.is_complete;
        Ok((contents.bytes, contents.stamp))
    };
    let (files, loaded) = load_with(path, &mut read);
    (files, if is_complete { loaded.map(Some) } else { Ok(None) })
}

/// The function that reads a file.
type Read<'r> = dyn FnMut(&Path) -> Result<(Vec<u8>, Stamp), FileError> + 'r;

fn load_with(path: &Path, read: &mut Read<'_>) -> (Vec<PathBuf>, Result<Loaded, WebConfigError>) {
    let mut named = vec![path.to_owned()];
    let loaded = read(path).map_err(WebConfigError::from).and_then(|(bytes, stamp)| {
        let config = parse(path, &bytes)?;
        named.extend(files_of(path, &config));
        build(path, &bytes, stamp, config, read)
    });
    (named, loaded)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<WebConfig, WebConfigError> {
    let text = str::from_utf8(bytes).map_err(|error| WebConfigError::NotUtf8 {
        path: path.into(),
        offset: error.valid_up_to(),
    })?;
    WebConfig::parse(text)
        .map_err(|diagnostics| WebConfigError::Invalid { path: path.into(), diagnostics })
}

/// The files that a web configuration names.
fn files_of(path: &Path, config: &WebConfig) -> Vec<PathBuf> {
    let pems = config.tls.iter().flat_map(|tls| {
        [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten()
    });
    pems.filter_map(|pem| match pem {
        Pem::File(named) => Some(beside(path, named)),
        Pem::Inline(_) => None,
    })
    .collect()
}

/// A path in a web configuration, which is relative to its directory.
fn beside(path: &Path, named: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(named)
}

fn build(
    path: &Path,
    bytes: &[u8],
    stamp: Stamp,
    config: WebConfig,
    read: &mut Read<'_>,
) -> Result<Loaded, WebConfigError> {
    let mut hash = Sha256::new();
    let mut files = vec![(path.to_owned(), stamp)];
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(bytes);
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let material = Material::read(tls, |named| {
                let named = beside(path, named);
                let (bytes, stamp) = read(&named)?;
                files.push((named.clone(), stamp));
                add(&bytes);
                Ok::<_, FileError>((named, bytes))
            })?;
            let built = tls::server(tls, &material, config.http2);
            Some(built.map_err(|source| WebConfigError::Tls { path: path.into(), source })?)
        }
    };
    let is_empty = config == WebConfig::default();
    let headers = config.headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    let access = Access {
        tls,
        headers: headers.collect(),
        users: config.users,
        bucket: config.rate_limit.map(Bucket::new),
    };
    let sha256 = hex(&hash.finalize());
    Ok(Loaded { access, warnings: config.warnings, is_empty, sha256, files })
}

impl Access {
    /// Whether it protects nothing.
    pub(super) fn is_open(&self) -> bool {
        self.tls.is_none() && self.users.is_empty()
    }
}

/// Logs what is valid in a web configuration, but probably not meant.
pub fn warnings(path: &Path, warnings: &Diagnostics) {
    let warnings = warnings.located(path).join("; ");
    if !warnings.is_empty() {
        tracing::warn!(warnings, "web configuration accepted, with warnings");
    }
}
