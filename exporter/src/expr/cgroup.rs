//! The names of a cgroup: what templates can say as `cgroup.unit`, and rules as `__meta_cgroup_unit`.

/// Defines [`CgroupName`] and [`CgroupNames`], from a table with one row per name.
macro_rules! names {
    ($($(#[$doc:meta])+ $name:ident $field:ident)+) => {
        /// A name of a cgroup.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CgroupName {
            $($(#[$doc])+ $name,)+
        }

        impl CgroupName {
            /// Every name.
            pub const ALL: [Self; [$(stringify!($field)),+].len()] = [$(Self::$name),+];

            /// The field after `cgroup.` in templates.
            pub const fn field(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($field),)+
                }
            }

            /// The label that rules see.
            pub const fn meta_label(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("__meta_cgroup_", stringify!($field)),)+
                }
            }
        }

        /// The names of one cgroup. A name that it lacks is empty.
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct CgroupNames {
            $($(#[$doc])+ pub $field: String,)+
        }

        impl CgroupNames {
            /// Returns a name; empty if the cgroup lacks it.
            pub fn get(&self, name: CgroupName) -> &str {
                match name {
                    $(CgroupName::$name => &self.$field,)+
                }
            }
        }
    };
}

names! {
    /// The path below the mount point, like `/system.slice/ssh.service`.
    Path path
    /// The number of its directory, which is its id in the kernel.
    Id id
    /// The systemd unit, like `ssh.service`.
    Unit unit
    /// The systemd slice, like `system.slice`.
    Slice slice
    /// The id of the container, 64 hexadecimal digits.
    ContainerId container_id
    /// The UID of the Kubernetes pod.
    PodUid pod_uid
}

/// The first part of the names in templates.
pub const CGROUP: &str = "cgroup";

impl CgroupName {
    /// Finds a name by its field.
    pub fn from_field(field: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.field() == field)
    }

    /// The name in templates, like `cgroup.unit`.
    pub fn in_templates(self) -> String {
        format!("{CGROUP}.{}", self.field())
    }
}
