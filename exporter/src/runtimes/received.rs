//! Reads answers that were received already. For tests, which try arbitrary bytes.

use std::sync::Arc;

use super::{
    cri, docker,
    inventory::{Inventory, SourceAnswer},
    kubernetes,
};
use crate::{
    expr::cgroup::{CgroupUses, NamesFrom},
    os::log,
};

/// What a source has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The messages that list containers, sandboxes and images by CRI.
    Cri([&'a [u8]; 3]),
    /// Docker's or podman's list of containers.
    Docker(&'a [u8]),
    /// The Kubernetes API's list of pods.
    Kubernetes(&'a [u8]),
}

impl Received<'_> {
    /// Reads the answer in pieces of this size, at least 1. The error says why it is malformed.
    pub fn read(self, uses: &Arc<CgroupUses>, size: usize) -> Result<Inventory, String> {
        let answer = match self {
            Self::Cri(lists) => cri::read(lists, uses, size),
            Self::Docker(list) => docker::read(list, uses, size),
            Self::Kubernetes(list) => kubernetes::read(list, uses, size),
        };
        let answer = answer.map_err(|error| log::chain(&error))?;
        let answer = SourceAnswer { from: NamesFrom::Path, user: None, answer: Arc::new(answer) };
        Ok(Inventory::new([answer]))
    }
}
