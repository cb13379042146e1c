//! What templates can name, and what is known of it at one moment. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Defines [`Source`] and what is known of each source, from a table with one row per source.
macro_rules! sources {
    ($($(#[$doc:meta])+ $source:ident { name: $name:literal, keys: $keys:expr, place: $place:ident })+) => {
        /// A source of label values. It is read only if a template names it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Source {
            $($(#[$doc])+ $source,)+
        }

        impl Source {
            /// Every source, ordered by name.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$source),+];

            /// The name in templates, which is also the value of the label `source`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$source => $name,)+
                }
            }

            /// How templates name its values.
            pub const fn keys(self) -> Keys {
                match self {
                    $(Self::$source => $keys,)+
                }
            }

            /// Where its values are.
            pub const fn place(self) -> Place {
                match self {
                    $(Self::$source => Place::$place,)+
                }
            }
        }
    };
}

sources! {
    /// The machine type reported by the kernel.
    Arch { name: "arch", keys: Keys::One, place: Local }
    /// The metadata service of Amazon EC2.
    Aws { name: "aws", keys: Keys::Fields(&AWS_FIELDS), place: Remote }
    /// The metadata service of Azure.
    Azure { name: "azure", keys: Keys::Fields(&AZURE_FIELDS), place: Remote }
    /// The kernel's id of this boot.
    BootId { name: "boot_id", keys: Keys::One, place: Local }
    /// The environment of this process.
    Env { name: "env", keys: Keys::Any, place: Local }
    /// Small text files.
    File { name: "file", keys: Keys::Path, place: Files }
    /// The fully qualified host name.
    Fqdn { name: "fqdn", keys: Keys::One, place: Local }
    /// The metadata service of Google Cloud.
    Gcp { name: "gcp", keys: Keys::Fields(&GCP_FIELDS), place: Remote }
    /// The host name.
    Hostname { name: "hostname", keys: Keys::One, place: Local }
    /// The kernel release.
    KernelRelease { name: "kernel.release", keys: Keys::One, place: Local }
    /// An application-specific hash of the machine id.
    MachineId { name: "machine_id", keys: Keys::One, place: Local }
    /// The labels of the Kubernetes node.
    NodeLabels { name: "node.labels", keys: Keys::Any, place: Remote }
    /// os-release.
    Os { name: "os", keys: Keys::Fields(&OS_FIELDS), place: Local }
    /// The annotations of the Kubernetes pod.
    PodAnnotations { name: "pod.annotations", keys: Keys::Any, place: Files }
    /// The labels of the Kubernetes pod.
    PodLabels { name: "pod.labels", keys: Keys::Any, place: Files }
}

const AWS_FIELDS: [&str; 5] =
    ["availability_zone", "availability_zone_id", "instance_id", "instance_type", "region"];
const AZURE_FIELDS: [&str; 4] = ["location", "vm_id", "vm_size", "zone"];
const GCP_FIELDS: [&str; 4] = ["instance_id", "machine_type", "region", "zone"];
/// <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>
const OS_FIELDS: [&str; 12] = [
    "build_id",
    "id",
    "id_like",
    "image_id",
    "image_version",
    "name",
    "pretty_name",
    "variant",
    "variant_id",
    "version",
    "version_codename",
    "version_id",
];

/// How a template names the values of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// By the name of the source, which has a single value: `hostname`.
    One,
    /// By one of these fields: `os.id`.
    Fields(&'static [&'static str]),
    /// By any key: `env.NAME`, `node.labels["a/b"]`.
    Any,
    /// By the path of a file: `file("/path")`.
    Path,
}

/// Where the values of a source are, which decides how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the kernel, in this process or in `/etc`: read directly.
    Local,
    /// In files on a filesystem that may hang: watched, and read on a separate thread.
    Files,
    /// On a server: polled in the background.
    Remote,
}

impl Source {
    /// Whether it is polled in the background.
    pub const fn is_remote(self) -> bool {
        matches!(self.place(), Place::Remote)
    }
}

/// The values that templates name, by source: their keys. A source of [`Keys::One`] has the key "".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(BTreeMap<Source, BTreeSet<String>>);

impl Uses {
    /// Adds a value.
    pub fn insert(&mut self, source: Source, key: &str) {
        self.0.entry(source).or_default().insert(key.into());
    }

    /// Adds all values of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (source, keys) in &other.0 {
            self.0.entry(*source).or_default().extend(keys.iter().cloned());
        }
    }

    /// The sources and their keys, none empty.
    pub fn iter(&self) -> impl Iterator<Item = (Source, &BTreeSet<String>)> {
        self.0.iter().map(|(source, keys)| (*source, keys))
    }

    /// The keys of one source.
    pub fn keys(&self, source: Source) -> impl Iterator<Item = &str> {
        self.0.get(&source).into_iter().flatten().map(String::as_str)
    }
}

/// What one source had to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The values that it has, by key. Of a remote source those of an earlier reading stay while
    /// there is a fault.
    pub values: BTreeMap<String, String>,
    /// Why some value can't be had.
    pub fault: Option<String>,
}

impl Reading {
    /// Values, and no fault.
    pub fn of(values: BTreeMap<String, String>) -> Self {
        Self { values, fault: None }
    }

    /// Adds why one more value can't be had.
    pub fn add_fault(&mut self, reason: &str) {
        match &mut self.fault {
            Some(fault) => fault.extend(["; ", reason]),
            none => *none = Some(reason.to_owned()),
        }
    }

    /// No values, and why.
    pub fn fault(reason: impl Into<String>) -> Self {
        Self { values: BTreeMap::new(), fault: Some(reason.into()) }
    }
}

/// All that is known of the values in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<Source, Reading>);

impl Values {
    /// The value of a key, if it could be had.
    pub fn get(&self, source: Source, key: &str) -> Option<&str> {
        self.0.get(&source)?.values.get(key).map(String::as_str)
    }

    /// Why some value of a source can't be had.
    pub fn fault(&self, source: Source) -> Option<&str> {
        self.0.get(&source)?.fault.as_deref()
    }

    /// The reading of each source.
    pub fn readings(&self) -> impl Iterator<Item = (Source, &Reading)> {
        self.0.iter().map(|(source, reading)| (*source, reading))
    }

    /// The name of each source in use, and whether it had all it was asked for when last read.
    pub fn up(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.readings().map(|(source, reading)| (source.name(), reading.fault.is_none()))
    }
}

impl FromIterator<(Source, Reading)> for Values {
    fn from_iter<I: IntoIterator<Item = (Source, Reading)>>(readings: I) -> Self {
        Self(readings.into_iter().collect())
    }
}
