//! Accepts connections and serves each, within limits of number, size and time.

use std::{
    convert::Infallible,
    future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{sync::Semaphore, time::sleep};
use tokio_io_timeout::TimeoutStream;

use super::{
    App,
    listener::{Listener, Peer, Socket},
};
use crate::os::log;

/// Maximum size of a request's head; a larger one gets 431. Every connection may hold this much while
/// its client sends the head, and the total must fit into a container's memory.
const MAX_HEAD_BYTES: usize = 1 << 14;

/// Time for a client to send its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle between requests. It exceeds the usual scrape intervals, so that
/// scrapes can reuse a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// Disconnect a client that reads nothing for this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, e.g. when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Admits connections and keeps track of the open ones.
pub(super) struct Connections {
    app: Arc<App>,
    /// A permit for each concurrent connection.
    permits: Arc<Semaphore>,
    open: GracefulShutdown,
}

impl Connections {
    pub(super) fn new(app: Arc<App>, max_connections: usize) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections));
        Self { app, permits, open: GracefulShutdown::new() }
    }

    /// Accepts connections, and serves each once it has a permit.
    ///
    /// The permit is acquired after accepting: an idle listener must not hold one. Each listener may
    /// therefore hold one accepted connection that waits for a permit.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    // The semaphore is never closed.
                    let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                        return;
                    };
                    let (app, watcher) = (Arc::clone(&self.app), self.open.watcher());
                    tokio::spawn(async move {
                        serve(socket, peer, app, watcher).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes idle connections at once, and the others after the response in progress.
    pub(super) async fn finish(self) {
        self.open.shutdown().await;
    }
}

/// Serves one connection until it ends.
async fn serve(socket: Box<dyn Socket>, peer: Peer, app: Arc<App>, watcher: Watcher) {
    let mut stream = TimeoutStream::new(socket);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let has_request = Arc::new(AtomicBool::new(false));
    let service = {
        let has_request = Arc::clone(&has_request);
        service_fn(move |request| {
            has_request.store(true, Ordering::Relaxed);
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(app.respond(request).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = watcher.watch(connection);
    let no_request = async {
        sleep(FIRST_REQUEST_TIMEOUT).await;
        if has_request.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%peer, error = log::chain(&error), "connection ended early");
        },
        () = no_request => tracing::debug!(%peer, "no request in time"),
    }
}
