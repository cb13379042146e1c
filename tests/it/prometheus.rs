//! A real Prometheus that scrapes two exporters, with the shipped configuration, rules and
//! dashboard.
//!
//! One has its labels on the series and is scraped in OpenMetrics. The other has them in
//! `target_info`, sums over CPUs, and is scraped in the text format.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use sched_exporter_tests::{
    cgroups::{Tree, bursts},
    commands::{block, cgroup_queries},
    dashboard::{Dashboard, Query, array, interpolate, text},
    process::Exporter,
    quiet,
    workload::{Load, online},
};
use serde_json::{Value, json};

use self::server::{Prometheus, sped_up};

mod proxy;
mod server;
mod web;

const ON_SERIES: &str = "labels: {host: host-a, zone: zone-a}\n";
const IN_TARGET_INFO: &str = "labels: {host: host-b, zone: zone-b}\nlabels_on: target_info\n\
     without: [cpu]\nrunqueue_latency: {per_cpu: false}\n";

/// Two exporters and their Prometheus.
struct Setup {
    exporters: [Exporter; 2],
    prometheus: Prometheus,
    /// Their `instance` labels.
    instances: [String; 2],
}

impl Setup {
    fn start() -> Self {
        let on_series = Exporter::start_with(ON_SERIES, &["--web.enable-lifecycle"]);
        let in_target_info = Exporter::start_with(IN_TARGET_INFO, &[]);
        let text = proxy::text_format(in_target_info.address);
        let instances = [on_series.address, text].map(|address| address.to_string());
        let prometheus = Prometheus::start(&[&instances[0], &instances[1]]);
        Self { exporters: [on_series, in_target_info], prometheus, instances }
    }
}

/// Number of online CPUs.
fn cpus() -> f64 {
    f64::from(u32::try_from(online().len()).unwrap())
}

/// Whether the rate is one second per second and CPU, with a tolerance for late scrapes.
fn all_cpus(rate: f64) -> bool {
    (rate / cpus() - 1.0).abs() < 0.15
}

#[test]
fn both_formats_and_label_placements_fill_every_panel() {
    let setup = Setup::start();
    setup.prometheus.number("sum(up{job=\"sched_exporter\"})", |up| up > 1.0);
    both_formats_are_scraped(&setup);
    zones_are_joined(&setup);
    no_panel_of_the_dashboard_is_empty(&setup);
    the_queries_about_cgroups_have_results(&setup);
}

/// The formats differ in family names, and only one has units.
fn both_formats_are_scraped(Setup { prometheus, instances, .. }: &Setup) {
    let of = |instance: &str| {
        let target = format!("{{instance=\"{instance}\"}}");
        let known = prometheus.ask("targets/metadata", &[("match_target", &target)]);
        let of = |name: &str| {
            let found = array(&known).iter().find(|it| it["metric"] == name)?;
            Some((text(&found["type"]).to_owned(), text(&found["unit"]).to_owned()))
        };
        (of("sched_cpu_seconds"), of("sched_cpu_seconds_total"))
    };
    let counter = |unit: &str| Some(("counter".to_owned(), unit.to_owned()));
    assert_eq!(of(&instances[0]), (counter("seconds"), None));
    assert_eq!(of(&instances[1]), (None, counter("")));
}

/// Zones appear in the join from docs/labels.md and in the recording rules.
fn zones_are_joined(Setup { prometheus, .. }: &Setup) {
    let (_, join) = include_str!("../../docs/labels.md").split_once("```promql\n").unwrap();
    let join = sped_up(join.split_once("```").unwrap().0);
    let series = prometheus.some(&join);
    let zones: BTreeSet<_> = series.iter().map(|it| text(&it["metric"]["zone"])).collect();
    assert_eq!(zones, ["zone-b"].into());
    prometheus.number(&format!("sum by (zone) ({join})"), all_cpus);

    for zone in ["zone-a", "zone-b"] {
        let recorded = format!("sum(zone_mode:sched_cpu_seconds:rate5m{{zone=\"{zone}\"}})");
        prometheus.number(&recorded, all_cpus);
    }
}

/// Whether an expression may have no result: if no cgroup has a quota, or none waits.
fn may_be_empty(expr: &str) -> bool {
    ["throttled", "quota", "> 0.1"].iter().any(|part| expr.contains(part))
}

/// Also checks that no query fails, and that the CPU time of cgroups adds up to that of the busy modes.
fn the_queries_about_cgroups_have_results(Setup { prometheus, instances, .. }: &Setup) {
    let queries = cgroup_queries();
    for query in &queries {
        let query = sped_up(query);
        if may_be_empty(&query) {
            prometheus.query(&query);
        } else {
            prometheus.some(&query);
        }
    }
    let sum = queries.iter().find(|query| query.contains("forgotten")).unwrap();
    for instance in instances {
        let of = format!("({sum}) and on (instance) up{{instance=\"{instance}\"}}");
        prometheus.number(&of, |difference| difference.abs() < 1e-6);
    }
}

/// Also checks that no query fails, and that variables have the right values.
fn no_panel_of_the_dashboard_is_empty(setup: &Setup) {
    let Setup { prometheus, instances: [a, b], .. } = setup;
    let dashboard = Dashboard::shipped();
    // All zones and hosts, then those of each host, which determine the instance.
    for (zone, host, instance, choice) in [
        (".*", ".*", a, vec![a, b]),
        ("zone-a", "host-a", a, vec![a]),
        ("(zone-b)", "(host-b|host-c)", b, vec![b]),
    ] {
        let values = [
            ("job", "sched_exporter"),
            ("zone", zone),
            ("host", host),
            ("instance", instance.as_str()),
            ("cpu", ".*"),
            // Four scrape intervals, as in Grafana.
            ("__rate_interval", "4s"),
        ];
        for variable in dashboard.variables().iter().filter(|it| it["type"] == "query") {
            let found =
                prometheus.label_values(&interpolate(text(&variable["definition"]), &values));
            let expected = match text(&variable["name"]) {
                "job" => vec!["sched_exporter".to_owned()],
                "zone" => vec!["zone-a".to_owned(), "zone-b".to_owned()],
                "host" if zone == ".*" => vec!["host-a".to_owned(), "host-b".to_owned()],
                "host" => vec![host.trim_matches('(').split('|').next().unwrap().to_owned()],
                "instance" => {
                    choice.iter().copied().cloned().collect::<BTreeSet<_>>().into_iter().collect()
                }
                "cpu" if instance == b => vec![],
                "cpu" => online().iter().map(usize::to_string).collect(),
                name => panic!("no expected values for variable {name}"),
            };
            assert_eq!(found, expected, "{}", variable["name"]);
        }
        for Query { panel, expr, legend } in dashboard.queries() {
            let expr = interpolate(expr, &values);
            let series =
                if may_be_empty(&expr) { prometheus.query(&expr) } else { prometheus.some(&expr) };
            let chosen = |it: &Value| {
                let instance = it["metric"]["instance"].as_str();
                instance.is_none_or(|instance| choice.iter().any(|chosen| *chosen == instance))
            };
            assert!(series.iter().all(chosen), "{panel}: {series:?}");
            // The other instance has host and zone in target_info.
            let labels =
                legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0));
            for label in labels.filter(|_| instance == a) {
                let named = |it: &Value| it["metric"][label].is_string();
                assert!(series.iter().any(named), "{panel}: no {label} in {series:?}");
            }
        }
    }
}

/// In Kubernetes, Prometheus knows the exporter as a pod, and the labels of its target are those of that
/// pod. None of its cgroups but one is in this pod.
#[test]
fn with_honored_labels_no_cgroup_gets_the_pod_of_the_exporter() {
    const CONTAINER: &str = "5f0c91b7a1e5d6b9b1b0a3d1c6f0e4d2a7b8c9d0e1f2a3b4c5d6e7f8a9b0c1d2";
    const MS: Duration = Duration::from_millis(1);
    const POD: &str = "d5d4df71-6152-41de-9fdf-c0994d70ebc9";
    let exporter = Exporter::start_with("labels: {host: host-a}\n", &[]);
    let tree = Tree::new();
    let plain = tree.create(CONTAINER);
    let pod = tree.create(&format!("pod{POD}"));
    let in_pod = pod.create(CONTAINER, false);
    for cgroup in [&plain, &in_pod] {
        cgroup.task(0, || bursts(MS * 20, MS * 10, MS)).run();
    }
    let target = format!("targets: [\"{}\"]", exporter.address);
    let labels = "labels: {namespace: monitoring, pod: exporter-1, container: exporter}";
    let job = |name: &str, honors: bool| {
        format!(
            "- job_name: {name}\n  honor_labels: {honors}\n  static_configs:\n  - {target}\n    {labels}\n"
        )
    };
    let (honored, renamed) = (job("honored", true), job("renamed", false));
    let prometheus = Prometheus::with_config(&format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n{honored}{renamed}"
    ));
    let found = |selector: &str| {
        let series = prometheus.some(&format!("sched_cgroup_cpu_seconds_total{{{selector}}}"));
        let [series] = &series[..] else { panic!("{selector}: {series:?}") };
        let mut labels = series["metric"].as_object().unwrap().clone();
        labels.retain(|name, _| !["__name__", "host", "instance", "job"].contains(&&**name));
        Value::Object(labels)
    };
    let by_name = |job: &str| found(&format!("job=\"{job}\", name=\"{CONTAINER}\""));
    assert_eq!(by_name("honored"), json!({ "name": CONTAINER }));
    assert_eq!(
        found(&format!("job=\"honored\", pod=\"{POD}\"")),
        json!({ "pod": POD, "container": CONTAINER })
    );
    let of_other = found("job=\"honored\", unit=\"other\"");
    assert!(of_other.as_object().unwrap().values().all(|value| value == "other"), "{of_other}");
    // What is no cgroup is the exporter's pod.
    let info = prometheus.some("sched_exporter_build_info{job=\"honored\"}");
    assert_eq!(info[0]["metric"]["pod"], "exporter-1");
    // Without, all would seem to be in that pod.
    assert_eq!(
        by_name("renamed"),
        json!({
            "name": CONTAINER,
            "namespace": "monitoring",
            "pod": "exporter-1",
            "container": "exporter",
        })
    );
    let renamed = found(&format!("job=\"renamed\", exported_pod=\"{POD}\""));
    assert_eq!(renamed["pod"], "exporter-1");
}

#[test]
fn the_commands_of_the_guide_show_a_rate() {
    let _exporter = Exporter::start(&["--web.listen-address=127.0.0.1:10435"]);
    let prometheus = Prometheus::start_as_in_the_guide();
    // It scrapes at its configured interval, starting at a random offset.
    prometheus.number("up{job=\"sched_exporter\"}", |up| up > 0.0);
    let rates = prometheus.some(&block("Prometheus", "promql", 0));
    let idle = rates.iter().any(|it| it["metric"]["mode"] == "idle");
    assert!(idle && rates.iter().all(|it| it["metric"]["host"] == "test-host"), "{rates:?}");
}

#[test]
fn counters_continue_across_a_reload_of_labels() {
    let Setup { exporters: [on_series, _], prometheus, instances } = &Setup::start();
    let series = format!("sched_cpu_seconds_total{{instance=\"{}\"}}", instances[0]);
    let hosts = || {
        let found = prometheus.query(&format!("count by (host) ({series})"));
        found.iter().map(|it| text(&it["metric"]["host"]).to_owned()).collect::<Vec<_>>()
    };
    prometheus.number(&format!("min(count_over_time({series}[20s]))"), |scrapes| scrapes >= 5.0);
    assert_eq!(hosts(), ["host-a"]);

    fs::write(on_series.config(), ON_SERIES.replace("-a", "-new")).unwrap();
    assert_eq!(on_series.connect().request("POST", "/-/reload", &[]).status, 200);
    // The old series end with the first scrape that lacks them, not five minutes later.
    prometheus.wait_for("the new host", || {
        let hosts = hosts();
        assert!(hosts.len() == 1, "{hosts:?} at once");
        (hosts == ["host-new"]).then_some(())
    });
    let new = format!("min(count_over_time({}[20s]))", series.replace('}', ", host=\"host-new\"}"));
    prometheus.number(&new, |scrapes| scrapes >= 5.0);

    // The samples of each scrape add up to the elapsed time, before and after the change.
    let mut totals = BTreeMap::<String, (f64, BTreeSet<String>)>::new();
    for samples in prometheus.query(&format!("{series}[30s]")) {
        for sample in array(&samples["values"]) {
            let (total, hosts) = totals.entry(sample[0].to_string()).or_default();
            *total += text(&sample[1]).parse::<f64>().unwrap();
            hosts.insert(text(&samples["metric"]["host"]).to_owned());
        }
    }
    let totals: Vec<_> = totals.iter().map(|(at, it)| (at.parse::<f64>().unwrap(), it)).collect();
    let mut changes = 0;
    for pair in totals.windows(2) {
        let [(before, (from, old)), (after, (to, new))] = pair else { unreachable!() };
        assert!(old.len() == 1 && new.len() == 1, "two hosts in a scrape: {totals:?}");
        changes += usize::from(old != new);
        let off = (to - from) / cpus() - (after - before);
        assert!(off.abs() < 0.25, "{off} s too much from {old:?} to {new:?}: {totals:?}");
    }
    assert_eq!(changes, 1);
    // So the rate across the change is right, except for the gap between two scrapes.
    prometheus.number(&format!("sum(rate({series}[10s]))"), all_cpus);
}

#[test]
fn an_overload_fires_the_alert_of_the_objective() {
    quiet::attempt(check_overload);
}

fn check_overload() {
    let Setup { prometheus, instances, .. } = &Setup::start();
    let alert = "ALERTS{alertname=\"SchedRunqueueLatencyBudgetBurn\", long=\"1h\", \
                 alertstate=\"firing\"}";
    let ratio = "instance:sched_runqueue_latency_slow:ratio_rate5m";
    prometheus
        .wait_for("share of slow waits", || (prometheus.query(ratio).len() == 2).then_some(()));
    prometheus.wait_for("quiet", || prometheus.query(alert).is_empty().then_some(()));

    // Each spinner waits for all others to have their turn.
    let crowded = *online().last().unwrap();
    let load: Vec<_> = (0..16).map(|_| Load::spinner(crowded)).collect();
    let firing = prometheus.wait_for("firing", || {
        let firing = prometheus.query(alert);
        let [a, b] = instances.each_ref().map(|instance| {
            firing.iter().find(|it| text(&it["metric"]["instance"]) == *instance).cloned()
        });
        Some([a?, b?])
    });
    let label = |alert: usize, name: &str| text(&firing[alert]["metric"][name]);
    assert_eq!([label(0, "host"), label(0, "zone")], ["host-a", "zone-a"]);
    assert_eq!([label(0, "severity"), label(1, "severity")], ["critical"; 2]);
    // One of the 16 runs.
    let waiting = "min(instance:sched_runqueue_latency_seconds_sum:rate5m)";
    prometheus.number(waiting, |tasks| tasks > 12.0);

    drop(load);
    prometheus.wait_for("over", || prometheus.query(alert).is_empty().then_some(()));
}
