//! The exporter's log, in which rejected files are the only complaint.

use crate::invariant::Invariant;

/// The only expected complaint.
const REJECTED: &str = "configuration rejected";

/// The log read so far.
pub(crate) struct Logs {
    complaints: Invariant,
    /// Number of reloads by a signal and by a change of the file.
    pub(crate) by_signal: u64,
    pub(crate) by_change: u64,
}

impl Logs {
    pub(crate) const fn new() -> Self {
        let complaints = Invariant::new("the log complains only of invalid files");
        Self { complaints, by_signal: 0, by_change: 0 }
    }

    /// Reads new lines of the log.
    pub(crate) fn read(&mut self, log: &str) {
        for line in log.lines() {
            let is_complaint = line.contains("level=error") || line.contains("level=warn");
            let is_due = !is_complaint || line.contains(REJECTED);
            self.complaints.check(is_due && !line.contains("panicked"), || line.to_owned());
            self.by_signal += u64::from(line.contains("cause=SIGHUP"));
            self.by_change += u64::from(line.contains("cause=change"));
        }
    }

    pub(crate) fn into_invariant(self) -> Invariant {
        self.complaints
    }
}
