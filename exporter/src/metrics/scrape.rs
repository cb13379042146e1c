//! A scrape: reads the kernel's maps once and renders them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    accounting::Snapshot,
    exposition::{Encoder, Format},
    generation::{Current, Generation},
    kernel::scheduler::{ReadError, Scheduler},
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
    /// When the counters of the process started, if others continue from before.
    process_began: Option<f64>,
    /// The zero of `CLOCK_MONOTONIC`, in seconds since the epoch. The same for as long as counts continue, so that
    /// the starts of sets stay what they are while the wall clock is adjusted.
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
    /// Combines the parts of a scrape. `created_samples` adds `_created` samples.
    pub fn new(
        scheduler: Arc<Scheduler>,
        current: Current,
        telemetry: Telemetry,
        log_counts: LogCounts,
        cgroups: Option<CgroupSource>,
        created_samples: bool,
    ) -> Self {
        let seconds = |ns| Duration::from_nanos(ns).as_secs_f64();
        let epoch = seconds(scheduler.epoch_ns());
        let created = seconds(scheduler.epoch_ns().saturating_add(scheduler.attached_at()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            process_began: scheduler.start().continues().then_some(now.as_secs_f64()),
            scheduler,
            current,
            telemetry,
            log_counts,
            process: ProcessReader::default(),
            cgroups,
            created: Some(created).filter(|_| created_samples),
            epoch,
        }
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
            process_began: self.process_began,
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
