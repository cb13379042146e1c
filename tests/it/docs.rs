//! The documentation matches the program. Needs neither root nor tools.

use std::{fs, path::Path, sync::Arc};

use sched_exporter::{
    cgroup,
    cli::check::{CheckFormat, FoundCgroup, FoundCgroups, report},
    config::{Config, Limits, web::WebConfig},
    cpu::topology::Topology,
    expr::{
        cgroup::{CgroupName, CgroupNames, NamesFrom, PodMap},
        values::{Keys, Reading, Source},
    },
    generation::Inputs,
    kernel::slots,
};
use sched_exporter_ebpf::{CgroupState, CpuEntry, CpuRecord, FIRST_SLOT, MAX_SLOTS};
use sched_exporter_tests::{
    kernel::CGROUP_MEMORY,
    quantiles::{HEADING, section},
};

mod dependencies;
mod guide;
mod monitoring;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn the_shipped_configuration_is_valid() {
    let source = sched_exporter::config::read(&root().join("config/exporter.yaml")).unwrap();
    let config = source.parse().unwrap();
    let names: Vec<_> = config.labels().keys().collect();
    assert_eq!(names, ["host", "zone"]);
}

#[test]
fn docs_web_md_shows_a_valid_file() {
    let page = fs::read_to_string(root().join("docs/web.md")).unwrap();
    let (_, file) = page.split_once("```yaml\n").unwrap();
    let config = WebConfig::parse(file.split_once("```").unwrap().0).unwrap();
    assert_eq!(config.warnings.count(), 0, "{:?}", config.warnings);
    let tls = config.tls.unwrap();
    assert!(tls.requires_certificate() && config.http2 && config.rate_limit.is_some());
    assert!(config.users.contains_key("prometheus") && !config.headers.is_empty());
}

#[test]
fn docs_accuracy_md_has_the_computed_section() {
    let page = fs::read_to_string(root().join("docs/accuracy.md")).unwrap();
    let (_, text) = page.split_once(HEADING).unwrap();
    let found = format!("{HEADING}{text}");
    assert_eq!(found, section(), "run cargo xtask accuracy --quantiles");
}

#[test]
fn docs_deploy_md_has_the_memory_that_the_exporter_computes() {
    const MIB: u64 = 1 << 20;
    /// Needed at start besides the maps.
    const START_MIB: u64 = 25;
    const LIMIT_MIB: u64 = 64;
    let page = fs::read_to_string(root().join("docs/deploy.md")).unwrap();
    // What `slots::memory` counts of the entry of each CPU.
    let counted = size_of::<CpuEntry>() - size_of::<CpuRecord>() + size_of::<CgroupState>();
    let maps = |slots: u32, cpus: u32| {
        let entries = u64::from(cpus) * size_of::<CpuEntry>() as u64;
        match slots {
            0 => entries,
            _ => entries + slots::memory(slots, cpus) - u64::from(cpus) * counted as u64,
        }
        .div_ceil(MIB)
    };
    let thousands = |number: u32| match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    };
    let rows = [2, 16, 64, 128, 512, 1_024, 2_048, 4_096].map(|cpus| {
        let slots = slots::fitting(CGROUP_MEMORY, cpus);
        let (cgroups, maps) = (slots.saturating_sub(FIRST_SLOT), maps(slots, cpus));
        let (cpus, cgroups) = (thousands(cpus), thousands(cgroups));
        let start = START_MIB + maps;
        format!("| {cpus} | {cgroups} | {maps} MiB | {start} MiB | {LIMIT_MIB} MiB |\n")
    });
    let table = rows.concat();
    assert!(page.contains(&table), "docs/deploy.md lacks\n{table}");
    let [mib_128, mib_512] = [128, 512].map(|cpus| slots::memory(MAX_SLOTS, cpus).div_ceil(MIB));
    let text = format!(
        "a host of 128 CPUs needs\n`--ebpf.cgroup-memory={mib_128}MiB`, one of 512 CPUs {mib_512}MiB."
    );
    assert!(page.contains(&text), "docs/deploy.md lacks {text}");
}

#[test]
fn docs_flags_md_has_every_flag() {
    use clap::CommandFactory as _;
    let flags = fs::read_to_string(root().join("docs/flags.md")).unwrap();
    for argument in sched_exporter::cli::args::Args::command().get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        assert!(flags.contains(&format!("`--{flag}")), "docs/flags.md lacks --{flag}");
    }
}

#[test]
fn the_readme_sample_matches_docs_metrics_md() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let metrics = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let (_, sample) = readme.split_once("\n```\n# TYPE ").unwrap();
    let sample = format!("# TYPE {}", sample.split_once("\n```").unwrap().0);
    let row = |name: &str| {
        let found = metrics.lines().find(|line| {
            let documented = line.strip_prefix("| `").and_then(|line| line.split('`').next());
            documented.is_some_and(|it| it.trim_end_matches("_total") == name)
        });
        found.unwrap_or_else(|| panic!("docs/metrics.md lacks {name}"))
    };
    let mut samples = 0;
    for line in sample.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            assert!(row(name).contains(help.trim_end_matches('…')), "{line}");
        } else if let Some((name, _)) = line.split_once('{') {
            let suffixes = ["_total", "_bucket", "_count", "_sum"];
            row(suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap());
            samples += 1;
        }
    }
    assert!(samples > 10, "{samples}");
}

const LABELS: &str = include_str!("../../docs/labels.md");

#[test]
fn docs_labels_md_shows_what_the_check_prints() {
    let block = |language: &str| {
        let (_, rest) = LABELS.split_once("For the file\n").unwrap();
        let (_, rest) = rest.split_once(&format!("\n```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0
    };
    let hostname = Reading::of([(String::new(), "vm".to_owned())].into());
    let env = Reading::failed("environment variable ZONE is not set");
    let made = Inputs {
        config: Arc::new(Config::parse(block("yaml")).unwrap()),
        sha256: String::new(),
        values: [(Source::Hostname, hostname), (Source::Env, env)].into_iter().collect(),
        topology: Topology::of(vec![0, 1]),
    };
    let by_path = [
        "/",
        "/system.slice/cron.service",
        "/system.slice/ssh.service",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service",
    ];
    let by_path = by_path.map(|path| FoundCgroup {
        names: cgroup::describe(7, Path::new(path)),
        from: NamesFrom::Path,
    });
    let container = FoundCgroup {
        names: CgroupNames {
            path: "/kubepods/burstable/podea48c833-…/a61627ef…".into(),
            container_name: "cart".into(),
            namespace: "shop".into(),
            pod_name: "cart-0".into(),
            pod_uid: "ea48c833-…".into(),
            ..CgroupNames::default()
        },
        from: NamesFrom::Runtime("unix:///run/containerd/containerd.sock".into()),
    };
    let cgroups = by_path.into_iter().chain([container]).collect();
    let found = FoundCgroups { cgroups, ..FoundCgroups::default() };
    let printed = report(Path::new("exporter.yaml"), &made, Some(&found), CheckFormat::Table);
    let (_, shown) = LABELS.split_once("\n```\nexporter.yaml: valid\n").unwrap();
    assert_eq!(printed, format!("exporter.yaml: valid\n{}", shown.split_once("```").unwrap().0));
}

#[test]
fn docs_labels_md_has_every_source_and_limit() {
    for source in Source::ALL {
        let name = source.name();
        let names = match source.keys() {
            Keys::One => vec![format!("`{name}`")],
            Keys::Fields(fields) => fields.iter().map(|it| format!("`{name}.{it}`")).collect(),
            Keys::Any | Keys::Path => vec![format!("`{name}")],
        };
        for name in names {
            assert!(LABELS.contains(&name), "docs/labels.md lacks {name}");
        }
    }
    for name in CgroupName::ALL {
        let row = format!("| `{}` | ", name.in_templates());
        assert!(LABELS.lines().any(|line| line.starts_with(&row)), "docs/labels.md lacks {row}");
    }
    for map in PodMap::ALL {
        let row = format!("| `{}['key']` | ", map.in_templates());
        assert!(LABELS.lines().any(|line| line.starts_with(&row)), "docs/labels.md lacks {row}");
    }
    let Limits { labels, name_bytes, value_bytes, values_per_label, series, cgroups } =
        Limits::default();
    for (limit, default) in [
        ("labels", labels),
        ("name_bytes", name_bytes),
        ("value_bytes", value_bytes),
        ("values_per_label", values_per_label),
        ("series", series),
        ("cgroups", cgroups),
    ] {
        let row = LABELS.lines().rfind(|line| line.starts_with(&format!("| `{limit}`"))).unwrap();
        assert!(row.contains(&format!(" | {default} | ")), "{row}");
    }
}

#[test]
fn alert_excludes_the_optional_sources() {
    let rules = fs::read_to_string(root().join("deploy/prometheus/alerts.rules.yaml")).unwrap();
    let (_, rest) = rules.split_once("sched_exporter_label_source_up{source!~\"").unwrap();
    let mut excluded: Vec<_> = rest.split_once('"').unwrap().0.split('|').collect();
    excluded.sort_unstable();
    let optional = Source::ALL.into_iter().filter(|source| source.is_optional());
    let sockets = "unix:.*";
    assert_eq!(excluded, optional.map(Source::name).chain([sockets]).collect::<Vec<_>>());
}

#[test]
fn configurations_in_docs_labels_md_and_the_readme_are_valid() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let documents = [LABELS, &readme];
    let blocks: Vec<_> = documents.iter().flat_map(|it| it.split("```yaml\n").skip(1)).collect();
    for block in &blocks {
        let text = block.split_once("```").unwrap().0;
        // Some use labels defined in an earlier block.
        let text = if text.starts_with("cpus:") {
            format!("labels: {{zone: z}}\n{text}")
        } else {
            text.into()
        };
        assert!(Config::parse(&text).is_ok(), "{text}{:?}", Config::parse(&text));
    }
    assert!(blocks.len() > 5);
}
