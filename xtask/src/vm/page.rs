//! Writes docs/kernels.md.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use crate::{vm::Outcome, workspace::root};

const PATH: &str = "docs/kernels.md";

const INTRO: &str = "\
# Kernels

The kernels that the exporter was tested on. `cargo xtask vm --write` boots each of these Debian
kernels in QEMU with the release binary and the tests of `tests/it` that need only a kernel, and
writes this page: change the text in `xtask/src/vm/page.rs`, not here. It requires QEMU, Debian's
apt and, for aarch64, `aarch64-linux-gnu-gcc`; it does not use KVM. There is one binary per
architecture and one BPF object for all; offsets come from the BTF of the running kernel.

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

| kernel | architecture | machine | cgroups | `--once` | verified instructions | tests passed |
|---|---|---|---|--:|--:|--:|
";

/// Writes the page from the outcomes of all guests.
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
            "| {release} | {} | {} | {} | {} ms | {} | {passed} |",
            guest.arch.name(),
            guest.what,
            guest.hierarchy.name(),
            fact("once_ms"),
            fact("verified_instructions"),
        )?;
    }
    fs::write(root().join(PATH), page).context(PATH)
}
