//! Counts the results of test harnesses.

use std::{
    io::{Read as _, Write as _, stdout},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::workspace::spell;

/// Results, as counted by libtest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
    /// Harnesses that failed without reporting a failed test.
    pub died: Vec<String>,
}

impl Tally {
    /// Runs a harness and prints its output as it arrives.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> Result<()> {
        println!("\n{name}");
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| spell(command))?;
        let mut pipe = child.stdout.take().context("standard output is piped")?;
        let (mut written, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let length = pipe.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            stdout().write_all(&chunk[..length])?;
            stdout().flush()?;
            written.extend_from_slice(&chunk[..length]);
        }
        let status = child.wait()?;
        let failed_before = self.failed;
        self.add(&String::from_utf8_lossy(&written));
        if !status.success() && self.failed == failed_before {
            self.failed += 1;
            self.died.push(format!("{name}: {status}"));
        }
        Ok(())
    }

    /// Adds each line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub(crate) fn add(&mut self, written: &str) {
        for result in written.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let words: Vec<_> = result.split([' ', ';']).collect();
            let count = |what| {
                let found = words.windows(2).find(|pair| pair[1] == what);
                found.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
        }
    }
}

/// The line that ends a command's output, from which `.ci/run` takes the counts.
pub(crate) fn closing_line(passed: usize, failed: usize, skipped: usize) -> String {
    match skipped {
        0 => format!("{passed} passed, {failed} failed"),
        _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, closing_line};

    #[test]
    fn closing_line_names_skipped_checks() {
        assert_eq!(closing_line(8, 0, 0), "8 passed, 0 failed");
        assert_eq!(closing_line(5, 1, 2), "5 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn tally_sums_counts_of_all_harnesses() {
        let mut tally = Tally::default();
        tally.add(
            "test a::b ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n",
        );
        tally.add(
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; finished in 1s\n",
        );
        assert_eq!(tally, Tally { passed: 7, failed: 2, ignored: 1, died: vec![] });
    }
}
