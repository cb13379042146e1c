//! What a generation is made of.

use std::sync::Arc;

use crate::{config::Config, cpu::topology::Topology, expr::values::Values};

/// What a generation is made of.
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
