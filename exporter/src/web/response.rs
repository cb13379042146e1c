//! Responses and their content types.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

/// A response with its whole body.
pub(super) type Response = hyper::Response<Full<Bytes>>;

/// A plain-text response.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = content("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

/// A successful response.
pub(super) fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
