//! What a server answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::{Response, StatusCode};

use super::SourceError;
use crate::os::http_client::Server;

/// The values that a server returned, by key.
pub(super) type Answer = Result<BTreeMap<String, String>, SourceError>;

/// Returns the body of an answer with status 200.
pub(super) fn body(server: Server<'_>, answer: Response<Bytes>) -> Result<Bytes, SourceError> {
    match answer.status() {
        StatusCode::OK => Ok(answer.into_body()),
        status => Err(SourceError::Status { server: server.to_string(), status }),
    }
}
