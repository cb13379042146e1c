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
        catalog::State,
        render::{capacity, render},
        telemetry::Telemetry,
    },
    os::log::LogCounts,
};

/// Renders expositions. Holds everything that a scrape reads.
pub struct Exporter {
    scheduler: Arc<Scheduler>,
    current: Current,
    telemetry: Telemetry,
    log_counts: LogCounts,
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
        Self { scheduler, current, telemetry, log_counts, created }
    }

    /// Reads the kernel's map once and renders it under one generation of the configuration.
    pub fn scrape(&self, format: Format) -> Result<String, ReadError> {
        let started = Instant::now();
        let generation = self.current.load_full();
        let snapshot = self.scheduler.snapshot()?;
        let state = State {
            generation: &generation,
            features: self.scheduler.features(),
            torn_reads: self.scheduler.torn_reads(),
            log_messages: self.log_counts.by_level(),
            log_messages_dropped: self.log_counts.dropped(),
        };
        let capacity = capacity(snapshot.cpus.len(), &generation);
        let encoder = Encoder::new(format, capacity, self.created);
        let text = render(encoder, &snapshot, state, &self.telemetry.gather());
        self.telemetry.scrape(started.elapsed());
        Ok(text)
    }
}

/// Converts nanoseconds of `CLOCK_MONOTONIC` to seconds since the epoch, using the current offset between
/// the two clocks.
fn wall_clock_of(monotonic: u64) -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago = monotonic_ns().unwrap_or(monotonic).saturating_sub(monotonic);
    now.saturating_sub(std::time::Duration::from_nanos(ago)).as_secs_f64()
}
