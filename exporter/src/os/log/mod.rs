//! Logs to standard error, as logfmt or JSON: each kind of message at a limited rate, and without waiting
//! for a reader.

mod filter;
mod limit;
mod writer;

use std::{
    array,
    error::Error,
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    fmt::time::SystemTime,
    layer::{Context, SubscriberExt as _},
    util::{SubscriberInitExt as _, TryInitError},
};

use self::filter::RateLimit;
use self::writer::OWN_TARGET;
pub use self::writer::{Line, LogWriter};

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Counts what happens to the log's messages.
#[derive(Clone, Debug)]
pub struct LogCounts {
    /// Numbers of errors and warnings.
    levels: Arc<[AtomicU64; 2]>,
    writer: LogWriter,
}

impl LogCounts {
    fn new(writer: LogWriter) -> Self {
        Self { levels: Arc::default(), writer }
    }

    /// Messages since start at each level, whether or not they were written: the value of the label
    /// `level`, and the count.
    pub fn by_level(&self) -> [(&'static str, u64); 2] {
        let names = ["error", "warn"];
        array::from_fn(|level| (names[level], self.levels[level].load(Ordering::Relaxed)))
    }

    /// Number of lines dropped since start, because the queue was full or writing failed.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }
}

impl<S: Subscriber> Layer<S> for LogCounts {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // Messages about the log are about messages that have been counted.
        let is_counted = event.metadata().target() != OWN_TARGET;
        let count = match *event.metadata().level() {
            Level::ERROR if is_counted => &self.levels[0],
            Level::WARN if is_counted => &self.levels[1],
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Joins an error and its causes into one line. A cause that the text already ends with is left out:
/// some libraries repeat their source.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => line,
        said => format!("{said}: {cause}"),
    })
}

/// Starts logging for the whole process, through `writer`. The rate of messages with the target
/// `unlimited` is not limited, nor is that of debug messages. Fails if a logger is already set.
pub fn init(
    level: LogLevel,
    format: LogFormat,
    writer: &LogWriter,
    unlimited: &'static str,
) -> Result<LogCounts, TryInitError> {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let counts = LogCounts::new(writer.clone());
    let registry = tracing_subscriber::registry().with(level).with(counts.clone());
    let limit = RateLimit { log: writer.clone(), unlimited };
    let writer = writer.clone();
    match format {
        LogFormat::Logfmt => {
            let lines = tracing_logfmt::builder().with_target(false).layer().with_writer(writer);
            registry.with(lines.with_filter(limit)).try_init()?;
        }
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_timer(SystemTime)
                .with_writer(writer);
            registry.with(lines.with_filter(limit)).try_init()?;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_warnings_and_errors() {
        let counts = LogCounts::new(LogWriter::new(std::io::stderr()));
        let registry = tracing_subscriber::registry().with(counts.clone());
        tracing::subscriber::with_default(registry, || {
            tracing::info!("all is well");
            tracing::warn!("it is not");
            (0..2).for_each(|_| tracing::error!("it is worse"));
        });
        assert_eq!(counts.by_level(), [("error", 2), ("warn", 1)]);
    }
}
