//! Extracts the reason from the log of the kernel's verifier.

use aya::programs::ProgramError;

use crate::kernel::error::LoadError;

/// Turns aya's error from loading the program into ours. The verifier log is long: log all of it at
/// debug level, and show the user only the verdict. Without privileges there is no log.
pub(super) fn refused(hook: &'static str, error: ProgramError) -> LoadError {
    let (io_error, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (io_error, verifier_log.to_string()),
        source => return LoadError::Load { hook, source },
    };
    tracing::debug!(program = hook, verifier = log, "the kernel refused the program");
    match verdict(&log) {
        Some(verdict) => LoadError::Rejected { hook, verdict: verdict.to_owned() },
        None => LoadError::Refused { hook, source: io_error },
    }
}

/// The last line before the statistics that end the verifier's log. Which statistics there are depends
/// on the kernel: <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/verifier.c>,
/// `print_verification_stats`. The verdict is the second line of
///
/// ```text
/// 17: (61) r1 = *(u32 *)(r2 +0)
/// access beyond struct task_struct at off 1048576 size 4
/// verification time 476 usec
/// stack depth 16
/// processed 16 insns (limit 1000000)
/// ```
fn verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 4] = ["verification time ", "stack depth ", "subprog ", "processed "];
    let is_statistic = |line: &str| STATISTICS.iter().any(|start| line.starts_with(start));
    let log = log.rsplit_once("\nverification time ").map_or(log, |(reason, _)| reason);
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.rfind(|line| !is_statistic(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_precedes_the_statistics() {
        let reason = "access beyond struct task_struct at off 1048576 size 4";
        for statistics in [
            "processed 16 insns (limit 1000000) max_states_per_insn 0",
            "verification time 476 usec\nstack depth 16\nprocessed 16 insns (limit 1000000)",
            "verification time 1 usec\nanything new\nprocessed 16 insns (limit 1000000)",
            "subprog 0 (sched_switch) main insns_self 16\nprocessed 16 insns (limit 1000000)",
        ] {
            let log = format!("17: (61) r1 = *(u32 *)(r2 +0)\n{reason}\n{statistics}\n\n");
            assert_eq!(verdict(&log), Some(reason), "{statistics}");
        }
        assert_eq!(verdict(""), None);
    }
}
