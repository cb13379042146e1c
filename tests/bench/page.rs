//! docs/performance.md.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use sched_exporter_tests::machine::machine;

use crate::report::Group;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

const INTRO: &str = "\
# Performance

What the exporter costs, measured. `cargo xtask bench --write` measures again and writes this page:
change the text in `tests/bench`, not here. It needs root and `perf`, takes some minutes, and wants
a machine that does nothing else; `--quick` is for a look.";

const READING: &str = "\
Every figure is a median over rounds, beside the least and the most of them. What is compared was
measured in turn in one run, and a ratio is made of two measurements of one round, so that a machine
that slows down for a while moves both. Absolute times are those of this machine.";

/// Writes the page.
pub(crate) fn write(groups: &[Group]) -> Result<()> {
    let sections: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let page = format!("{INTRO}\n\n{}\n\n{READING}\n\n{}", machine(), sections.join("\n"));
    fs::write(Path::new(PATH), page).context("docs/performance.md")
}
