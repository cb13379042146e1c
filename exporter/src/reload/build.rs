//! What a reload finds, on a thread of its own: the file, what labels are made of, and what to serve.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{self, Config, ConfigError},
    cpu::{
        list::CpuListError,
        topology::{SYSFS, Topology, TopologyError},
    },
    generation::{Generation, Inputs, ReloadOutcome},
    labels::Violation,
    metrics::catalog::SERIES,
    sources::Reader,
};

/// Why there is no first generation.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the file says does not fit this machine. The message has a line for each kind.
    #[error("{}", violation_lines(path, violations).join("\n"))]
    Violations {
        /// The file.
        path: PathBuf,
        /// What does not fit; one at least.
        violations: Vec<Violation>,
    },
    /// It is not known which CPUs there are.
    #[error(transparent)]
    CpuList(#[from] CpuListError),
    /// It is not known where they are.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl LoadError {
    /// The message in one line, for the log.
    fn one_line(&self) -> String {
        match self {
            Self::Config(error) => error.one_line(),
            Self::Violations { path, violations } => violation_lines(path, violations).join("; "),
            Self::CpuList(_) | Self::Topology(_) => self.to_string(),
        }
    }
}

fn violation_lines(path: &Path, violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|violation| format!("{}: {violation}", path.display())).collect()
}

/// The first generation of `inputs`, if all that the configuration asks for fits this machine.
pub(super) fn generation(inputs: &Inputs, path: &Path) -> Result<Generation, LoadError> {
    let Inputs { config, sha256, values, topology } = inputs;
    let (generation, violations) = Generation::new(config, sha256, values, topology, SERIES);
    if violations.is_empty() {
        return Ok(generation);
    }
    Err(LoadError::Violations { path: path.into(), violations })
}

/// Looks at the file and at what labels are made of. It blocks.
pub(super) struct BuildJob {
    pub(super) path: PathBuf,
    pub(super) seen: Result<String, String>,
    pub(super) is_asked: bool,
    pub(super) inputs: Arc<Inputs>,
    pub(super) current: Arc<Generation>,
    pub(super) reader: Reader,
}

#[derive(Debug)]
pub(super) struct BuildOutcome {
    pub(super) seen: Result<String, String>,
    /// How the file is; none where there is nothing new to say of it.
    pub(super) file: Option<Result<ReloadOutcome, String>>,
    /// What to serve from now on; none where nothing changed.
    pub(super) next: Option<Candidate>,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) inputs: Inputs,
    /// None where it would have the labels that it has.
    pub(super) generation: Option<Generation>,
    pub(super) violations: Vec<Violation>,
}

impl BuildJob {
    /// What is found where nothing can be.
    pub(super) fn fault(&self, reason: String) -> BuildOutcome {
        let seen = Err(reason.clone());
        let file = (self.is_asked || seen != self.seen).then_some(Err(reason));
        BuildOutcome { seen, file, next: None }
    }

    pub(super) fn run(self) -> BuildOutcome {
        let source = config::read(&self.path);
        let mut seen = match &source {
            Ok(source) => Ok(source.sha256().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut file = None;
        let mut next = None;
        if seen != self.seen || self.is_asked {
            let new = source.map_err(LoadError::from).and_then(|source| {
                if source.sha256() == self.inputs.sha256 {
                    return Ok(None);
                }
                self.make(source.parse()?, source.sha256()).map(Some)
            });
            file = Some(match new {
                Ok(None) => Ok(ReloadOutcome::Unchanged),
                Ok(Some(new)) => {
                    next = Some(new);
                    Ok(ReloadOutcome::Applied)
                }
                Err(error) => {
                    let reason = error.one_line();
                    // Values can change so that it fits, while the file stays as it is.
                    if matches!(error, LoadError::Violations { .. }) {
                        seen = Err(reason.clone());
                    }
                    Err(reason)
                }
            });
            if seen == self.seen && !self.is_asked {
                file = None;
            }
        }
        // The last good one follows its sources even while the file is bad.
        let next = next.or_else(|| self.refresh());
        BuildOutcome { seen, file, next }
    }

    /// What a new configuration gives.
    fn make(&self, config: Config, sha256: &str) -> Result<Candidate, LoadError> {
        let values = self.reader.read(config.uses());
        let topology = self.locate(&config);
        let inputs = Inputs { config: Arc::new(config), sha256: sha256.into(), values, topology };
        let generation = generation(&inputs, &self.path)?;
        Ok(Candidate { inputs, generation: Some(generation), violations: Vec::new() })
    }

    /// What the configuration in use gives now, if that is something else.
    fn refresh(&self) -> Option<Candidate> {
        let Inputs { config, sha256, .. } = &*self.inputs;
        let values = self.reader.read(config.uses());
        let topology = self.locate(config);
        if values == self.inputs.values && topology == self.inputs.topology {
            return None;
        }
        let (generation, violations) = Generation::new(config, sha256, &values, &topology, SERIES);
        let generation =
            Some(generation).filter(|generation| !generation.labels.is_like(&self.current.labels));
        let inputs = Inputs { values, topology, ..Inputs::clone(&self.inputs) };
        Some(Candidate { inputs, generation, violations })
    }

    /// Where the CPUs are now. What was known stays where it can't be read any more.
    fn locate(&self, config: &Config) -> Topology {
        locate(config, &self.inputs.topology).unwrap_or_else(|error| {
            tracing::warn!(%error, "the places of CPUs stay as they were");
            self.inputs.topology.clone()
        })
    }
}

/// Where the CPUs of `known` are, if the configuration asks for it.
pub(super) fn locate(config: &Config, known: &Topology) -> Result<Topology, TopologyError> {
    if config.cpus().is_empty() && config.cpu_relabel_configs().is_empty() {
        return Ok(known.clone());
    }
    known.update(Path::new(SYSFS))
}
