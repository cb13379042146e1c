//! The kernel's lists of CPUs in sysfs, such as `0-3,8`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

/// <https://docs.kernel.org/admin-guide/cputopology.html>
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The error when a list of CPUs is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum CpuListError {
    /// The file cannot be read.
    #[error("reading `{path}`")]
    Read {
        /// The file.
        path: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The file is not a list of CPUs.
    #[error("`{path}` is not a list of CPUs: `{text}`")]
    Parse {
        /// The file.
        path: &'static str,
        /// Its contents.
        text: String,
    },
}

/// Reads the possible CPUs, ascending. A per-CPU map has one slot for each, in this order.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/arraymap.c>, `bpf_percpu_array_copy`.
pub fn possible() -> Result<Vec<u32>, CpuListError> {
    let text = fs::read_to_string(POSSIBLE)
        .map_err(|source| CpuListError::Read { path: POSSIBLE, source })?;
    parse(&text).ok_or(CpuListError::Parse { path: POSSIBLE, text })
}

/// The list of online CPUs, kept open because every scrape reads it.
#[derive(Debug)]
pub struct Online(File);

impl Online {
    /// Opens the list.
    pub fn open() -> Result<Self, CpuListError> {
        File::open(ONLINE).map(Self).map_err(|source| CpuListError::Read { path: ONLINE, source })
    }

    /// Reads the CPUs that are online now, ascending.
    pub fn read(&self) -> Result<Vec<u32>, CpuListError> {
        // A sysfs file fits into one page.
        let mut page = [0; 4096];
        let length = self
            .0
            .read_at(&mut page, 0)
            .map_err(|source| CpuListError::Read { path: ONLINE, source })?;
        let text = String::from_utf8_lossy(&page[..length]);
        parse(&text).ok_or_else(|| CpuListError::Parse { path: ONLINE, text: text.into_owned() })
    }
}

/// Parses an ascending list, such as `0-3,8`. Rejects numbers that would make the list unreasonably
/// long.
pub(crate) fn parse(list: &str) -> Option<Vec<u32>> {
    const MAX_CPU: u32 = 1 << 16;
    let mut cpus = Vec::new();
    for range in list.trim_end().split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to > MAX_CPU || cpus.last().is_some_and(|cpu| *cpu >= from) {
            return None;
        }
        cpus.extend(from..=to);
    }
    Some(cpus)
}

/// Formats ascending CPUs, such as `0-3,8`.
pub fn format(cpus: &[u32]) -> String {
    let runs = cpus.chunk_by(|cpu, next| cpu + 1 == *next);
    let run = |run: &[u32]| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(u32::to_string).collect(),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::chain;

    #[track_caller]
    fn check(list: &str, expected: Option<&[u32]>) {
        assert_eq!(parse(list).as_deref(), expected, "{list:?}");
    }

    #[test]
    fn chain_of_a_read_error_states_the_cause_once() {
        let error = CpuListError::Read { path: ONLINE, source: io::ErrorKind::NotFound.into() };
        assert_eq!(chain(&error), "reading `/sys/devices/system/cpu/online`: entity not found");
    }

    #[test]
    fn parses_ranges_and_single_cpus() {
        check("0\n", Some(&[0]));
        check("0-3,8,10-11\n", Some(&[0, 1, 2, 3, 8, 10, 11]));
    }

    #[test]
    fn format_is_the_inverse_of_parse() {
        for text in ["0", "0-3,8,10-11", "1,3"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        assert_eq!(format(&[]), "");
    }

    #[test]
    fn rejects_anything_else() {
        check("", None);
        check("0-", None);
        check("3-1", None);
        check("1,1", None);
        check("0-4294967295", None);
        check("zero", None);
    }
}
