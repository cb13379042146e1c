//! Paths, their methods, and what answers them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};

use super::Running;

pub(super) type Answer = Response<Full<Bytes>>;

/// What a path stands for.
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

    /// The path, as requests are counted by it.
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

    /// The methods, as the header `Allow` has them.
    const fn allow(self) -> &'static str {
        match self {
            Self::Reload => "POST, PUT",
            Self::Metrics | Self::Healthy | Self::Ready | Self::Landing => "GET, HEAD",
            Self::Other => "",
        }
    }
}

impl Running {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let telemetry_path = self.server.telemetry_path.as_str();
        let route = Route::of(request.uri().path(), telemetry_path);
        let answer = match route {
            Route::Other => plain(StatusCode::NOT_FOUND, "Not found.\n"),
            _ if !allows(route.allow(), request.method()) => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
                answer
            }
            Route::Metrics => self.metrics(request.headers()),
            Route::Healthy => plain(StatusCode::OK, "sched_exporter is healthy.\n"),
            Route::Ready if self.shutting_down.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "sched_exporter is shutting down.\n")
            }
            Route::Ready => plain(StatusCode::OK, "sched_exporter is ready.\n"),
            Route::Reload => self.reload().await,
            Route::Landing => self.landing_page(),
        };
        self.server.telemetry.request(route.name(telemetry_path), answer.status().as_u16());
        answer
    }
}

fn allows(allow: &str, method: &Method) -> bool {
    allow.split(", ").any(|allowed| allowed == method.as_str())
}

pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    answer
}
