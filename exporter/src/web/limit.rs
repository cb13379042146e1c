//! Limits how many scrapes are answered at the same time.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// The permits of scrapes.
#[derive(Debug)]
pub(super) struct Limit {
    /// `None` means no limit.
    permits: Option<Arc<Semaphore>>,
    /// Held by the scrape whose turn it is to get the next permit.
    front: Mutex<()>,
}

/// A permit to answer a scrape, returned when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl Limit {
    /// At most `max` scrapes; 0 means no limit.
    pub(super) fn new(max: usize) -> Self {
        let permits = (max > 0).then(|| Arc::new(Semaphore::new(max)));
        Self { permits, front: Mutex::new(()) }
    }

    /// Waits for a permit, for as long as `patience`. At the limit, scrapes queue; the one at the front
    /// calls `give_up` every `retry` until that says that it has ended an answer.
    pub(super) async fn permit(
        &self,
        patience: Duration,
        retry: Duration,
        give_up: impl Fn() -> bool,
    ) -> Option<Permit> {
        let Some(permits) = &self.permits else { return Some(Permit(None)) };
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(Permit(Some(permit)));
        }
        let acquired = async {
            let _front = self.front.lock().await;
            let mut permit = pin!(Arc::clone(permits).acquire_owned());
            while permits.available_permits() == 0 && !give_up() {
                select! {
                    biased;
                    permit = &mut permit => return permit,
                    () = sleep(retry) => {}
                }
            }
            permit.await
        };
        let permit = timeout(patience, acquired).await.ok()?.ok()?;
        Some(Permit(Some(permit)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::join;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);
    const RETRY: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_given_up() {
        let limit = Limit::new(0);
        let get = || limit.permit(PATIENCE, RETRY, || panic!("no limit"));
        assert!(get().await.is_some() && get().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn each_scrape_at_the_limit_gives_up_one() {
        let limit = Limit::new(3);
        let held = RefCell::new(Vec::new());
        for _ in 0..3 {
            let permit = limit.permit(PATIENCE, RETRY, || panic!("below the limit")).await;
            held.borrow_mut().push(permit.unwrap());
        }
        let give_up = || held.borrow_mut().pop().is_some();
        let get = || limit.permit(PATIENCE, RETRY, give_up);
        let (a, b) = join!(get(), get());
        assert!(a.is_some() && b.is_some());
        assert_eq!(held.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_scrapes_gets_permits_in_turn() {
        let limit = Limit::new(2);
        // Answers that are stuck.
        let held = RefCell::new(Vec::new());
        let give_up = || held.borrow_mut().pop().is_some();
        let scrape = async || {
            let permit = limit.permit(PATIENCE, RETRY, give_up).await;
            // It is stuck after a while.
            sleep(RETRY).await;
            held.borrow_mut().push(permit.unwrap());
        };
        let five = async || {
            join!(scrape(), scrape(), scrape(), scrape(), scrape());
        };
        join!(five(), five(), five(), five());
        assert_eq!(held.borrow().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_its_patience_if_none_can_be_given_up() {
        let limit = Limit::new(1);
        let held = limit.permit(PATIENCE, RETRY, || false).await.unwrap();
        assert!(limit.permit(PATIENCE, RETRY, || false).await.is_none());
        let ends = async {
            sleep(PATIENCE / 2).await;
            drop(held);
        };
        let (permit, ()) = join!(limit.permit(PATIENCE, RETRY, || false), ends);
        assert!(permit.is_some());
        drop(permit);
        assert!(limit.permit(PATIENCE, RETRY, || false).await.is_some());
    }
}
