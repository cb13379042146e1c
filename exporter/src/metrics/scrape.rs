//! A scrape, from the kernel's map to text.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use prometheus::proto::MetricFamily;

use crate::{
    accounting::snapshot::Snapshot,
    exposition::{Encoder, Format},
    generation::{Current, Generation},
    kernel::scheduler::{ReadError, Scheduler, monotonic_ns},
    metrics::{
        render::{self as families, SelfState},
        telemetry::{self, Telemetry},
    },
    os::log::LogCounts,
};

/// All that a scrape reads.
pub struct Exporter {
    scheduler: Arc<Scheduler>,
    current: Current,
    telemetry: Telemetry,
    log_counts: LogCounts,
    /// When the counters began, in seconds of the epoch; none to leave `_created` out.
    created: Option<f64>,
}

impl Exporter {
    /// Puts the parts together. `created` asks for `_created` samples.
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
        let condition = SelfState {
            features: self.scheduler.features(),
            torn_reads: self.scheduler.torn_reads(),
            log_messages: self.log_counts.read(),
        };
        let capacity = families::capacity(snapshot.cpus.len(), &generation);
        let encoder = Encoder::new(format, capacity, self.created);
        let text = render(encoder, &snapshot, &generation, condition, &self.telemetry.gather());
        self.telemetry.scrape(started.elapsed());
        Ok(text)
    }
}

/// The whole exposition, in the order in which it is served.
pub fn render<'a>(
    mut encoder: Encoder<'a>,
    snapshot: &Snapshot,
    generation: &Generation,
    condition: SelfState<'_>,
    gathered: &'a [MetricFamily],
) -> String {
    families::write_target(&mut encoder, generation);
    families::write_scheduler(&mut encoder, snapshot, generation, condition.features);
    families::write_own(&mut encoder, snapshot, generation, condition);
    telemetry::write(&mut encoder, gathered);
    encoder.finish()
}

/// A time of `CLOCK_MONOTONIC` in seconds of the epoch, as the clocks stand to each other now.
fn wall_clock_of(monotonic: u64) -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago = monotonic_ns().unwrap_or(monotonic).saturating_sub(monotonic);
    now.saturating_sub(std::time::Duration::from_nanos(ago)).as_secs_f64()
}
