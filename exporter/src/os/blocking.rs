//! Runs jobs that may block forever, because a filesystem can hang.

use std::{future, io, sync::mpsc, thread, time::Duration};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::{Instant, timeout_at},
};

/// Runs one job at a time on a thread of its own. A job that exceeds its time limit keeps the slot
/// until it ends, so that threads never pile up.
#[derive(Debug)]
pub struct BlockingSlot<T> {
    /// The name of the thread.
    name: &'static str,
    running: Option<Running<T>>,
}

/// A job whose result has not been taken.
#[derive(Debug)]
struct Running<T> {
    result: oneshot::Receiver<T>,
    /// When it exceeds its limit; `None` once that has been reported.
    deadline: Option<Instant>,
}

/// The state of a job after waiting for it.
#[derive(Debug)]
pub enum JobStatus<T> {
    /// Its result.
    Done(T),
    /// The time limit passed; the job keeps the slot.
    Running,
    /// It panicked.
    Panicked,
    /// The system allows no further thread.
    NotStarted(io::Error),
}

impl<T> JobStatus<T> {
    /// Says why there is no result.
    pub fn reason(&self) -> String {
        match self {
            Self::Done(_) => "it ended".into(),
            Self::Running => "it is still running".into(),
            Self::Panicked => "it panicked".into(),
            Self::NotStarted(error) => format!("cannot start a thread: {error}"),
        }
    }
}

impl<T: Send + 'static> BlockingSlot<T> {
    /// Creates an idle slot; `name` is that of the thread.
    pub const fn new(name: &'static str) -> Self {
        Self { name, running: None }
    }

    /// Starts a job and waits for it, at most for `limit`. If an earlier job is still running, the new
    /// one is not started; if the earlier one has ended, its result is dropped. If the future is dropped, the job
    /// keeps the slot, too.
    pub async fn run(
        &mut self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JobStatus<T> {
        if let Some(JobStatus::Running) = self.earlier() {
            return JobStatus::Running;
        }
        match self.start(limit, job) {
            Ok(()) => self.finished().await,
            Err(error) => JobStatus::NotStarted(error),
        }
    }

    /// Returns the state of an earlier job that exceeded its limit; `None` if the slot is idle.
    pub fn earlier(&mut self) -> Option<JobStatus<T>> {
        let status = match self.running.as_mut()?.result.try_recv() {
            Ok(result) => JobStatus::Done(result),
            Err(TryRecvError::Closed) => JobStatus::Panicked,
            Err(TryRecvError::Empty) => return Some(JobStatus::Running),
        };
        self.running = None;
        Some(status)
    }

    /// Whether there is no job whose result has not been taken.
    pub const fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Starts a job in an idle slot. [`Self::finished`] waits for it.
    pub fn start(
        &mut self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<()> {
        let (result, deadline) = (self.spawn(job)?, Some(Instant::now() + limit));
        self.running = Some(Running { result, deadline });
        Ok(())
    }

    /// Starts a job with an input in an idle slot. Returns the input if no thread can start.
    pub fn start_with<I: Send + 'static>(
        &mut self,
        limit: Duration,
        input: I,
        job: impl FnOnce(I) -> T + Send + 'static,
    ) -> Result<(), (io::Error, I)> {
        let (sender, receiver) = mpsc::channel();
        let work =
            move || job(receiver.recv().expect("the input is sent once the job has started"));
        if let Err(error) = self.start(limit, work) {
            return Err((error, input));
        }
        // Fails only if the thread is gone, which is noticed when its result is taken.
        let _ = sender.send(input);
        Ok(())
    }

    /// Waits until the job ends, or, once, until it exceeds its limit; forever if the slot is idle. Nothing is
    /// lost if the future is dropped.
    pub async fn finished(&mut self) -> JobStatus<T> {
        let Some(Running { result, deadline }) = &mut self.running else {
            return future::pending().await;
        };
        let ended = match deadline {
            Some(at) => timeout_at(*at, &mut *result).await,
            None => Ok(result.await),
        };
        let Ok(ended) = ended else {
            *deadline = None;
            return JobStatus::Running;
        };
        self.running = None;
        ended.map_or(JobStatus::Panicked, JobStatus::Done)
    }

    fn spawn(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            // Fails if the slot is gone.
            let _ = sender.send(job());
        };
        thread::Builder::new().name(self.name.into()).spawn(work)?;
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn returns_the_result_of_a_job_that_ends_in_time() {
        let mut slot = BlockingSlot::new("test");
        assert!(matches!(slot.run(LONG, || 1).await, JobStatus::Done(1)));
        assert!(slot.earlier().is_none());
        let name = || thread::current().name().map(str::to_owned);
        let status = BlockingSlot::new("test").run(LONG, name).await;
        assert!(matches!(status, JobStatus::Done(Some(name)) if name == "test"));
    }

    #[tokio::test]
    async fn keeps_a_job_that_exceeds_its_limit_until_it_ends() {
        let (release, released) = mpsc::channel();
        let mut slot = BlockingSlot::new("test");
        let job = move || {
            let _ = released.recv();
            1
        };
        assert!(matches!(slot.run(SHORT, job).await, JobStatus::Running));
        assert!(matches!(slot.run(LONG, || 2).await, JobStatus::Running));
        assert!(matches!(slot.earlier(), Some(JobStatus::Running)));
        release.send(()).unwrap();
        let status = loop {
            match slot.earlier() {
                Some(JobStatus::Running) => tokio::time::sleep(SHORT).await,
                status => break status,
            }
        };
        assert!(matches!(status, Some(JobStatus::Done(1))));
        assert!(matches!(slot.run(LONG, || 3).await, JobStatus::Done(3)));
    }

    #[tokio::test]
    async fn keeps_a_job_if_the_caller_stops_waiting() {
        let (release, released) = mpsc::channel();
        let mut slot = BlockingSlot::new("test");
        assert!(timeout(SHORT, slot.run(LONG, move || released.recv().is_ok())).await.is_err());
        assert!(!slot.is_idle());
        release.send(()).unwrap();
        assert!(matches!(slot.finished().await, JobStatus::Done(true)));
    }

    #[tokio::test]
    async fn reports_once_that_a_job_exceeds_its_limit() {
        let (release, released) = mpsc::channel();
        let mut slot = BlockingSlot::new("test");
        assert!(slot.is_idle());
        slot.start(SHORT, move || released.recv().is_ok()).unwrap();
        assert!(matches!(slot.finished().await, JobStatus::Running));
        assert!(timeout(SHORT, slot.finished()).await.is_err());
        assert!(!slot.is_idle());
        release.send(()).unwrap();
        assert!(matches!(slot.finished().await, JobStatus::Done(true)));
        assert!(slot.is_idle());
        assert!(timeout(SHORT, slot.finished()).await.is_err());
    }

    #[tokio::test]
    async fn jobs_have_inputs() {
        let mut slot = BlockingSlot::new("test");
        slot.start_with(LONG, 20, |input| input + 1).unwrap();
        assert!(matches!(slot.finished().await, JobStatus::Done(21)));
    }

    #[tokio::test]
    async fn reports_a_panic_and_is_idle_again() {
        let mut slot = BlockingSlot::new("test");
        let status: JobStatus<()> = slot.run(LONG, || panic!("expected")).await;
        assert!(matches!(status, JobStatus::Panicked));
        assert!(slot.earlier().is_none());
        slot.start(LONG, || panic!("expected")).unwrap();
        assert!(matches!(slot.finished().await, JobStatus::Panicked));
        assert!(slot.is_idle());
    }
}
