//! Puts together what follows cgroups.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    cgroup::hierarchy::Selection,
    generation::Current,
    kernel::{
        cgroups::CgroupEvents,
        scheduler::{ReadError, Scheduler},
    },
    metrics::{scrape::CgroupSource, telemetry::Telemetry},
    tracker::{Tracked, Tracker},
};

/// What follows cgroups.
pub(super) struct Cgroups {
    tracked: Tracked,
    tracker: Tracker,
    events: CgroupEvents,
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
    ) -> Self {
        let tracked = Tracked::new(scheduler.attached_at(), current.load().labels.cgroups.as_ref());
        let hierarchy = selection.hierarchy.version();
        let nameless = selection.limitation().unwrap_or_default();
        let telemetry = telemetry.clone();
        let count = move |kind| telemetry.label_rejected(kind);
        let scheduler = Arc::clone(scheduler);
        let follower = Tracker::new(scheduler, current, tracked.clone(), selection, count);
        Self { tracked, tracker: follower, events, hierarchy, nameless }
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
    pub(super) async fn follow(mut self) -> anyhow::Result<Tracked> {
        self.name_all().await?;
        self.tracker.start(self.events).context("cannot wait for events of cgroups")?;
        Ok(self.tracked)
    }
}
