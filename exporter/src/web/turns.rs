//! Lets requests take turns, so that a client with many of them does not make others wait.
//!
//! Rendering an exposition keeps the reactor busy. Between two turns the reactor reads what has arrived
//! in the meantime. A request on a connection that has just been answered gets its turn after all others,
//! for up to [`GRACE`].

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, task::yield_now, time::Instant};

/// For how long others are preferred to a request on a connection that has just been answered.
const GRACE: Duration = Duration::from_secs(10);

/// The queue for turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Queue>>);

/// When a request is due, and the number of its arrival.
type Key = (Instant, u64);

#[derive(Debug, Default)]
struct Queue {
    is_taken: bool,
    arrivals: u64,
    waiting: BTreeMap<Key, oneshot::Sender<Turn>>,
}

/// A turn; dropping it passes it on.
#[derive(Debug)]
struct Turn(Turns);

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
struct Waiting {
    turns: Turns,
    key: Key,
    turn: oneshot::Receiver<Turn>,
}

impl Turns {
    /// Waits for a turn, which lasts until the caller waits for something else. `is_again` says that its
    /// connection has just been answered.
    pub(super) async fn take(&self, is_again: bool) {
        let turn = match self.join(is_again) {
            Ok(turn) => Some(turn),
            Err(mut waiting) => (&mut waiting.turn).await.ok(),
        };
        // Returns once the reactor has polled its sockets, and every task that they woke.
        yield_now().await;
        drop(turn);
    }

    /// Returns the turn if it is free, or else a place in the queue.
    fn join(&self, is_again: bool) -> Result<Turn, Waiting> {
        let mut queue = self.lock();
        if !mem::replace(&mut queue.is_taken, true) {
            return Ok(Turn(self.clone()));
        }
        queue.arrivals += 1;
        let due = Instant::now() + if is_again { GRACE } else { Duration::ZERO };
        let key = (due, queue.arrivals);
        let (sender, turn) = oneshot::channel();
        queue.waiting.insert(key, sender);
        Err(Waiting { turns: self.clone(), key, turn })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        let next = queue.waiting.pop_first();
        queue.is_taken = next.is_some();
        drop(queue);
        if let Some((_, next)) = next {
            // A turn that comes back is dropped, and so passed on.
            let _ = next.send(Self(self.0.clone()));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::{join, time::timeout};

    use super::*;

    #[tokio::test]
    async fn those_just_answered_come_last_and_the_others_in_their_order() {
        let turns = Turns::default();
        let order = RefCell::new(Vec::new());
        let turn = async |name, is_again| {
            turns.take(is_again).await;
            order.borrow_mut().push(name);
        };
        join!(turn("first", true), turn("again", true), turn("a", false), turn("b", false));
        assert_eq!(*order.borrow(), ["first", "a", "b", "again"]);
        assert!(!turns.lock().is_taken);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_preferred_forever() {
        let turns = Turns::default();
        let held = turns.join(false).unwrap();
        let again = turns.join(true).unwrap_err();
        tokio::time::advance(GRACE + Duration::from_millis(1)).await;
        let late = turns.join(false).unwrap_err();
        drop(held);
        assert!(turns.lock().waiting.contains_key(&late.key));
        assert!(!turns.lock().waiting.contains_key(&again.key));
    }

    #[tokio::test]
    async fn a_turn_of_a_closed_connection_is_passed_on() {
        let turns = Turns::default();
        let held = turns.join(false).unwrap();
        let (closed, granted) = (turns.join(false).unwrap_err(), turns.join(false).unwrap_err());
        drop(closed);
        let last = turns.join(false).unwrap_err();
        drop(held);
        drop(granted);
        let mut last = last;
        assert!((&mut last.turn).await.is_ok());
        drop(last);
        timeout(Duration::from_secs(1), turns.take(true)).await.unwrap();
    }

    #[tokio::test]
    async fn the_reactor_runs_between_two_turns() {
        let turns = Turns::default();
        let other = RefCell::new(0);
        let busy = async {
            for turn in 0..10 {
                turns.take(true).await;
                assert!(*other.borrow() >= turn, "{} before turn {turn}", other.borrow());
            }
        };
        let others = async {
            for _ in 0..20 {
                yield_now().await;
                *other.borrow_mut() += 1;
            }
        };
        join!(busy, others);
    }
}
