//! Prints docs/metrics.md, for `cargo xtask docs`.

#![expect(clippy::print_stdout, reason = "printing is all it does")]

use sched_exporter::{exposition::Kind, metrics::catalog::ALL};

const INTRO: &str = "\
# Metrics

`cargo xtask docs` writes this page from the code. Families that begin with `sched_`, but not with
`sched_exporter_`, also have the labels of the configuration, unless `target_info` has them
([labels](labels.md)). `without` in the configuration removes `cpu`. Names are those of samples; a
histogram has `_bucket`, `_count` and `_sum`.

| name | type | labels | meaning |
|---|---|---|---|";

fn main() {
    println!("{INTRO}");
    for family in ALL {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
            Kind::Summary => "summary",
        };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, labels) = (family.sample_name(), labels.join(", "));
        println!("| `{name}` | {kind} | {labels} | {} |", family.help);
    }
}
