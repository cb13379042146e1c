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

use std::{
    convert::Infallible,
    future,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
        HeaderValue, VARY,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

use crate::{
    metrics::{scrape::Exporter, telemetry::Telemetry},
    os::log,
    reload::ReloadHandle,
    web::negotiate::{self, Exposition},
};

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

/// How long a shutdown waits for answers under way.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// After a failed accept, which may be for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Below this, compressing costs more than it saves.
const MIN_GZIP_BYTES: usize = 1_024;

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

/// Accepts connections, and serves each when a place is free. The place is asked for last, since a
/// listener that nobody connects to would else keep one from the others; so each listener has one
/// connection that waits, accepted.
async fn accept(
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

type Answer = Response<Full<Bytes>>;

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
    async fn answer(&self, request: Request<Incoming>) -> Answer {
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

    fn metrics(&self, headers: &HeaderMap) -> Answer {
        let place = match self.scrapes.as_ref().map(|places| Arc::clone(places).try_acquire_owned())
        {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(_)) => {
                let reason = format!(
                    "Limit of concurrent requests reached ({}), try again later.\n",
                    self.server.max_requests
                );
                return plain(StatusCode::SERVICE_UNAVAILABLE, reason);
            }
        };
        let values = |name: HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let exposition: Exposition = negotiate::exposition(values(ACCEPT));
        let text = match self.server.exporter.scrape(exposition.format) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(error = log::chain(&error), "scrape failed");
                let reason = "The kernel's records could not be read; see the log.\n";
                return plain(StatusCode::INTERNAL_SERVER_ERROR, reason);
            }
        };
        let gzip = text.len() >= MIN_GZIP_BYTES && negotiate::gzip(values(ACCEPT_ENCODING));
        let body = if gzip { compress(&text) } else { text.into_bytes() };
        let body = ScrapeBody::new(body, place, self.server.telemetry.scrapes_in_flight().clone());
        let mut answer = Response::new(Full::new(Bytes::from_owner(body)));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(exposition.content_type()));
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    async fn reload(&self) -> Answer {
        if !self.server.lifecycle {
            let reason = "Lifecycle API is not enabled; start with --web.enable-lifecycle.\n";
            return plain(StatusCode::FORBIDDEN, reason);
        }
        match self.server.reload.reload().await {
            Ok(outcome) => plain(StatusCode::OK, format!("{}\n", outcome.name())),
            Err(reason) => {
                let reason = format!("failed to reload config: {reason}\n");
                plain(StatusCode::INTERNAL_SERVER_ERROR, reason)
            }
        }
    }

    fn landing_page(&self) -> Answer {
        // The telemetry path has no character that means something in HTML: see `args`.
        let page = format!(
            r#"<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>sched_exporter</title></head>
<body>
<h1>sched_exporter</h1>
<p>Exact per-CPU scheduler time and run-queue latency. Version {version}.</p>
<ul>
<li><a href="{path}">Metrics</a></li>
<li><a href="/-/healthy">Healthy</a></li>
<li><a href="/-/ready">Ready</a></li>
</ul>
</body>
</html>
"#,
            version = env!("CARGO_PKG_VERSION"),
            path = self.server.telemetry_path,
        );
        let mut answer = Response::new(Full::from(page));
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, html);
        answer
    }
}

/// An exposition on its way. It counts as in flight, and keeps its place, until the kernel has taken
/// the last of it, which it does as the client does.
struct ScrapeBody {
    bytes: Vec<u8>,
    in_flight: IntGauge,
    _place: Option<OwnedSemaphorePermit>,
}

impl ScrapeBody {
    fn new(bytes: Vec<u8>, place: Option<OwnedSemaphorePermit>, in_flight: IntGauge) -> Self {
        in_flight.inc();
        Self { bytes, in_flight, _place: place }
    }
}

impl AsRef<[u8]> for ScrapeBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ScrapeBody {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

fn allows(allow: &str, method: &Method) -> bool {
    allow.split(", ").any(|allowed| allowed == method.as_str())
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    answer
}

fn compress(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    // Writing to a vector can't fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}
