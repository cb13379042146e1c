//! Runs jobs that may block forever, because a filesystem can hang.

use std::{mem, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

/// Runs one job at a time on a thread of its own. A job that exceeds its time limit keeps the slot
/// until it ends.
#[derive(Debug, Default)]
pub(super) enum BlockingSlot<T> {
    #[default]
    Idle,
    Running(JoinHandle<T>),
}

/// The state of a job after waiting for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JobStatus<T> {
    Done(T),
    /// The time limit passed; the job keeps the slot.
    Running,
    Panicked,
}

impl<T: Send + 'static> BlockingSlot<T> {
    /// Starts a job and waits for it, at most for `limit`. If an earlier job is still running, the new
    /// one is not started; if the earlier one has ended, its result is dropped.
    pub(super) async fn run(
        &mut self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JobStatus<T> {
        if let Some(JobStatus::Running) = self.earlier().await {
            return JobStatus::Running;
        }
        self.wait(spawn_blocking(job), limit).await
    }

    /// Returns the state of an earlier job that exceeded its limit; `None` if the slot is idle.
    pub(super) async fn earlier(&mut self) -> Option<JobStatus<T>> {
        match mem::take(self) {
            Self::Idle => None,
            Self::Running(thread) => Some(self.wait(thread, Duration::ZERO).await),
        }
    }

    async fn wait(&mut self, mut thread: JoinHandle<T>, limit: Duration) -> JobStatus<T> {
        match timeout(limit, &mut thread).await {
            Ok(Ok(result)) => JobStatus::Done(result),
            Ok(Err(_)) => JobStatus::Panicked,
            Err(_) => {
                *self = Self::Running(thread);
                JobStatus::Running
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn returns_the_result_of_a_job_that_ends_in_time() {
        let mut slot = BlockingSlot::Idle;
        assert_eq!(slot.run(LONG, || 1).await, JobStatus::Done(1));
        assert_eq!(slot.earlier().await, None);
    }

    #[tokio::test]
    async fn keeps_a_job_that_exceeds_its_limit_until_it_ends() {
        let (release, released) = mpsc::channel();
        let mut slot = BlockingSlot::Idle;
        let job = move || {
            let _ = released.recv();
            1
        };
        assert_eq!(slot.run(SHORT, job).await, JobStatus::Running);
        assert_eq!(slot.run(LONG, || 2).await, JobStatus::Running);
        assert_eq!(slot.earlier().await, Some(JobStatus::Running));
        release.send(()).unwrap();
        let status = loop {
            match slot.earlier().await {
                Some(JobStatus::Running) => tokio::time::sleep(SHORT).await,
                status => break status,
            }
        };
        assert_eq!(status, Some(JobStatus::Done(1)));
        assert_eq!(slot.run(LONG, || 3).await, JobStatus::Done(3));
    }

    #[tokio::test]
    async fn reports_a_panic_and_is_idle_again() {
        let mut slot = BlockingSlot::Idle;
        assert_eq!(slot.run(LONG, || panic!("expected")).await, JobStatus::<()>::Panicked);
        assert_eq!(slot.earlier().await, None);
    }
}
