//! Accepts connections and serves each. [`super::admission`] decides which stay open, and for how long.

use std::{
    convert::Infallible, future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration,
};

use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulShutdown, Watcher},
};
use nix::errno::Errno;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    App,
    admission::{Event, NEWCOMERS, Verdict},
    listener::{Listener, Peer, Socket},
    memory::CONNECTION_BYTES,
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
    open: GracefulShutdown,
}

impl Connections {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app, open: GracefulShutdown::new() }
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
        let task = tokio::spawn(serve(socket, Arc::clone(&place), app, self.open.watcher()));
        place.served_by(task.abort_handle());
    }

    /// Closes idle connections at once, and the others after the response in progress.
    pub(super) async fn finish(self) {
        self.open.shutdown().await;
    }
}

/// Serves one connection until it ends, or until its client has taken too long.
async fn serve(socket: Box<dyn Socket>, place: Arc<Place>, app: Arc<App>, watcher: Watcher) {
    let _held = app.memory.hold(CONNECTION_BYTES);
    let service = {
        let place = Arc::clone(&place);
        service_fn(move |request: Request<Incoming>| {
            let (app, place) = (Arc::clone(&app), Arc::clone(&place));
            let verdict = place.ask(routes::is_reload(request.uri().path()));
            async move {
                let response = answer(&app, request, verdict).await;
                place.record(Event::Answered);
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, place)))
            }
        })
    };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Watched::new(socket, Arc::clone(&place))), service);
    let mut connection = pin!(watcher.watch(connection));
    let mut timer = pin!(sleep_until(Instant::now()));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // Whatever moves the deadline happens while the connection is polled.
        let Some(deadline) = place.deadline() else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| None)
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => place.failed(&log::chain(&error)),
        None => place.timed_out(),
    }
}

/// Answers a request.
async fn answer(app: &App, request: Request<Incoming>, verdict: Verdict) -> Response {
    let mut response = app.respond(request, verdict.is_again).await;
    if verdict.is_last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}
