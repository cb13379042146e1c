//! Valid and invalid configurations that replace each other continually.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::Shared;

/// Period of replacements.
const PERIOD: Duration = Duration::from_millis(100);

/// Every nth file gets no signal, and stays until the exporter notices the change.
const UNTOLD: u64 = 50;

/// How long such a file stays, which is longer than the exporter debounces changes.
const UNTOLD_STAYS: Duration = Duration::from_millis(600);

/// The valid configuration with a number, which shows in every label, in the histogram buckets and in the
/// sets of cgroups.
pub(crate) fn good(number: u64) -> String {
    let is_even = number.is_multiple_of(2);
    let (per_cpu, factor) = if is_even { (true, 4) } else { (false, 2) };
    let set = if is_even { "{{ cgroup.path }}" } else { "all" };
    format!(
        "labels:\n  config: \"{number}\"\n  zone: zone-of-{number}\nrunqueue_latency:\n  \
         per_cpu: {per_cpu}\n  buckets: {{factor: {factor}}}\ncgroups:\n  labels: {{set: \"{set}\"}}\n  \
         keep: 2s\nlimits: {{cgroups: 50}}\n"
    )
}

/// Replaces the file atomically.
pub(crate) fn put(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| new.display().to_string())?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}

/// Replaces the file at 10 Hz until the soak ends, alternately by a valid file and by one of each
/// kind of invalid file in turn. Returns the number of files.
pub(crate) fn change(path: &Path, exporter: Pid, shared: &Shared) -> Result<u64> {
    let mut due = Instant::now();
    let mut round = 0;
    while !shared.is_over() {
        round += 1;
        match round % 8 {
            // The label of an invalid file must never be served.
            2 => put(path, "labels:\n  config: bad\n  zone: [\n")?,
            4 => fs::remove_file(path)?,
            6 => {
                let new = path.with_extension("new");
                File::create(&new)?.set_len(2 << 20)?;
                fs::rename(&new, path)?;
            }
            0 => put(path, "labels:\n  config: bad\n  cpu: \"0\"\n")?,
            _ => {
                // Announced before it can be served.
                let number = shared.next_config();
                put(path, &good(number))?;
            }
        }
        if round % UNTOLD == UNTOLD / 2 {
            // An odd round: the file is valid.
            shared.leave_untold();
            due += UNTOLD_STAYS;
        } else {
            signal::kill(exporter, Signal::SIGHUP).context("SIGHUP")?;
            due += PERIOD;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(round)
}
