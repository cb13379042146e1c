//! Writes docs/kernels.md.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use crate::{
    vm::{Outcome, guests::GUESTS},
    workspace::root,
};

const PATH: &str = "docs/kernels.md";

const INTRO: &str = "\
# Kernels

The kernels that the exporter was tested on. `cargo xtask vm --write` boots each of these Debian
kernels in QEMU with the release binary and the tests of `tests/it` that need only a kernel, and
writes this page: change the text in `xtask/src/vm/page.rs`, not here. With names of guests, it runs
only these, and leaves the other rows. It requires QEMU, Debian's apt and, for aarch64,
`aarch64-linux-gnu-gcc`; it does not use KVM. There is one binary per architecture and one BPF object
for all; offsets come from the BTF of the running kernel.

Tested on each: loading and seeding; time is conserved under load; CPUs that never switch; counters
never decrease; run-queue waits match `run_delay`; switches match `ctxt`; CPUs go offline and come
back, if the kernel allows it (not under `nohz_full`); the time of cgroups adds up to that of CPUs at
every scrape while cgroups come and go; cgroups match the kernel's own figures; scrapes over HTTP;
reloads; capabilities are dropped on every thread; errors for missing capabilities or BTF. Under
emulation an interrupt takes milliseconds, so bounds on times are wider than on the machine of
[accuracy.md](accuracy.md).

The cgroup hierarchies are mounted as systemd does: `v2` has only version 2, `v1` has only version 1, and
`hybrid` has both, with the controller `cpu` in version 1.

The time of `--once` is from the start of the process to the end of its only exposition: it loads,
attaches, and makes every CPU switch. Emulation is many times slower than hardware. Verified
instructions are those that the kernel's verifier processed; kernels report them since 5.16.

| guest | kernel | architecture | machine | cgroups | `--once` | verified instructions | tests passed |
|---|---|---|---|---|--:|--:|--:|
";

/// Writes the page from the outcomes of guests. The rows of guests that did not run stay.
pub(crate) fn write(outcomes: &[Outcome]) -> Result<()> {
    let path = root().join(PATH);
    let before = fs::read_to_string(&path).context(PATH)?;
    let mut page = INTRO.to_owned();
    for guest in &GUESTS {
        let beginning = format!("| {} |", guest.name);
        match outcomes.iter().find(|it| it.guest.name == guest.name) {
            Some(outcome) => writeln!(page, "{beginning} {}", row(outcome))?,
            None => before
                .lines()
                .filter(|line| line.starts_with(&beginning))
                .try_for_each(|line| writeln!(page, "{line}"))?,
        }
    }
    fs::write(path, page).context(PATH)
}

/// The cells of a row, without the first.
fn row(outcome: &Outcome) -> String {
    let Outcome { guest, release, tally, .. } = outcome;
    let all = tally.passed + tally.failed;
    let passed = if outcome.is_good() {
        format!("{} of {all}", tally.passed)
    } else {
        format!("**{} of {all}**", tally.passed)
    };
    format!(
        "{release} | {} | {} | {} | {} ms | {} | {passed} |",
        guest.arch.name(),
        guest.what,
        guest.hierarchy.name(),
        outcome.fact("once_ms"),
        outcome.fact("verified_instructions"),
    )
}
