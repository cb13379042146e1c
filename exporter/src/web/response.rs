//! Responses, their content types and their bodies.

use std::{
    convert::Infallible,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    StatusCode,
    body::{Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use prometheus::IntGauge;

use super::{limit::Permit, renderings::Rendering};

/// How much of a rendering hyper is given at once, in bytes.
const FRAME_BYTES: usize = 64 << 10;

/// A response.
pub(super) type Response = hyper::Response<Body>;

/// A plain-text response.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = content("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

/// A successful response.
pub(super) fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    respond(content_type, Body::Full(Full::new(body.into())))
}

/// A successful response to a scrape.
pub(super) fn exposition(content_type: &'static str, answer: Answer) -> Response {
    respond(content_type, Body::Rendering(Arc::new(answer), 0))
}

fn respond(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The body of a response.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it at once.
    Full(Full<Bytes>),
    /// A rendering, of which this much has been handed to hyper.
    Rendering(Arc<Answer>, usize),
}

/// The answer to a scrape. It holds its permit, and counts as in flight, until it is fully written to the
/// socket. The kernel accepts it only as fast as the client reads.
#[derive(Debug)]
pub(super) struct Answer {
    rendering: Arc<Rendering>,
    in_flight: IntGauge,
    _permit: Permit,
}

impl Answer {
    pub(super) fn new(rendering: Arc<Rendering>, permit: Permit, in_flight: IntGauge) -> Self {
        in_flight.inc();
        Self { rendering, in_flight, _permit: permit }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// A part of a rendering.
struct Part {
    answer: Arc<Answer>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.answer.rendering.bytes()[self.range.clone()]
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(cx),
            Self::Rendering(answer, handed) => {
                let len = answer.rendering.bytes().len();
                let range = *handed..len.min(*handed + FRAME_BYTES);
                if range.is_empty() {
                    return Poll::Ready(None);
                }
                *handed = range.end;
                let part = Part { answer: Arc::clone(answer), range };
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Rendering(answer, handed) => answer.rendering.bytes().len() == *handed,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Rendering(answer, handed) => {
                SizeHint::with_exact((answer.rendering.bytes().len() - handed) as u64)
            }
        }
    }
}
