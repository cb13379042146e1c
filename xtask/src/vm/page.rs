//! docs/kernels.md.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use crate::{vm::Outcome, workspace::root};

const PATH: &str = "docs/kernels.md";

const INTRO: &str = "\
# Kernels

Where the exporter was run. `cargo xtask vm --write` boots each of these kernels, Debian's own, in
QEMU with the released binary and the tests of `tests/it` that need no more than a kernel, and
writes this page: change the text in `xtask/src/vm/page.rs`, not here. It needs QEMU, Debian's apt
and, for aarch64, `aarch64-linux-gnu-gcc`; KVM is not used. One binary for each architecture and one
BPF object for all; offsets come from the BTF of the kernel it runs on.

What is tested on each: loading and seeding; time conserved under any load; CPUs that never switch;
counters that never go back; run-queue waits against `run_delay`; switches against `ctxt`; CPUs offline
and back, where the kernel lets them (not under `nohz_full`); scrapes over HTTP; reloads; capabilities
given up on every thread; what is said where capabilities or BTF are missing. Under emulation, where an
interrupt takes milliseconds, bounds on times are wider than on the machine that
[accuracy.md](accuracy.md) is of.

`--once` takes from the start of the process to the end of its only exposition: it loads, attaches,
and makes every CPU switch. That is under emulation, which is many times slower than hardware.
Verified instructions are those that the kernel's verifier went through, as it counts them since 5.16.

| kernel | architecture | machine | `--once` | verified instructions | tests passed |
|---|---|---|--:|--:|--:|
";

/// Writes the page.
pub(crate) fn write(outcomes: &[Outcome]) -> Result<()> {
    let mut page = INTRO.to_owned();
    for outcome in outcomes {
        let Outcome { guest, release, tally, .. } = outcome;
        let (all, fact) = (tally.passed + tally.failed, |name| outcome.fact(name));
        let passed = if outcome.is_good() {
            format!("{} of {all}", tally.passed)
        } else {
            format!("**{} of {all}**", tally.passed)
        };
        writeln!(
            page,
            "| {release} | {} | {} | {} ms | {} | {passed} |",
            guest.arch.name(),
            guest.what,
            fact("once_ms"),
            fact("verified_instructions"),
        )?;
    }
    fs::write(root().join(PATH), page).context(PATH)
}
