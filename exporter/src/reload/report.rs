//! Reports reloads: in the log, in the metrics, and to the service manager.

use std::path::{Path, PathBuf};

use super::requests::{Cause, Outcome};
use crate::{
    config::Config,
    expr::values::Values,
    generation::{Generation, ReloadOutcome},
    labels::Violation,
    metrics::telemetry::Telemetry,
    os::systemd::Notifier,
    sources,
};

/// Reports what happens to one configuration file.
#[derive(Debug)]
pub(super) struct Reporter {
    path: PathBuf,
    telemetry: Telemetry,
    notifier: Notifier,
}

/// The status for the service manager while the current file is served.
pub fn serving(path: &Path) -> String {
    format!("serving with {}", path.display())
}

/// Reports what is valid in a file, but probably not meant.
pub fn warnings(path: &Path, config: &Config) {
    let warnings = config.warnings().located(path).join("; ");
    if !warnings.is_empty() {
        tracing::warn!(warnings, "configuration accepted, with warnings");
    }
}

/// Reports that labels changed although the file did not.
pub(super) fn labels_changed(cause: Cause, generation: u64) {
    tracing::info!(cause = cause.name(), generation, "labels changed");
}

/// Reports that a new generation could not be served.
pub(super) fn labels_kept(error: &str) {
    tracing::warn!(error, "cannot take a snapshot; keeping the current labels");
}

/// Reports that watches could not be renewed.
pub(super) fn not_watching(reason: &str) {
    tracing::warn!(reason, "cannot watch for changes; relying on polling and reload requests");
}

impl Reporter {
    pub(super) fn new(path: &Path, telemetry: Telemetry) -> Self {
        Self { path: path.into(), telemetry, notifier: Notifier::default() }
    }

    /// Reports reloads to the service manager, too.
    pub(super) fn notify(&mut self, notifier: Notifier) {
        self.notifier = notifier;
    }

    /// Reports that a reload begins.
    pub(super) fn begin(&self, cause: Cause) {
        if cause.is_explicit() {
            self.notifier.reloading();
        }
    }

    /// Reports that the first generation was built.
    pub(super) fn loaded(&self, values: &Values) {
        self.telemetry.loaded();
        self.sources(&Values::default(), values);
    }

    /// Reports that the watches are complete: from here on, no change goes unnoticed.
    pub(super) fn watching(&self) {
        tracing::debug!(path = %self.path.display(), "watching the configuration");
    }

    /// Reports whether the file was accepted. Returns the outcome for those who requested the reload.
    pub(super) fn file(
        &self,
        cause: Cause,
        current: &Generation,
        outcome: Result<ReloadOutcome, String>,
    ) -> Outcome {
        self.telemetry.reload(*outcome.as_ref().unwrap_or(&ReloadOutcome::Failed));
        match outcome {
            Ok(outcome) => {
                tracing::info!(
                    outcome = outcome.name(),
                    cause = cause.name(),
                    generation = current.number,
                    sha256 = current.sha256,
                    "configuration reloaded"
                );
                Ok(outcome)
            }
            Err(reason) => {
                tracing::error!(
                    reason,
                    cause = cause.name(),
                    generation = current.number,
                    "configuration rejected; keeping the last good one"
                );
                Err(reason.into())
            }
        }
    }

    /// Reports labels that were dropped or replaced.
    pub(super) fn violations(&self, violations: &[Violation]) {
        self.telemetry.labels_rejected(violations);
    }

    /// Reports which sources are up. Logs local sources that failed or recovered; remote sources are
    /// logged as they answer.
    pub(super) fn sources(&self, old: &Values, new: &Values) {
        self.telemetry.label_sources(new.up());
        for (source, reading) in new.readings().filter(|(source, _)| !source.is_remote()) {
            sources::log_change(source, old.error(source), reading);
        }
    }

    /// Reports that a reload is over.
    pub(super) fn end(&self, cause: Cause, outcome: &Outcome) {
        if cause.is_explicit() {
            self.notifier.ready(&self.status(outcome));
        } else if !matches!(outcome, Ok(ReloadOutcome::Unchanged)) {
            self.notifier.status(&self.status(outcome));
        }
    }

    /// One line for `systemctl status`.
    fn status(&self, outcome: &Outcome) -> String {
        match outcome {
            Ok(_) => serving(&self.path),
            Err(reason) => {
                let path = self.path.display();
                format!("serving with the last good {path}; new version rejected: {reason}")
            }
        }
    }
}
