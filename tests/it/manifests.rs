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
fn every_object_fits_kubernetes() {
    check("every_object_fits_kubernetes");
}

#[test]
fn every_object_fits_the_operator() {
    check("every_object_fits_the_operator");
}

#[test]
fn objects_belong_together() {
    check("objects_belong_together");
}

#[test]
fn pods_take_no_more_than_they_need() {
    check("pods_take_no_more_than_they_need");
}

#[test]
fn labels_are_host_and_zone() {
    check("labels_are_host_and_zone");
}

#[test]
fn the_chart_makes_what_kustomize_makes() {
    check("the_chart_makes_what_kustomize_makes");
}

#[test]
fn rules_are_those_of_prometheus() {
    check("rules_are_those_of_prometheus");
}

#[test]
fn the_chart_refuses_bad_values() {
    check("the_chart_refuses_bad_values");
}

#[test]
fn the_chart_is_in_order() {
    check("the_chart_is_in_order");
}

#[test]
fn the_readme_has_every_value() {
    check("the_readme_has_every_value");
}

#[test]
fn mistakes_are_seen() {
    check("mistakes_are_seen");
}
