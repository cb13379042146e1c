//! Puts together what follows cgroups.

use std::sync::Arc;

use anyhow::Context as _;

use super::start::CANNOT_CONTINUE;
use crate::{
    cgroup::hierarchy::Selection,
    generation::Current,
    kernel::{
        births::CgroupBirths,
        cgroups::CgroupEvents,
        scheduler::{ReadError, Scheduler},
    },
    labels::Violation,
    metrics::{scrape::CgroupSource, telemetry::Telemetry},
    runtimes::{Origins, SourceState},
    tracker::{Outside, Tracked, Tracker},
};

/// What follows cgroups.
pub(super) struct Cgroups {
    tracked: Tracked,
    tracker: Tracker,
    hierarchy: &'static str,
    nameless: String,
}

impl Cgroups {
    /// Prepares to follow the cgroups of a hierarchy.
    pub(super) fn new(
        scheduler: &Arc<Scheduler>,
        current: Current,
        telemetry: &Telemetry,
        selection: Selection,
        events: CgroupEvents,
        births: Option<CgroupBirths>,
        origins: Origins,
    ) -> anyhow::Result<Self> {
        let tracked = Tracked::start(scheduler, &current.load()).context(CANNOT_CONTINUE)?;
        let hierarchy = selection.hierarchy.version();
        let nameless = selection.limitation(births.is_some()).unwrap_or_default();
        let (telemetry, of_sources) = (telemetry.clone(), telemetry.clone());
        let report = move |violations: &[Violation]| telemetry.labels_rejected(violations);
        let report_sources = move |states: &[SourceState]| {
            let states = states.iter().map(|it| (it.name.as_str(), it.error.is_none()));
            of_sources.container_sources(states);
        };
        let outside = Outside {
            origins,
            report_violations: Box::new(report),
            report_sources: Box::new(report_sources),
        };
        let follower = Tracker::new(
            Arc::clone(scheduler),
            current,
            tracked.clone(),
            selection,
            events,
            births,
            outside,
        );
        let follower = follower.context("cannot wait for events of cgroups")?;
        Ok(Self { tracked, tracker: follower, hierarchy, nameless })
    }

    /// What a scrape reads.
    pub(super) fn source(&self) -> CgroupSource {
        CgroupSource {
            tracked: self.tracked.clone(),
            hierarchy: self.hierarchy,
            nameless: self.nameless.clone(),
        }
    }

    /// Names the cgroups that exist.
    pub(super) async fn name_all(&mut self) -> Result<(), ReadError> {
        self.tracker.name_all().await
    }

    /// Names the cgroups that exist, and follows them from now on.
    pub(super) async fn follow(mut self) -> Result<Tracked, ReadError> {
        self.name_all().await?;
        self.tracker.start();
        Ok(self.tracked)
    }
}
