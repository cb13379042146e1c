//! CPU topology from sysfs, for use in label rules.
//!
//! <https://docs.kernel.org/admin-guide/cputopology.html>

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::cpu::list;

/// Where sysfs is mounted.
pub const SYSFS: &str = "/sys";

/// The location of one CPU in the machine. Anything the kernel does not report, such as the core of
/// an offline CPU, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuLocation {
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Package, or socket.
    pub package: Option<u32>,
    /// Core; its number is unique in the package.
    pub core: Option<u32>,
    /// Cluster of cores that share a resource; needs Linux 5.16 and firmware that reports clusters.
    pub cluster: Option<u32>,
    /// Index among the core's hardware threads, from 0.
    pub smt_sibling: Option<u32>,
    /// Whether it was isolated at boot (`isolcpus=`).
    pub isolated: bool,
}

/// The locations of all possible CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(BTreeMap<u32, CpuLocation>);

/// The error when sysfs cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading `{}`", path.display())]
pub struct TopologyError {
    /// The file or directory.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Topology {
    /// Starts with CPUs whose locations are still unknown.
    pub fn of(possible: Vec<u32>) -> Self {
        possible.into_iter().map(|cpu| (cpu, CpuLocation::default())).collect()
    }

    /// Reads the locations of the same CPUs from `sysfs`. Missing files are not an error: without
    /// `CONFIG_NUMA`, for example, there are no NUMA nodes. Values that are missing now keep what was
    /// known before, because the kernel reports the location of a CPU only while it is online.
    pub fn update(&self, sysfs: &Path) -> Result<Self, TopologyError> {
        let mut locations = self.0.clone();
        for (&cpu, location) in &mut locations {
            let directory = sysfs.join(format!("devices/system/cpu/cpu{cpu}/topology"));
            let number = |name: &str| Ok(text(&directory.join(name))?.and_then(|n| n.parse().ok()));
            location.package = number("physical_package_id")?.or(location.package);
            location.core = number("core_id")?.or(location.core);
            // Missing before Linux 5.16, and -1 if the firmware reports no clusters.
            location.cluster = number("cluster_id")?.or(location.cluster);
            // The list lacks offline siblings, which makes the index too small, never too large: with
            // CPU 0 of `0,2` offline, CPU 2 has index 0 instead of 1. Keep the largest seen.
            let siblings = text(&directory.join("thread_siblings_list"))?;
            let siblings = siblings.and_then(|cpus| list::parse(&cpus)).unwrap_or_default();
            let nth = siblings.iter().position(|sibling| *sibling == cpu);
            location.smt_sibling =
                location.smt_sibling.max(nth.and_then(|nth| u32::try_from(nth).ok()));
        }
        for (node, cpus) in nodes(&sysfs.join("devices/system/node"))? {
            for cpu in cpus {
                if let Some(location) = locations.get_mut(&cpu) {
                    location.numa_node = Some(node);
                }
            }
        }
        let isolated = text(&sysfs.join("devices/system/cpu/isolated"))?;
        for cpu in isolated.and_then(|cpus| list::parse(&cpus)).unwrap_or_default() {
            if let Some(location) = locations.get_mut(&cpu) {
                location.isolated = true;
            }
        }
        Ok(Self(locations))
    }

    /// Every possible CPU with its location, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &CpuLocation)> {
        self.0.iter().map(|(cpu, location)| (*cpu, location))
    }
}

impl FromIterator<(u32, CpuLocation)> for Topology {
    fn from_iter<T: IntoIterator<Item = (u32, CpuLocation)>>(locations: T) -> Self {
        Self(locations.into_iter().collect())
    }
}

/// Reads the NUMA nodes and their CPUs.
fn nodes(directory: &Path) -> Result<Vec<(u32, Vec<u32>)>, TopologyError> {
    let failed = |source| TopologyError { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut nodes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let node = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        let Some(node) = node else { continue };
        let cpus = text(&entry.path().join("cpulist"))?;
        nodes.push((node, cpus.and_then(|cpus| list::parse(&cpus)).unwrap_or_default()));
    }
    Ok(nodes)
}

/// Reads a file without its final newline; `None` if it does not exist.
fn text(path: &Path) -> Result<Option<String>, TopologyError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TopologyError { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::chain;

    /// A sysfs with these files.
    fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = top.path().join("devices/system").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        top
    }

    #[test]
    fn reads_the_location_of_each_cpu() {
        let sysfs = sysfs(&[
            ("cpu/isolated", "1\n"),
            ("cpu/cpu0/topology/physical_package_id", "0\n"),
            ("cpu/cpu0/topology/core_id", "4\n"),
            ("cpu/cpu0/topology/cluster_id", "-1\n"),
            ("cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
            ("cpu/cpu2/topology/physical_package_id", "0\n"),
            ("cpu/cpu2/topology/core_id", "4\n"),
            ("cpu/cpu2/topology/cluster_id", "7\n"),
            ("cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
            ("node/node1/cpulist", "0,2\n"),
            ("node/node3/cpulist", "\n"),
            ("node/possible", "0-3\n"),
        ]);
        let topology = Topology::of(vec![0, 1, 2]).update(sysfs.path());
        let core = CpuLocation {
            numa_node: Some(1),
            package: Some(0),
            core: Some(4),
            smt_sibling: Some(0),
            ..CpuLocation::default()
        };
        let expected = [
            (0, core.clone()),
            (1, CpuLocation { isolated: true, ..CpuLocation::default() }),
            (2, CpuLocation { smt_sibling: Some(1), cluster: Some(7), ..core }),
        ];
        assert_eq!(topology.unwrap(), expected.into_iter().collect());
    }

    #[test]
    fn chain_of_a_read_error_states_the_cause_once() {
        // A file where a directory is expected.
        let error = Topology::of(vec![0]).update(Path::new("/dev/null")).unwrap_err();
        let expected = "reading `/dev/null/devices/system/cpu/cpu0/topology/physical_package_id`: \
                        Not a directory (os error 20)";
        assert_eq!(chain(&error), expected);
    }

    #[test]
    fn locations_are_unknown_without_sysfs() {
        let topology = Topology::of(vec![0, 3]).update(Path::new("/no/such/sysfs")).unwrap();
        let expected = [(0, CpuLocation::default()), (3, CpuLocation::default())];
        assert_eq!(topology, expected.into_iter().collect());
    }
}
