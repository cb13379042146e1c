//! docs/performance.md.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use sched_exporter_tests::machine::machine;

use crate::{peers::Peers, report::Group};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

const INTRO: &str = "\
# Performance

What the exporter costs, measured, as the static binary that is shipped. `cargo xtask bench --write`
measures again and writes this page: change the text in `tests/bench`, not here. It needs root and
`perf`, takes some minutes, and wants a machine that does nothing else; `--quick` is for a look,
`--json` for keeping.";

const READING: &str = "\
Every figure is a median over rounds, beside the least and the most of them. What is compared was
measured in turn in one run, and a ratio is made of two measurements of one round, so that a machine
that slows down for a while moves both. Absolute times are those of this machine. Where the ranges
of two rows overlap, their medians tell little of which is less. A target, where there is one, is
what the median is held to.";

const PEERS: &str = "\
## Peers

What else is in use is measured beside the exporter where it is installed, in the same rounds:";

const PEERS_READING: &str = "\
Versions are what they say of themselves. bcc's tools attach to `sched_switch` as the exporter does,
and `runqlat` to wakeups too; each gives one histogram, and is idle beside its programs while it is
measured. node_exporter attaches nothing and costs nothing for a switch; it costs at a scrape, when
it reads `/proc/stat` and, by default, much else.";

/// Writes the page.
pub(crate) fn write(peers: &Peers, groups: &[Group]) -> Result<()> {
    let machine = machine();
    let sections: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let page = format!(
        "{INTRO}\n\n{machine}\n\n{READING}\n\n{PEERS}\n\n{peers}\n{PEERS_READING}\n\n{}",
        sections.join("\n")
    );
    fs::write(Path::new(PATH), page).context("docs/performance.md")
}
