//! The open connections, their metrics, and the lines logged about them. [`super::admission`] decides.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    admission::{Admission, Admitted, Event, Id, MOMENT, Verdict},
    listener::Peer,
};
use crate::{
    access::Origin,
    metrics::telemetry::{EarlyEnd, Telemetry},
};

/// How long a new connection waits while all others are busy. Requests are answered in less.
const PATIENCE: Duration = Duration::from_secs(1);

/// The places for connections.
pub(super) struct Places {
    open: Mutex<Open>,
    /// Notified when a connection may have become one that another can displace.
    freed: Notify,
    limit: usize,
    telemetry: Telemetry,
}

struct Open {
    admission: Admission,
    /// How to close each connection that is served.
    tasks: BTreeMap<Id, (Peer, AbortHandle)>,
}

/// The place of a connection; dropping it leaves it.
pub(super) struct Place {
    places: Arc<Places>,
    id: Id,
    peer: Peer,
    /// Notified when the deadline has moved while nobody polled the connection.
    moved: Notify,
}

impl Places {
    pub(super) fn new(limit: usize, telemetry: Telemetry) -> Arc<Self> {
        let open = Open { admission: Admission::new(limit), tasks: BTreeMap::new() };
        Arc::new(Self { open: Mutex::new(open), freed: Notify::new(), limit, telemetry })
    }

    /// Admits a new connection; `None` if all are busy for longer than [`PATIENCE`].
    pub(super) async fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let admitted = timeout(PATIENCE, async {
            loop {
                if let Some(place) = self.try_admit(peer) {
                    return place;
                }
                // Meanwhile, a connection may also become idle by itself.
                let _ = timeout(MOMENT, self.freed.notified()).await;
            }
        });
        let admitted = admitted.await.ok();
        if admitted.is_none() {
            self.telemetry.connection_ended(EarlyEnd::Refused);
            tracing::warn!(limit = self.limit, %peer, "connection refused: all others are busy");
        }
        admitted
    }

    fn try_admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let mut open = self.lock();
        match open.admission.admit(origin(peer), Instant::now()) {
            Admitted::Yes(id, evict) => {
                self.close(&mut open, evict);
                self.telemetry.connections(open.admission.open());
                Some(Place { places: Arc::clone(self), id, peer, moved: Notify::new() })
            }
            Admitted::No => None,
        }
    }

    /// Closes the connection that a newcomer would displace first. Returns whether there was one.
    pub(super) fn evict_any(&self) -> bool {
        let mut open = self.lock();
        let evict = open.admission.evict_any(Instant::now());
        self.close(&mut open, evict)
    }

    /// Closes the connection whose client has not read its answer for longest, and at least for `least`.
    /// Returns whether there was one.
    pub(super) fn evict_stuck(&self, least: Duration) -> bool {
        let mut open = self.lock();
        let evict = open.admission.evict_stuck(least, Instant::now());
        self.close(&mut open, evict)
    }

    /// Closes a connection that was evicted. Its task ends before the reactor polls its sockets again.
    fn close(&self, open: &mut Open, evicted: Option<Id>) -> bool {
        let Some(id) = evicted else { return false };
        if let Some((peer, task)) = open.tasks.remove(&id) {
            task.abort();
            tracing::warn!(limit = self.limit, %peer, "connection evicted to make room for another");
        }
        self.telemetry.connection_ended(EarlyEnd::Evicted);
        self.telemetry.connections(open.admission.open());
        true
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn origin(peer: Peer) -> Origin {
    match peer {
        Peer::Tcp(address) => Origin::of(address.ip()),
        Peer::Unix => Origin::Local,
    }
}

impl Place {
    /// Where its client is.
    pub(super) fn origin(&self) -> Origin {
        origin(self.peer)
    }

    /// Whether it waits between two requests.
    pub(super) fn is_between_requests(&self) -> bool {
        self.places.lock().admission.is_between_requests(self.id)
    }

    /// Says which task serves the connection, so that it can be closed.
    pub(super) fn served_by(&self, task: AbortHandle) {
        self.places.lock().tasks.insert(self.id, (self.peer, task));
    }

    /// Decides how to answer a complete request.
    pub(super) fn ask(&self, is_reload: bool) -> Verdict {
        let mut open = self.places.lock();
        let verdict = open.admission.ask(self.id, is_reload, Instant::now());
        self.places.close(&mut open, verdict.evict);
        self.places.freed.notify_one();
        verdict
    }

    /// Records an event.
    pub(super) fn record(&self, event: Event) {
        self.places.lock().admission.record(self.id, event, Instant::now());
        if matches!(event, Event::Flushed | Event::Blocked | Event::Abandoned) {
            self.places.freed.notify_one();
        }
        if matches!(event, Event::Abandoned) {
            self.moved.notify_one();
        }
    }

    /// Waits until the deadline has moved while nobody polled the connection.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// When the connection is to be closed if nothing happens on it. `None` if it is not up to its client.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.places.lock().admission.deadline(self.id)
    }

    /// Counts and logs that the client took too long. That nobody used a connection is nothing special.
    pub(super) fn timed_out(&self) {
        let peer = self.peer;
        if self.places.lock().admission.is_between_requests(self.id) {
            tracing::debug!(%peer, "idle connection closed");
            return;
        }
        self.places.telemetry.connection_ended(EarlyEnd::Timeout);
        tracing::info!(reason = "the client took too long", %peer, "connection closed");
    }

    /// Counts and logs that the connection failed.
    pub(super) fn failed(&self, error: &str) {
        self.places.telemetry.connection_ended(EarlyEnd::Error);
        tracing::info!(error, peer = %self.peer, "connection failed");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.admission.remove(self.id);
        open.tasks.remove(&self.id);
        self.places.telemetry.connections(open.admission.open());
        self.places.freed.notify_one();
    }
}
