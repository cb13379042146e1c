//! Maps paths and methods to the functions that answer them, and counts requests.

use std::pin::pin;

use hyper::{
    Method, Request, StatusCode, Version,
    body::Incoming,
    header::{ALLOW, HOST, HeaderMap, HeaderValue},
    http::uri::Authority,
};

use super::{
    App, guard, lifecycle,
    places::Place,
    response::{Response, text},
};

/// What a path serves.
#[derive(Clone, Copy)]
enum Route {
    Metrics,
    Healthy,
    Ready,
    Reload,
    Landing,
    Other,
}

impl Route {
    /// The route of a path. The metrics come first: they may be at `/`.
    fn of(path: &str, telemetry_path: &str) -> Self {
        [Self::Metrics, Self::Healthy, Self::Ready, Self::Reload, Self::Landing]
            .into_iter()
            .find(|route| route.name(telemetry_path) == path)
            .unwrap_or(Self::Other)
    }

    /// The path, or `other`: value of the label `path` of the request counter.
    const fn name(self, telemetry_path: &str) -> &str {
        match self {
            Self::Metrics => telemetry_path,
            Self::Healthy => "/-/healthy",
            Self::Ready => "/-/ready",
            Self::Reload => "/-/reload",
            Self::Landing => "/",
            Self::Other => "other",
        }
    }

    /// The methods, as in the header `Allow`.
    const fn allow(self) -> &'static str {
        match self {
            Self::Reload => "POST, PUT",
            Self::Metrics | Self::Healthy | Self::Ready | Self::Landing => "GET, HEAD",
            Self::Other => "",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

impl App {
    /// Answers a request on the connection of `place` when it is its turn, and counts it. `is_again` says that its connection has
    /// just been answered.
    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        place: &Place,
        is_again: bool,
    ) -> Response {
        let telemetry_path = self.server.telemetry_path.as_str();
        let route = Route::of(request.uri().path(), telemetry_path);
        let has_host = has_valid_host(request.version(), request.headers());
        let refusal = match route {
            // kubelet has no password.
            Route::Healthy | Route::Ready => None,
            _ => guard::refuse(&self.server.gate, request.headers(), place).await,
        };
        let is_scrape = matches!(route, Route::Metrics)
            && has_host
            && refusal.is_none()
            && route.allows(request.method());
        let mut turn = pin!(self.turns.take(is_again));
        // A scrape need not wait for its turn if it can share the rendering of another.
        if !is_scrape {
            turn.as_mut().await;
        }
        let mut response = match (refusal, route) {
            (Some(refusal), _) => refusal,
            _ if !has_host => text(StatusCode::BAD_REQUEST, "The request needs one Host header.\n"),
            (None, Route::Other) => text(StatusCode::NOT_FOUND, "Not found.\n"),
            _ if !route.allows(request.method()) => method_not_allowed(route),
            (None, Route::Metrics) => self.metrics(&request, is_again, turn).await,
            (None, Route::Healthy) => lifecycle::healthy(),
            (None, Route::Ready) => self.ready(),
            (None, Route::Reload) => self.reload(&request).await,
            (None, Route::Landing) => self.landing_page(),
        };
        guard::add_headers(&self.server.gate, &mut response);
        self.server.telemetry.request(route.name(telemetry_path), response.status().as_u16());
        response
    }
}

/// Whether a path asks for a reload, which takes long.
pub(super) fn is_reload(path: &str) -> bool {
    path == Route::Reload.name("")
}

/// Whether a request names its host as required: HTTP/1.1 once, earlier versions at most once. In HTTP/2, hyper
/// has checked the pseudo-header that names it.
/// <https://www.rfc-editor.org/rfc/rfc9112.html#section-3.2>
fn has_valid_host(version: Version, headers: &HeaderMap) -> bool {
    if version == Version::HTTP_2 {
        return true;
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(host), None) => {
            let is_valid = |host: &str| {
                host.is_empty() || (!host.contains('@') && host.parse::<Authority>().is_ok())
            };
            host.to_str().is_ok_and(is_valid)
        }
        (Some(_), Some(_)) => false,
    }
}

fn method_not_allowed(route: Route) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_need_one_valid_host() {
        let check = |version, hosts: &[&str], expected: bool| {
            let hosts = hosts.iter().map(|host| (HOST, host.parse().unwrap()));
            let headers = hosts.collect::<Vec<_>>();
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value);
            }
            assert_eq!(has_valid_host(version, &map), expected, "{version:?} {map:?}");
        };
        for host in ["localhost", "a.example:10435", "[::1]:10435", "10.0.0.1", ""] {
            check(Version::HTTP_11, &[host], true);
        }
        for host in ["a b", "user@host", "a/b", "[::1"] {
            check(Version::HTTP_11, &[host], false);
        }
        check(Version::HTTP_11, &[], false);
        check(Version::HTTP_11, &["a", "a"], false);
        check(Version::HTTP_10, &[], true);
        check(Version::HTTP_10, &["a", "b"], false);
    }
}
