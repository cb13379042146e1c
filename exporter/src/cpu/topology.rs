//! Where each CPU is in the machine, by sysfs: what label rules can tell CPUs apart by.
//!
//! <https://docs.kernel.org/admin-guide/cputopology.html>

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::cpu::list;

/// The place of sysfs.
pub const SYSFS: &str = "/sys";

/// The place of one CPU. What the kernel doesn't tell, such as the core of a CPU that is offline, is
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuLocation {
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Package, or socket.
    pub package: Option<u32>,
    /// Core; its number is unique in the package.
    pub core: Option<u32>,
    /// Cluster of cores that share a resource; where the kernel and the firmware tell (Linux 5.16).
    pub cluster: Option<u32>,
    /// Which of the core's hardware threads it is, from 0.
    pub smt_sibling: Option<u32>,
    /// Whether it was isolated at boot (`isolcpus=`).
    pub isolated: bool,
}

/// The places of all possible CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(BTreeMap<u32, CpuLocation>);

/// The kernel's description can't be read.
#[derive(Debug, thiserror::Error)]
#[error("reading `{}`", path.display())]
pub struct TopologyError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl Topology {
    /// CPUs of which nothing is known yet.
    pub fn of(possible: Vec<u32>) -> Self {
        possible.into_iter().map(|cpu| (cpu, CpuLocation::default())).collect()
    }

    /// The same CPUs with what `sysfs` says of them. A file that is missing leaves its part out:
    /// there are no NUMA nodes without `CONFIG_NUMA`. What was known of a CPU stays: the kernel
    /// tells the place of one only while it is online.
    pub fn update(&self, sysfs: &Path) -> Result<Self, TopologyError> {
        let mut places = self.0.clone();
        for (&cpu, place) in &mut places {
            let directory = sysfs.join(format!("devices/system/cpu/cpu{cpu}/topology"));
            let number = |name: &str| Ok(text(&directory.join(name))?.and_then(|n| n.parse().ok()));
            place.package = number("physical_package_id")?.or(place.package);
            place.core = number("core_id")?.or(place.core);
            // Before 5.16 there is none, and -1 says that the firmware doesn't tell.
            place.cluster = number("cluster_id")?.or(place.cluster);
            // A sibling that is offline is not in the list: the place among all is the largest.
            let siblings = text(&directory.join("thread_siblings_list"))?;
            let siblings = siblings.and_then(|cpus| list::parse(&cpus)).unwrap_or_default();
            let nth = siblings.iter().position(|sibling| *sibling == cpu);
            place.smt_sibling = place.smt_sibling.max(nth.and_then(|nth| u32::try_from(nth).ok()));
        }
        for (node, cpus) in nodes(&sysfs.join("devices/system/node"))? {
            for cpu in cpus {
                if let Some(place) = places.get_mut(&cpu) {
                    place.numa_node = Some(node);
                }
            }
        }
        let isolated = text(&sysfs.join("devices/system/cpu/isolated"))?;
        for cpu in isolated.and_then(|cpus| list::parse(&cpus)).unwrap_or_default() {
            if let Some(place) = places.get_mut(&cpu) {
                place.isolated = true;
            }
        }
        Ok(Self(places))
    }

    /// Every possible CPU with its place, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &CpuLocation)> {
        self.0.iter().map(|(cpu, place)| (*cpu, place))
    }
}

impl FromIterator<(u32, CpuLocation)> for Topology {
    fn from_iter<T: IntoIterator<Item = (u32, CpuLocation)>>(places: T) -> Self {
        Self(places.into_iter().collect())
    }
}

/// The NUMA nodes with their CPUs.
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

/// What a file holds, without the newline; none where it does not exist.
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
    fn sysfs(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let top =
            std::env::temp_dir().join(format!("sched_exporter-{name}-{}", std::process::id()));
        fs::create_dir_all(&top).unwrap();
        for (path, text) in files {
            let path = top.join("devices/system").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        top
    }

    #[test]
    fn each_cpu_has_its_place() {
        let sysfs = sysfs(
            "topology",
            &[
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
            ],
        );
        let topology = Topology::of(vec![0, 1, 2]).update(&sysfs);
        fs::remove_dir_all(&sysfs).unwrap();
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
    fn a_machine_that_tells_nothing_has_cpus_without_places() {
        let topology = Topology::of(vec![0, 3]).update(Path::new("/no/such/sysfs")).unwrap();
        let expected = [(0, CpuLocation::default()), (3, CpuLocation::default())];
        assert_eq!(topology, expected.into_iter().collect());
    }
}
