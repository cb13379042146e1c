//! What the kernel's verifier says of a program that it rejects.

use aya::programs::ProgramError;

use crate::kernel::error::LoadError;

/// The verifier says a lot: all of it goes to the log, what it ends with to the user. Who may not load
/// programs hears nothing of it.
pub(super) fn refused(error: ProgramError) -> LoadError {
    let (io_error, said) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (io_error, verifier_log.to_string()),
        error => return LoadError::Load(error),
    };
    tracing::debug!(verifier = said, "the kernel did not take the program");
    match verdict(&said) {
        Some(verdict) => LoadError::Rejected(verdict.to_owned()),
        None => LoadError::Refused(io_error),
    }
}

/// The line before the statistics, with which the verifier ends: some lines, of which kernels have
/// others. <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/verifier.c>, `print_verification_stats`.
fn verdict(said: &str) -> Option<&str> {
    const STATISTICS: [&str; 4] = ["verification time ", "stack depth ", "subprog ", "processed "];
    let is_statistic = |line: &str| STATISTICS.iter().any(|start| line.starts_with(start));
    let said = said.rsplit_once("\nverification time ").map_or(said, |(reason, _)| reason);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.rfind(|line| !is_statistic(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_comes_before_the_statistics() {
        let reason = "access beyond struct task_struct at off 1048576 size 4";
        for statistics in [
            "processed 16 insns (limit 1000000) max_states_per_insn 0",
            "verification time 476 usec\nstack depth 16\nprocessed 16 insns (limit 1000000)",
            "verification time 1 usec\nanything new\nprocessed 16 insns (limit 1000000)",
            "subprog 0 (sched_switch) main insns_self 16\nprocessed 16 insns (limit 1000000)",
        ] {
            let said = format!("17: (61) r1 = *(u32 *)(r2 +0)\n{reason}\n{statistics}\n\n");
            assert_eq!(verdict(&said), Some(reason), "{statistics}");
        }
        assert_eq!(verdict(""), None);
    }
}
