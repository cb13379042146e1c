//! Counts the memory that clients cause to be held, and gives it back to the kernel after a burst.
//! Without that, the allocator keeps what has been freed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

/// What a connection holds apart from its answer: hyper's buffers and its task.
pub(super) const CONNECTION_BYTES: usize = 20 << 10;

/// What TLS adds to that: its state, and the records that are being received and sent.
pub(super) const TLS_BYTES: usize = 40 << 10;

/// A burst begins when this much is held.
const BURST_BYTES: usize = 2 << 20;

/// A burst is over when less than this is held.
const CALM_BYTES: usize = 1 << 20;

/// How long after memory was released to look whether a burst is over.
const DELAY: Duration = Duration::from_secs(1);

/// The memory held by connections and answers, approximately.
#[derive(Debug, Default)]
pub(super) struct Memory {
    held: AtomicUsize,
    is_burst: AtomicBool,
    released: Notify,
}

/// Some bytes that count as held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    /// Counts `bytes` as held.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held >= BURST_BYTES {
            self.is_burst.store(true, Ordering::Relaxed);
        }
        Held { memory: Arc::clone(self), bytes }
    }

    /// Calls `trim` after each burst; never returns.
    pub(super) async fn trim_after_bursts(&self, mut trim: impl FnMut()) {
        loop {
            self.released.notified().await;
            sleep(DELAY).await;
            let is_calm = self.held.load(Ordering::Relaxed) < CALM_BYTES;
            if is_calm && self.is_burst.swap(false, Ordering::Relaxed) {
                trim();
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.memory.is_burst.load(Ordering::Relaxed) {
            self.memory.released.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{select, time::advance};

    use super::*;

    /// Trims while `client` runs; returns how often.
    async fn trims(memory: &Memory, client: impl Future<Output = ()>) -> u32 {
        let trims = Cell::new(0);
        select! {
            () = memory.trim_after_bursts(|| trims.set(trims.get() + 1)) => {}
            () = client => {}
        }
        trims.get()
    }

    #[tokio::test(start_paused = true)]
    async fn trims_once_after_a_burst() {
        let memory = Arc::new(Memory::default());
        let burst = async {
            let held: Vec<_> = (0..10).map(|_| memory.hold(BURST_BYTES / 4)).collect();
            sleep(DELAY * 2).await;
            drop(held);
            sleep(DELAY * 10).await;
            drop(memory.hold(CALM_BYTES));
            sleep(DELAY * 10).await;
        };
        assert_eq!(trims(&memory, burst).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_trim_while_much_is_held() {
        let memory = Arc::new(Memory::default());
        let kept = memory.hold(CALM_BYTES);
        let stuck = async {
            drop(memory.hold(BURST_BYTES));
            advance(DELAY * 10).await;
            sleep(DELAY).await;
        };
        assert_eq!(trims(&memory, stuck).await, 0);
        let end = async {
            drop(kept);
            sleep(DELAY * 2).await;
        };
        assert_eq!(trims(&memory, end).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_trim_after_little() {
        let memory = Arc::new(Memory::default());
        let small = async {
            for _ in 0..100 {
                drop(memory.hold(BURST_BYTES - 1));
                sleep(DELAY).await;
            }
        };
        assert_eq!(trims(&memory, small).await, 0);
    }
}
