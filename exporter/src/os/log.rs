//! The log: logfmt or JSON, on standard error.

use std::{
    array,
    error::Error,
    io, iter,
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

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the field's")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the field's")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Lines logged at the levels that tell of trouble.
#[derive(Clone, Debug, Default)]
pub struct LogCounts(Arc<[AtomicU64; 2]>);

impl LogCounts {
    /// Lines by level since start: the level's name as a label has it, and how many.
    pub fn read(&self) -> [(&'static str, u64); 2] {
        let names = ["error", "warn"];
        array::from_fn(|level| (names[level], self.0[level].load(Ordering::Relaxed)))
    }
}

impl<S: Subscriber> Layer<S> for LogCounts {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let count = match *event.metadata().level() {
            Level::ERROR => &self.0[0],
            Level::WARN => &self.0[1],
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// An error and its causes in one line, each said once: some libraries repeat what they pass on.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => line,
        said => format!("{said}: {cause}"),
    })
}

/// Starts logging for the whole process. Fails where a logger is already set.
pub fn init(level: LogLevel, format: LogFormat) -> Result<LogCounts, TryInitError> {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let counts = LogCounts::default();
    let registry = tracing_subscriber::registry().with(level).with(counts.clone());
    match format {
        LogFormat::Logfmt => registry
            .with(tracing_logfmt::builder().with_target(false).layer().with_writer(io::stderr))
            .try_init()?,
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_target(false)
                    .with_timer(SystemTime)
                    .with_writer(io::stderr),
            )
            .try_init()?,
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_tell_of_trouble_are_counted_by_level() {
        let counts = LogCounts::default();
        let registry = tracing_subscriber::registry().with(counts.clone());
        tracing::subscriber::with_default(registry, || {
            tracing::info!("all is well");
            tracing::warn!("it is not");
            (0..2).for_each(|_| tracing::error!("it is worse"));
        });
        assert_eq!(counts.read(), [("error", 2), ("warn", 1)]);
    }
}
