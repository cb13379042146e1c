//! Health, readiness and reloads.

use std::sync::atomic::Ordering;

use hyper::{
    Request, StatusCode,
    header::{HOST, HeaderValue, ORIGIN},
};

use super::{
    App,
    response::{Response, text},
};

/// The exporter is healthy as long as it serves HTTP.
pub(super) fn healthy() -> Response {
    text(StatusCode::OK, "sched_exporter is healthy.\n")
}

impl App {
    pub(super) fn ready(&self) -> Response {
        if self.shutting_down.load(Ordering::Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "sched_exporter is shutting down.\n");
        }
        text(StatusCode::OK, "sched_exporter is ready.\n")
    }

    /// Reloads, and responds with the outcome. Refuses requests that a page of another site made a browser send.
    pub(super) async fn reload<B>(&self, request: &Request<B>) -> Response {
        if !self.server.lifecycle {
            let reason = "Lifecycle API is not enabled; start with --web.enable-lifecycle.\n";
            return text(StatusCode::FORBIDDEN, reason);
        }
        if is_foreign(request) {
            let reason = "A page of another site must not reload the configuration.\n";
            return text(StatusCode::FORBIDDEN, reason);
        }
        let (reloaded, access) =
            tokio::join!(self.server.reload.reload(), self.server.gate.reload());
        match access.and(reloaded) {
            Ok(outcome) => text(StatusCode::OK, format!("{}\n", outcome.name())),
            Err(reason) => {
                let reason = format!("failed to reload config: {reason}\n");
                text(StatusCode::INTERNAL_SERVER_ERROR, reason)
            }
        }
    }
}

/// Whether a browser sent a request for a page of another origin. Other clients send no `Origin`.
/// <https://www.rfc-editor.org/rfc/rfc6454.html#section-7>
fn is_foreign<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let host = host.or_else(|| request.uri().authority().map(|it| it.as_str().as_bytes()));
    request.headers().get_all(ORIGIN).iter().any(|origin| {
        let origin = origin.as_bytes();
        let authority =
            [&b"http://"[..], b"https://"].iter().find_map(|it| origin.strip_prefix(*it));
        match (authority, host) {
            (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_origin_is_not_foreign() {
        let check = |host: &str, origins: &[&str], expected: bool| {
            let mut request = Request::builder().header(HOST, host);
            for origin in origins {
                request = request.header(ORIGIN, *origin);
            }
            assert_eq!(is_foreign(&request.body(()).unwrap()), expected, "{host} {origins:?}");
        };
        check("a.example:10435", &[], false);
        check("a.example:10435", &["http://a.example:10435"], false);
        check("A.example", &["https://a.Example"], false);
        for foreign in
            ["null", "", "http://b.example", "http://a.example", "http://a.example:10435.b.example"]
        {
            check("a.example:10435", &[foreign], true);
        }
        check("a", &["http://a", "http://b"], true);
        let http2 = Request::builder().uri("https://a:1/-/reload").header(ORIGIN, "https://a:1");
        assert!(!is_foreign(&http2.body(()).unwrap()));
    }
}
