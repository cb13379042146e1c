//! Prints docs/metrics.md, for `cargo xtask docs`.

#![expect(clippy::print_stdout, reason = "printing is all it does")]

use prometheus::proto::{LabelPair, Metric};
use sched_exporter::{
    exposition::{Family, Kind},
    expr::values::Source,
    metrics::{
        render as families,
        telemetry::{self, Telemetry},
    },
};

const INTRO: &str = "\
# Metrics

Written by `cargo xtask docs` from the code. The families that begin with `sched_` but not with
`sched_exporter_` have the labels of the configuration too, or `target_info` has them ([labels](labels.md));
`without` in the configuration removes `cpu`. Names are those of samples; a histogram has `_bucket`,
`_count` and `_sum`.

| name | type | labels | meaning |
|---|---|---|---|";

fn main() -> prometheus::Result<()> {
    println!("{INTRO}");
    for (family, labels) in families::ALL {
        print(&family, labels.iter().copied());
    }
    let telemetry = Telemetry::new()?;
    // A family without a sample is not gathered.
    telemetry.request("/", 200);
    telemetry.capabilities([("CAP_BPF".to_owned(), false)]);
    telemetry.label_sources([(Source::Hostname.name(), true)]);
    for family in telemetry.gather() {
        let Some(kind) = telemetry::kind_of(&family) else { continue };
        let labels = family.get_metric().first().map(Metric::get_label).unwrap_or_default();
        let le = (kind == Kind::Histogram).then_some("le");
        print(&telemetry::family_of(&family, kind), labels.iter().map(LabelPair::name).chain(le));
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
