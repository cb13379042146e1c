//! The exporter's log, which complains only of rejected files and of evicted connections.

use crate::invariant::Invariant;

/// The complaint about an invalid file. The log also says how many of these it left out.
const REJECTED: &str = "configuration rejected";

/// The complaint about an attack that takes all connections.
const EVICTED: &str = "connection evicted";

/// The log read so far.
pub(crate) struct Logs {
    complaints: Invariant,
    /// Number of lines about rejected files.
    rejected: u64,
}

impl Logs {
    pub(crate) const fn new() -> Self {
        let complaints = Invariant::new("the log complains of invalid files and evictions only");
        Self { complaints, rejected: 0 }
    }

    /// Reads new lines of the log.
    pub(crate) fn read(&mut self, log: &str) {
        for line in log.lines() {
            let is_complaint = line.contains("level=error") || line.contains("level=warn");
            let is_rejection = line.contains(REJECTED);
            let is_due = !is_complaint || is_rejection || line.contains(EVICTED);
            self.complaints.check(is_due && !line.contains("panicked"), || line.to_owned());
            self.rejected += u64::from(is_rejection);
        }
    }

    pub(crate) fn into_invariant(mut self) -> Invariant {
        self.complaints.check(self.rejected > 0, || "no file was rejected".to_owned());
        self.complaints
    }
}
