//! Checks of deploy/kubernetes and deploy/helm against the definitions of Kubernetes and
//! prometheus-operator, Helm, and the exporter itself. Needs no cluster.

use std::{env, process::Command};

/// Runs a function of `manifests/check.py`.
#[track_caller]
fn check(name: &str) {
    let python = env::var_os("SCHED_EXPORTER_MANIFESTS_PYTHON").expect("run by `cargo xtask test`");
    let mut command = Command::new(python);
    command.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/it/manifests/check.py"), name]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_object_is_valid_in_kubernetes() {
    check("every_object_is_valid_in_kubernetes");
}

#[test]
fn every_object_is_valid_for_the_operator() {
    check("every_object_is_valid_for_the_operator");
}

#[test]
fn objects_fit_together() {
    check("objects_fit_together");
}

#[test]
fn pods_have_no_more_privileges_than_needed() {
    check("pods_have_no_more_privileges_than_needed");
}

#[test]
fn labels_are_host_and_zone() {
    check("labels_are_host_and_zone");
}

#[test]
fn the_chart_matches_kustomize() {
    check("the_chart_matches_kustomize");
}

#[test]
fn rules_match_those_of_prometheus() {
    check("rules_match_those_of_prometheus");
}

#[test]
fn the_chart_rejects_invalid_values() {
    check("the_chart_rejects_invalid_values");
}

#[test]
fn the_chart_passes_lint_and_names_its_version() {
    check("the_chart_passes_lint_and_names_its_version");
}

#[test]
fn the_readme_lists_every_value() {
    check("the_readme_lists_every_value");
}

#[test]
fn the_checks_detect_mistakes() {
    check("the_checks_detect_mistakes");
}
