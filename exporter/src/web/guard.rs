//! Refuses requests that come too often or without a password, and adds the headers of the web configuration.
//! As in exporter-toolkit, the rate limit comes first, and refusals by it lack the headers.

use hyper::{
    StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    admission::Event,
    places::Place,
    response::{Response, text},
};
use crate::access::{Checked, Gate};

/// What a client needs to be asked for a password.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"sched_exporter\"");

/// Returns the answer to a request that may not be served.
pub(super) async fn refuse(gate: &Gate, headers: &HeaderMap, place: &Place) -> Option<Response> {
    if !gate.allows_now() {
        return Some(text(StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n"));
    }
    let waits = || place.record(Event::Waits);
    match gate.check(headers.get(AUTHORIZATION), place.origin(), waits).await {
        Checked::Allowed => None,
        Checked::Denied => {
            let reason = "This needs a user and a password.\n";
            let mut response = text(StatusCode::UNAUTHORIZED, reason);
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
            Some(response)
        }
        Checked::Busy => {
            let reason = "Too many passwords are being checked, try again later.\n";
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, reason);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            Some(response)
        }
    }
}

/// Adds the headers that the web configuration names.
pub(super) fn add_headers(gate: &Gate, response: &mut Response) {
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        return;
    }
    for (name, value) in &gate.current().headers {
        response.headers_mut().insert(name, value.clone());
    }
}
