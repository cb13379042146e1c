//! The labels that configurations give an invented machine.

use super::*;
use crate::{
    config::Config,
    cpu::topology::{CpuLocation, Topology},
    expr::values::{Reading, Source, Values},
};

/// Four CPUs, the last two on another NUMA node, the last one isolated.
fn topology() -> Topology {
    let place = |cpu: u32| CpuLocation {
        numa_node: Some(cpu / 2),
        package: Some(0),
        core: Some(cpu / 2),
        smt_sibling: Some(cpu % 2),
        isolated: cpu == 3,
        ..CpuLocation::default()
    };
    (0..4).map(|cpu| (cpu, place(cpu))).collect()
}

fn values() -> Values {
    let reading = |key: &str, value: &str| Reading::of([(key.into(), value.into())].into());
    [(Source::Hostname, reading("", "web-17")), (Source::Env, reading("LONG", &"x".repeat(1_000)))]
        .into_iter()
        .collect()
}

fn expanded(config: &str) -> Expansion {
    let config = Config::parse(config).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
    expand(&config, &values(), &topology(), true)
}

fn sets(config: &str) -> (LabelSets, Vec<Violation>) {
    const SERIES: SeriesCounts = SeriesCounts { totals: 11, latency: 3, cgroup: 0 };
    group(&Config::parse(config).unwrap(), expanded(config), SERIES)
}

/// Writes each group as `cpus: labels`.
fn shown(groups: &Groups<exposition::Labels>) -> Vec<String> {
    let shown = |group: &crate::accounting::Group<_>| {
        let labels = format!("{:?}", group.labels());
        let labels = labels.trim_start_matches("Labels(\"").trim_end_matches("\")");
        format!("{}: {}", crate::cpu::list::format(group.cpus()), labels.replace("\\\"", ""))
    };
    groups.as_slice().iter().map(shown).collect()
}

#[track_caller]
fn check(config: &str, expected: &[&str]) {
    let (sets, violations) = sets(config);
    assert_eq!(violations, []);
    assert_eq!(shown(&sets.groups), expected, "{config}");
    assert_eq!(sets.groups, sets.latency, "{config}");
}

#[track_caller]
/// Checks that there is one violation, and the groups.
fn check_violation(config: &str, kind: ViolationKind, message: &str, expected: &[&str]) {
    let (sets, violations) = sets(config);
    let reported: Vec<_> =
        violations.iter().map(|violation| (violation.kind, violation.to_string())).collect();
    assert_eq!(reported, [(kind, message.to_owned())], "{config}");
    assert_eq!(shown(&sets.groups), expected, "{config}");
}

#[test]
fn by_default_each_cpu_has_its_number() {
    check("", &["0: cpu=0", "1: cpu=1", "2: cpu=2", "3: cpu=3"]);
}

#[test]
fn each_cpu_has_the_labels_of_the_host_and_its_number_last() {
    check(
        "labels: {zone: z, a: \"{{ hostname }}\", gone: \"{{ env.NONE }}\"}\n\
         relabel_configs:\n\
         - {source_labels: [a], regex: '(.*)-.*', target_label: role}\n\
         - {source_labels: [a], target_label: __tmp}\n\
         cpu_relabel_configs:\n\
         - {source_labels: [__cpu__], regex: '[12]', action: drop}\n",
        &["0: a=web-17,role=web,zone=z,cpu=0", "3: a=web-17,role=web,zone=z,cpu=3"],
    );
}

#[test]
fn the_last_matching_entry_of_cpus_wins() {
    let config = "\
labels: {zone: z}
cpus:
- {match: '0,2-9', labels: {pool: a, zone: '{{ zone }}-a'}}
- {match: 'numa:1', labels: {pool: b}}
- {match: 'package:1', labels: {pool: never}}
- {match: isolated, labels: {pool: '{{ pool | default(\"c\") }}'}}
";
    let config = config.replace("pool | default(\"c\")", "hostname");
    check(
        &config,
        &[
            "0: pool=a,zone=z-a,cpu=0",
            "1: zone=z,cpu=1",
            "2: pool=b,zone=z-a,cpu=2",
            "3: pool=web-17,zone=z-a,cpu=3",
        ],
    );
}

#[test]
fn rules_see_the_location_of_a_cpu() {
    check(
        "cpu_relabel_configs:\n\
         - source_labels: [__cpu__, __meta_numa_node, __meta_package, __meta_core, __meta_cluster, \
         __meta_smt_sibling, __meta_isolated]\n  target_label: place\n",
        &[
            "0: place=0;0;0;0;;0;false,cpu=0",
            "1: place=1;0;0;0;;1;false,cpu=1",
            "2: place=2;1;0;1;;0;false,cpu=2",
            "3: place=3;1;0;1;;1;true,cpu=3",
        ],
    );
}

#[test]
fn cpus_with_equal_labels_are_grouped() {
    check("labels: {a: b}\nwithout: [cpu]\n", &["0-3: a=b"]);
    check("labels: {a: b}\nwithout: [cpu, a]\n", &["0-3: "]);
    check(
        "cpu_relabel_configs:\n- {source_labels: [__meta_core], target_label: cpu}\n",
        &["0-1: cpu=0", "2-3: cpu=1"],
    );
    check(
        "without: [cpu]\ncpus:\n- {match: '1,3', labels: {pool: a}}\n",
        &["0,2: ", "1,3: pool=a"],
    );
}

#[test]
fn latency_can_be_summed_separately() {
    let (sets, _) =
        sets("runqueue_latency: {per_cpu: false}\ncpus:\n- {match: '0-2', labels: {pool: a}}\n");
    assert_eq!(shown(&sets.latency), ["0-2: pool=a", "3: "]);
    assert_eq!(sets.groups.as_slice().len(), 4);
}

#[test]
fn labels_on_moves_the_labels_of_the_host_to_target_info() {
    let config = "\
labels: {host: h, zone: z}
labels_on: target_info
cpus:
- {match: '0-1', labels: {zone: y}}
";
    let (info, violations) = sets(config);
    assert_eq!(violations, []);
    assert_eq!(info.target_info, Some([("host", "h"), ("zone", "z")].into_iter().collect()));
    let expected = ["0: zone=y,cpu=0", "1: zone=y,cpu=1", "2: cpu=2", "3: cpu=3"];
    assert_eq!(shown(&info.groups), expected);

    let (both, _) = sets(&config.replace("target_info", "both"));
    assert_eq!(both.target_info, info.target_info);
    assert_eq!(shown(&both.groups)[2], "2: host=h,zone=z,cpu=2");
    let (series, _) = sets(&config.replace("target_info", "series"));
    assert_eq!((series.target_info, series.groups), (None, both.groups));
    assert_eq!(sets("labels_on: both").0.target_info, None);
}

#[test]
fn a_dropped_host_has_no_series() {
    let config = "relabel_configs: [{source_labels: [host], regex: .+, action: keep}]\n";
    check(config, &[]);
    assert_eq!(expanded(config).host, None);
}

#[test]
fn tracing_records_the_origin_of_each_label() {
    let expansion = expanded(
        "labels: {host: '{{ hostname }}', a: b, c: d}\n\
         relabel_configs:\n\
         - {target_label: new, replacement: x}\n\
         - {target_label: a, replacement: b}\n\
         - {target_label: c, replacement: other}\n\
         cpus:\n\
         - {match: '0', labels: {c: e}}\n\
         - {match: '0', labels: {a: f}}\n\
         cpu_relabel_configs:\n\
         - {target_label: new, replacement: y}\n",
    );
    let origins = |labels: &Labels| {
        let origins = labels.origins.iter().map(|(name, key)| format!("{name} {key}"));
        origins.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        origins(&expansion.host.unwrap()),
        "a labels.a, c relabel_configs[2], host labels.host, new relabel_configs[0]"
    );
    assert_eq!(
        origins(&expansion.cpus[0].1),
        "a cpus[1].labels.a, c cpus[0].labels.c, cpu the CPU, host labels.host, \
         new cpu_relabel_configs[0]"
    );
}

#[test]
fn a_template_that_fails_is_left_out() {
    check_violation(
        &format!("labels: {{a: b, c: '{}'}}\nwithout: [cpu]\n", "{{ env.LONG }}".repeat(70)),
        ViolationKind::Template,
        "labels.c: the text has 70000 bytes, 65536 at most; shorten it, for example with truncate",
        &["0-3: a=b"],
    );
}

#[test]
fn invalid_and_reserved_names_are_left_out() {
    check_violation(
        "labels: {x1: a, b: c}\n\
         relabel_configs: [{action: labelmap, regex: x(.*)}, {action: labeldrop, regex: x1}]\n\
         without: [cpu]\n",
        ViolationKind::Name,
        "relabel_configs: the rules give the host the label \"1\", which is invalid or reserved; \
         rename it, or remove it with labeldrop",
        &["0-3: b=c"],
    );
    let (sets, violations) = sets("relabel_configs: [{target_label: mode, replacement: x}]");
    assert_eq!(
        (violations[0].kind, shown(&sets.groups)[0].as_str()),
        (ViolationKind::Name, "0: cpu=0")
    );
}

#[test]
fn labels_over_a_limit_are_left_out_or_replaced() {
    check_violation(
        "labels: {a: b, c: d}\nrelabel_configs: [{target_label: b, replacement: x}]\n\
         limits: {labels: 2}\n",
        ViolationKind::Labels,
        "limits.labels: the host has 3 labels, 2 at most; remove some",
        &["0: a=b,b=x,cpu=0", "1: a=b,b=x,cpu=1", "2: a=b,b=x,cpu=2", "3: a=b,b=x,cpu=3"],
    );
    check_violation(
        "labels: {a: b, long: d}\nlimits: {name_bytes: 4, value_bytes: 5}\nwithout: [cpu]\n\
         relabel_configs: [{target_label: longer, replacement: x}]\n",
        ViolationKind::NameBytes,
        "limits.name_bytes: the name longer has 6 bytes, 4 at most; shorten it",
        &["0-3: a=b,long=d"],
    );
    check_violation(
        "labels: {a: '{{ hostname }}'}\nlimits: {value_bytes: 5}\nwithout: [cpu]\n",
        ViolationKind::ValueBytes,
        "limits.value_bytes: the value of a of the host has 6 bytes, 5 at most; shorten it, \
         or raise the limit",
        &["0-3: a=other"],
    );
    check_violation(
        "limits: {values_per_label: 2}\n\
         cpu_relabel_configs: [{source_labels: [__cpu__], target_label: of}]\n\
         without: [cpu]\n",
        ViolationKind::ValuesPerLabel,
        "limits.values_per_label: of has more than 2 values; reduce them, or raise the limit",
        &["0: of=0", "1: of=1", "2-3: of=other"],
    );
}

#[test]
fn groups_over_the_series_limit_are_folded() {
    // Each CPU has 11 series of times and switches, and 17 of latency.
    let too_many = |max: usize| {
        format!(
            "there are 112 series, {max} at most; sum over labels with without, lower limits.cgroups, or \
             raise the limit"
        )
    };
    for (max, expected) in [
        (111, vec!["0: a=b,cpu=0", "1: a=b,cpu=1", "2-3: a=b,cpu=other"]),
        (95, vec!["0: a=b,cpu=0", "1: a=b,cpu=1", "2-3: a=b,cpu=other"]),
        (60, vec!["0-3: a=b,cpu=other"]),
        (1, vec!["0-3: a=b,cpu=other"]),
    ] {
        let (sets, violations) = sets(&format!("labels: {{a: b}}\nlimits: {{series: {max}}}\n"));
        assert_eq!(violations[0].message, too_many(max));
        assert_eq!(shown(&sets.latency), expected, "{max}");
    }
    check(
        "labels: {a: b}\nlimits: {series: 112}\n",
        &["0: a=b,cpu=0", "1: a=b,cpu=1", "2: a=b,cpu=2", "3: a=b,cpu=3"],
    );
}

#[test]
fn sets_of_cgroups_count_as_series_and_share_the_limit() {
    let group = |max: usize| {
        let config = format!("limits: {{series: {max}, cgroups: 20}}\nwithout: [cpu]\n");
        let series = SeriesCounts { totals: 11, latency: 3, cgroup: 5 };
        let (sets, violations) = group(&Config::parse(&config).unwrap(), expanded(&config), series);
        let sizes = (sets.groups.as_slice().len(), sets.cgroups.unwrap().max_sets());
        (sizes, violations.into_iter().next().map(|it| it.message))
    };
    // One group of CPUs with 11 and 17 series, and 21 sets of cgroups with 5 each.
    assert_eq!(group(133), ((1, 20), None));
    let (sizes, message) = group(132);
    assert_eq!(sizes, (1, 19));
    assert!(message.unwrap().starts_with("there are 133 series, 132 at most; "));
    assert_eq!(group(60).0, (1, 5));
    assert_eq!(group(3).0, (1, 0));
}

#[test]
fn rules_that_make_a_set_too_large_leave_it_unchanged() {
    let double = "- {source_labels: [a, a], separator: '', target_label: a}\n".repeat(40);
    check_violation(
        &format!("labels: {{a: b}}\nwithout: [cpu]\nrelabel_configs:\n{double}"),
        ViolationKind::Labels,
        "relabel_configs: the rules make more than 1000 labels, or a text of more than 16384 bytes; \
         make fewer or shorter ones",
        &["0-3: a=b"],
    );
}

#[test]
fn invalid_names_are_reported_at_the_rules_that_make_them() {
    let (sets, violations) = sets(
        "relabel_configs: [{target_label: mode, replacement: x}, {target_label: cpu, replacement: '0'}]\n\
         cpu_relabel_configs: [{target_label: le, replacement: x}]\nlabels_on: target_info\n",
    );
    let reported: Vec<_> = violations.iter().map(|violation| violation.key.as_str()).collect();
    assert_eq!(
        reported,
        ["relabel_configs", "relabel_configs", "cpu_relabel_configs"],
        "{violations:?}"
    );
    assert_eq!(shown(&sets.groups), ["0: cpu=0", "1: cpu=1", "2: cpu=2", "3: cpu=3"]);
    assert_eq!(sets.target_info, None);
}

#[test]
fn labels_in_without_do_not_count_toward_limits() {
    check(
        "labels: {a: b}\nlimits: {values_per_label: 1, labels: 1}\nwithout: [cpu, pool]\n\
         cpus: [{match: '0', labels: {pool: x}}, {match: '1', labels: {pool: y}}]\n",
        &["0-3: a=b"],
    );
}
