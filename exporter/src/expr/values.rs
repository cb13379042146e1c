//! What templates can name, and what is known of it at one moment. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Where values come from. Each is read only if a template names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The machine as the kernel names it.
    Arch,
    /// The metadata service of Amazon EC2.
    Aws,
    /// The metadata service of Azure.
    Azure,
    /// The kernel's id of this boot.
    BootId,
    /// The environment.
    Env,
    /// Files.
    File,
    /// The fully qualified host name.
    Fqdn,
    /// The metadata service of Google Cloud.
    Gcp,
    /// The host name.
    Hostname,
    /// The kernel's release.
    KernelRelease,
    /// A hash of the machine id.
    MachineId,
    /// The labels of the Kubernetes node.
    NodeLabels,
    /// os-release.
    Os,
    /// The annotations of the pod.
    PodAnnotations,
    /// The labels of the pod.
    PodLabels,
}

/// How a template names the values of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// There is one value, named as the source.
    One,
    /// `os.id`: one of these.
    Fields(&'static [&'static str]),
    /// `env.NAME`, `node.labels["a/b"]`: any.
    Any,
    /// `file("/path")`.
    Path,
}

impl Source {
    /// Every source, by name.
    pub const ALL: [Self; 15] = [
        Self::Arch,
        Self::Aws,
        Self::Azure,
        Self::BootId,
        Self::Env,
        Self::File,
        Self::Fqdn,
        Self::Gcp,
        Self::Hostname,
        Self::KernelRelease,
        Self::MachineId,
        Self::NodeLabels,
        Self::Os,
        Self::PodAnnotations,
        Self::PodLabels,
    ];

    /// Its name, in templates and as the value of the label `source`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arch => "arch",
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::BootId => "boot_id",
            Self::Env => "env",
            Self::File => "file",
            Self::Fqdn => "fqdn",
            Self::Gcp => "gcp",
            Self::Hostname => "hostname",
            Self::KernelRelease => "kernel.release",
            Self::MachineId => "machine_id",
            Self::NodeLabels => "node.labels",
            Self::Os => "os",
            Self::PodAnnotations => "pod.annotations",
            Self::PodLabels => "pod.labels",
        }
    }

    /// How its values are named.
    pub const fn keys(self) -> Keys {
        match self {
            Self::Arch
            | Self::BootId
            | Self::Fqdn
            | Self::Hostname
            | Self::KernelRelease
            | Self::MachineId => Keys::One,
            Self::Aws => Keys::Fields(&[
                "availability_zone",
                "availability_zone_id",
                "instance_id",
                "instance_type",
                "region",
            ]),
            Self::Azure => Keys::Fields(&["location", "vm_id", "vm_size", "zone"]),
            Self::Gcp => Keys::Fields(&["instance_id", "machine_type", "region", "zone"]),
            // <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>
            Self::Os => Keys::Fields(&[
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
            ]),
            Self::Env | Self::NodeLabels | Self::PodAnnotations | Self::PodLabels => Keys::Any,
            Self::File => Keys::Path,
        }
    }

    /// Whether it is asked over the network, in the background.
    pub const fn is_remote(self) -> bool {
        matches!(self, Self::Aws | Self::Azure | Self::Gcp | Self::NodeLabels)
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
