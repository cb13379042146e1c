//! Who asks for a reload, and which requests one reload answers.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{generation::ReloadOutcome, os::signals::ReloadSignals};

/// Editors and kubelet change a file in several steps; it is read when there was no event for this
/// long.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// It is read after this long even if the events go on.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);

/// Requests that wait for the reload under way.
pub(super) const QUEUE: usize = 16;

/// Why the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A signal, by name.
    Signal(&'static str),
    /// `/-/reload`.
    Http,
    /// The file, or what labels are made of, may have changed.
    Change,
    /// It's time to look.
    Poll,
}

impl Cause {
    /// Whether someone asked, so that even an unchanged file is an answer worth a line.
    pub(super) fn is_asked(self) -> bool {
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

/// How a reload ended: the reason where it failed.
pub(super) type Outcome = Result<ReloadOutcome, Arc<str>>;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) cause: Cause,
    pub(super) reply: Option<oneshot::Sender<Outcome>>,
}

/// Asks for reloads.
#[derive(Clone, Debug)]
pub struct ReloadHandle(pub(super) mpsc::Sender<Request>);

impl ReloadHandle {
    /// Reloads, and waits for the outcome. The error is the reason, in one line.
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

/// The requests that the next reload answers. Who asks does not wait; a change does, until the events
/// are over. None where nobody can ask any more.
pub(super) async fn next_batch(queue: &mut mpsc::Receiver<Request>) -> Option<Vec<Request>> {
    let mut batch = vec![queue.recv().await?];
    let latest = Instant::now() + MAX_DEBOUNCE;
    while !batch[0].cause.is_asked() && Instant::now() < latest {
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

/// Asks for a look. It need not be queued twice: the file is read after the one that waits.
pub(super) fn on_change(requests: mpsc::Sender<Request>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let _ = requests.try_send(Request { cause: Cause::Change, reply: None });
    }
}

pub(super) async fn forward_signals(mut signals: ReloadSignals, requests: mpsc::Sender<Request>) {
    loop {
        let cause = Cause::Signal(signals.next().await);
        if requests.send(Request { cause, reply: None }).await.is_err() {
            return;
        }
    }
}

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

    /// Milliseconds until a batch is complete, and its causes, where these come at these milliseconds.
    async fn batch(causes: Vec<(u64, Cause)>) -> (u128, Vec<Cause>) {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let started = Instant::now();
        tokio::spawn(async move {
            for (at, cause) in causes {
                sleep(Duration::from_millis(at).saturating_sub(started.elapsed())).await;
                let _ = requests.send(Request { cause, reply: None }).await;
            }
            // No one hangs up in the meantime.
            sleep(Duration::from_mins(1)).await;
        });
        let batch = next_batch(&mut queue).await.unwrap();
        let took = started.elapsed().as_millis();
        (took, batch.into_iter().map(|request| request.cause).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_looked_at_when_the_events_are_over() {
        let changes = [0, 200, 400].map(|at| (at, Cause::Change));
        assert_eq!(batch(changes.into()).await, (650, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_go_on_do_not_put_it_off_for_ever() {
        let changes = (0..100).map(|number| (number * 100, Cause::Change));
        assert_eq!(batch(changes.collect()).await, (2_000, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_does_not_wait_for_events() {
        let changed = vec![(0, Cause::Change), (100, Cause::Http), (150, Cause::Change)];
        assert_eq!(batch(changed).await, (100, vec![Cause::Change, Cause::Http]));
        let asked = vec![(30, Cause::Signal("SIGHUP")), (150, Cause::Change)];
        assert_eq!(batch(asked).await, (30, vec![Cause::Signal("SIGHUP")]));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_are_in_one_batch() {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        for cause in [Cause::Http, Cause::Signal("SIGHUP"), Cause::Poll, Cause::Http] {
            requests.try_send(Request { cause, reply: None }).unwrap();
        }
        assert_eq!(next_batch(&mut queue).await.unwrap().len(), 4);
        drop(requests);
        assert!(next_batch(&mut queue).await.is_none());
    }
}
