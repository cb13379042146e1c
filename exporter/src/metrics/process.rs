//! The metrics of this process, read from `/proc/self`.

use std::sync::OnceLock;

use procfs::{
    ProcError, ProcResult, boot_time_secs, page_size,
    process::{LimitValue, Process},
    ticks_per_second,
};

/// Reads the metrics of this process.
#[derive(Debug, Default)]
pub struct ProcessReader {
    /// When the machine started, in seconds since the epoch. Reading it costs more on more CPUs.
    boot_time: OnceLock<u64>,
}

/// The metrics of this process. What cannot be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system CPU time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Number of open file descriptors, including the two that the count itself opens.
    pub open_fds: Option<u64>,
    /// Maximum number of open file descriptors; `None` also if there is no limit.
    pub max_fds: Option<u64>,
    /// Size of the virtual memory, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Size of the resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// When the process started, in seconds since the epoch.
    pub start_time: Option<u64>,
    /// Number of threads.
    pub threads: Option<u64>,
}

impl ProcessReader {
    /// Reads what can be read. Also returns the first error, e.g. that file descriptors ran out.
    pub fn read(&self) -> (ProcessStats, Option<ProcError>) {
        let mut stats = ProcessStats::default();
        let mut first = None;
        let mut keep = |result: ProcResult<()>| first = first.take().or(result.err());
        match Process::myself() {
            Ok(process) => {
                keep(stats.read_descriptors(&process));
                keep(stats.read_limits(&process));
                keep(self.read_stat(&process, &mut stats));
            }
            Err(error) => keep(Err(error)),
        }
        (stats, first)
    }

    fn read_stat(&self, process: &Process, stats: &mut ProcessStats) -> ProcResult<()> {
        let stat = process.stat()?;
        let ticks = ticks_per_second();
        stats.virtual_bytes = Some(stat.vsize);
        stats.resident_bytes = Some(stat.rss * page_size());
        stats.threads = u64::try_from(stat.num_threads).ok();
        #[expect(clippy::cast_precision_loss, reason = "exact for 2^53 ticks")]
        let cpu_seconds = (stat.utime + stat.stime) as f64 / ticks as f64;
        stats.cpu_seconds = Some(cpu_seconds);
        let boot_time = match self.boot_time.get() {
            Some(boot_time) => *boot_time,
            None => boot_time_secs()?,
        };
        stats.start_time = Some(self.boot_time.get_or_init(|| boot_time) + stat.starttime / ticks);
        Ok(())
    }
}

impl ProcessStats {
    fn read_descriptors(&mut self, process: &Process) -> ProcResult<()> {
        self.open_fds = Some(process.fd_count()? as u64);
        Ok(())
    }

    fn read_limits(&mut self, process: &Process) -> ProcResult<()> {
        if let LimitValue::Value(max) = process.limits()?.max_open_files.soft_limit {
            self.max_fds = Some(max);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let (stats, error) = ProcessReader::default().read();
        assert!(error.is_none(), "{error:?}");
        assert!(stats.cpu_seconds.is_some() && stats.start_time > Some(1_600_000_000));
        assert!(stats.open_fds.is_some_and(|fds| stats.max_fds.is_none_or(|max| fds <= max)));
        assert!(stats.resident_bytes > Some(100_000) && stats.resident_bytes < stats.virtual_bytes);
        assert!(stats.threads >= Some(1));
    }
}
