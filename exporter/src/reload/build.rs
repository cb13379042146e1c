//! Builds the next generation: reads the file and the sources of its labels. Blocks; runs on a thread
//! of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{self, Config, ConfigError, ConfigFile},
    cpu::{
        list::CpuListError,
        topology::{SYSFS, Topology, TopologyError},
    },
    expr::values::{Uses, Values},
    generation::{Generation, Inputs, ReloadOutcome},
    labels::Violation,
    metrics::catalog::SERIES,
    os::{log, watch::FileWatch},
    sources::Reader,
    tracker::{CgroupLabels, NamesBySerial, labels_of, violations_of},
};

/// The error when a generation cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is unreadable or invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file does not fit this machine. The message has one line for each violation.
    #[error("{}", violation_lines(path, violations).join("\n"))]
    Violations {
        /// The file.
        path: PathBuf,
        /// At least one.
        violations: Vec<Violation>,
    },
    /// The list of CPUs cannot be read.
    #[error(transparent)]
    CpuList(#[from] CpuListError),
    /// The topology cannot be read.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl LoadError {
    /// The message in one line, for the log.
    fn one_line(&self) -> String {
        match self {
            Self::Config(error @ ConfigError::Invalid { .. }) => error.one_line(),
            Self::Violations { path, violations } => violation_lines(path, violations).join("; "),
            Self::Config(_) | Self::CpuList(_) | Self::Topology(_) => log::chain(self),
        }
    }
}

fn violation_lines(path: &Path, violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|violation| format!("{}: {violation}", path.display())).collect()
}

/// Builds a generation from `inputs`. Fails if the configuration does not fit this machine.
pub(super) fn generation(inputs: &Inputs, path: &Path) -> Result<Generation, LoadError> {
    let Inputs { config, sha256, values, topology } = inputs;
    let (generation, violations) = Generation::new(config, sha256, values, topology, SERIES);
    if violations.is_empty() {
        return Ok(generation);
    }
    Err(LoadError::Violations { path: path.into(), violations })
}

/// Everything that a build needs to know about the current state.
pub(super) struct BuildJob {
    pub(super) path: PathBuf,
    /// The file as last seen: its hash, or why it could not be loaded.
    pub(super) seen: Result<String, String>,
    /// Whether someone requested the reload, so that even an unchanged file is reported.
    pub(super) is_explicit: bool,
    pub(super) inputs: Arc<Inputs>,
    pub(super) current: Arc<Generation>,
    pub(super) reader: Reader,
    pub(super) watch: FileWatch,
    /// The cgroups whose labels to compute.
    pub(super) cgroups: Arc<NamesBySerial>,
}

/// The result of a build.
#[derive(Debug)]
pub(super) struct BuildOutcome {
    /// The file as seen now.
    pub(super) seen: Result<String, String>,
    /// What to report about the file; `None` if nothing is new.
    pub(super) file: Option<Result<ReloadOutcome, String>>,
    /// Whether a writer is at work on the file, so that it was not loaded.
    pub(super) is_unfinished: bool,
    /// What the file names, if it was rejected because of the values of its sources: it may fit once they
    /// change.
    pub(super) rejected_uses: Uses,
    /// What to serve from now on; `None` if nothing changed.
    pub(super) next: Option<Candidate>,
}

impl BuildOutcome {
    /// The outcome if nothing is new, except perhaps what the file is like.
    fn new(seen: Result<String, String>) -> Self {
        Self { seen, file: None, is_unfinished: false, rejected_uses: Uses::default(), next: None }
    }
}

/// A generation that may be served next.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) inputs: Inputs,
    /// `None` if the new inputs give the current labels.
    pub(super) generation: Option<Generation>,
    pub(super) violations: Vec<Violation>,
    /// The labels that the generation gives to the cgroups that were known.
    pub(super) cgroup_labels: CgroupLabels,
}

impl BuildJob {
    /// Returns what gives the outcome if this job does not finish, for a reason.
    pub(super) fn failure(&self) -> impl FnOnce(String) -> BuildOutcome + use<> {
        let (seen, is_explicit) = (self.seen.clone(), self.is_explicit);
        move |reason| {
            let is_news = is_explicit || seen.as_ref().err() != Some(&reason);
            let file = is_news.then(|| Err(reason.clone()));
            BuildOutcome { file, ..BuildOutcome::new(Err(reason)) }
        }
    }

    /// Builds a candidate, if anything changed, and computes the labels of its cgroups.
    pub(super) fn run(self) -> BuildOutcome {
        let cgroups = Arc::clone(&self.cgroups);
        let mut outcome = self.build();
        if let Some(Candidate { generation: Some(generation), cgroup_labels, .. }) =
            &mut outcome.next
        {
            // Their violations are reported as the tracker finds them.
            let labeller = generation.labels.cgroups.as_ref();
            *cgroup_labels = labels_of(labeller, &cgroups, &mut violations_of(labeller));
        }
        outcome
    }

    /// Reads the file, and builds a candidate if it changed. Otherwise, or if the file is rejected or
    /// unfinished, updates the values of the current configuration.
    fn build(self) -> BuildOutcome {
        let source = config::read_if_complete(&self.path, &self.watch, self.is_explicit);
        let Some(source) = source.transpose() else {
            let next = self.refresh();
            return BuildOutcome { is_unfinished: true, next, ..BuildOutcome::new(self.seen) };
        };
        let seen = match &source {
            Ok(source) => Ok(source.sha256().to_owned()),
            Err(error) => Err(log::chain(error)),
        };
        if !self.is_news(&seen) {
            return BuildOutcome { next: self.refresh(), ..BuildOutcome::new(seen) };
        }
        let mut uses = Uses::default();
        match source.map_err(LoadError::from).and_then(|source| self.load(&source, &mut uses)) {
            Ok(Some(next)) => {
                let file = Some(Ok(ReloadOutcome::Applied));
                BuildOutcome { file, next: Some(next), ..BuildOutcome::new(seen) }
            }
            Ok(None) => {
                let file = Some(Ok(ReloadOutcome::Unchanged));
                BuildOutcome { file, next: self.refresh(), ..BuildOutcome::new(seen) }
            }
            Err(error) => {
                let reason = error.one_line();
                let (seen, rejected_uses) = match error {
                    // The same file may fit once values change, so try it again each time.
                    LoadError::Violations { .. } => (Err(reason.clone()), uses),
                    _ => (seen, Uses::default()),
                };
                let file = self.is_news(&seen).then_some(Err(reason));
                let next = self.refresh();
                BuildOutcome { file, rejected_uses, next, ..BuildOutcome::new(seen) }
            }
        }
    }

    /// Whether to report on the file.
    fn is_news(&self, seen: &Result<String, String>) -> bool {
        self.is_explicit || *seen != self.seen
    }

    /// Builds a candidate from a file; `None` if it is the current one. `uses` receives what it names.
    fn load(&self, source: &ConfigFile, uses: &mut Uses) -> Result<Option<Candidate>, LoadError> {
        if source.sha256() == self.inputs.sha256 {
            return Ok(None);
        }
        let config = source.parse()?;
        uses.extend(config.uses());
        let values = self.read(&config);
        let topology = self.locate(&config);
        let sha256 = source.sha256().to_owned();
        let inputs = Inputs { config: Arc::new(config), sha256, values, topology };
        let generation = Some(generation(&inputs, &self.path)?);
        let (violations, cgroup_labels) = (Vec::new(), CgroupLabels::new());
        Ok(Some(Candidate { inputs, generation, violations, cgroup_labels }))
    }

    /// Builds a candidate from the current configuration, if values or topology changed.
    fn refresh(&self) -> Option<Candidate> {
        let Inputs { config, sha256, .. } = &*self.inputs;
        let values = self.read(config);
        let topology = self.locate(config);
        if values == self.inputs.values && topology == self.inputs.topology {
            return None;
        }
        let (generation, violations) = Generation::new(config, sha256, &values, &topology, SERIES);
        let is_same = generation.labels.is_like(&self.current.labels);
        let inputs = Inputs { values, topology, ..Inputs::clone(&self.inputs) };
        let generation = (!is_same).then_some(generation);
        Some(Candidate { inputs, generation, violations, cgroup_labels: CgroupLabels::new() })
    }

    /// Reads the values that a configuration uses.
    fn read(&self, config: &Config) -> Values {
        self.reader.read(config.uses(), &self.inputs.values, self.is_explicit)
    }

    /// Reads the topology, or keeps the last known one.
    fn locate(&self, config: &Config) -> Topology {
        locate(config, &self.inputs.topology).unwrap_or_else(|error| {
            let error = log::chain(&error);
            tracing::warn!(error, "cannot read CPU topology; keeping the last known one");
            self.inputs.topology.clone()
        })
    }
}

/// Updates the topology in `known`, if any rule uses it.
pub(super) fn locate(config: &Config, known: &Topology) -> Result<Topology, TopologyError> {
    if config.cpus().is_empty() && config.cpu_relabel_configs().is_empty() {
        return Ok(known.clone());
    }
    known.update(Path::new(SYSFS))
}
