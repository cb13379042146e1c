//! The labels that configurations give cgroups.

use super::*;
use crate::{
    cpu::topology::Topology,
    expr::{
        cgroup::PodMetadata,
        values::{Reading, Source},
    },
    labels::{Violation, expand},
};

const CONTAINER: &str = "5f0c91b7a1e5d6b9b1b0a3d1c6f0e4d2a7b8c9d0e1f2a3b4c5d6e7f8a9b0c1d2";

fn unit(slice: &str, unit: &str) -> CgroupNames {
    CgroupNames {
        path: format!("/{slice}/{unit}"),
        id: "7".into(),
        unit: unit.into(),
        slice: slice.into(),
        ..CgroupNames::default()
    }
}

fn container(id: &str) -> CgroupNames {
    CgroupNames {
        path: format!("/kubepods/burstable/pod1/{id}"),
        id: "8".into(),
        container_id: id.into(),
        pod_uid: "1".into(),
        ..CgroupNames::default()
    }
}

fn labeller(config: &str) -> CgroupLabeller {
    let config = Config::parse(config).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
    let reading = Reading::of([(String::new(), "web-17".to_owned())].into());
    let values = [(Source::Hostname, reading)].into_iter().collect();
    let expansion = expand(&config, &values, &Topology::default(), false);
    assert_eq!(expansion.violations, []);
    expansion.cgroups.unwrap()
}

/// The pairs of a set's labels, each as `name=value`.
fn pairs(labels: &exposition::Labels) -> Vec<String> {
    let labels = format!("{labels:?}");
    let labels = labels.trim_start_matches("Labels(\"").trim_end_matches("\")");
    labels.replace("\\\"", "").split(',').map(str::to_owned).collect()
}

/// The labels that are not empty.
fn shown(labels: &exposition::Labels) -> String {
    let mut pairs = pairs(labels);
    pairs.retain(|pair| !pair.ends_with('='));
    pairs.join(",")
}

/// The names of the labels, empty ones included.
fn names(labels: &exposition::Labels) -> Vec<String> {
    let name = |pair: &String| pair.split_once('=').unwrap_or_default().0.to_owned();
    pairs(labels).iter().map(name).collect()
}

fn lines(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(ToString::to_string).collect()
}

/// Checks the labels of each cgroup, then those of `other`, and the violations.
#[track_caller]
fn check_with_violations(
    config: &str,
    cgroups: &[CgroupNames],
    expected: &[&str],
    violations: &[&str],
) {
    let labeller = labeller(config);
    let mut found = labeller.violations();
    let mut batch = labeller.batch(&mut found);
    let of = |cgroup| batch.labels(cgroup).map_or_else(|| "-".to_owned(), |it| shown(&it));
    let mut labels: Vec<_> = cgroups.iter().map(of).collect();
    labels.push(shown(labeller.other()));
    assert_eq!(labels, expected, "{config}");
    assert_eq!(lines(&found.take()), violations, "{config}");
}

#[track_caller]
fn check(config: &str, cgroups: &[CgroupNames], expected: &[&str]) {
    check_with_violations(config, cgroups, expected, &[]);
}

const DEFAULT_OTHER: &str = "container=other,image=other,name=other,namespace=other,pod=other,slice=other,unit=other,user=other";

#[test]
fn by_default_pods_containers_units_and_users_have_their_own_labels() {
    let in_pod = CgroupNames {
        namespace: "shop".into(),
        pod_name: "cart-0".into(),
        image: "cart:1".into(),
        ..container("c1")
    };
    let docker =
        CgroupNames { container_id: "c1".into(), ..unit("system.slice", "docker-c1.scope") };
    let named_docker =
        CgroupNames { container_name: "web".into(), image: "nginx:1".into(), ..docker.clone() };
    let user =
        |unit: &str| CgroupNames { user: "1000".into(), ..self::unit("user-1000.slice", unit) };
    let in_podman = CgroupNames {
        pod_name: "shop".into(),
        image: "pause:3".into(),
        container_id: "c3".into(),
        ..unit("machine.slice", "libpod-c3.scope")
    };
    let conmon = format!("crio-conmon-{CONTAINER}.scope");
    check(
        "labels: {zone: z, host: '{{ hostname }}'}\n",
        &[
            unit("system.slice", "ssh.service"),
            unit("", "init.scope"),
            // Without names from a runtime, and with them.
            docker,
            named_docker.clone(),
            // In a pod of podman: a container, and the pause container.
            CgroupNames {
                container_name: "web".into(),
                image: "nginx:1".into(),
                ..in_podman.clone()
            },
            in_podman,
            container(CONTAINER),
            CgroupNames { container_name: "cart".into(), ..in_pod.clone() },
            // The pause container, the pod's own cgroup, and what supervises its containers.
            in_pod.clone(),
            CgroupNames { container_id: String::new(), ..in_pod.clone() },
            CgroupNames { container_id: String::new(), unit: conmon, ..in_pod.clone() },
            container(""),
            user("session-3.scope"),
            user("user@1000.service"),
            user(""),
            // The ids can be those of others.
            CgroupNames { container_id: "c2".into(), ..user("user@1000.service") },
            CgroupNames { user: "1000".into(), ..container(CONTAINER) },
            CgroupNames { user: "1000".into(), ..named_docker },
            CgroupNames { user: "1000".into(), ..in_pod },
            unit("user.slice", ""),
            CgroupNames { path: "/".into(), ..CgroupNames::default() },
        ],
        &[
            "host=web-17,slice=system.slice,unit=ssh.service,zone=z",
            "host=web-17,unit=init.scope,zone=z",
            "host=web-17,name=c1,zone=z",
            "host=web-17,image=nginx:1,name=web,zone=z",
            "host=web-17,image=nginx:1,name=web,pod=shop,zone=z",
            "host=web-17,image=pause:3,pod=shop,zone=z",
            &format!("container={CONTAINER},host=web-17,pod=1,zone=z"),
            "container=cart,host=web-17,namespace=shop,pod=cart-0,zone=z",
            "host=web-17,namespace=shop,pod=cart-0,zone=z",
            "host=web-17,namespace=shop,pod=cart-0,zone=z",
            "host=web-17,namespace=shop,pod=cart-0,zone=z",
            "host=web-17,pod=1,zone=z",
            "host=web-17,user=1000,zone=z",
            "host=web-17,user=1000,zone=z",
            "host=web-17,user=1000,zone=z",
            "host=web-17,name=c2,user=1000,zone=z",
            &format!("container={CONTAINER},host=web-17,pod=1,user=1000,zone=z"),
            "host=web-17,image=nginx:1,name=web,zone=z",
            "host=web-17,namespace=shop,pod=cart-0,zone=z",
            "-",
            "-",
            "container=other,host=web-17,image=other,name=other,namespace=other,pod=other,\
             slice=other,unit=other,user=other,zone=z",
        ],
    );
}

#[test]
fn by_default_units_with_a_new_name_each_time_are_other() {
    let of = |unit: &str| self::unit("", unit);
    let id = CONTAINER;
    let other = [
        "run-u12.service",
        "run-u12-s1.scope",
        "run-rc7bdc3135f0c91b7a1e5d6b9b1b0a3d1.scope",
        "run-p4711-i4712.service",
        "run-4711.scope",
        &format!("libpod-conmon-{id}.scope"),
        &format!("{id}.service"),
        &format!("{id}-4a1f.service"),
    ];
    check("", &other.map(of), &[&["-"; 8][..], &[DEFAULT_OTHER]].concat());
    let named = [
        "run-backup.service",
        "run-parts.service",
        "run-.service",
        "run-rc7bdc.service",
        "run-123.mount",
        "run-u12.service.service",
        "session-cleanup.service",
        "sha-5f0c91b7a1e5d6b9.service",
    ];
    let expected = named.map(|unit| format!("unit={unit}"));
    let expected: Vec<_> = expected.iter().map(String::as_str).chain([DEFAULT_OTHER]).collect();
    check("", &named.map(of), &expected);
}

#[test]
fn every_series_has_every_label() {
    let cgroups = [unit("a.slice", "b.service"), unit("", "c.service"), container("c")];
    for config in [
        "",
        "labels: {zone: z, pod: p}\n",
        "labels: {zone: z, pod: p}\nlabels_on: both\n",
        "labels: {zone: z}\nlabels_on: target_info\n",
        "limits: {labels: 3}\n",
        "limits: {name_bytes: 4}\n",
        "without: [cpu, slice]\n",
        "labels: {zone: z}\ncgroups: {labels: {zone: '{{ cgroup.slice }}', a: '{{ cgroup.unit }}'}}\n",
        "labels: {zone: z, y: z}\ncgroups:\n  relabel_configs:\n  \
         - {source_labels: [slice], regex: 'a.*', target_label: zone, replacement: ''}\n  \
         - {source_labels: [slice], regex: 'a(.*)', target_label: y}\n  \
         - {source_labels: [slice], regex: '(a.*)', target_label: team}\n  \
         - {regex: image, action: labeldrop}\n  \
         - {regex: __meta_cgroup_(path), action: labelmap}\n",
    ] {
        let labeller = labeller(config);
        let mut violations = labeller.violations();
        let mut batch = labeller.batch(&mut violations);
        for labels in cgroups.iter().filter_map(|cgroup| batch.labels(cgroup)) {
            assert_eq!(names(&labels), names(labeller.other()), "{config}");
        }
    }
}

/// Tenants choose the labels of their pods. These can neither replace other labels nor push them out.
#[test]
fn labels_of_pods_give_way_to_those_of_the_configuration() {
    let labels = (0..40).map(|index| (format!("a{index:02}"), "x".to_owned())).collect();
    let pod = PodMetadata { labels, ..PodMetadata::default() };
    let cgroup = CgroupNames { pod: Some(pod.into()), ..container("c") };
    check_with_violations(
        "limits: {labels: 5}\ncgroups:\n  labels: {pod: '{{ cgroup.pod_uid }}', unit: '{{ cgroup.unit }}'}\n  \
         relabel_configs:\n  - {regex: __meta_cgroup_pod_label_(.+), action: labelmap}\n",
        &[cgroup],
        &["a00=x,a01=x,a02=x,pod=1", "pod=other,unit=other"],
        &["limits.labels: a cgroup has 42 labels, 5 at most; remove some"],
    );
}

#[test]
fn rules_see_labels_and_annotations_of_pods() {
    let map = |items: &[(&str, &str)]| {
        items.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let labels = map(&[("example.com/team", "a"), ("empty", "")]);
    let pod = PodMetadata { labels, annotations: map(&[("team", "b")]) };
    let cgroup = CgroupNames { pod: Some(pod.into()), ..container("c") };
    let config = "cgroups:\n  labels: {unit: '{{ cgroup.unit }}'}\n  relabel_configs:\n  - ";
    let check = |rule: &str, expected: &str, other: &str| {
        check(
            &format!("{config}{rule}\n"),
            &[cgroup.clone(), container("c")],
            &[expected, "-", other],
        );
    };
    check(
        "{source_labels: [__meta_cgroup_pod_label_example_com_team, \
         __meta_cgroup_pod_annotation_team, __meta_cgroup_pod_labelpresent_empty, \
         __meta_cgroup_pod_label_empty, __meta_cgroup_pod_label_none], regex: '(.+;.+;.+);;', target_label: of}",
        "of=a;b;true",
        "of=other,unit=other",
    );
    check(
        "{regex: __meta_cgroup_pod_(label|annotation)_(.+), replacement: '${1}_$2', action: labelmap}",
        "annotation_team=b,label_example_com_team=a",
        "unit=other",
    );
    // A name that depends on a pod is only on the series of pods that have it.
    let labeller = labeller(&format!(
        "{config}{{regex: __meta_cgroup_pod_label_(.+), replacement: label_$1, action: labelmap}}\n"
    ));
    let mut violations = labeller.violations();
    let labels = labeller.batch(&mut violations).labels(&cgroup).unwrap();
    assert_eq!(names(&labels), ["label_example_com_team", "unit"]);
}

#[test]
fn templates_see_sources_and_labels_of_the_host() {
    check(
        "labels: {zone: z, __rack: r1}\n\
         cgroups:\n  labels:\n    app: '{{ cgroup.unit | replace(\".service\", \"\") }}-{{ __rack }}'\n    \
         node: '{{ hostname }}'\n    gone: '{{ cgroup.slice }}{{ env.NONE }}'\n  relabel_configs: []\n",
        &[unit("a.slice", "b.service")],
        &["app=b-r1,node=web-17,zone=z", "app=other,gone=other,node=other,zone=z"],
    );
}

#[test]
fn rules_see_labels_of_host_and_cgroup_and_the_names() {
    check(
        "labels: {zone: z, __rack: r1}\n\
         cgroups:\n  labels: {unit: '{{ cgroup.unit }}'}\n  relabel_configs:\n  \
         - {source_labels: [zone, __rack, unit, __meta_cgroup_path, __meta_cgroup_id, \
         __meta_cgroup_unit, __meta_cgroup_slice, __meta_cgroup_container_id, __meta_cgroup_pod_uid], \
         target_label: all}\n",
        &[unit("a.slice", "b.service"), container("c")],
        &[
            "all=z;r1;b.service;/a.slice/b.service;7;b.service;a.slice;;,unit=b.service,zone=z",
            "all=z;r1;;/kubepods/burstable/pod1/c;8;;;c;1,zone=z",
            "all=other,unit=other,zone=z",
        ],
    );
}

#[test]
fn drop_and_keep_mean_other() {
    let config = "cgroups:\n  relabel_configs:\n  \
                  - {source_labels: [__meta_cgroup_slice], regex: 'a.*', action: ACTION}\n";
    let cgroups = [unit("a.slice", "b.service"), unit("b.slice", "b.service")];
    let [a, b] = ["slice=a.slice,unit=b.service", "slice=b.slice,unit=b.service"];
    check(&config.replace("ACTION", "drop"), &cgroups, &["-", b, DEFAULT_OTHER]);
    check(&config.replace("ACTION", "keep"), &cgroups, &[a, "-", DEFAULT_OTHER]);
}

/// The labels of `other` follow the names that the rules give, whatever their values.
#[test]
fn other_has_the_names_that_rules_give() {
    let cgroups = [unit("a.slice", "b@1.service"), container("c")];
    let check = |rules: &str, expected: &[&str]| {
        check(
            &format!(
                "labels: {{zone: z}}\ncgroups:\n  labels: {{unit: '{{{{ cgroup.unit }}}}'}}\n  \
                 relabel_configs:\n  {rules}\n"
            ),
            &cgroups,
            expected,
        );
    };
    // Renamed.
    check(
        "- {source_labels: [unit], regex: '(.*)@.*', target_label: app}\n  \
         - {regex: unit, action: labeldrop}",
        &["app=b,zone=z", "-", "app=other,zone=z"],
    );
    check(
        "- {regex: __meta_cgroup_(unit|pod_uid), action: labelmap}\n  \
         - {regex: zone|unit, action: labelkeep}",
        &["unit=b@1.service,zone=z", "-", "unit=other,zone=z"],
    );
    // A label of the host stays that of the host.
    check(
        "- {source_labels: [zone], target_label: zone, action: uppercase}",
        &["unit=b@1.service,zone=Z", "-", "unit=other,zone=z"],
    );
    check("- {regex: zone, action: labeldrop}", &["unit=b@1.service", "-", "unit=other"]);
    // Deleted for some.
    check(
        "- {source_labels: [unit], regex: 'b.*', target_label: unit, replacement: ''}",
        &["-", "-", "unit=other,zone=z"],
    );
    // For rules only.
    check(
        "- {source_labels: [unit], target_label: __tmp}\n  \
         - {source_labels: [__tmp], target_label: __tmp2, modulus: 3, action: hashmod}",
        &["unit=b@1.service,zone=z", "-", "unit=other,zone=z"],
    );
}

#[test]
fn without_labels_every_cgroup_is_other() {
    check(
        "labels: {a: b}\ncgroups: {labels: {}}\n",
        &[unit("a.slice", "b.service")],
        &["-", "a=b"],
    );
    check("cgroups: {labels: {}}\n", &[unit("a.slice", "b.service")], &["-", ""]);
}

#[test]
fn a_set_that_equals_other_is_other() {
    check(
        "cgroups: {labels: {unit: '{{ cgroup.unit }}'}}\n",
        &[unit("a.slice", "other"), unit("other", "b")],
        &["-", "unit=b", "unit=other"],
    );
}

#[test]
fn a_label_of_a_cgroup_replaces_that_of_the_host() {
    check(
        "labels: {team: infra, zone: z}\n\
         cgroups: {labels: {team: '{{ cgroup.slice }}'}, relabel_configs: []}\n",
        &[unit("a.slice", "b.service"), container("c"), unit("infra", "d.service")],
        &["team=a.slice,zone=z", "-", "-", "team=other,zone=z"],
    );
    // An empty one, too: this unit does not belong to the pod in which the exporter runs.
    check(
        "labels: {pod: exporter-1}\ncgroups: {labels: {pod: '{{ cgroup.pod_uid }}', unit: '{{ cgroup.unit }}'}}\n",
        &[unit("a.slice", "b.service"), container("c")],
        &["unit=b.service", "pod=1", "pod=other,unit=other"],
    );
}

#[test]
fn labels_on_and_without_apply() {
    let config =
        "labels: {host: h, zone: z}\ncgroups: {labels: {unit: '{{ cgroup.unit }}', zone: z}}\n";
    let cgroups = [unit("a.slice", "b.service"), container("c")];
    check(
        &format!("{config}labels_on: target_info\n"),
        &cgroups,
        &["unit=b.service", "-", "unit=other,zone=other"],
    );
    check(
        &format!("{config}labels_on: both\n"),
        &cgroups,
        &["host=h,unit=b.service,zone=z", "-", "host=h,unit=other,zone=other"],
    );
    check(&format!("{config}without: [cpu, host, unit]\n"), &cgroups, &["-", "-", "zone=other"]);
}

#[test]
fn limits_drop_or_replace_labels_and_each_is_reported_once() {
    let long = "x".repeat(20);
    check_with_violations(
        "limits: {value_bytes: 15}\ncgroups: {labels: {slice: '{{ cgroup.slice }}', unit: '{{ cgroup.unit }}'}}\n",
        &[unit("a.slice", &long), unit("b.slice", &long), unit(&long, &long)],
        &["slice=a.slice,unit=other", "slice=b.slice,unit=other", "-", "slice=other,unit=other"],
        &[
            "limits.value_bytes: the value of unit of a cgroup has 20 bytes, 15 at most; shorten it, or \
             raise the limit",
            "limits.value_bytes: the value of slice of a cgroup has 20 bytes, 15 at most; shorten it, or \
             raise the limit",
        ],
    );
    check_with_violations(
        "limits: {name_bytes: 5}\n",
        &[unit("a.slice", "b.service"), container("c")],
        &[
            "slice=a.slice,unit=b.service",
            "pod=1",
            "image=other,name=other,pod=other,slice=other,unit=other,user=other",
        ],
        &[
            "limits.name_bytes: the name container has 9 bytes, 5 at most; shorten it",
            "limits.name_bytes: the name namespace has 9 bytes, 5 at most; shorten it",
        ],
    );
    check_with_violations(
        "limits: {labels: 2}\nlabels: {a: b, z: z}\n",
        &[unit("a.slice", "b.service")],
        &["-", "a=b,z=z"],
        &["limits.labels: a cgroup has 10 labels, 2 at most; remove some"],
    );
    // The labels of the host come first.
    check_with_violations(
        "limits: {labels: 2}\nlabels: {y: b, z: z}\ncgroups: {labels: {a: a, z: '{{ cgroup.unit }}'}}\n",
        &[unit("a.slice", "b.service")],
        &["y=b,z=b.service", "y=b,z=other"],
        &["limits.labels: a cgroup has 3 labels, 2 at most; remove some"],
    );
    check_with_violations(
        "cgroups:\n  relabel_configs:\n  \
         - {source_labels: [unit], regex: '(.+)\\..*', target_label: '$1', replacement: x}\n",
        &[
            unit("a.slice", "le.service"),
            unit("a.slice", "cpu.service"),
            unit("a.slice", "b.service"),
        ],
        &[
            "slice=a.slice,unit=le.service",
            "slice=a.slice,unit=cpu.service",
            "b=x,slice=a.slice,unit=b.service",
            DEFAULT_OTHER,
        ],
        &[
            "cgroups.relabel_configs: the rules give a cgroup the label \"le\", which is invalid or \
             reserved; rename it, or remove it with labeldrop",
            "cgroups.relabel_configs: the rules give a cgroup the label \"cpu\", which is invalid or \
             reserved; rename it, or remove it with labeldrop",
        ],
    );
}

#[test]
fn rules_that_make_too_much_are_reported_and_mean_other() {
    let rules = "- {source_labels: [unit, unit], target_label: unit}\n  ".repeat(12);
    let labeller = labeller(&format!("cgroups:\n  relabel_configs:\n  {rules}\n"));
    let mut violations = labeller.violations();
    let mut batch = labeller.batch(&mut violations);
    let long = "x".repeat(100);
    for cgroup in [unit("a.slice", &long), unit("b.slice", &long)] {
        assert_eq!(batch.labels(&cgroup), None);
    }
    assert_eq!(
        lines(&violations.take()),
        [
            "cgroups.relabel_configs: the rules make more than 1000 labels, or a text of more than 16384 \
             bytes; make fewer or shorter ones"
        ],
    );
}

#[test]
fn templates_that_fail_are_reported_once() {
    let labeller = labeller(
        "cgroups:\n  labels: {unit: '{{ cgroup.unit }}', first: '{{ cgroup.unit | truncate(3, end=cgroup.slice) }}'}\n",
    );
    let mut violations = labeller.violations();
    let mut batch = labeller.batch(&mut violations);
    for name in ["a", "b"] {
        let labels = batch.labels(&unit("a.slice", &name.repeat(20))).unwrap();
        assert_eq!(shown(&labels), format!("unit={}", name.repeat(20)));
    }
    let lines = lines(&violations.take());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("cgroups.labels.first: invalid operation: truncate"), "{lines:?}");
}

#[test]
fn violations_are_bounded() {
    let labeller = labeller(
        "cgroups:\n  relabel_configs:\n  - {source_labels: [unit], target_label: '$1', replacement: x}\n",
    );
    let long = |index: usize| format!("{}{index}", "x".repeat(200));
    let mut violations = labeller.violations();
    let mut batch = labeller.batch(&mut violations);
    for index in 0..100 {
        let labels = batch.labels(&unit("a.slice", &long(index))).unwrap();
        assert_eq!(shown(&labels), format!("slice=a.slice,unit={}", long(index)));
    }
    assert_eq!(violations.take().len(), 20);
    labeller.batch(&mut violations).labels(&unit("a.slice", &long(100)));
    assert_eq!(violations.take(), []);
}

#[test]
fn labellers_are_equal_if_they_give_the_same_labels() {
    let config = |zone: &str| format!("labels: {{zone: {zone}}}\ncgroups: {{keep: 1m}}\n");
    assert_eq!(labeller(&config("a")), labeller(&config("a")));
    assert_ne!(labeller(&config("a")), labeller(&config("b")));
    assert_eq!(labeller(&config("a")).keep(), Duration::from_mins(1));
    assert_eq!(labeller("").keep(), Duration::from_mins(5));
    assert_eq!(labeller("").max_sets(), 250);
}

#[test]
fn a_dropped_host_has_no_labels_for_cgroups() {
    let config = Config::parse("relabel_configs: [{regex: x, action: keep}]\n").unwrap();
    let expansion = expand(&config, &Values::default(), &Topology::default(), false);
    assert_eq!(expansion.cgroups, None);
}

#[test]
fn groups_cgroups_by_their_labels() {
    let cgroups = ["b", "a", "b", "other", ""].map(|it| unit("a.slice", it));
    let labeller = labeller(
        "labels: {zone: z}\ncgroups: {labels: {unit: '{{ cgroup.unit }}', user: '{{ cgroup.user }}'}}\n",
    );
    let set = |pairs: &[(&str, &str)]| -> Set {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let sets = [
        (set(&[("unit", "a")]), vec![1]),
        (set(&[("unit", "b")]), vec![0, 2]),
        (set(&[("unit", "other")]), vec![3]),
    ];
    let other = set(&[("unit", "other"), ("user", "other")]);
    let expected = CgroupsByLabels { sets: sets.into(), other, in_other: vec![4] };
    assert_eq!(labeller.group(&cgroups), expected);
}
