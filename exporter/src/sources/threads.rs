//! Threads for reads that may hang.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

use super::error::SourceError;
use crate::expr::values::Source;

/// Starts threads for reads that may hang: at most one for each source, so that they never pile up. A
/// thread that cannot be started is an error like any other.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(Arc<Mutex<BTreeSet<Source>>>);

impl Threads {
    /// Starts a thread that runs `job` for `source` and passes the result to `deliver`.
    pub(super) fn start<T>(
        &self,
        source: Source,
        job: impl FnOnce() -> T + Send + 'static,
        deliver: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), SourceError> {
        if !self.busy().insert(source) {
            return Err(SourceError::Busy);
        }
        let threads = self.clone();
        let work = move || {
            let result = job();
            threads.busy().remove(&source);
            deliver(result);
        };
        thread::Builder::new().name("source".into()).spawn(work).map(drop).map_err(|error| {
            self.busy().remove(&source);
            SourceError::Thread(error)
        })
    }

    /// Runs `job` for `source` on a thread of its own and waits for it. If the caller stops waiting, the
    /// thread runs on.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        source: Source,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SourceError> {
        let (sender, receiver) = oneshot::channel();
        self.start(source, job, |result| {
            // Fails if the caller has stopped waiting.
            let _ = sender.send(result);
        })?;
        Ok(receiver.await?)
    }

    /// The sources that a thread is still reading. The set stays valid even if a holder panicked.
    fn busy(&self) -> MutexGuard<'_, BTreeSet<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
