//! Errors and warnings with their positions in the file.

use std::{fmt, path::Path};

/// Maximum number of diagnostics reported in full. Each costs another reading of the text.
const MAX_SHOWN: usize = 20;

/// One error or warning in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The line of the key or value, from 1.
    pub line: usize,
    /// The column of its first character, from 1.
    pub column: usize,
    /// The full key, like `runqueue_latency.per_cpu`; empty for the whole file.
    pub key: String,
    /// What is wrong, the value, and what to write instead.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// The errors or the warnings in a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The first 20 that were found, in file order.
    pub shown: Vec<Diagnostic>,
    /// The number of further ones.
    pub more: usize,
}

impl Diagnostics {
    /// The number of all.
    pub const fn count(&self) -> usize {
        self.shown.len() + self.more
    }

    /// One line for each, as `file:line:column: message`, which editors and terminals turn into links.
    pub fn located(&self, path: &Path) -> Vec<String> {
        let path = path.display();
        let mut located: Vec<_> = self.shown.iter().map(|it| format!("{path}:{it}")).collect();
        if self.more > 0 {
            located.push(format!("and {} more", self.more));
        }
        located
    }

    /// Adds a diagnostic, unless there are enough: each costs another reading of the text.
    pub(super) fn add(&mut self, diagnostic: impl FnOnce() -> Diagnostic) {
        if self.shown.len() == MAX_SHOWN {
            self.more += 1;
        } else {
            self.shown.push(diagnostic());
        }
    }
}
