//! Maps paths and methods to the functions that answer them, and counts requests.

use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue},
};

use super::{
    App, lifecycle,
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
    /// Answers a request, and counts it.
    pub(super) async fn respond(&self, request: Request<Incoming>) -> Response {
        let telemetry_path = self.server.telemetry_path.as_str();
        let route = Route::of(request.uri().path(), telemetry_path);
        let response = match route {
            Route::Other => text(StatusCode::NOT_FOUND, "Not found.\n"),
            _ if !route.allows(request.method()) => method_not_allowed(route),
            Route::Metrics => self.metrics(request.headers()),
            Route::Healthy => lifecycle::healthy(),
            Route::Ready => self.ready(),
            Route::Reload => self.reload().await,
            Route::Landing => self.landing_page(),
        };
        self.server.telemetry.request(route.name(telemetry_path), response.status().as_u16());
        response
    }
}

fn method_not_allowed(route: Route) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
    response
}
