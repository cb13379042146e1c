//! What the exporter logs: nothing worse than that a bad file was refused.

use crate::invariant::Invariant;

/// The only complaint that is due.
const REFUSED: &str = "configuration refused";

/// The log as far as it was read.
pub(crate) struct Logs {
    complaints: Invariant,
    /// Reloads that a signal asked for, and those that a change of the file led to.
    pub(crate) by_signal: u64,
    pub(crate) by_change: u64,
}

impl Logs {
    pub(crate) const fn new() -> Self {
        let complaints = Invariant::new("the log complains of bad files and of nothing else");
        Self { complaints, by_signal: 0, by_change: 0 }
    }

    /// Reads what was logged since.
    pub(crate) fn read(&mut self, log: &str) {
        for line in log.lines() {
            let is_complaint = line.contains("level=error") || line.contains("level=warn");
            let is_due = !is_complaint || line.contains(REFUSED);
            self.complaints.check(is_due && !line.contains("panicked"), || line.to_owned());
            self.by_signal += u64::from(line.contains("cause=SIGHUP"));
            self.by_change += u64::from(line.contains("cause=change"));
        }
    }

    pub(crate) fn into_invariant(self) -> Invariant {
        self.complaints
    }
}
