//! A scrape: reads the kernel's maps once and renders them.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    accounting::Snapshot,
    exposition::{Encoder, Format},
    generation::{Current, Generation},
    kernel::scheduler::{ReadError, Scheduler, monotonic_ns},
    metrics::{
        catalog::{Cgroups, Source, State},
        process::{ProcessReader, ProcessStats},
        render::{capacity, render},
        selection::Selection,
        telemetry::Telemetry,
    },
    os::log::{self, LogCounts},
    tracker::Tracked,
};

/// Renders expositions. Holds everything that a scrape reads.
pub struct Exporter {
    scheduler: Arc<Scheduler>,
    current: Current,
    telemetry: Telemetry,
    log_counts: LogCounts,
    process: ProcessReader,
    /// `None` if cgroups are not accounted for.
    cgroups: Option<CgroupSource>,
    /// When the counters started, in seconds since the epoch; `None` to leave `_created` out.
    created: Option<f64>,
    /// The zero of `CLOCK_MONOTONIC`, in seconds since the epoch. Read once, so that the starts of sets stay
    /// what they are while the wall clock is adjusted.
    epoch: f64,
}

/// Where a scrape finds cgroups.
pub struct CgroupSource {
    /// Their sets.
    pub tracked: Tracked,
    /// The version of their hierarchy: `v1` or `v2`.
    pub hierarchy: &'static str,
    /// Why they have no names, or not all of them; empty if they have.
    pub nameless: String,
}

impl Exporter {
    /// Combines the parts of a scrape. `created` adds `_created` samples.
    pub fn new(
        scheduler: Arc<Scheduler>,
        current: Current,
        telemetry: Telemetry,
        log_counts: LogCounts,
        cgroups: Option<CgroupSource>,
        created: bool,
    ) -> Self {
        let created = created.then(|| wall_clock_of(scheduler.attached_at()));
        let (process, epoch) = (ProcessReader::default(), wall_clock_of(0));
        Self { scheduler, current, telemetry, log_counts, process, cgroups, created, epoch }
    }

    /// Reads the kernel's maps once and renders the families in `selection` under one generation of the
    /// configuration.
    pub fn scrape(&self, format: Format, selection: &Selection) -> Result<String, ReadError> {
        let started = Instant::now();
        let generation = self.current.load_full();
        let snapshot = self.scheduler.snapshot()?;
        let text = match (&self.cgroups, &snapshot.cgroups) {
            (Some(source), Some(cgroups)) => source.tracked.scrape(&snapshot, |sets| {
                let slots = self.scheduler.cgroup_slots();
                let cgroups = Cgroups {
                    values: sets.values(snapshot.taken_at, cgroups),
                    epoch: self.epoch,
                    hierarchy: source.hierarchy,
                    nameless: &source.nameless,
                    slots: slots.map_or(0, |it| it.slots.into()),
                    slots_used: slots.map_or(0, |it| it.used.into()),
                    slots_refused: slots.map_or(0, |it| it.refused),
                };
                self.render(format, selection, &generation, &snapshot, Some(&cgroups))
            }),
            _ => self.render(format, selection, &generation, &snapshot, None),
        };
        self.telemetry.scrape(started.elapsed());
        Ok(text)
    }

    fn render(
        &self,
        format: Format,
        selection: &Selection,
        generation: &Generation,
        snapshot: &Snapshot,
        cgroups: Option<&Cgroups<'_>>,
    ) -> String {
        let process = self.process(selection);
        let state = State {
            generation,
            features: self.scheduler.features(),
            torn_reads: self.scheduler.torn_reads(),
            log_messages: self.log_counts.by_level(),
            log_messages_dropped: self.log_counts.dropped(),
            process: &process,
            cgroups,
        };
        let capacity = capacity(snapshot.cpus.len(), cgroups, generation, selection);
        let encoder = Encoder::new(format, capacity, self.created);
        let gathered = self.telemetry.gather(selection);
        render(encoder, selection, snapshot, state, &gathered)
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
