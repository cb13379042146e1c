//! The software bill of materials, compared with its binary.

use std::{collections::BTreeSet, env, fs, process::Command};

use serde_json::Value;

use super::{VERSION, file, output};

fn sbom() -> Value {
    serde_json::from_slice(&fs::read(file(".cdx.json")).unwrap()).unwrap()
}

fn components(sbom: &Value) -> BTreeSet<String> {
    let components = sbom["components"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    components.map(|it| format!("{}-{}", text(&it["name"]), text(&it["version"]))).collect()
}

#[test]
fn it_is_valid() {
    const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()))";
    let python = env::var_os("SCHED_EXPORTER_CYCLONEDX_PYTHON").expect("run by `cargo xtask test`");
    output(Command::new(python).args(["-c", VALIDATE]).arg(file(".cdx.json")));
}

#[test]
fn it_describes_the_binary() {
    let sbom = sbom();
    let binary = &sbom["metadata"]["component"];
    assert_eq!(binary["version"], VERSION);
    let sum = output(Command::new("sha256sum").arg(file("")));
    assert_eq!(binary["hashes"][0]["content"], sum.split(' ').next().unwrap());
}

/// The binary contains source paths for its panic messages, which name crates linked into it.
#[test]
fn it_lists_every_crate_that_the_binary_names() {
    let components = components(&sbom());
    let binary = fs::read(file("")).unwrap();
    let binary = String::from_utf8_lossy(&binary);
    let named: BTreeSet<_> = binary
        .split("/cargo/")
        .skip(1)
        .filter_map(|path| path.split_once("/src/"))
        .map(|(package, _)| package.to_owned())
        .collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> = named.difference(&components).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn it_lists_exactly_the_linked_components() {
    let sbom = sbom();
    let components = components(&sbom);
    let has = |name: &str| components.iter().any(|it| it.starts_with(&format!("{name}-")));
    for linked in ["aya", "glibc", "hyper", "ring", "rust", "sched_exporter-ebpf", "tokio"] {
        assert!(has(linked), "{linked}");
    }
    for only_built_with in
        ["cc", "clap_derive", "clap_mangen", "proptest", "serde_derive", "tempfile"]
    {
        assert!(!has(only_built_with), "{only_built_with}");
    }
    for component in sbom["components"].as_array().unwrap() {
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
}
