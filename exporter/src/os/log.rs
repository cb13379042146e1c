//! Logs to standard error, as logfmt or JSON.

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

/// Number of warnings and errors logged.
#[derive(Clone, Debug, Default)]
pub struct LogCounts(Arc<[AtomicU64; 2]>);

impl LogCounts {
    /// Lines since start: the value of the label `level`, and the count.
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

/// Starts logging for the whole process. Fails if a logger is already set.
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
    fn counts_warnings_and_errors() {
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
