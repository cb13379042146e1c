//! The names of a cgroup: what templates can say as `cgroup.unit`, and rules as `__meta_cgroup_unit`; and the
//! labels and annotations of its pod, `cgroup.pod.labels['app']` and `__meta_cgroup_pod_label_app`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::relabel::{Rule, Scratch};

/// Defines [`CgroupName`] and [`CgroupNames`], from a table with one row per name: its variant, its field,
/// and who knows it.
macro_rules! names {
    (@from path) => { false };
    (@from runtime) => { true };
    ($($(#[$doc:meta])+ $name:ident $field:ident from $origin:ident)+) => {
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

            /// Whether paths lack it, so that a container runtime or the Kubernetes API must be asked.
            pub const fn is_from_runtime(self) -> bool {
                match self {
                    $(Self::$name => names!(@from $origin),)+
                }
            }
        }

        /// The names of one cgroup. A name that it lacks is empty.
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct CgroupNames {
            $($(#[$doc])+ pub $field: String,)+
            /// The labels and annotations of the pod, shared by the cgroups of the pod.
            pub pod: Option<Arc<PodMetadata>>,
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
    Path path from path
    /// The number of its directory, which is its id in the kernel.
    Id id from path
    /// The systemd unit, like `ssh.service`, with systemd's escapes.
    Unit unit from path
    /// The systemd unit without escapes: `a-b.service` for `a\x2db.service`.
    UnitUnescaped unit_unescaped from path
    /// The systemd slice, like `system.slice`, with systemd's escapes.
    Slice slice from path
    /// The number of the user whose sessions and services these are.
    User user from path
    /// The id of the container: 64 hexadecimal digits, or the name of an LXC container.
    ContainerId container_id from path
    /// The name of the container. The pause container of a pod has none.
    ContainerName container_name from runtime
    /// The name of the container's image, like `docker.io/library/nginx:1.27`.
    Image image from runtime
    /// The runtime of the container: `containerd`, `cri-o`, `docker`, `podman`, …
    Runtime runtime from runtime
    /// The namespace of the Kubernetes pod.
    Namespace namespace from runtime
    /// The name of the Kubernetes pod.
    PodName pod_name from runtime
    /// The UID of the Kubernetes pod.
    PodUid pod_uid from path
    /// The quality of service of the Kubernetes pod: `guaranteed`, `burstable` or `besteffort`.
    PodQos pod_qos from path
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

/// The labels and annotations of a pod. Those that no template and no rule uses may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodMetadata {
    /// The labels by key, like `app.kubernetes.io/name`.
    pub labels: BTreeMap<String, String>,
    /// The annotations by key.
    pub annotations: BTreeMap<String, String>,
}

/// One of the maps of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodMap {
    /// Its labels.
    Labels,
    /// Its annotations.
    Annotations,
}

impl PodMap {
    /// Both maps.
    pub const ALL: [Self; 2] = [Self::Labels, Self::Annotations];

    /// The field after `cgroup.pod.` in templates.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    /// The name in templates.
    pub fn in_templates(self) -> String {
        format!("{CGROUP}.pod.{}", self.field())
    }

    /// The labels that rules see of an item: one has its value, the other is `true`. As in Prometheus'
    /// discovery of pods, what cannot be in the name of a label becomes `_`.
    /// <https://github.com/prometheus/prometheus/blob/v3.9.1/discovery/kubernetes/kubernetes.go>,
    /// `addObjectAnnotationsAndLabels`.
    pub fn meta_labels(self, key: &str) -> [String; 2] {
        let key = key.replace(|c: char| !(c == '_' || c.is_ascii_alphanumeric()), "_");
        ["", "present"].map(|kind| format!("{}{kind}_{key}", self.meta_prefix()))
    }

    /// The start of both.
    const fn meta_prefix(self) -> &'static str {
        match self {
            Self::Labels => "__meta_cgroup_pod_label",
            Self::Annotations => "__meta_cgroup_pod_annotation",
        }
    }

    const fn of(self, pod: &PodMetadata) -> &BTreeMap<String, String> {
        match self {
            Self::Labels => &pod.labels,
            Self::Annotations => &pod.annotations,
        }
    }
}

/// A value that a template can name after `cgroup.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CgroupKey {
    /// A name: `cgroup.unit`.
    Name(CgroupName),
    /// A label or an annotation of the pod: `cgroup.pod.labels['app']`.
    OfPod(PodMap, String),
}

impl CgroupKey {
    /// Finds the value with this path after `cgroup.`.
    pub fn from_path(path: &[&str]) -> Option<Self> {
        match path {
            [field] => CgroupName::from_field(field).map(Self::Name),
            ["pod", map, key] => {
                let map = PodMap::ALL.into_iter().find(|it| it.field() == *map)?;
                Some(Self::OfPod(map, (*key).into()))
            }
            _ => None,
        }
    }
}

impl CgroupNames {
    /// Returns a value; empty if the cgroup lacks it.
    pub fn value(&self, key: &CgroupKey) -> &str {
        match key {
            CgroupKey::Name(name) => self.get(*name),
            CgroupKey::OfPod(map, key) => self.of_pod(*map, key),
        }
    }

    fn of_pod(&self, map: PodMap, key: &str) -> &str {
        let of_pod = self.pod.as_ref().and_then(|pod| map.of(pod).get(key));
        of_pod.map_or("", String::as_str)
    }

    /// Iterates over the labels and annotations of the pod.
    pub fn pod_metadata(&self) -> impl Iterator<Item = (PodMap, &str, &str)> {
        PodMap::ALL.into_iter().flat_map(|map| {
            let items = self.pod.iter().flat_map(move |pod| map.of(pod));
            items.map(move |(key, value)| (map, key.as_str(), value.as_str()))
        })
    }
}

/// What templates and rules use of cgroups, so that nothing else needs to be found out, or kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupUses {
    keys: BTreeSet<CgroupKey>,
    rules: Vec<Rule>,
}

impl CgroupUses {
    /// Collects what these templates and rules use.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a CgroupKey>, rules: &[Rule]) -> Self {
        Self { keys: keys.into_iter().cloned().collect(), rules: rules.into() }
    }

    /// Whether a name is used.
    pub fn name(&self, name: CgroupName) -> bool {
        self.keys.contains(&CgroupKey::Name(name)) || self.is_read(name.meta_label())
    }

    /// Whether a label or an annotation of pods is used.
    pub fn of_pod(&self, map: PodMap, key: &str) -> bool {
        self.keys.contains(&CgroupKey::OfPod(map, key.into()))
            || map.meta_labels(key).iter().any(|label| self.is_read(label))
    }

    /// The labels and annotations of pods that templates use.
    pub fn of_pods_in_templates(&self) -> impl Iterator<Item = (PodMap, &str)> {
        self.keys.iter().filter_map(|key| match key {
            CgroupKey::OfPod(map, key) => Some((*map, key.as_str())),
            CgroupKey::Name(_) => None,
        })
    }

    /// Whether anything is used that paths lack, so that a container runtime or the Kubernetes API must be
    /// asked.
    pub fn needs_runtime(&self) -> bool {
        CgroupName::ALL.into_iter().any(|name| name.is_from_runtime() && self.name(name))
            || self.needs_pods()
    }

    /// Whether labels or annotations of pods are used.
    pub fn needs_pods(&self) -> bool {
        self.of_pods_in_templates().next().is_some() || self.pods_in_rules()
    }

    /// The names that rules read.
    pub fn names_in_rules(&self) -> impl Iterator<Item = CgroupName> {
        CgroupName::ALL.into_iter().filter(|name| self.is_read(name.meta_label()))
    }

    /// Whether rules may read labels or annotations of pods.
    pub fn pods_in_rules(&self) -> bool {
        let is_read = |map: PodMap| self.rules.iter().any(|rule| rule.may_read(map.meta_prefix()));
        PodMap::ALL.into_iter().any(is_read)
    }

    /// Whether rules read a label.
    fn is_read(&self, label: &str) -> bool {
        let mut scratch = Scratch::default();
        self.rules.iter().any(|rule| rule.reads(label, &mut scratch))
    }
}

/// Where the names of a cgroup come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamesFrom {
    /// Its path alone.
    Path,
    /// A container runtime at this endpoint, like `unix:///run/containerd/containerd.sock`.
    Runtime(Arc<str>),
    /// The Kubernetes API.
    KubernetesApi,
}

impl fmt::Display for NamesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "path",
            Self::Runtime(endpoint) => endpoint,
            Self::KubernetesApi => "Kubernetes API",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::relabel::{Compiler, RuleSpec};

    fn uses(keys: &[CgroupKey], rules: &[RuleSpec<'_>]) -> CgroupUses {
        let rules: Vec<_> = rules.iter().map(|it| Compiler::default().rule(it).unwrap()).collect();
        CgroupUses::new(keys, &rules)
    }

    fn copy(source: &str) -> RuleSpec<'_> {
        let source_labels = Some(vec![source]);
        RuleSpec { source_labels, target_label: Some("x"), ..RuleSpec::default() }
    }

    fn with_names<'a>(action: &'a str, regex: &'a str) -> RuleSpec<'a> {
        RuleSpec { action: Some(action), regex: Some(regex), ..RuleSpec::default() }
    }

    /// Which of two labels and one annotation are used.
    fn used(uses: &CgroupUses) -> [bool; 3] {
        let items = [
            (PodMap::Labels, "app.kubernetes.io/name"),
            (PodMap::Labels, "team"),
            (PodMap::Annotations, "team"),
        ];
        items.map(|(map, key)| uses.of_pod(map, key))
    }

    #[test]
    fn values_have_paths() {
        let key = |path: &[&str]| CgroupKey::from_path(path);
        assert_eq!(key(&["unit"]), Some(CgroupKey::Name(CgroupName::Unit)));
        let label = CgroupKey::OfPod(PodMap::Labels, "a/b".into());
        assert_eq!(key(&["pod", "labels", "a/b"]), Some(label));
        for path in [&["pod"][..], &["pod", "labels"], &["pod", "x", "y"], &["unit", "x"], &[]] {
            assert_eq!(key(path), None, "{path:?}");
        }
    }

    #[test]
    fn names_of_labels_of_pods_are_those_of_prometheus() {
        assert_eq!(
            PodMap::Labels.meta_labels("app.kubernetes.io/part-of_é"),
            [
                "__meta_cgroup_pod_label_app_kubernetes_io_part_of__",
                "__meta_cgroup_pod_labelpresent_app_kubernetes_io_part_of__",
            ]
        );
        assert_eq!(
            PodMap::Annotations.meta_labels("a"),
            ["__meta_cgroup_pod_annotation_a", "__meta_cgroup_pod_annotationpresent_a"]
        );
    }

    #[test]
    fn templates_use_exactly_what_they_name() {
        let key = |map, key: &str| CgroupKey::OfPod(map, key.into());
        let of_labels = uses(&[key(PodMap::Labels, "app.kubernetes.io/name")], &[]);
        assert_eq!(used(&of_labels), [true, false, false]);
        assert!(!of_labels.of_pod(PodMap::Labels, "app_kubernetes_io_name"));
        assert!(of_labels.needs_runtime());
        let of_annotations = uses(&[key(PodMap::Annotations, "team")], &[]);
        assert_eq!(used(&of_annotations), [false, false, true]);
        assert!(of_annotations.of_pods_in_templates().eq([(PodMap::Annotations, "team")]));
    }

    #[test]
    fn rules_use_the_labels_that_they_read() {
        let of = |rule: RuleSpec<'_>| used(&uses(&[], &[rule]));
        assert_eq!(of(copy("__meta_cgroup_pod_label_team")), [false, true, false]);
        assert_eq!(of(copy("__meta_cgroup_pod_labelpresent_team")), [false, true, false]);
        assert_eq!(of(copy("__meta_cgroup_pod_annotationpresent_team")), [false, false, true]);
        let sanitised = copy("__meta_cgroup_pod_label_app_kubernetes_io_name");
        assert_eq!(of(sanitised), [true, false, false]);
        assert_eq!(of(with_names("labelmap", "__meta_cgroup_pod_label_(.+)")), [true, true, false]);
        assert_eq!(of(with_names("labelmap", "__meta_cgroup_pod_.*_(team)")), [false, true, true]);
        assert_eq!(of(with_names("labeldrop", "__meta_cgroup_pod_label_.+")), [false; 3]);
        assert_eq!(of(with_names("labelkeep", ".*")), [false; 3]);
        let target_label = Some("__meta_cgroup_pod_label_team");
        let compare = RuleSpec { target_label, action: Some("keepequal"), ..copy("a") };
        assert_eq!(of(compare), [false, true, false]);
        assert_eq!(of(RuleSpec { target_label, ..copy("a") }), [false; 3]);
    }

    #[test]
    fn runtimes_are_needed_for_what_paths_lack() {
        let name = |name| CgroupKey::Name(name);
        let by_path = uses(
            &[name(CgroupName::Unit), name(CgroupName::PodUid)],
            &[copy("__meta_cgroup_container_id"), with_names("labeldrop", ".*")],
        );
        assert!(!by_path.needs_runtime());
        assert!(by_path.name(CgroupName::ContainerId) && !by_path.name(CgroupName::Slice));
        assert!(by_path.names_in_rules().eq([CgroupName::ContainerId]));
        assert!(uses(&[name(CgroupName::Image)], &[]).needs_runtime());
        assert!(uses(&[], &[copy("__meta_cgroup_namespace")]).needs_runtime());
        assert!(uses(&[], &[copy("__meta_cgroup_pod_annotation_a")]).needs_runtime());
        assert!(uses(&[], &[with_names("labelmap", "a(.*)")]).needs_runtime());
        assert!(!CgroupUses::default().needs_runtime());
    }

    #[test]
    fn a_value_that_a_cgroup_lacks_is_empty() {
        let pod =
            PodMetadata { labels: [("a".into(), "b".into())].into(), ..PodMetadata::default() };
        let names = CgroupNames { pod: Some(pod.into()), ..CgroupNames::default() };
        let value = |map, key: &str| names.value(&CgroupKey::OfPod(map, key.into())).to_owned();
        assert_eq!(value(PodMap::Labels, "a"), "b");
        assert_eq!([value(PodMap::Labels, "b"), value(PodMap::Annotations, "a")], ["", ""]);
        assert!(names.pod_metadata().eq([(PodMap::Labels, "a", "b")]));
        assert_eq!(CgroupNames::default().pod_metadata().count(), 0);
    }
}
