//! Runs work that can hang, such as reads from a network filesystem, and says what it is waiting for.

use std::{
    fmt::Display,
    io,
    os::fd::AsFd as _,
    panic,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};
use tokio::{
    sync::oneshot,
    time::{Instant, interval_at},
};

/// How long a step may take before it is reported, and how often it is reported again.
const PATIENCE: Duration = Duration::from_secs(3);
const REPEAT: Duration = Duration::from_mins(1);

/// What the work is doing.
#[derive(Clone, Debug, Default)]
pub struct Step(Arc<Mutex<String>>);

impl Step {
    /// Starts to read a file.
    pub fn reading(&self, path: &Path) {
        self.set(format!("still reading `{}`: the filesystem does not respond", path.display()));
    }

    /// Starts something else; `what` completes "still …".
    pub fn doing(&self, what: impl Display) {
        self.set(format!("still {what}"));
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `work` on a thread of its own, which has ended when this returns. While it takes long, writes the
/// current step to standard error. If the caller stops waiting, the thread is left to finish.
///
/// Fails if no thread can be started. Call it inside a tokio runtime.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&Step) -> T + Send + 'static,
) -> io::Result<T> {
    let step = Step::default();
    let (sender, mut receiver) = oneshot::channel();
    let on_thread = {
        let step = step.clone();
        // If nobody waits any more, the result is dropped.
        move || drop(sender.send(work(&step)))
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(on_thread)?;
    let mut reports = interval_at(Instant::now() + PATIENCE, REPEAT);
    let result = loop {
        tokio::select! {
            result = &mut receiver => break result,
            _ = reports.tick() => report(&step.get()),
        }
    };
    // It ends once it has sent its result, or with a panic instead.
    let joined = thread.join();
    match result {
        Ok(result) => Ok(result),
        Err(_) => panic::resume_unwind(joined.err().unwrap_or_else(|| Box::new("no result"))),
    }
}

/// Writes a line to standard error, unless that would block. It does not use the log, which may be what
/// the work waits for.
fn report(step: &str) {
    let mut line = format!("sched_exporter: {step}\n").into_bytes();
    // A pipe that is ready takes at least this much.
    line.truncate(libc::PIPE_BUF);
    let stderr = io::stderr();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO) == Ok(1) {
        // There is nowhere to report that it failed.
        let _ = write(stderr.as_fd(), &line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_the_result_once_the_thread_has_ended() {
        let name = run("work", |_| thread::current().name().map(str::to_owned)).await.unwrap();
        assert_eq!(name.as_deref(), Some("work"));
    }

    #[tokio::test]
    #[should_panic(expected = "as expected")]
    async fn passes_a_panic_on() {
        run::<()>("work", |_| panic!("as expected")).await.unwrap();
    }

    #[test]
    fn names_the_step() {
        let step = Step::default();
        step.reading(Path::new("/net/exporter.yaml"));
        assert_eq!(
            step.get(),
            "still reading `/net/exporter.yaml`: the filesystem does not respond"
        );
        step.doing("binding");
        assert_eq!(step.get(), "still binding");
    }
}
