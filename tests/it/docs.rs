//! What is written about the exporter holds of the exporter. Needs nothing.

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn only_one_file_names_aya() {
    let mut naming = Vec::new();
    for entry in fs::read_dir(root().join("exporter/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file()
            && fs::read_to_string(&path)
                .unwrap()
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains("aya"))
        {
            naming.push(path.file_name().unwrap().to_owned());
        }
    }
    assert_eq!(naming, ["ebpf.rs"]);
}

#[test]
fn the_shipped_configuration_is_good() {
    let source = sched_exporter::config::read(&root().join("config/exporter.yaml")).unwrap();
    let config = source.parse().unwrap();
    let names: Vec<_> = config.labels().keys().collect();
    assert_eq!(names, ["host", "zone"]);
}

#[test]
fn the_readme_has_every_flag() {
    use clap::CommandFactory as _;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for argument in sched_exporter::args::Args::command().get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        assert!(readme.contains(&format!("`--{flag}")), "README.md lacks --{flag}");
    }
}
