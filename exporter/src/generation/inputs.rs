//! The inputs of a generation.

use std::sync::Arc;

use crate::{config::Config, cpu::topology::Topology, expr::values::Values};

/// Everything that a generation is built from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The parsed configuration file.
    pub config: Arc<Config>,
    /// SHA-256 of the file, in lowercase hex.
    pub sha256: String,
    /// The values of its templates.
    pub values: Values,
    /// The location of each CPU, if any rule uses it.
    pub topology: Topology,
}
