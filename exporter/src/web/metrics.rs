//! The answer to a scrape.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
        HeaderValue, VARY,
    },
};
use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Running,
    compress::{MIN_GZIP_BYTES, compress},
    negotiate::{self, Exposition},
    routes::{Answer, plain},
};
use crate::os::log;

impl Running {
    pub(super) fn metrics(&self, headers: &HeaderMap) -> Answer {
        let place = match self.scrapes.as_ref().map(|places| Arc::clone(places).try_acquire_owned())
        {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(_)) => {
                let reason = format!(
                    "Limit of concurrent requests reached ({}), try again later.\n",
                    self.server.max_requests
                );
                return plain(StatusCode::SERVICE_UNAVAILABLE, reason);
            }
        };
        let values = |name: HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let exposition: Exposition = negotiate::exposition(values(ACCEPT));
        let text = match self.server.exporter.scrape(exposition.format) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(error = log::chain(&error), "scrape failed");
                let reason = "The kernel's records could not be read; see the log.\n";
                return plain(StatusCode::INTERNAL_SERVER_ERROR, reason);
            }
        };
        let gzip = text.len() >= MIN_GZIP_BYTES && negotiate::gzip(values(ACCEPT_ENCODING));
        let body = if gzip { compress(&text) } else { text.into_bytes() };
        let body = ScrapeBody::new(body, place, self.server.telemetry.scrapes_in_flight().clone());
        let mut answer = Response::new(Full::new(Bytes::from_owner(body)));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(exposition.content_type()));
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

/// An exposition on its way. It counts as in flight, and keeps its place, until the kernel has taken
/// the last of it, which it does as the client does.
struct ScrapeBody {
    bytes: Vec<u8>,
    in_flight: IntGauge,
    _place: Option<OwnedSemaphorePermit>,
}

impl ScrapeBody {
    fn new(bytes: Vec<u8>, place: Option<OwnedSemaphorePermit>, in_flight: IntGauge) -> Self {
        in_flight.inc();
        Self { bytes, in_flight, _place: place }
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
