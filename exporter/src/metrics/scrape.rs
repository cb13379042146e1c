//! A scrape: reads the kernel's map once and renders it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    exposition::{Encoder, Format},
    generation::Current,
    kernel::scheduler::{ReadError, Scheduler, monotonic_ns},
    metrics::{
        catalog::{Source, State},
        process::{ProcessReader, ProcessStats},
        render::{capacity, render},
        selection::Selection,
        telemetry::Telemetry,
    },
    os::log::{self, LogCounts},
};

/// Renders expositions. Holds everything that a scrape reads.
pub struct Exporter {
    scheduler: Arc<Scheduler>,
    current: Current,
    telemetry: Telemetry,
    log_counts: LogCounts,
    process: ProcessReader,
    /// When the counters started, in seconds since the epoch; `None` to leave `_created` out.
    created: Option<f64>,
}

impl Exporter {
    /// Combines the parts of a scrape. `created` adds `_created` samples.
    pub fn new(
        scheduler: Arc<Scheduler>,
        current: Current,
        telemetry: Telemetry,
        log_counts: LogCounts,
        created: bool,
    ) -> Self {
        let created = created.then(|| wall_clock_of(scheduler.attached_at()));
        let process = ProcessReader::default();
        Self { scheduler, current, telemetry, log_counts, process, created }
    }

    /// Reads the kernel's map once and renders the families in `selection` under one generation of the
    /// configuration.
    pub fn scrape(&self, format: Format, selection: &Selection) -> Result<String, ReadError> {
        let started = Instant::now();
        let generation = self.current.load_full();
        let snapshot = self.scheduler.snapshot()?;
        let process = self.process(selection);
        let state = State {
            generation: &generation,
            features: self.scheduler.features(),
            torn_reads: self.scheduler.torn_reads(),
            log_messages: self.log_counts.by_level(),
            log_messages_dropped: self.log_counts.dropped(),
            process: &process,
        };
        let capacity = capacity(snapshot.cpus.len(), &generation, selection);
        let encoder = Encoder::new(format, capacity, self.created);
        let gathered = self.telemetry.gather(selection);
        let text = render(encoder, selection, &snapshot, state, &gathered);
        self.telemetry.scrape(started.elapsed());
        Ok(text)
    }

    /// Reads the metrics of the process if they are selected. Counts and logs a failure.
    fn process(&self, selection: &Selection) -> ProcessStats {
        if !selection.any(|source| matches!(source, Source::Process(_))) {
            return ProcessStats::default();
        }
        let (stats, error) = self.process.read();
        if let Some(error) = error {
            self.telemetry.process_error();
            tracing::warn!(error = log::chain(&error), "cannot read the metrics of the process");
        }
        stats
    }
}

/// Converts nanoseconds of `CLOCK_MONOTONIC` to seconds since the epoch, using the current offset between
/// the two clocks.
fn wall_clock_of(monotonic: u64) -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago = monotonic_ns().unwrap_or(monotonic).saturating_sub(monotonic);
    now.saturating_sub(std::time::Duration::from_nanos(ago)).as_secs_f64()
}
