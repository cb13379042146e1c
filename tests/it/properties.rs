//! Properties that hold for any bytes, here with bytes from proptest; `cargo xtask fuzz` tests them
//! with bytes from a fuzzer. Needs neither root nor tools.

use std::{collections::BTreeMap, fmt::Write as _};

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{Index, select},
};
use sched_exporter::config::Config;
use sched_exporter_tests::properties;

/// A minimal BTF with everything that the exporter looks for.
const KERNEL: &[u8] = include_bytes!("../fuzz/corpus/btf/kernel");
/// A BTF with every kind of type.
const KINDS: &[u8] = include_bytes!("../fuzz/corpus/btf/kinds");
/// Paths of cgroups as runtimes, systemd and orchestrators make them.
const PATHS: &str = concat!(
    include_str!("../fuzz/corpus/path/containers"),
    include_str!("../fuzz/corpus/path/kubernetes"),
    include_str!("../fuzz/corpus/path/systemd"),
);
/// Answers of container runtimes and of the Kubernetes API.
const ANSWERS: [&[u8]; 3] = [
    include_bytes!("../fuzz/corpus/runtimes/cri"),
    include_bytes!("../fuzz/corpus/runtimes/docker"),
    include_bytes!("../fuzz/corpus/runtimes/kubernetes"),
];
/// Size of a BTF header in bytes.
const HEADER_LEN: usize = 24;

/// Pieces of `Accept` and `Accept-Encoding` headers.
const HEADER_PIECES: [&str; 22] = [
    "application/openmetrics-text",
    "text/plain",
    "text/*",
    "*/*",
    "*",
    "gzip",
    "identity",
    ";",
    ",",
    "=",
    "\"",
    "\\",
    " ",
    "q",
    "version",
    "escaping",
    "1.0.0",
    "0",
    ".",
    "1",
    "é",
    "\n",
];

/// Pieces of YAML.
const YAML_PIECES: [&str; 79] = [
    "labels: ",
    "cgroups: ",
    "cgroups: 9",
    "keep: 1m",
    "'{{ cgroup.unit }}'",
    "'{{ cgroup.path }}{{ a }}'",
    "'{{ cgroup.pod.labels.c | default(cgroup.image) }}'",
    "runtimes: ",
    "unix:///run/a",
    "kubernetes_pods: ",
    "source_labels: [__meta_cgroup_path]",
    "regex: __meta_cgroup_pod_(.+)",
    "source_labels: [__meta_cgroup_pod_annotation_a]",
    "target_label: x",
    "drop",
    "runqueue_latency: ",
    "relabel_configs: ",
    "cpu_relabel_configs: ",
    "source_labels: [a, __meta_core]",
    "target_label: ",
    "regex: ",
    "modulus: 3",
    "action: ",
    "hashmod",
    "labelmap",
    "cpus: ",
    "match: ",
    "'1-3'",
    "numa:1",
    "labels_on: both",
    "without: [cpu]",
    "limits: ",
    "series: ",
    "values_per_label: ",
    "'{{ hostname }}'",
    "'{{ a }}'",
    "\n- ",
    "\n  - ",
    "buckets: ",
    "per_cpu: ",
    "per_octave: 2",
    "min: ",
    "a: ",
    "1us",
    "12",
    "true",
    "~",
    "&a ",
    "*a",
    "!t ",
    "!!int ",
    "!!str ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "? ",
    ": ",
    "'",
    "\"",
    "|",
    ">-",
    "#",
    "---\n",
    "...\n",
    "%",
    "\t",
    "<<: ",
    "\\x",
    "é",
    "\r",
    "\u{85}",
    "\u{2028}",
    "\0",
];

/// Pieces of paths of cgroups.
const PATH_PIECES: [&str; 34] = [
    "/",
    "/",
    "/",
    "/",
    "\n/",
    ".slice",
    ".service",
    ".scope",
    ":",
    "-",
    "_",
    "@",
    "pod",
    "-pod",
    "kubepods",
    "-burstable",
    "besteffort",
    "cri-containerd",
    "crio-conmon",
    "lxc",
    "lxc.payload.",
    "lxc.payload",
    "libpod_parent",
    "user-",
    "user@",
    "0123",
    "docker",
    "nomad.slice",
    "\\x2d",
    "\u{1}",
    "é",
    "a61627ef0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac199",
    "d5d4df71_6152_41de_9fdf_c0994d70ebc9",
    "0009af54012f5ba19c526ddb4a89e1a5",
];

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..len)
}

fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|opening| text.contains(opening))
}

fn text_of(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(pieces), 0..64).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn btf_of_any_bytes(bytes in bytes(512)) {
        properties::btf(&bytes);
    }

    #[test]
    fn btf_with_damage(
        seed in select(vec![KERNEL, KINDS]),
        damage in vec((any::<Index>(), any::<u8>()), 0..8),
        cut in option::of(any::<Index>()),
    ) {
        let mut bytes = seed.to_vec();
        for (index, byte) in damage {
            let len = bytes.len();
            bytes[index.index(len)] = byte;
        }
        if let Some(index) = cut {
            bytes.truncate(index.index(bytes.len()));
        }
        properties::btf(&bytes);
    }

    #[test]
    fn btf_with_arbitrary_references(
        seed in select(vec![KERNEL, KINDS]),
        damage in vec((any::<Index>(), 0_u32..48), 1..16),
    ) {
        let mut bytes = seed.to_vec();
        for (index, word) in damage {
            let at = HEADER_LEN + index.index((bytes.len() - HEADER_LEN) / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        properties::btf(&bytes);
    }

    #[test]
    fn btf_of_any_types(types in vec(any::<u32>(), 0..128)) {
        let strings = b"\0task_struct\0flags\0";
        let type_len = u32::try_from(types.len() * 4).unwrap();
        let string_len = u32::try_from(strings.len()).unwrap();
        // The header of a file of version 1, with the types first.
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, type_len, type_len, string_len].iter().chain(&types) {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        properties::btf(&bytes);
    }

    #[test]
    fn config_of_any_text(text: String) {
        properties::config(text.as_bytes());
    }

    #[test]
    fn config_of_yaml_pieces(text in text_of(&YAML_PIECES)) {
        properties::config(text.as_bytes());
    }

    #[test]
    fn config_labels_are_read_back_unchanged(
        labels in btree_map("[a-zA-Z][a-zA-Z0-9_]{4,20}", "(?s).{1,200}", 0..=32)
            .prop_filter("reserved", |labels| !labels.contains_key("reason"))
            .prop_filter("templates", |labels| labels.values().all(|value| !is_template(value)))
    ) {
        let mut text = String::from("labels:\n");
        for (name, value) in &labels {
            let escape = |c| format!("\\U{:08X}", u32::from(c));
            let value: String = value.chars().map(escape).collect();
            writeln!(text, "  {name}: \"{value}\"").unwrap();
        }
        properties::config(text.as_bytes());
        let config = Config::parse(&text).unwrap();
        let read: BTreeMap<_, _> =
            config.labels().iter().map(|(name, it)| (name.clone(), it.as_str().to_owned())).collect();
        prop_assert_eq!(read, labels);
    }

    #[test]
    fn accept_of_any_bytes(bytes in bytes(256)) {
        properties::accept(&bytes);
    }

    #[test]
    fn accept_of_header_pieces(text in text_of(&HEADER_PIECES)) {
        properties::accept(text.as_bytes());
    }

    #[test]
    fn path_with_damage(
        path in select(PATHS.lines().collect::<Vec<_>>()),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = path.as_bytes().to_vec();
        for (index, byte) in damage {
            let len = bytes.len();
            bytes[index.index(len)] = byte;
        }
        properties::path(&bytes);
    }

    #[test]
    fn path_of_any_bytes(bytes in bytes(256)) {
        properties::path(&bytes);
    }

    #[test]
    fn path_of_pieces(text in text_of(&PATH_PIECES)) {
        properties::path(text.as_bytes());
    }

    #[test]
    fn relabel_of_any_choices(bytes in bytes(512)) {
        properties::relabel(&bytes);
    }

    #[test]
    fn runtimes_of_any_bytes(bytes in bytes(256)) {
        properties::runtimes(&bytes);
    }

    #[test]
    fn runtimes_with_damage(
        answer in select(&ANSWERS[..]),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = answer.to_vec();
        for (index, byte) in damage {
            let len = bytes.len();
            bytes[index.index(len)] = byte;
        }
        properties::runtimes(&bytes);
    }

    #[test]
    fn exposition_of_any_choices(bytes in bytes(2_048)) {
        properties::exposition(&bytes);
    }
}
