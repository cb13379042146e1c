//! Reads which cgroups were created or renamed, as the kernel program reports it.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use aya::maps::{MapData, RingBuf};
use sched_exporter_ebpf::{BIRTHS_BYTES, CGROUP_BIRTHS, CgroupBirth};
use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::{attach::Maps, error::LoadError};

/// Bytes that the kernel adds to each record.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>, `BPF_RINGBUF_HDR_SZ`.
const RECORD_HEADER: usize = 8;

/// A cgroup that was created or renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The inode number of its directory.
    pub id: u64,
    /// Whether it existed before, under another path. Only its last name has changed.
    pub is_renamed: bool,
    /// The path from the root of the hierarchy; `None` if it is too long.
    pub path: Option<PathBuf>,
}

/// The cgroups that were created or renamed since they were read last. Reading needs no system call.
pub struct CgroupBirths(RingBuf<MapData>);

impl CgroupBirths {
    pub(super) fn open(maps: &mut Maps) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(maps.take(CGROUP_BIRTHS)?);
        ring.map(Self).map_err(|source| LoadError::RingBuffer { map: CGROUP_BIRTHS, source })
    }

    /// Takes all births so far, at most as many as the buffer holds. A cgroup in which a task has run is
    /// among them, or was before. Returns whether the buffer may have been full, so that some are missing.
    pub fn drain(&mut self, mut take: impl FnMut(Birth)) -> bool {
        let (bytes, longest) = (BIRTHS_BYTES as usize, occupied(size_of::<CgroupBirth>()));
        let mut taken = 0;
        while taken < bytes
            && let Some(record) = self.0.next()
        {
            taken += occupied(record.len());
            if let Some(birth) = parse(&record) {
                take(birth);
            }
        }
        taken + longest >= bytes
    }
}

impl AsRawFd for CgroupBirths {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits in a tokio runtime until the buffer is filling.
pub struct BirthListener(AsyncFd<CgroupBirths>);

impl BirthListener {
    /// Listens to births.
    pub fn new(births: CgroupBirths) -> io::Result<Self> {
        // SAFETY: the `AsyncFd` owns the births, which own their descriptor while they live.
        let ready = unsafe { AsyncFd::register_with_interest(births, Interest::READABLE) };
        ready.map(Self).map_err(io::Error::from)
    }

    /// Waits until the births should be drained, before the buffer is full.
    pub async fn filling(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The births.
    pub fn births(&mut self) -> &mut CgroupBirths {
        self.0.get_mut()
    }
}

/// Bytes of the buffer that a record takes.
const fn occupied(record: usize) -> usize {
    (RECORD_HEADER + record).next_multiple_of(8)
}

/// Parses a record of the kernel program; `None` if it is not one.
fn parse(record: &[u8]) -> Option<Birth> {
    let (id, rest) = record.split_first_chunk()?;
    let (event, path) = rest.split_first_chunk()?;
    let is_renamed = match u64::from_ne_bytes(*event) {
        CgroupBirth::CREATED => false,
        CgroupBirth::RENAMED => true,
        _ => return None,
    };
    let path = path.split_last().map(|(_zero, path)| OsStr::from_bytes(path).into());
    Some(Birth { id: u64::from_ne_bytes(*id), is_renamed, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, event: u64, path: &[u8]) -> Vec<u8> {
        [&id.to_ne_bytes(), &event.to_ne_bytes(), path].concat()
    }

    #[test]
    fn parses_what_the_kernel_program_writes() {
        let birth = |id, is_renamed, path: Option<&[u8]>| {
            let path = path.map(|path| OsStr::from_bytes(path).into());
            Some(Birth { id, is_renamed, path })
        };
        assert_eq!(
            parse(&record(7, 0, b"/a\xff.slice/b\0")),
            birth(7, false, Some(b"/a\xff.slice/b"))
        );
        assert_eq!(parse(&record(u64::MAX, 1, b"/\0")), birth(u64::MAX, true, Some(b"/")));
        assert_eq!(parse(&record(8, 0, b"")), birth(8, false, None));
        assert_eq!(record(8, 0, b"").len(), CgroupBirth::HEADER);
    }

    #[test]
    fn other_records_are_ignored() {
        assert_eq!(parse(&record(7, 2, b"/a\0")), None);
        for length in 0..CgroupBirth::HEADER {
            assert_eq!(parse(&record(7, 0, b"")[..length]), None);
        }
    }
}
