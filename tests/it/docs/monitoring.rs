//! The Prometheus rules and the Grafana dashboard, checked without running either program.

use std::{collections::BTreeSet, fs};

use sched_exporter_tests::{
    commands::cgroup_queries,
    dashboard::{Dashboard, array, text, variables_in},
};
use serde_json::Value;

use super::root;

const ALERTS: &str = include_str!("../../../docs/alerts.md");

/// The rules of a file in `deploy/prometheus`.
fn rules(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(root().join("deploy/prometheus").join(file)).unwrap();
    let file: Value = serde_yaml::from_str(&text).unwrap();
    let groups = array(&file["groups"]).iter();
    groups.flat_map(|group| array(&group["rules"]).to_vec()).collect()
}

/// The names of our metrics in an expression.
fn metrics(expr: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expr.split(|c| !is_name(c));
    let ours = |word: &&str| word.starts_with("sched_") || word.contains(":sched_");
    // Exclude the job, and a pattern that matches several metrics.
    let other = |word: &&str| *word != "sched_exporter" && !word.ends_with("ratio_rate");
    words.filter(ours).filter(other).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_use_only_existing_metrics() {
    let families = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut known = BTreeSet::new();
    for name in families.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
        known.insert(name.to_owned());
        known.extend(["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")));
    }
    let recording = rules("recording.rules.yaml");
    known.extend(recording.iter().map(|rule| text(&rule["record"]).to_owned()));
    let rules = recording.into_iter().chain(rules("alerts.rules.yaml"));
    let mut exprs: Vec<_> = rules.map(|rule| text(&rule["expr"]).to_owned()).collect();
    let dashboard = Dashboard::shipped();
    exprs.extend(dashboard.queries().iter().map(|query| query.expr.to_owned()));
    exprs.extend(dashboard.variables().iter().map(|it| text(&it["definition"]).to_owned()));
    exprs.extend(cgroup_queries().into_iter().map(str::to_owned));
    assert!(exprs.len() > 50, "{}", exprs.len());
    for expr in exprs {
        let unknown: Vec<_> = metrics(&expr).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expr}");
    }
}

#[test]
fn docs_alerts_md_has_a_section_for_each_alert_and_no_other() {
    let mut names = BTreeSet::new();
    for alert in rules("alerts.rules.yaml") {
        let name = text(&alert["alert"]);
        names.insert(name.to_owned());
        let runbook = text(&alert["annotations"]["runbook"]);
        assert_eq!(runbook, format!("docs/alerts.md#{}", name.to_lowercase()));
        for annotation in ["summary", "description"] {
            assert!(text(&alert["annotations"][annotation]).ends_with('.'), "{name}: {annotation}");
        }
        assert!(["info", "warning", "critical"].contains(&text(&alert["labels"]["severity"])));
        assert!(alert["for"].is_string(), "{name}");
    }
    let sections: BTreeSet<_> =
        ALERTS.lines().filter_map(|line| line.strip_prefix("## Sched")).collect();
    let sections: BTreeSet<_> = sections.iter().map(|rest| format!("Sched{rest}")).collect();
    assert_eq!(sections, names);
    for section in ALERTS.split("\n## Sched").skip(1) {
        for part in ["**Means**", "**Look at**", "**Do**"] {
            assert!(section.contains(part), "no {part} in {section}");
        }
    }
}

#[test]
fn each_panel_has_a_description_a_unit_and_the_selected_data_source() {
    let dashboard = Dashboard::shipped();
    let source = |value: &Value| text(&value["datasource"]["uid"]) == "${datasource}";
    let names: Vec<_> = dashboard.variables().iter().map(|it| text(&it["name"])).collect();
    let known = |expr: &str| {
        let found = variables_in(expr);
        found.iter().all(|name| names.contains(name) || *name == "__rate_interval")
    };
    for variable in dashboard.variables() {
        let is_source = variable["type"] == "datasource" && variable["query"] == "prometheus";
        let name = text(&variable["name"]);
        assert!(is_source || source(variable) && variable["query"]["refId"] == name, "{name}");
        assert!(!text(&variable["description"]).is_empty(), "{name}");
        assert!(known(text(&variable["definition"])), "{variable}");
        assert!(is_source || variable["query"]["query"] == variable["definition"], "{name}");
        assert!(variable["multi"] == false || variable["allValue"] == ".*", "{name}");
    }
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard.panels() {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: duplicate id");
        assert!(!title.is_empty() && titles.insert(title), "{title}: duplicate title");
        assert!(known(title), "{title}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(text(&panel["description"]).ends_with('.'), "{title} has no description");
        assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{title} has no unit");
        assert!(source(panel), "{title}");
        assert!(!array(&panel["targets"]).is_empty(), "{title} has no query");
        let mut letters = BTreeSet::new();
        for target in array(&panel["targets"]) {
            assert!(letters.insert(text(&target["refId"])) && source(target), "{title}");
            assert!(!text(&target["legendFormat"]).is_empty(), "{title} has no legend");
            assert!(known(text(&target["expr"])), "{title}: {target}");
        }
    }
    assert!(titles.len() > 20);
}

#[test]
fn dashboard_panels_do_not_overlap() {
    let mut taken = BTreeSet::new();
    for panel in array(&Dashboard::shipped().json()["panels"]) {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} at {cell:?}", panel["title"]);
        }
    }
}
