//! HTTP: it is given bound listeners, a future that ends it, and what to answer with.
//!
//! | path | methods | answer |
//! |---|---|---|
//! | the telemetry path | GET, HEAD | the exposition; 503 beyond `max_requests` |
//! | `/-/healthy` | GET, HEAD | 200 |
//! | `/-/ready` | GET, HEAD | 200; 503 while shutting down |
//! | `/-/reload` | POST, PUT | 200, or 500 with the reason; 403 unless enabled |
//! | `/` | GET, HEAD | a landing page |
//!
//! Anything else is 404, and another method 405.

pub mod address;
mod compress;
mod connection;
mod lifecycle;
mod metrics;
pub mod negotiate;
mod pages;
mod routes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::server::graceful::GracefulShutdown;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    metrics::{scrape::Exporter, telemetry::Telemetry},
    reload::ReloadHandle,
};
use connection::accept;

/// How long a shutdown waits for answers under way.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server answers with, and its limits.
pub struct Server {
    /// Renders expositions.
    pub exporter: Exporter,
    /// The daemon's own metrics.
    pub telemetry: Telemetry,
    /// Asks for reloads.
    pub reload: ReloadHandle,
    /// Where the exposition is.
    pub telemetry_path: String,
    /// Whether `/-/reload` is enabled.
    pub lifecycle: bool,
    /// Scrapes answered at a time; 0 is no limit.
    pub max_requests: usize,
    /// Connections served at a time; more wait.
    pub max_connections: usize,
}

/// State of a running server.
struct Running {
    server: Server,
    scrapes: Option<Arc<Semaphore>>,
    shutting_down: AtomicBool,
}

impl Server {
    /// Answers on `listeners` until `shutdown` ends; then accepts no more, and waits a while for
    /// the answers under way.
    pub async fn run(self, listeners: Vec<TcpListener>, shutdown: impl Future<Output = ()>) {
        let connections = Arc::new(Semaphore::new(self.max_connections));
        let scrapes = (self.max_requests > 0).then(|| Arc::new(Semaphore::new(self.max_requests)));
        let running =
            Arc::new(Running { server: self, scrapes, shutting_down: AtomicBool::new(false) });
        let graceful = Arc::new(GracefulShutdown::new());
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(
                listener,
                Arc::clone(&connections),
                Arc::clone(&running),
                Arc::clone(&graceful),
            ));
        }
        shutdown.await;
        running.shutting_down.store(true, Ordering::Relaxed);
        accepting.shutdown().await;
        // The tasks that accepted held the only other references.
        let Some(graceful) = Arc::into_inner(graceful) else { return };
        if timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("clients did not take their answers within {SHUTDOWN_TIMEOUT:?}");
        }
    }
}
