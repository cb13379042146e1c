//! Connections: accepting and serving them.

use std::{
    convert::Infallible,
    future,
    net::SocketAddr,
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
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;

use super::Running;

/// Size of the largest head of a request; a longer one is answered 431. It is held for as long as a
/// client takes to send it, on every connection at once, and all of that must fit into a container's
/// memory.
const MAX_HEAD_BYTES: usize = 1 << 14;

/// A client must have sent its first request after this long.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection may be idle for this long between requests: longer than the usual scrape intervals,
/// so that scrapes need no new connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// A client that takes nothing of its answer for this long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// After a failed accept, which may be for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections, and serves each when a place is free. The place is asked for last, since a
/// listener that nobody connects to would else keep one from the others; so each listener has one
/// connection that waits, accepted.
pub(super) async fn accept(
    listener: TcpListener,
    places: Arc<Semaphore>,
    running: Arc<Running>,
    graceful: Arc<GracefulShutdown>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let (running, watcher) = (Arc::clone(&running), graceful.watcher());
                tokio::spawn(async move {
                    serve(stream, peer, running, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, peer: SocketAddr, running: Arc<Running>, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY refused");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            let running = Arc::clone(&running);
            async move { Ok::<_, Infallible>(running.answer(request).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = watcher.watch(connection);
    let nothing_asked = async {
        sleep(FIRST_REQUEST_TIMEOUT).await;
        if asked.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended early");
        },
        () = nothing_asked => tracing::debug!(%peer, "no request in time"),
    }
}
