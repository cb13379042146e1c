//! The maps in which the kernel program accounts for cgroups: their sizes, reading them, and giving slots
//! back.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::{
    EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf, Stack},
};
use sched_exporter_ebpf::{
    BIRTHS_BYTES, CGROUP_BIRTHS, CGROUP_EVENTS, CGROUP_FREE, CGROUP_META, CGROUP_ROWS,
    CGROUP_SLOTS, CgroupMeta, CgroupRow, FIRST_SLOT,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::{attach::Maps, error::LoadError, mapped::Mapped, state::State};

/// How many times to copy what a slot's owner is while it is written.
const META_ATTEMPTS: usize = 100;

/// Events to take at once: the ring buffer holds fewer.
const MAX_EVENTS: usize = 4096;

/// Size of a ring buffer that is not used; aya rounds it up to one page.
const RING_BYTES_OFF: u32 = 4_096;

/// The maps. All are frozen, except the stack of free slots and the ring buffers of events and births.
pub(super) struct CgroupMaps {
    rows: Mapped<CgroupRow>,
    meta: Mapped<CgroupMeta>,
    slots: u32,
    has_removal_hook: bool,
    free: Mutex<Free>,
    used: AtomicU32,
    refused: AtomicU64,
}

/// The slots that were given back.
struct Free {
    stack: Map,
    /// By slot, the serial number of the owner that gave it back last. Readers of rows count it as removed.
    given_back: Vec<u64>,
    /// Remembers them for the next process.
    state: Option<Arc<State>>,
}

/// Sets the sizes of the maps; without slots, they are as small as can be.
pub(super) fn set_sizes(loader: &mut EbpfLoader<'_>, slots: u32, cpus: u32) {
    let births = if slots == 0 { RING_BYTES_OFF } else { BIRTHS_BYTES };
    let slots = slots.max(1);
    loader
        .map_max_entries(CGROUP_BIRTHS, births)
        .map_max_entries(CGROUP_ROWS, slots * cpus)
        .map_max_entries(CGROUP_META, slots)
        // CPUs that take a slot have an entry for that.
        .map_max_entries(CGROUP_SLOTS, slots + cpus)
        .map_max_entries(CGROUP_FREE, slots);
}

impl CgroupMaps {
    /// Takes the maps. What an earlier process has given back is in `state`.
    pub(super) fn open(
        maps: &mut Maps,
        slots: u32,
        cpus: u32,
        has_removal_hook: bool,
        state: Option<Arc<State>>,
    ) -> Result<Self, LoadError> {
        let rows = maps.array_or_hash(CGROUP_ROWS)?;
        let rows = map(rows, CGROUP_ROWS, slots as usize * cpus as usize)?;
        let meta = map(maps.array_or_hash(CGROUP_META)?, CGROUP_META, slots as usize)?;
        let given_back = vec![0; slots as usize];
        let mut free = Free { stack: maps.take(CGROUP_FREE)?, given_back, state };
        free.restore();
        let free = Mutex::new(free);
        let (used, refused) = (AtomicU32::new(0), AtomicU64::new(0));
        Ok(Self { rows, meta, slots, has_removal_hook, free, used, refused })
    }

    pub(super) fn slots(&self) -> usize {
        self.slots as usize
    }

    pub(super) fn row(&self, cpu: u32, slot: usize) -> CgroupRow {
        self.rows.copy(cpu as usize * self.slots() + slot).unwrap_or(CgroupRow::ZERO)
    }

    /// Whose a slot is. Nobody's while it is being given to a new owner.
    pub(super) fn meta(&self, slot: usize) -> CgroupMeta {
        let copies = (0..META_ATTEMPTS).filter_map(|_| self.meta.copy(slot));
        let is_whole = |meta: &CgroupMeta| CgroupMeta::check(meta.serial, meta.id) == meta.check;
        copies.into_iter().find(is_whole).unwrap_or(CgroupMeta::ZERO)
    }

    /// By slot, the owner that gave it back last. Hold this while reading rows.
    pub(super) fn given_back(&self) -> GivenBack<'_> {
        GivenBack(self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the last snapshot found.
    pub(super) fn counted(&self, used: usize, refused: u64) {
        self.used.store(u32::try_from(used).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.refused.store(refused, Ordering::Relaxed);
    }

    /// The number of slots, and the counts of the last snapshot.
    pub(super) fn counts(&self) -> SlotCounts {
        SlotCounts {
            slots: self.slots - FIRST_SLOT,
            used: self.used.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Gives back the slots of these cgroups. Ignores those that have none, and, if removals are seen in the
    /// kernel, those that are not removed.
    pub(super) fn free(&self, serials: &[u64]) -> Result<(), MapError> {
        let mut wanted = serials.to_vec();
        wanted.sort_unstable();
        let mut free = self.lock();
        for slot in FIRST_SLOT..self.slots {
            let meta = self.meta(slot as usize);
            let may_go = !self.has_removal_hook || meta.removed == meta.id;
            let given_back = free.given_back[slot as usize];
            if meta.serial == 0 || meta.serial == given_back || !may_go {
                continue;
            }
            if wanted.binary_search(&meta.serial).is_ok() {
                free.give_back(slot, meta.serial)?;
            }
        }
        Ok(())
    }

    /// Fails if this process lacks a capability for giving slots back: up to Linux 5.18, every command of
    /// bpf(2) can need one.
    pub(super) fn probe(&self) -> Result<(), MapError> {
        self.lock().data()?.info().map(drop)
    }
}

impl Free {
    fn give_back(&mut self, slot: u32, serial: u64) -> Result<(), MapError> {
        if let Some(state) = &self.state {
            state.giving(slot as usize, serial);
        }
        push(&mut self.stack, slot)?;
        self.given_back[slot as usize] = serial;
        if let Some(state) = &self.state {
            state.given();
        }
        Ok(())
    }

    /// Continues from what the last process gave back. If that ended just when it gave back a slot, the slot
    /// may be on the stack or not. It must not be there twice, so it may stay unused.
    fn restore(&mut self) {
        let Some(state) = &self.state else { return };
        let (given_back, giving) = state.given_back();
        for (to, from) in self.given_back.iter_mut().zip(given_back) {
            *to = from;
        }
        if let Some(slot) = giving {
            tracing::info!(slot, "the last process ended while it gave back this slot");
            state.given();
        }
    }

    fn data(&self) -> Result<&MapData, MapError> {
        match &self.stack {
            Map::Stack(data) => Ok(data),
            _ => Err(MapError::ElementNotFound),
        }
    }
}

/// The owners that gave their slots back; none gives one back while this is held.
pub(super) struct GivenBack<'a>(MutexGuard<'a, Free>);

impl GivenBack<'_> {
    pub(super) fn serials(&self) -> &[u64] {
        &self.0.given_back
    }
}

/// How the slots for cgroups are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCounts {
    /// The cgroups that can have one at the same time.
    pub slots: u32,
    /// The cgroups that have one, at the last snapshot.
    pub used: u32,
    /// Times that a cgroup asked for one and none was free, up to the last snapshot.
    pub refused: u64,
}

/// Events of cgroups that appear or are removed: the descriptor becomes readable when one gets a slot, and
/// when one that has a slot is removed. Reading it needs no system call.
pub struct CgroupEvents(RingBuf<MapData>);

impl CgroupEvents {
    pub(super) fn open(maps: &mut Maps) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(maps.take(CGROUP_EVENTS)?);
        ring.map(Self).map_err(|source| LoadError::RingBuffer { map: CGROUP_EVENTS, source })
    }

    /// Takes all events, so that the descriptor is readable again only after another. Returns whether there
    /// was any. Which cgroups they were about is in the snapshot that is taken next.
    pub fn drain(&mut self) -> bool {
        // If as many come again in the meantime, the rest can wait.
        (0..MAX_EVENTS).take_while(|_| self.0.next().is_some()).count() > 0
    }
}

/// Waits for events in a tokio runtime.
pub struct CgroupListener(AsyncFd<CgroupEvents>);

impl CgroupListener {
    /// Listens for events.
    pub fn new(events: CgroupEvents) -> io::Result<Self> {
        // SAFETY: the `AsyncFd` owns the events, which own their descriptor while they live.
        let ready = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
        ready.map(Self).map_err(io::Error::from)
    }

    /// Waits for an event.
    pub async fn event(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The events. Drain them before the next wait.
    pub fn events(&mut self) -> &mut CgroupEvents {
        self.0.get_mut()
    }
}

impl AsRawFd for CgroupEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Makes all slots free.
pub(super) fn free_all(stack: &mut Map, slots: u32) -> Result<(), LoadError> {
    // The last in is the first out.
    (FIRST_SLOT..slots).rev().try_for_each(|slot| push(stack, slot)).map_err(LoadError::Slots)
}

fn push(stack: &mut Map, slot: u32) -> Result<(), MapError> {
    Stack::try_from(stack)?.push(slot, 0)
}

/// Maps a frozen map. Memory that is mapped for writing cannot be frozen, and a frozen map cannot be mapped
/// for writing. <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `bpf_map_mmap`.
pub(super) fn map<T: crate::kernel::mapped::Value>(
    map: &MapData,
    name: &'static str,
    entries: usize,
) -> Result<Mapped<T>, LoadError> {
    let mapped = Mapped::new(map.fd().as_fd(), entries);
    mapped.map_err(|source| LoadError::Map { map: name, source })
}
