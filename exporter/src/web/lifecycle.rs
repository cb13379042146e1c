//! Health, readiness and reloads.

use std::sync::atomic::Ordering;

use hyper::StatusCode;

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

    /// Reloads, and responds with the outcome.
    pub(super) async fn reload(&self) -> Response {
        if !self.server.lifecycle {
            let reason = "Lifecycle API is not enabled; start with --web.enable-lifecycle.\n";
            return text(StatusCode::FORBIDDEN, reason);
        }
        match self.server.reload.reload().await {
            Ok(outcome) => text(StatusCode::OK, format!("{}\n", outcome.name())),
            Err(reason) => {
                let reason = format!("failed to reload config: {reason}\n");
                text(StatusCode::INTERNAL_SERVER_ERROR, reason)
            }
        }
    }
}
