//! The errors of asking.

use std::io;

use hyper::StatusCode;

use super::{grpc::GrpcError, json::SplitError, protobuf::Malformed};
use crate::os::{http_client::HttpError, kubernetes::ApiError};

/// The reason why a source cannot name containers. Causes are in the source chain.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("it speaks neither CRI nor Docker's API ({http})")]
    UnknownProtocol { http: String, source: GrpcError },
    #[error(
        "it does not serve CRI v1: its CRI plugin is disabled, or it is older than containerd 1.6 or \
         CRI-O 1.23"
    )]
    NoCri(#[source] GrpcError),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the answer is HTTP status {0}")]
    Status(StatusCode),
    #[error("the answer is HTTP status {0}; allow the service account to list pods")]
    Forbidden(StatusCode),
    #[error("the answer has no version of the API")]
    NoVersion,
    #[error("the answer is malformed")]
    Malformed(#[from] Malformed),
    #[error("the answer is malformed")]
    Split(#[from] SplitError),
    #[error("an object in the answer is malformed")]
    Json(#[from] serde_json::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("too many containers, pods, labels or long names; some are left out")]
    Exceeded,
    #[error("the names of some images are unknown")]
    Images(#[source] Box<Self>),
    #[error("no answer in time")]
    Late,
    #[error("the certificate and the token cannot be read: {0}")]
    Blocked(String),
    #[error("cannot start an event loop")]
    EventLoop(#[source] io::Error),
}

impl AskError {
    /// Whether something other than a container runtime listens, or a runtime that cannot list containers.
    pub(super) const fn is_of_another(&self) -> bool {
        matches!(self, Self::UnknownProtocol { .. } | Self::NoCri(_))
    }
}
