//! The errors of sources.

use std::{io, path::PathBuf, str::Utf8Error, time::Duration};

use hyper::StatusCode;
use nix::errno::Errno;
use tokio::sync::oneshot::error::RecvError;

use crate::os::{
    files::FileError,
    http_client::{HttpError, LookupError},
    kubernetes::ApiError,
    log,
};

/// The reason why a source, or one of its values, is unavailable. Causes are in the source chain;
/// [`SourceError::chain`] writes all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("environment variable {0} is not set")]
    NoVariable(String),
    #[error("environment variable {0} is not UTF-8")]
    VariableNotUtf8(String),
    #[error("uname(2) failed")]
    Uname(#[source] Errno),
    #[error("uname(2) returned a name that is not UTF-8")]
    UnameNotUtf8,
    #[error("neither the host name {0} nor /etc/hosts has a domain")]
    NoDomain(String),
    #[error("/etc/machine-id is not 32 hexadecimal digits")]
    MachineId,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{}` is not UTF-8 at byte {offset}", path.display())]
    FileNotUtf8 { path: PathBuf, offset: usize },
    #[error("`{}`: line {line} is not key=\"value\"", path.display())]
    PodInfo { path: PathBuf, line: usize },
    #[error("the files were not read within {0:?}")]
    FilesTimeout(Duration),
    #[error("an earlier attempt to read it is still running")]
    Busy,
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("the thread that read it panicked")]
    Panicked(#[from] RecvError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("cannot build a request for {server}")]
    Request { server: String, source: hyper::http::Error },
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("no answer yet")]
    NoAnswerYet,
    #[error("no answer within {0:?}")]
    AnswerTimeout(Duration),
    #[error("{server} answers {status}")]
    Status { server: String, status: StatusCode },
    #[error("{server} answers {status}; allow the service account to get nodes")]
    Forbidden { server: String, status: StatusCode },
    #[error("{server}: the answer is not UTF-8")]
    AnswerNotUtf8 { server: String, source: Utf8Error },
    #[error("{server}: the answer is not JSON")]
    NotJson { server: String, source: serde_json::Error },
    #[error("{server}: the answer is not a JSON object")]
    NotAnObject { server: String },
    #[error("{server} is not the metadata server: its answer lacks Metadata-Flavor")]
    NoFlavor { server: String },
    #[error("{server}: the answer is not about node {node}")]
    OtherNode { server: String, node: String },
    #[error("the service has no value named {0}")]
    UnknownKey(String),
}

impl SourceError {
    /// Whether the system lacked something, so that it says nothing about the file.
    pub(super) fn is_shortage(&self) -> bool {
        let Self::File(FileError::Unreadable { source, .. }) = self else { return false };
        let errno = source.raw_os_error().map(Errno::from_raw);
        source.kind() == io::ErrorKind::OutOfMemory
            || errno.is_some_and(|errno| {
                matches!(
                    errno,
                    Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO | Errno::ESTALE
                )
            })
    }

    /// The error and its causes in one line.
    pub(super) fn chain(&self) -> String {
        log::chain(self)
    }
}
