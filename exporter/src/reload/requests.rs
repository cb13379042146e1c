//! Requests for reloads. One reload answers a batch of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};

use crate::{generation::ReloadOutcome, os::signals::ReloadSignals};

/// Debounce: read the file once no event has arrived for this long. Editors and kubelet change a file
/// in several steps.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// Read the file after this long even if events keep arriving.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);

/// Time limit for a file that a writer does not finish, if someone waits for the reload.
pub(super) const UNFINISHED_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of requests that wait for the reload in progress.
pub(super) const QUEUE: usize = 16;

/// The cause of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A signal, by name.
    Signal(&'static str),
    /// `/-/reload`.
    Http,
    /// The file, or a source of its labels, may have changed.
    Change,
    /// The polling interval has passed.
    Poll,
}

impl Cause {
    /// Whether someone requested it, so that even an unchanged file is reported.
    pub(super) fn is_explicit(self) -> bool {
        matches!(self, Self::Signal(_) | Self::Http)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Signal(name) => name,
            Self::Http => "/-/reload",
            Self::Change => "change",
            Self::Poll => "poll",
        }
    }
}

/// The outcome of a reload; the error is the reason, in one line.
pub(super) type Outcome = Result<ReloadOutcome, Arc<str>>;

/// A request for a reload.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) cause: Cause,
    /// Receives the outcome, if someone waits for it.
    pub(super) reply: Option<oneshot::Sender<Outcome>>,
}

/// Requests reloads.
#[derive(Clone, Debug)]
pub struct ReloadHandle(pub(super) mpsc::Sender<Request>);

impl ReloadHandle {
    /// Requests a reload and waits for its outcome.
    pub async fn reload(&self) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request { cause: Cause::Http, reply: Some(reply) };
        let stopped = || Arc::from("the exporter is shutting down");
        if self.0.send(request).await.is_err() {
            return Err(stopped());
        }
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The requests that the next reload answers. Those that someone made wait until the file is complete.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Why to reload, and since when: the first explicit cause, or else the first.
    cause: Option<(Cause, Instant)>,
    replies: Vec<oneshot::Sender<Outcome>>,
}

impl Pending {
    /// Adds requests. Returns whether the first explicit one is among them.
    pub(super) fn extend(&mut self, batch: Vec<Request>) -> bool {
        let mut begins = false;
        for Request { cause, reply } in batch {
            if self.cause.is_none() || cause.is_explicit() && !self.cause().is_explicit() {
                self.cause = Some((cause, Instant::now()));
                begins |= cause.is_explicit();
            }
            self.replies.extend(reply);
        }
        begins
    }

    /// Why to reload.
    pub(super) fn cause(&self) -> Cause {
        self.cause.map_or(Cause::Change, |(cause, _)| cause)
    }

    /// When someone who waits for a complete file has waited long enough; `None` if nobody does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (cause, since) = self.cause?;
        cause.is_explicit().then(|| since + UNFINISHED_TIMEOUT)
    }

    /// Answers all requests.
    pub(super) fn answer(&mut self, outcome: &Outcome) {
        for reply in self.replies.drain(..) {
            let _ = reply.send(outcome.clone());
        }
        self.cause = None;
    }
}

/// Returns the next requests. Explicit ones are served at once; file changes are debounced. Returns none
/// at `due`, and `None` when all senders are gone.
pub(super) async fn next_batch(
    queue: &mut mpsc::Receiver<Request>,
    due: Option<Instant>,
) -> Option<Vec<Request>> {
    let first = match due {
        None => queue.recv().await,
        Some(due) => match timeout_at(due, queue.recv()).await {
            Ok(first) => first,
            Err(_) => return Some(Vec::new()),
        },
    };
    let mut batch = vec![first?];
    let latest = Instant::now() + MAX_DEBOUNCE;
    while !batch[0].cause.is_explicit() && Instant::now() < latest {
        match timeout(DEBOUNCE, queue.recv()).await {
            Ok(Some(Request { cause: Cause::Change | Cause::Poll, .. })) => {}
            Ok(Some(request)) => {
                batch.push(request);
                break;
            }
            Ok(None) | Err(_) => break,
        }
    }
    while let Ok(request) = queue.try_recv() {
        batch.push(request);
    }
    Some(batch)
}

/// Returns a callback that requests a check. If the queue is full, the requests in it suffice.
pub(super) fn on_change(requests: mpsc::Sender<Request>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let _ = requests.try_send(Request { cause: Cause::Change, reply: None });
    }
}

/// Requests a reload on each signal.
pub(super) async fn forward_signals(mut signals: ReloadSignals, requests: mpsc::Sender<Request>) {
    loop {
        let cause = Cause::Signal(signals.next().await);
        if requests.send(Request { cause, reply: None }).await.is_err() {
            return;
        }
    }
}

/// Requests a check every `period`.
pub(super) async fn forward_ticks(period: Duration, requests: mpsc::Sender<Request>) {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if requests.send(Request { cause: Cause::Poll, reply: None }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Sends requests at the given times, in milliseconds. Returns when the first batch was complete, and
    /// its causes.
    async fn batch(causes: Vec<(u64, Cause)>) -> (u128, Vec<Cause>) {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let started = Instant::now();
        tokio::spawn(async move {
            for (at, cause) in causes {
                sleep(Duration::from_millis(at).saturating_sub(started.elapsed())).await;
                let _ = requests.send(Request { cause, reply: None }).await;
            }
            // Keep the sender alive.
            sleep(Duration::from_mins(1)).await;
        });
        let batch = next_batch(&mut queue, None).await.unwrap();
        let took = started.elapsed().as_millis();
        (took, batch.into_iter().map(|request| request.cause).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn debounces_changes() {
        let changes = [0, 200, 400].map(|at| (at, Cause::Change));
        assert_eq!(batch(changes.into()).await, (650, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn continuous_events_do_not_delay_a_check_forever() {
        let changes = (0..100).map(|number| (number * 100, Cause::Change));
        assert_eq!(batch(changes.collect()).await, (2_000, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn explicit_requests_are_not_debounced() {
        let changed = vec![(0, Cause::Change), (100, Cause::Http), (150, Cause::Change)];
        assert_eq!(batch(changed).await, (100, vec![Cause::Change, Cause::Http]));
        let asked = vec![(30, Cause::Signal("SIGHUP")), (150, Cause::Change)];
        assert_eq!(batch(asked).await, (30, vec![Cause::Signal("SIGHUP")]));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_requests_share_one_reload() {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        for cause in [Cause::Http, Cause::Signal("SIGHUP"), Cause::Poll, Cause::Http] {
            requests.try_send(Request { cause, reply: None }).unwrap();
        }
        assert_eq!(next_batch(&mut queue, None).await.unwrap().len(), 4);
        drop(requests);
        assert!(next_batch(&mut queue, None).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_is_due_has_no_requests() {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let due = Instant::now() + Duration::from_secs(3);
        assert_eq!(next_batch(&mut queue, Some(due)).await.unwrap().len(), 0);
        assert_eq!(Instant::now(), due);
        requests.try_send(Request { cause: Cause::Http, reply: None }).unwrap();
        let due = due + Duration::from_secs(3);
        assert_eq!(next_batch(&mut queue, Some(due)).await.unwrap().len(), 1);
        assert!(Instant::now() < due);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_explicit_cause_counts() {
        let of = |cause| vec![Request { cause, reply: None }];
        let mut pending = Pending::default();
        assert!(!pending.extend(of(Cause::Poll)));
        assert!(!pending.extend(of(Cause::Change)));
        assert_eq!((pending.cause(), pending.deadline()), (Cause::Poll, None));
        sleep(Duration::from_secs(5)).await;
        let deadline = Instant::now() + UNFINISHED_TIMEOUT;
        assert!(pending.extend(of(Cause::Http)));
        sleep(Duration::from_secs(5)).await;
        assert!(!pending.extend(of(Cause::Signal("SIGHUP"))));
        assert_eq!((pending.cause(), pending.deadline()), (Cause::Http, Some(deadline)));
        let (reply, mut outcome) = oneshot::channel();
        pending.extend(vec![Request { cause: Cause::Http, reply: Some(reply) }]);
        pending.answer(&Ok(ReloadOutcome::Applied));
        assert_eq!(outcome.try_recv(), Ok(Ok(ReloadOutcome::Applied)));
        assert_eq!((pending.cause(), pending.deadline()), (Cause::Change, None));
    }
}
