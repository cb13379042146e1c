//! Shares renderings between scrapes, and bounds the memory of those that are being sent.
//!
//! A scrape waits for its turn before it renders. All scrapes that want the same and arrive before that
//! share the rendering. One that arrives later is not served an older snapshot: it gets its own.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::watch,
    task::yield_now,
    time::{sleep, timeout},
};

use super::memory::{Held, Memory};
use crate::{exposition::Format, metrics::selection::Selection};

/// No rendering begins while those that are being sent have this size, in bytes. The last may exceed it.
const MAX_BYTES: usize = 16 << 20;

/// How long a scrape waits for its turn and for room.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

/// How often a scrape looks again for an answer that can be given up for it.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// What a scrape wants. Those that want the same can share a rendering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The format.
    pub(super) format: Format,
    /// Whether to compress it, if that is worth it.
    pub(super) gzip: bool,
    /// The families.
    pub(super) selection: Selection,
    /// Whether its connection has just been answered. Others come first, so they do not share.
    pub(super) is_again: bool,
}

/// The body of an answer to scrapes.
#[derive(Debug)]
pub(super) struct Rendering {
    bytes: Vec<u8>,
    is_gzip: bool,
    in_flight: Arc<AtomicUsize>,
    _held: Held,
}

/// Why there is no rendering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The kernel's records cannot be read. It has been logged.
    Unreadable,
    /// Answers that clients are reading take all the room.
    NoRoom,
}

type Outcome = Result<Arc<Rendering>, Missing>;

/// A rendering that has not begun; the scrapes that wait for it own it.
type Pending = watch::Sender<Option<Outcome>>;

/// The renderings that are wanted, and the size of those that are being sent.
pub(super) struct Renderings {
    pending: Mutex<Vec<(Wanted, Weak<Pending>)>>,
    in_flight: Arc<AtomicUsize>,
    memory: Arc<Memory>,
}

impl Rendering {
    /// The body.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is compressed.
    pub(super) fn is_gzip(&self) -> bool {
        self.is_gzip
    }
}

impl Drop for Rendering {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes.capacity(), Ordering::Relaxed);
    }
}

impl Renderings {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { pending: Mutex::default(), in_flight: Arc::default(), memory }
    }

    /// Waits for `turn`, then renders; or takes the rendering of another scrape, if that begins in the
    /// meantime. `give_up` ends an answer whose client does not read it, and returns whether it did.
    /// `render` returns the body and whether it is compressed.
    pub(super) async fn get(
        &self,
        wanted: Wanted,
        turn: impl Future<Output = ()>,
        give_up: impl Fn() -> bool,
        render: impl FnOnce(&Wanted) -> Result<(Vec<u8>, bool), Missing>,
    ) -> Outcome {
        let pending = self.join(&wanted);
        let mut shared = pending.subscribe();
        let ready = async {
            turn.await;
            self.has_room() || timeout(PATIENCE, self.room(give_up)).await.is_ok()
        };
        select! {
            biased;
            Ok(outcome) = shared.wait_for(Option::is_some) => {
                return outcome.clone().unwrap_or(Err(Missing::Unreadable));
            }
            has_room = ready => if !has_room { return Err(Missing::NoRoom) },
        }
        // Scrapes that arrive from now on are too late for the snapshot.
        self.lock().retain(|(_, other)| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&pending)));
        let outcome = render(&wanted).map(|(bytes, is_gzip)| Arc::new(self.keep(bytes, is_gzip)));
        pending.send_replace(Some(outcome.clone()));
        outcome
    }

    /// The rendering that scrapes with the same wish wait for; a new one if there is none.
    fn join(&self, wanted: &Wanted) -> Arc<Pending> {
        let mut pending = self.lock();
        // Those whose clients have all gone away.
        pending.retain(|(_, rendering)| rendering.strong_count() > 0);
        let same = pending.iter().find(|(of, _)| of == wanted);
        if let Some(same) = same.and_then(|(_, rendering)| rendering.upgrade()) {
            return same;
        }
        let new = Arc::new(watch::Sender::new(None));
        pending.push((wanted.clone(), Arc::downgrade(&new)));
        new
    }

    fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < MAX_BYTES
    }

    /// Waits until there is room for a rendering.
    async fn room(&self, give_up: impl Fn() -> bool) {
        while !self.has_room() {
            if give_up() {
                // Lets its connection end.
                yield_now().await;
            } else {
                sleep(RETRY).await;
            }
        }
    }

    fn keep(&self, mut bytes: Vec<u8>, is_gzip: bool) -> Rendering {
        // A little more than needed is not worth the cost of moving it.
        if bytes.capacity() > 2 * bytes.len() {
            bytes.shrink_to_fit();
        }
        let capacity = bytes.capacity();
        self.in_flight.fetch_add(capacity, Ordering::Relaxed);
        let in_flight = Arc::clone(&self.in_flight);
        Rendering { bytes, is_gzip, in_flight, _held: self.memory.hold(capacity) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Wanted, Weak<Pending>)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future};

    use tokio::{join, sync::oneshot};

    use super::*;

    const TEXT: Format = Format::Text;

    fn renderings() -> Renderings {
        Renderings::new(Arc::new(Memory::default()))
    }

    fn wanted(format: Format) -> Wanted {
        Wanted { format, gzip: false, selection: Selection::ALL, is_again: false }
    }

    /// Gets a rendering on the next turn of the reactor; each says how many came before it.
    async fn get(renderings: &Renderings, wanted: Wanted, count: &RefCell<u8>) -> Arc<Rendering> {
        let render = |_: &Wanted| {
            *count.borrow_mut() += 1;
            Ok((vec![*count.borrow()], false))
        };
        renderings.get(wanted, yield_now(), || false, render).await.unwrap()
    }

    #[tokio::test]
    async fn scrapes_of_one_moment_share_a_rendering() {
        let (renderings, count) = (renderings(), RefCell::default());
        let get = || get(&renderings, wanted(TEXT), &count);
        let (a, b, c) = join!(get(), get(), get());
        assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
        let later = get().await;
        assert_eq!((a.bytes(), later.bytes()), (&[1][..], &[2][..]));
    }

    #[tokio::test]
    async fn a_scrape_that_starts_after_the_snapshot_gets_a_newer_one() {
        let (renderings, count) = (renderings(), RefCell::default());
        let mut late = None;
        let render = |_: &Wanted| {
            // A scrape arrives while the first is rendered.
            late = Some(Box::pin(get(&renderings, wanted(TEXT), &count)));
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            assert!(late.as_mut().unwrap().as_mut().poll(&mut context).is_pending());
            Ok((vec![0], false))
        };
        let first = renderings.get(wanted(TEXT), yield_now(), || false, render).await.unwrap();
        assert_eq!(first.bytes(), [0]);
        assert_eq!(late.unwrap().await.bytes(), [1]);
    }

    #[tokio::test]
    async fn different_wishes_are_rendered_apart() {
        let (renderings, count) = (renderings(), RefCell::default());
        let gzip = Wanted { gzip: true, ..wanted(TEXT) };
        let selection = Selection::of_collectors(&["cpu"]).unwrap();
        let cpu = Wanted { selection, ..wanted(TEXT) };
        let again = Wanted { is_again: true, ..wanted(TEXT) };
        let together = async |first: Wanted, second: Wanted| {
            let (first, second) =
                join!(get(&renderings, first, &count), get(&renderings, second, &count));
            Arc::ptr_eq(&first, &second)
        };
        assert!(together(wanted(TEXT), wanted(TEXT)).await);
        for other in [wanted(Format::OpenMetrics), gzip, cpu, again] {
            assert!(!together(wanted(TEXT), other.clone()).await, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_scrape_whose_turn_never_comes_takes_the_rendering_of_another() {
        let (renderings, count) = (renderings(), RefCell::default());
        let never =
            renderings.get(wanted(TEXT), future::pending(), || false, |_| panic!("rendered twice"));
        let (shared, own) = join!(never, get(&renderings, wanted(TEXT), &count));
        assert!(Arc::ptr_eq(&shared.unwrap(), &own));
    }

    #[tokio::test]
    async fn a_scrape_that_goes_away_leaves_the_rendering_to_the_others() {
        let (renderings, count) = (renderings(), RefCell::default());
        let first = renderings.get(wanted(TEXT), future::pending(), || false, |_| panic!("gone"));
        let second = get(&renderings, wanted(TEXT), &count);
        let (gone, left) = oneshot::channel();
        let leaves = async {
            select! { biased; _ = left => {}, _ = first => panic!("it had no turn") }
        };
        let goes = async {
            let _ = gone.send(());
        };
        let ((), (), second) = join!(leaves, goes, second);
        assert_eq!(second.bytes(), [1]);
        assert!(renderings.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_one_moment_share_a_failure() {
        let renderings = renderings();
        let fails = || {
            renderings.get(
                wanted(TEXT),
                yield_now(),
                || false,
                |_| Err::<(Vec<u8>, bool), _>(Missing::Unreadable),
            )
        };
        let (a, b) = join!(fails(), fails());
        assert_eq!(a.unwrap_err(), Missing::Unreadable);
        assert_eq!(b.unwrap_err(), Missing::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_as_many_answers_as_needed() {
        let renderings = renderings();
        let large = |_: &Wanted| Ok((vec![0; MAX_BYTES / 4], false));
        let held = RefCell::new(Vec::new());
        for _ in 0..4 {
            let rendering = renderings.get(wanted(TEXT), yield_now(), || panic!("room"), large);
            // Two readers each.
            let rendering = rendering.await.unwrap();
            held.borrow_mut().extend([Arc::clone(&rendering), rendering]);
        }
        let give_up = || {
            held.borrow_mut().remove(0);
            true
        };
        renderings.get(wanted(TEXT), yield_now(), give_up, large).await.unwrap();
        assert_eq!(held.borrow().len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_room_and_then_says_that_there_is_none() {
        let renderings = renderings();
        let large = |_: &Wanted| Ok((vec![0; MAX_BYTES], false));
        let get = || renderings.get(wanted(TEXT), yield_now(), || false, large);
        let full = get().await.unwrap();
        assert_eq!(get().await.unwrap_err(), Missing::NoRoom);
        let ends = async {
            sleep(PATIENCE / 2).await;
            drop(full);
        };
        let (got, ()) = join!(get(), ends);
        assert!(got.is_ok());
    }
}
