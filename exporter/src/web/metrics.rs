//! Answers scrapes, in the format and encoding that the client prefers.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, HeaderValue, VARY},
};
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use super::{
    App,
    compress::{MIN_BYTES, gzip},
    negotiate::{self, Exposition},
    query,
    response::{Response, content, text},
};
use crate::os::log;

impl App {
    /// Renders an exposition, or responds with 400 to an unknown filter, and with 503 at the limit of concurrent scrapes.
    pub(super) fn metrics<B>(&self, request: &Request<B>) -> Response {
        let headers = request.headers();
        let selection = match query::selection(request.uri().query()) {
            Ok(selection) => selection,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let Ok(permit) = self.scrape_permit() else {
            let reason = format!(
                "Limit of concurrent requests reached ({}), try again later.\n",
                self.server.max_requests
            );
            return text(StatusCode::SERVICE_UNAVAILABLE, reason);
        };
        let values = |name: HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let exposition: Exposition = negotiate::exposition(values(ACCEPT));
        let body = match self.server.exporter.scrape(exposition.format, &selection) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(error = log::chain(&error), "scrape failed");
                let reason = "Cannot read the kernel's records; see the log.\n";
                return text(StatusCode::INTERNAL_SERVER_ERROR, reason);
            }
        };
        let is_gzip = body.len() >= MIN_BYTES && negotiate::gzip(values(ACCEPT_ENCODING));
        let body = if is_gzip { gzip(&body) } else { body.into_bytes() };
        let in_flight = self.server.telemetry.scrapes_in_flight().clone();
        let body = Bytes::from_owner(ScrapeBody::new(body, permit, in_flight));
        let mut response = content(exposition.content_type, body);
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if is_gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// A permit to scrape; `None` if scrapes are not limited.
    fn scrape_permit(&self) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        let Some(scrapes) = &self.scrapes else { return Ok(None) };
        Arc::clone(scrapes).try_acquire_owned().map(Some)
    }
}

/// A response body that holds its permit, and counts as in flight, until it is fully written to the
/// socket. The kernel accepts it only as fast as the client reads.
struct ScrapeBody {
    bytes: Vec<u8>,
    in_flight: IntGauge,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ScrapeBody {
    fn new(bytes: Vec<u8>, permit: Option<OwnedSemaphorePermit>, in_flight: IntGauge) -> Self {
        in_flight.inc();
        Self { bytes, in_flight, _permit: permit }
    }
}

impl AsRef<[u8]> for ScrapeBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ScrapeBody {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}
