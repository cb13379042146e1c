//! Writes docs/performance.md.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use sched_exporter_tests::machine::machine;

use crate::{peers::Peers, report::Group};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

const INTRO: &str = "\
# Performance

Measured cost of the exporter, as the static binary that is shipped. `cargo xtask bench --write`
repeats the measurement and writes this page: change the text in `tests/bench`, not here. It needs
root, `perf`, some minutes, and a machine that does nothing else; `--quick` gives a rough result,
and `--json` prints JSON.";

const READING: &str = "\
Every figure is a median over rounds, followed by the minimum and the maximum. Figures that are
compared were measured in turn in one run, and each ratio is of two measurements in the same round,
so a temporary slowdown of the machine affects both. Absolute times apply to this machine. Where two
ranges overlap, the medians do not show which is smaller. Targets apply to medians.";

const PEERS: &str = "\
## Peers

Other tools are measured in the same rounds as the exporter, if they are installed:";

const PEERS_READING: &str = "\
Versions are those that the tools report. bcc's tools attach to `sched_switch` as the exporter does,
and `runqlat` also to wakeups; each produces one histogram, and only its BPF programs run while it
is measured. node_exporter attaches nothing and costs nothing per switch; its cost is at scrapes,
when it reads `/proc/stat` and, by default, much else.";

/// Writes the page from all groups.
pub(crate) fn write(peers: &Peers, groups: &[Group]) -> Result<()> {
    let machine = machine();
    let sections: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let page = format!(
        "{INTRO}\n\n{machine}\n\n{READING}\n\n{PEERS}\n\n{peers}\n{PEERS_READING}\n\n{}",
        sections.join("\n")
    );
    fs::write(Path::new(PATH), page).context("docs/performance.md")
}
