//! Accepts connections and serves each. [`super::admission`] decides which stay open, and for how long.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use hyper::{
    Request, Version,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
    rt::{Read, Write},
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    App,
    admission::{Event, NEWCOMERS, Verdict},
    handshake::{self, Opened},
    http2::{Requests, server},
    listener::{Listener, Peer, Socket},
    memory::{CONNECTION_BYTES, TLS_BYTES},
    places::Place,
    response::Response,
    routes,
    stream::{Answer, Watched},
};
use crate::os::log;

/// Maximum size of a request's head; a larger one gets 431. Every connection may hold this much while
/// its client sends the head, and the total must fit into a container's memory.
const MAX_HEAD_BYTES: usize = 1 << 14;

/// Pause after a failed accept that closing a connection did not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and keeps track of the open ones.
pub(super) struct Connections {
    app: Arc<App>,
    /// Each open connection watches it; it becomes true when they are to end.
    ending: watch::Sender<bool>,
}

impl Connections {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app, ending: watch::Sender::new(false) }
    }

    /// Accepts connections, and serves those that are admitted.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener) {
        let mut accepted = 0_usize;
        let mut has_made_room = false;
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    has_made_room = false;
                    self.admit(socket, peer).await;
                    accepted = accepted.wrapping_add(1);
                    // Reads the requests of newcomers before more of them could displace these.
                    if accepted.is_multiple_of(NEWCOMERS) {
                        yield_now().await;
                    }
                }
                // The client has given up in the meantime.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(address = listener.address(), %error, "accept failed");
                    has_made_room = !has_made_room
                        && is_out_of_descriptors(&error)
                        && self.app.places.evict_any();
                    if has_made_room {
                        // Ends the task of the connection.
                        yield_now().await;
                    } else {
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn admit(&self, socket: Box<dyn Socket>, peer: Peer) {
        let Some(place) = self.app.places.admit(peer).await.map(Arc::new) else { return };
        let app = Arc::clone(&self.app);
        let task = tokio::spawn(serve(socket, Arc::clone(&place), app, self.ending.subscribe()));
        place.served_by(task.abort_handle());
    }

    /// Closes idle connections at once, and the others after the response in progress.
    pub(super) async fn finish(self) {
        self.ending.send_replace(true);
        self.ending.closed().await;
    }
}

/// Serves one connection until it ends, or until its client has taken too long.
async fn serve(
    socket: Box<dyn Socket>,
    place: Arc<Place>,
    app: Arc<App>,
    ending: watch::Receiver<bool>,
) {
    let _held = app.memory.hold(CONNECTION_BYTES);
    let is_tls = app.server.gate.current().tls.is_some();
    let _held_for_tls = is_tls.then(|| app.memory.hold(TLS_BYTES));
    let Opened { socket, is_http2 } = if is_tls {
        // In a box, so that connections without TLS stay small.
        let opened = Box::pin(shake_hands(socket, &place, &app, ending.clone())).await;
        let Some(opened) = opened else { return };
        opened
    } else {
        Opened { socket, is_http2: false }
    };
    let is_last = Arc::new(AtomicBool::new(false));
    let service = {
        let (place, is_last) = (Arc::clone(&place), Arc::clone(&is_last));
        service_fn(move |request: Request<Incoming>| {
            let (app, place) = (Arc::clone(&app), Arc::clone(&place));
            let verdict = place.ask(routes::is_reload(request.uri().path()));
            is_last.fetch_or(verdict.is_last, Ordering::Relaxed);
            let mut asked = Asked { place, is_answered: false };
            async move {
                let response = answer(&app, request, &asked.place, verdict).await;
                Ok::<_, Infallible>(asked.answered(response, is_http2))
            }
        })
    };
    let socket = TokioIo::new(Watched::new(socket, Arc::clone(&place), is_http2));
    let ended = if is_http2 {
        let mut connection = Box::pin(server().serve_connection(socket, service));
        let connection = until_last(connection.as_mut(), ending, || {
            is_last.load(Ordering::Relaxed) && place.is_between_requests()
        });
        in_time(&place, pin!(connection)).await
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(socket, service);
        // A header has announced the end.
        in_time(&place, pin!(until_last(pin!(connection), ending, || false))).await
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => place.failed(&log::chain(&error)),
        None => place.timed_out(),
    }
}

/// Completes a handshake. Otherwise returns `None`, once the reason is recorded.
async fn shake_hands(
    socket: Box<dyn Socket>,
    place: &Place,
    app: &App,
    mut ending: watch::Receiver<bool>,
) -> Option<Opened> {
    let opened = async {
        tokio::select! {
            opened = handshake::open(socket, app) => Some(opened),
            // Nobody has asked for anything yet.
            _ = ending.wait_for(|is_ending| *is_ending) => None,
        }
    };
    match in_time(place, pin!(opened)).await {
        Some(Some(Ok(opened))) => return Some(opened),
        Some(Some(Err(error))) => place.failed(&log::chain(&error)),
        Some(None) => {}
        None => place.timed_out(),
    }
    None
}

/// Waits for `work`; `None` if the client has taken too long.
async fn in_time<F: Future>(place: &Place, mut work: Pin<&mut F>) -> Option<F::Output> {
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut moved = pin!(place.moved());
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        // Whatever else moves the deadline happens while the connection is polled.
        while moved.as_mut().poll(cx).is_ready() {
            moved.set(place.moved());
        }
        let Some(deadline) = place.deadline() else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// A connection that hyper serves.
trait Served: Future<Output = hyper::Result<()>> {
    /// Ends it after the response in progress.
    fn end(self: Pin<&mut Self>);
}

impl<I, S> Served for http1::Connection<I, S>
where
    I: Read + Write + Unpin + 'static,
    S: HttpService<Incoming, ResBody: Body<Error: Into<BoxError>> + 'static, Error: Into<BoxError>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Served for http2::Connection<I, S, Requests>
where
    I: Read + Write + Unpin + 'static,
    S: HttpService<
            Incoming,
            ResBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
            Error: Into<BoxError>,
            Future: Send + 'static,
        >,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Waits until a connection ends. It is told to when all are, or once `is_last` says so.
async fn until_last<C: Served>(
    mut connection: Pin<&mut C>,
    mut ending: watch::Receiver<bool>,
    is_last: impl Fn() -> bool,
) -> hyper::Result<()> {
    let mut ended = pin!(ending.wait_for(|is_ending| *is_ending));
    let mut is_told = false;
    poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() || is_told {
            return polled;
        }
        if is_last() || ended.as_mut().poll(cx).is_ready() {
            is_told = true;
            connection.as_mut().end();
            return connection.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}

/// A request that is being answered. If it is dropped before, the client has taken it back.
struct Asked {
    place: Arc<Place>,
    is_answered: bool,
}

impl Asked {
    fn answered(&mut self, response: Response, is_http2: bool) -> hyper::Response<Answer> {
        self.is_answered = true;
        self.place.record(Event::Answered);
        response.map(|body| Answer::new(body, Arc::clone(&self.place), is_http2))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            self.place.record(Event::Abandoned);
        }
    }
}

/// Answers a request.
async fn answer(
    app: &App,
    request: Request<Incoming>,
    place: &Place,
    verdict: Verdict,
) -> Response {
    let version = request.version();
    let mut response = app.respond(request, place, verdict.is_again).await;
    // HTTP/2 has no such header.
    if verdict.is_last && version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}
