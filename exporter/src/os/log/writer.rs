//! Writes the log to standard error on a thread of its own, so that a reader that stops reading delays
//! nothing else.
//!
//! Own code, because `tracing-appender` panics if its thread cannot be started, and bounds its queue by
//! lines rather than by bytes.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    fmt::{self, Write as _},
    io, mem,
    os::fd::AsFd,
    panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd,
};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::limit::{LeftOut, Limiter, Message};

/// The target of the log's messages about itself, which are those of this module.
pub(super) const OWN_TARGET: &str = module_path!();

/// Queue lines while those in the queue are shorter than this in total. A single line can be long, such
/// as the verifier's log.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// How long [`LogWriter::flush`] waits for the reader of standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// While lines are being dropped, log their number once per period.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// The log's queue and its thread. Clones share both.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

struct Shared {
    output: Box<dyn AsFd + Send + Sync>,
    state: Mutex<State>,
    /// Notified when the thread has work, and when it has none left.
    changed: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// Total length of `lines`.
    bytes: usize,
    limiter: Limiter,
    /// Number of lines dropped since start.
    dropped: u64,
    /// Number of lines dropped that the log does not mention yet.
    unreported: u64,
    /// When to report lines as dropped, even if the queue does not get empty.
    report_at: Instant,
    /// Whether the last line was written.
    is_writable: bool,
    /// Whether everything must be logged now.
    is_closing: bool,
    thread: Thread,
}

/// The state of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    NotStarted,
    Busy,
    /// There is nothing to do.
    Idle,
}

/// What the thread does next.
enum Work {
    Write(Vec<u8>),
    ReportLeftOut(Vec<LeftOut>),
    /// The number of lines dropped since the last report.
    ReportDropped(u64),
}

impl LogWriter {
    /// A queue of lines for `output`. Nothing is written until [`LogWriter::start`] or
    /// [`LogWriter::flush`] is called.
    pub fn new(output: impl AsFd + Send + Sync + 'static) -> Self {
        let state = State {
            lines: VecDeque::new(),
            bytes: 0,
            limiter: Limiter::default(),
            dropped: 0,
            unreported: 0,
            report_at: Instant::now(),
            is_writable: true,
            is_closing: false,
            thread: Thread::NotStarted,
        };
        let (output, state) = (Box::new(output), Mutex::new(state));
        Self(Arc::new(Shared { output, state, changed: Condvar::new() }))
    }

    /// Starts the thread, unless it is running.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.thread == Thread::NotStarted {
            let shared = Arc::clone(&self.0);
            thread::Builder::new().name("log".into()).spawn(move || shared.run())?;
            state.thread = Thread::Busy;
        }
        Ok(())
    }

    /// Queues text that is no message of the log, even if the queue is full.
    pub fn print(&self, text: &str) {
        self.0.push(text.as_bytes(), true);
    }

    /// Replaces the panic hook by one that prints through this writer. A panic may end the process at
    /// once, so the hook waits as [`LogWriter::flush`] does.
    pub fn print_panics(&self) {
        let log = self.clone();
        panic::set_hook(Box::new(move |panic| {
            let thread = thread::current();
            let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("unnamed"));
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                let _ = write!(text, "{backtrace}");
            }
            log.print(&text);
            log.flush();
        }));
    }

    /// Waits until every line is written, at most for a second. Starts the thread if necessary, and
    /// does its work on this thread if it cannot be started.
    pub fn flush(&self) {
        let shared = &self.0;
        if self.start().is_err() {
            let deadline = Instant::now() + FLUSH_TIMEOUT;
            while let Some(work) = shared.take(Instant::now()) {
                shared.perform(work, Some(deadline));
            }
            return;
        }
        let is_busy = |state: &mut State| state.thread == Thread::Busy;
        let waited = shared.changed.wait_timeout_while(shared.lock(), FLUSH_TIMEOUT, is_busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Logs what was left out so far, and flushes. Call it before the process ends.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.is_closing = true;
        self.0.wake(state);
        self.flush();
    }

    /// Number of lines that were not written, because the queue was full or writing failed.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Whether to log a message now; see [`Limiter`].
    pub(super) fn admit(&self, site: &'static Metadata<'static>, message: Message) -> bool {
        let mut state = self.0.lock();
        let pending = state.limiter.pending();
        let is_admitted = state.limiter.admit(site, message, Instant::now());
        if state.limiter.pending() > pending {
            // The thread must wait for one more kind.
            self.0.wake(state);
        }
        is_admitted
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if state.thread == Thread::Idle {
            state.thread = Thread::Busy;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Queues a line, or drops it if the queue is full, unless it `must_fit`.
    fn push(&self, line: &[u8], must_fit: bool) {
        let mut state = self.lock();
        if state.bytes >= MAX_QUEUED_BYTES && !must_fit {
            state.dropped += 1;
            state.unreported += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.wake(state);
    }

    /// The thread.
    fn run(&self) {
        loop {
            let work = self.wait();
            self.perform(work, None);
        }
    }

    /// Waits for work.
    fn wait(&self) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(work) = state.take(now) {
                return work;
            }
            state.thread = Thread::Idle;
            self.changed.notify_all();
            state = match state.limiter.wait(now) {
                Some(limit) => {
                    let waited = self.changed.wait_timeout(state, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.thread = Thread::Busy;
        }
    }

    fn take(&self, now: Instant) -> Option<Work> {
        self.lock().take(now)
    }

    /// Does some work; writes only until the deadline.
    fn perform(&self, work: Work, deadline: Option<Instant>) {
        match work {
            Work::Write(line) => {
                let written = write(&self.output, &line, deadline);
                let mut state = self.lock();
                state.is_writable = written.is_ok();
                state.dropped += u64::from(written.is_err());
                state.unreported += u64::from(written.is_err());
            }
            Work::ReportLeftOut(kinds) => kinds.into_iter().for_each(report_left_out),
            Work::ReportDropped(count) => {
                let reason = "standard error was not read in time, or could not be written to";
                tracing::warn!(count, reason, "log messages dropped");
            }
        }
    }
}

impl State {
    fn take(&mut self, now: Instant) -> Option<Work> {
        let left_out = self.limiter.take(now, self.is_closing);
        if !left_out.is_empty() {
            return Some(Work::ReportLeftOut(left_out));
        }
        let is_due = self.lines.is_empty() || self.report_at <= now;
        if self.unreported > 0 && self.is_writable && is_due {
            self.report_at = now + REPORT_PERIOD;
            return Some(Work::ReportDropped(mem::take(&mut self.unreported)));
        }
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some(Work::Write(line))
    }
}

/// Logs how many messages of a kind were left out, and the last of them, at their level.
fn report_left_out(LeftOut { level, count, last }: LeftOut) {
    let Message { text, fields, .. } = last;
    macro_rules! report {
        ($level:ident) => {
            tracing::$level!(count, of = text, last = fields, "messages left out")
        };
    }
    match level {
        Level::ERROR => report!(error),
        Level::WARN => report!(warn),
        _ => report!(info),
    }
}

/// Writes a line. If there is a deadline, fails rather than waits longer for the reader.
fn write(output: impl AsFd, mut line: &[u8], deadline: Option<Instant>) -> Result<(), Errno> {
    while !line.is_empty() {
        if deadline.is_some() {
            wait_for_room(&output, deadline)?;
        }
        // A pipe with room takes this much without blocking.
        let part = &line[..line.len().min(libc::PIPE_BUF)];
        match unistd::write(&output, part) {
            Ok(0) => return Err(Errno::EIO),
            Ok(length) => line = &line[length..],
            Err(Errno::EINTR) => {}
            // Whoever opened it has made it non-blocking.
            Err(Errno::EAGAIN) => wait_for_room(&output, deadline)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the reader has made room.
fn wait_for_room(output: impl AsFd, deadline: Option<Instant>) -> Result<(), Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit =
            left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::ZERO));
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)], limit) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { shared: &self.0, must_fit: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { shared: &self.0, must_fit: metadata.target() == OWN_TARGET }
    }
}

/// Queues each write as a line.
#[derive(Debug)]
pub struct Line<'a> {
    shared: &'a Shared,
    must_fit: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.push(line, self.must_fit);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _, pipe};

    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;
    use crate::os::log::{LogCounts, filter::RateLimit};

    fn log() -> (LogWriter, PipeReader) {
        let (reader, output) = pipe().unwrap();
        (LogWriter::new(output), reader)
    }

    /// Logs `events` to `log`, and does the work of its thread on this one.
    fn logged(log: &LogWriter, events: impl FnOnce()) -> [(&'static str, u64); 2] {
        let counts = LogCounts::new(log.clone());
        let lines = tracing_logfmt::builder().with_target(false).with_timestamp(false).layer();
        let limit = RateLimit { log: log.clone(), unlimited: "unlimited" };
        let lines = lines.with_writer(log.clone()).with_filter(limit);
        with_default(tracing_subscriber::registry().with(lines).with(counts.clone()), || {
            events();
            work(log);
        });
        counts.by_level()
    }

    fn work(log: &LogWriter) {
        while let Some(work) = log.0.take(Instant::now()) {
            log.0.perform(work, None);
        }
    }

    /// Everything that was written, once nobody writes any more.
    fn text(log: LogWriter, mut reader: PipeReader) -> String {
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_reader_that_stops_reading_delays_nothing_and_loses_only_what_is_counted() {
        const LINES: usize = 10_000;
        let (log, mut reader) = log();
        log.start().unwrap();
        for number in 0..LINES {
            log.0.push(format!("{number:99}\n").as_bytes(), false);
        }
        let asked = Instant::now();
        log.flush();
        assert!((FLUSH_TIMEOUT..FLUSH_TIMEOUT * 5).contains(&asked.elapsed()));
        let dropped = log.dropped();
        let kept = LINES - usize::try_from(dropped).unwrap();
        assert!(dropped > 1_000 && kept * 100 >= MAX_QUEUED_BYTES, "{dropped}");
        let mut text = vec![0; kept * 100];
        reader.read_exact(&mut text).unwrap();
        let lines = str::from_utf8(&text).unwrap().lines();
        let numbers: Vec<usize> = lines.map(|line| line.trim().parse().unwrap()).collect();
        assert!(numbers.len() == kept && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        // It flows again.
        log.print("the end\n");
        log.flush();
        reader.read_exact(&mut text[..8]).unwrap();
        assert_eq!(&text[..8], b"the end\n");
    }

    #[test]
    fn the_number_of_lines_dropped_is_logged_once() {
        let (log, reader) = log();
        let lines = MAX_QUEUED_BYTES / 64;
        (0..lines + 7).for_each(|_| log.0.push(&[b'\n'; 64], false));
        let reading = {
            let log = log.clone();
            thread::spawn(move || {
                logged(&log, || ());
                logged(&log, || tracing::info!("last"));
            })
        };
        let text = text(log, reader);
        reading.join().unwrap();
        let expected = "level=warn message=\"log messages dropped\" count=7 reason=\"standard error \
                        was not read in time, or could not be written to\"\nlevel=info message=last\n";
        assert_eq!(text.trim_start(), expected);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (log, reader) = log();
        drop(reader);
        for _ in 0..3 {
            logged(&log, || tracing::warn!("nobody reads this"));
        }
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn messages_left_out_are_counted_and_the_last_is_shown() {
        let (log, reader) = log();
        let counted = logged(&log, || {
            for number in 1..=30 {
                tracing::error!(reason = "why not", number, "it failed");
                tracing::debug!(reason = "why not", number, "details");
                tracing::info!(target: "unlimited", reason = "why not", number, "more");
                tracing::debug!(target: "h2::codec", number, "frame");
            }
        });
        assert_eq!(counted, [("error", 30), ("warn", 0)]);
        log.0.lock().is_closing = true;
        logged(&log, || ());
        let text = text(log, reader);
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        let parts = [" message=\"it failed\"", "details", "more", "frame"];
        assert_eq!(parts.map(count), [10, 30, 30, 0]);
        let end = "level=error message=\"messages left out\" count=20 of=\"it failed\" \
                   last=\"reason=\\\"why not\\\" number=30\"\n";
        assert!(text.ends_with(end), "{text}");
    }
}
