//! The names that templates can use, and a snapshot of their values.

use std::collections::{BTreeMap, BTreeSet};

/// Defines [`Source`] and its properties, from a table with one row per source.
macro_rules! sources {
    ($($(#[$doc:meta])+ $source:ident { name: $name:literal, keys: $keys:expr, place: $place:ident, optional: $optional:literal })+) => {
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

            /// Whether a shared configuration may name it although some hosts lack it, as in a fleet
            /// across two clouds. The alert about sources ignores it until it has been up once.
            pub const fn is_optional(self) -> bool {
                match self {
                    $(Self::$source => $optional,)+
                }
            }
        }
    };
}

sources! {
    /// The machine type reported by the kernel.
    Arch { name: "arch", keys: Keys::One, place: Local, optional: false }
    /// The metadata service of Amazon EC2.
    Aws { name: "aws", keys: Keys::Fields(&AWS_FIELDS), place: Remote, optional: true }
    /// The metadata service of Azure.
    Azure { name: "azure", keys: Keys::Fields(&AZURE_FIELDS), place: Remote, optional: true }
    /// The boot id, which the kernel generates at each boot.
    BootId { name: "boot_id", keys: Keys::One, place: Local, optional: false }
    /// The environment of this process.
    Env { name: "env", keys: Keys::Any, place: Local, optional: true }
    /// Small text files.
    File { name: "file", keys: Keys::Path, place: Files, optional: true }
    /// The fully qualified host name.
    Fqdn { name: "fqdn", keys: Keys::One, place: Local, optional: false }
    /// The metadata service of Google Cloud.
    Gcp { name: "gcp", keys: Keys::Fields(&GCP_FIELDS), place: Remote, optional: true }
    /// The host name.
    Hostname { name: "hostname", keys: Keys::One, place: Local, optional: false }
    /// The kernel release.
    KernelRelease { name: "kernel.release", keys: Keys::One, place: Local, optional: false }
    /// An application-specific hash of the machine id.
    MachineId { name: "machine_id", keys: Keys::One, place: Local, optional: false }
    /// The labels of the Kubernetes node.
    NodeLabels { name: "node.labels", keys: Keys::Any, place: Remote, optional: false }
    /// The fields of `os-release`.
    Os { name: "os", keys: Keys::Fields(&OS_FIELDS), place: Local, optional: false }
    /// The annotations of the Kubernetes pod.
    PodAnnotations { name: "pod.annotations", keys: Keys::Any, place: Files, optional: false }
    /// The labels of the Kubernetes pod.
    PodLabels { name: "pod.labels", keys: Keys::Any, place: Files, optional: false }
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

/// The values that templates name: sources and their keys. The key of a source with a single value
/// ([`Keys::One`]) is empty.
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

    /// Iterates over the sources, each with one key or more.
    pub fn iter(&self) -> impl Iterator<Item = (Source, &BTreeSet<String>)> {
        self.0.iter().map(|(source, keys)| (*source, keys))
    }
}

/// The result of reading one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The available values by key. If a remote source fails, or files hang, these are the values of the
    /// last success.
    pub values: BTreeMap<String, String>,
    /// Why a value is unavailable.
    pub error: Option<String>,
}

impl Reading {
    /// A reading without an error.
    pub fn of(values: BTreeMap<String, String>) -> Self {
        Self { values, error: None }
    }

    /// A reading without values.
    pub fn failed(error: impl Into<String>) -> Self {
        Self { values: BTreeMap::new(), error: Some(error.into()) }
    }

    /// Returns the values with these keys, without an error.
    #[must_use]
    pub fn restricted_to(&self, keys: &BTreeSet<String>) -> Self {
        let mut values = self.values.clone();
        values.retain(|key, _| keys.contains(key));
        Self::of(values)
    }

    /// Adds the reason why one more value is unavailable.
    pub fn add_error(&mut self, reason: &str) {
        match &mut self.error {
            Some(error) => error.extend(["; ", reason]),
            none => *none = Some(reason.to_owned()),
        }
    }
}

/// A snapshot of the values in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<Source, Reading>);

impl Values {
    /// Returns a value, if it is available.
    pub fn get(&self, source: Source, key: &str) -> Option<&str> {
        self.0.get(&source)?.values.get(key).map(String::as_str)
    }

    /// Returns the reading of a source.
    pub fn reading(&self, source: Source) -> Option<&Reading> {
        self.0.get(&source)
    }

    /// Returns the error of a source, if it has one.
    pub fn error(&self, source: Source) -> Option<&str> {
        self.0.get(&source)?.error.as_deref()
    }

    /// Iterates over the sources and their readings.
    pub fn readings(&self) -> impl Iterator<Item = (Source, &Reading)> {
        self.0.iter().map(|(source, reading)| (*source, reading))
    }

    /// Iterates over the names of the sources, and whether all values in use were available when
    /// last read.
    pub fn up(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.readings().map(|(source, reading)| (source.name(), reading.error.is_none()))
    }
}

impl FromIterator<(Source, Reading)> for Values {
    fn from_iter<I: IntoIterator<Item = (Source, Reading)>>(readings: I) -> Self {
        Self(readings.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_ordered_by_their_unique_names() {
        assert!(Source::ALL.is_sorted_by(|source, next| source.name() < next.name()));
    }
}
