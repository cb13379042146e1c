//! Serves the exposition over HTTP, or HTTPS. May name `access`, `metrics`, the handle of `reload`,
//! `exposition`'s formats and `os`.
//!
//! | path | methods | response |
//! |---|---|---|
//! | the telemetry path | GET, HEAD | the exposition, or the families that the query names; 400 for unknown names; 503 if too much is in flight |
//! | `/-/healthy` | GET, HEAD | 200 |
//! | `/-/ready` | GET, HEAD | 200; 503 during shutdown |
//! | `/-/reload` | POST, PUT | 200, or 500 with the reason; 403 unless enabled |
//! | `/` | GET, HEAD | a landing page |
//!
//! Other paths get 404, other methods 405. With a web configuration, there is also 429 above its rate limit, and
//! 401 without a password, but not for `/-/healthy` and `/-/ready`.
//!
//! A request passes through `handshake` (TLS), `connection`, `routes` (path and method) and `guard` (rate limit
//! and password) to the module that answers it: `metrics`, `lifecycle` or `pages`. `listener` accepts connections; `admission` decides which stay open,
//! by what `stream` reports to `places`; and `turns` lets their requests take turns. `metrics` takes what it
//! sends from `renderings`, which shares them and bounds their memory.

pub mod address;
mod admission;
mod compress;
mod connection;
mod guard;
mod handshake;
mod http2;
mod lifecycle;
mod limit;
pub mod listener;
mod memory;
mod metrics;
pub mod negotiate;
mod pages;
mod places;
mod query;
mod renderings;
mod response;
mod routes;
mod socket;
mod stream;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use self::{
    connection::Connections, limit::Limit, listener::Listener, memory::Memory, places::Places,
    renderings::Renderings, turns::Turns,
};
use crate::{
    access::Gate,
    metrics::{scrape::Exporter, telemetry::Telemetry},
    os::heap,
    reload::ReloadHandle,
};

/// How long a shutdown waits for responses in progress.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts and limits of the server.
pub struct Server {
    /// Renders expositions.
    pub exporter: Exporter,
    /// Counts connections, requests and scrapes in flight.
    pub telemetry: Telemetry,
    /// Decides who may connect and ask.
    pub gate: Arc<Gate>,
    /// Requests reloads.
    pub reload: ReloadHandle,
    /// Path of the exposition. It must need no escaping in a URL or in HTML.
    pub telemetry_path: String,
    /// Whether `/-/reload` is enabled.
    pub lifecycle: bool,
    /// Maximum number of concurrent scrapes; 0 means no limit.
    pub max_requests: usize,
    /// Maximum number of concurrent connections; at the limit, a new one displaces another.
    pub max_connections: usize,
}

/// A running server, shared by its connections.
struct App {
    server: Server,
    places: Arc<Places>,
    turns: Turns,
    limit: Limit,
    renderings: Renderings,
    memory: Arc<Memory>,
    shutting_down: AtomicBool,
}

impl Server {
    /// Serves on `listeners` until `shutdown` completes. Then accepts no more connections, and waits
    /// up to 10 seconds for responses in progress.
    pub async fn run(self, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) {
        let places = Places::new(self.max_connections, self.telemetry.clone());
        let memory = Arc::new(Memory::default());
        let app = Arc::new(App {
            limit: Limit::new(self.max_requests),
            server: self,
            places,
            turns: Turns::default(),
            renderings: Renderings::new(Arc::clone(&memory)),
            memory: Arc::clone(&memory),
            shutting_down: AtomicBool::new(false),
        });
        let connections = Arc::new(Connections::new(Arc::clone(&app)));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(Arc::clone(&connections).accept(listener));
        }
        accepting.spawn(async move { memory.trim_after_bursts(heap::trim).await });
        shutdown.await;
        app.shutting_down.store(true, Ordering::Relaxed);
        accepting.shutdown().await;
        // The accepting tasks held the only other references.
        let Some(connections) = Arc::into_inner(connections) else { return };
        if timeout(SHUTDOWN_TIMEOUT, connections.finish()).await.is_err() {
            tracing::warn!(after = ?SHUTDOWN_TIMEOUT, "shutdown timed out; dropping open connections");
        }
    }
}
