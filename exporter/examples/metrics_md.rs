//! Prints docs/metrics.md, for `cargo xtask docs`.

#![expect(clippy::print_stdout, reason = "printing is all it does")]

use std::collections::BTreeSet;

use prometheus::proto::{LabelPair, Metric};
use sched_exporter::{
    exposition::{Family, Kind},
    metrics::{
        catalog::ALL,
        telemetry::{self, Telemetry},
    },
};

const INTRO: &str = "\
# Metrics

`cargo xtask docs` writes this page from the code. Families that begin with `sched_`, but not with
`sched_exporter_`, also have the labels of the configuration, unless `target_info` has them
([labels](labels.md)). `without` in the configuration removes `cpu`. Names are those of samples; a
histogram has `_bucket`, `_count` and `_sum`.

| name | type | labels | meaning |
|---|---|---|---|";

fn main() -> prometheus::Result<()> {
    println!("{INTRO}");
    for family in ALL {
        print(&family.metadata(), family.labels.iter().copied());
    }
    // The process's own families are defined by the `prometheus` crate.
    let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
    for family in Telemetry::new()?.gather() {
        let Some(kind) = telemetry::kind_of(&family) else { continue };
        let metadata = telemetry::family_of(&family, kind);
        if !names.contains(metadata.name) {
            let labels = family.get_metric().first().map(Metric::get_label).unwrap_or_default();
            print(&metadata, labels.iter().map(LabelPair::name));
        }
    }
    Ok(())
}

fn print<'a>(family: &Family<'_>, labels: impl Iterator<Item = &'a str>) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    };
    let labels: Vec<_> = labels.map(|label| format!("`{label}`")).collect();
    println!("| `{}` | {kind} | {} | {} |", family.sample_name(), labels.join(", "), family.help);
}
