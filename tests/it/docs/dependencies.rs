//! docs/dependencies.md has a row for each direct dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::root;

/// The manifests, with the names of their packages in the document.
const MANIFESTS: [(&str, &str); 5] = [
    ("exporter/Cargo.toml", "exporter"),
    ("exporter-ebpf/Cargo.toml", "exporter-ebpf"),
    ("tests/Cargo.toml", "tests"),
    ("tests/fuzz/Cargo.toml", "tests/fuzz"),
    ("xtask/Cargo.toml", "xtask"),
];

/// The packages that use each crate.
type Users = BTreeMap<String, BTreeSet<String>>;

/// Adds the crates from a registry that a manifest names. Those that only tests of the exporter use are
/// marked.
fn add_users(users: &mut Users, manifest: &str, package: &str) {
    let mut section = "";
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            assert!(!header.contains("dependencies."), "write [{header} as a line of a table");
            // Such as `target.'cfg(unix)'.dev-dependencies`.
            section = header.trim_end_matches(']').rsplit('.').next().unwrap();
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        if !section.ends_with("dependencies") || key.starts_with("sched_exporter") {
            continue;
        }
        let renamed = value.split_once("package = \"").map(|(_, rest)| rest.split('"').next());
        let name = renamed.flatten().unwrap_or(key.trim().trim_end_matches(".workspace"));
        let user = match (package, section) {
            ("exporter", "dev-dependencies") => "exporter (tests)",
            _ => package,
        };
        users.entry(name.to_owned()).or_default().insert(user.to_owned());
    }
}

/// The crates in the document, and the packages in the second column of their rows.
fn documented(page: &str) -> Users {
    let mut users = Users::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [name, packages, ..] = cells[..] else { panic!("{row}") };
        assert_eq!(cells.len(), 7, "{row}");
        let packages = packages.split(", ").map(str::to_owned).collect();
        let name = name.trim_end_matches('`').to_owned();
        assert_eq!(users.insert(name.clone(), packages), None, "{name} has two rows");
    }
    users
}

#[test]
fn docs_dependencies_md_has_every_dependency() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let mut users = Users::new();
    for (path, package) in MANIFESTS {
        add_users(&mut users, &read(path), package);
    }
    // A crate that the exporter needs anyway is not for tests only.
    for packages in users.values_mut().filter(|packages| packages.contains("exporter")) {
        packages.remove("exporter (tests)");
    }
    assert!(users.len() > 40, "{users:?}");
    let documented = documented(&read("docs/dependencies.md"));
    for (name, packages) in &users {
        assert_eq!(documented.get(name), Some(packages), "the row of {name}");
    }
    let surplus: Vec<_> = documented.keys().filter(|name| !users.contains_key(*name)).collect();
    assert!(surplus.is_empty(), "no manifest names {surplus:?}");
}
