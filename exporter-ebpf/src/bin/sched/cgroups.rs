//! Charges CPU time, waits and switches to cgroups.
//!
//! A cgroup's key is the serial number of its `cgroup_subsys_state`, which is never used again. While the
//! tasks that a CPU runs have the same key, the program only compares: what they use gathers in the
//! totals that the CPU's record has anyway. When the key changes, the difference since the last change
//! is added to the old cgroup's row of this CPU. Idle tasks belong to no cgroup and change nothing.
//!
//! A row is tagged with the serial number of its cgroup, and only its own CPU writes it. So a slot can be
//! given to another cgroup at once: each CPU whose row still has the old tag moves its counts to its row
//! for removed cgroups when it first has counts for the new owner.
//!
//! User space can give slots back, and nothing else: it can write no other map (all but `CGROUP_FREE` are
//! frozen; the ring buffers of events and births carry no counts). A number in `CGROUP_FREE` is only a
//! proposal. The program takes the slot if it exists, if its owner is removed, and if no other CPU is taking
//! it. So a wrong number can keep slots from being used, or end the accounting of a cgroup that is removed;
//! it cannot change, move or hide a count.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, RingBuf, Stack},
    programs::BtfTracePointContext,
};
use sched_exporter_ebpf::{
    CgroupMeta, CgroupRow, CgroupState, CgroupTotals, CpuEntry, CpuRecord, FIRST_SLOT, Global,
    JOURNAL, Mode, Reason, SLOT_OTHER, SLOT_REMOVED, SLOT_ROOT, TABLE,
};

use crate::{Object, compiler_barrier};

/// A row for each CPU number and slot. User space sets the sizes of all maps.
#[map]
static CGROUP_ROWS: Array<CgroupRow> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The owner of each slot.
#[map]
static CGROUP_META: Array<CgroupMeta> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The slot of each cgroup that has one and is not removed, by [`CgroupMeta::id`]; also the claim of each
/// CPU that is taking a slot.
#[map]
static CGROUP_SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);

/// Slots that can be taken. The last in is the first out, so the slots in use stay close together.
#[map]
static CGROUP_FREE: Stack<u32> = Stack::with_max_entries(1, 0);

/// Wakes user space when a slot is taken, and when the cgroup of one is removed. It is not woken again until
/// it has read all events; what they were about is in [`CGROUP_META`].
#[map]
static CGROUP_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Marks a key of [`CGROUP_SLOTS`] as the claim to a slot. Ids of cgroups are numbered from 1.
const CLAIM: u64 = 1 << 63;

/// The cgroup is not removed.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/include/linux/cgroup-defs.h#L52>
const CSS_ONLINE: u32 = 1 << 1;

/// How long a CPU waits before it retries to take a slot for a cgroup that found none.
const RETRY_NS: u64 = 1_000_000_000;

/// The current cgroup of a CPU if it found no slot. Its serial number is that of no cgroup, so each switch to a
/// task looks for a slot again, even if the CPU runs tasks of one cgroup only.
const REFUSED: u64 = CgroupState::pack(u64::MAX, SLOT_OTHER);

/// Prepares the entry of a CPU that is switched for the first time, to `next`.
#[inline(always)]
pub(crate) fn seed(entry: &mut CpuEntry, cpu: u32, next: Object, next_mode: u64) {
    let cgroups = &mut entry.record.cgroups;
    cgroups.base = u64::from(cpu) * global!(CgroupSlots) as u64;
    cgroups.last_slot = u64::from(FIRST_SLOT) - 1;
    let css = next.follow(global!(TaskCgroups)).follow(global!(CssSetCss));
    let serial: u64 = css.read(global!(CssSerial));
    if serial != 0 && next_mode != Mode::Idle as u64 {
        entry.record.cgroups.current = find_slot(entry, css.0, serial);
    }
    if global!(KeepChecks) != 0 {
        entry.record.cgroups.sum = entry.record.cgroups.checksum();
    }
}

/// Begins to charge the cgroup of `next`, which is not idle. Its interval has begun, and nothing has been
/// counted for it yet.
#[inline(always)]
pub(crate) fn enter(entry: &mut CpuEntry, next: Object) {
    let css = next.follow(global!(TaskCgroups)).follow(global!(CssSetCss));
    let serial: u64 = css.read(global!(CssSerial));
    if serial != CgroupState::unpack(entry.record.cgroups.current).0 {
        change(entry, css, serial);
    }
}

/// Pours what the last cgroup used into its row, and finds the slot of the next one.
#[inline(always)]
fn change(entry: &mut CpuEntry, css: Object, serial: u64) {
    let record = &mut entry.record;
    let (last, mut slot) = CgroupState::unpack(record.cgroups.current);
    let Some(mut row) = row(record, slot) else { return };
    if row.serial != last && slot >= FIRST_SLOT {
        let Some(removed) = self::row(record, SLOT_REMOVED) else { return };
        if owner(slot) == last {
            adopt(record, row, removed, last, slot);
        } else {
            // The cgroup is removed, and its slot has been given to another.
            (row, slot) = (removed, SLOT_REMOVED);
        }
    }
    let poured = pour(record, row);
    note(record, slot);
    let current = slot_of(entry, css, serial);
    let cgroups = &mut entry.record.cgroups;
    cgroups.current = current;
    if global!(KeepChecks) != 0 {
        // The same sum as `checksum`, which would load every word again.
        cgroups.sum = current.wrapping_add(poured);
    }
}

/// The row of this CPU for a slot.
#[inline(always)]
fn row(record: &CpuRecord, slot: u32) -> Option<&'static mut CgroupRow> {
    let row = CGROUP_ROWS.get_ptr_mut((record.cgroups.base + u64::from(slot)) as u32)?;
    // SAFETY: nothing else writes it, and no caller has two for one slot.
    Some(unsafe { &mut *row })
}

/// Adds to a row what was counted since the last pour. Returns the sum of all that was poured.
#[inline(always)]
fn pour(record: &mut CpuRecord, row: &mut CgroupRow) -> u64 {
    let now = counted(record);
    let poured = record.cgroups.poured;
    let used = CgroupTotals {
        cpu_ns: now.cpu_ns - poured.cpu_ns,
        wait_ns: now.wait_ns - poured.wait_ns,
        waits: now.waits - poured.waits,
        voluntary: now.voluntary - poured.voluntary,
        preempted: now.preempted - poured.preempted,
    };
    add(row, &used);
    record.cgroups.poured = now;
    now.sum()
}

#[inline(always)]
fn add(row: &mut CgroupRow, used: &CgroupTotals) {
    row.totals.cpu_ns += used.cpu_ns;
    row.totals.wait_ns += used.wait_ns;
    row.totals.waits += used.waits;
    row.totals.voluntary += used.voluntary;
    row.totals.preempted += used.preempted;
    if global!(KeepChecks) != 0 {
        row.check += used.sum();
    }
}

/// What all cgroups together have used of this CPU up to the start of the open interval.
#[inline(always)]
fn counted(record: &CpuRecord) -> CgroupTotals {
    let (since, _) = CpuRecord::open(record.open);
    let totals = &record.totals;
    CgroupTotals {
        cpu_ns: since - record.seeded_at - record.offline_ns - totals.mode_ns[Mode::Idle as usize],
        wait_ns: totals.wait_ns,
        waits: record.cgroups.waits,
        voluntary: totals.switches[Reason::Voluntary as usize],
        preempted: totals.switches[Reason::Preempted as usize],
    }
}

/// Notes in the journal that the row for a slot was written.
#[inline(always)]
fn note(record: &mut CpuRecord, slot: u32) {
    let cgroups = &mut record.cgroups;
    let mut at = cgroups.pours;
    const { assert!(JOURNAL == 64) };
    // SAFETY: the statement changes only its operand, which is then a valid index.
    unsafe {
        asm!("{0} &= 63", inout(reg) at, options(pure, nomem, nostack));
        *cgroups.journal.get_unchecked_mut(at as usize) = slot;
    }
    cgroups.pours += 1;
}

/// Takes a row over for the owner of its slot, and moves what its former owner had.
#[inline(always)]
fn adopt(
    record: &mut CpuRecord,
    row: &mut CgroupRow,
    removed: &mut CgroupRow,
    owner: u64,
    slot: u32,
) {
    if row.serial != 0 {
        let former = row.totals;
        add(removed, &former);
        row.totals = CgroupTotals { cpu_ns: 0, wait_ns: 0, waits: 0, voluntary: 0, preempted: 0 };
        note(record, SLOT_REMOVED);
    }
    row.serial = owner;
    if global!(KeepChecks) != 0 {
        row.check = owner;
    }
    if u64::from(slot) > record.cgroups.last_slot {
        record.cgroups.last_slot = u64::from(slot);
    }
}

/// Serial number of the owner of a slot.
#[inline(always)]
fn owner(slot: u32) -> u64 {
    // SAFETY: an aligned word of the map.
    CGROUP_META
        .get_ptr(slot)
        .map_or(0, |meta| unsafe { (&raw const (*meta).serial).read_volatile() })
}

/// A cgroup packed with its slot, from the table of this CPU if the cgroup is there; [`REFUSED`] if it has none.
#[inline(always)]
fn slot_of(entry: &mut CpuEntry, css: Object, serial: u64) -> u64 {
    // The root of the unified hierarchy has no serial number, and neither has an empty place of the table.
    if serial == 0 {
        return CgroupState::pack(0, SLOT_ROOT);
    }
    let place = place(serial);
    let mut found = *at_place(entry, place);
    if CgroupState::unpack(found).0 != serial {
        found = *at_place(entry, place ^ OTHER_PLACE);
    }
    let (owner, slot) = CgroupState::unpack(found);
    if owner == serial {
        if slot != SLOT_OTHER {
            return found;
        }
        if !may_retry(&entry.record) {
            return REFUSED;
        }
    }
    find_slot(entry, css.0, serial)
}

/// Whether cgroups that found no slot can try again.
#[inline(always)]
fn may_retry(record: &CpuRecord) -> bool {
    CpuRecord::open(record.open).0 >= record.cgroups.retry_at
}

/// One of the two places at which the table can have a cgroup. Multiples of the golden ratio are spread
/// evenly, and cgroups are numbered in turn.
#[inline(always)]
fn place(serial: u64) -> u64 {
    const { assert!(TABLE == 512) };
    serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55
}

/// Flipping this bit of a place gives the other.
const OTHER_PLACE: u64 = TABLE as u64 / 2;

#[inline(always)]
fn at_place(entry: &mut CpuEntry, place: u64) -> &mut u64 {
    let mut at = place;
    // SAFETY: the statement changes only its operand, which is then a valid index.
    unsafe {
        asm!("{0} &= 511", inout(reg) at, options(pure, nomem, nostack));
        entry.table.get_unchecked_mut(at as usize)
    }
}

/// Finds or takes the slot of a cgroup that the table lacks, and puts it there. Not inlined, because its
/// registers would slow down the path on which the cgroup stays the same.
#[inline(never)]
fn find_slot(entry: &mut CpuEntry, css: *const u8, serial: u64) -> u64 {
    let now = CpuRecord::open(entry.record.open).0;
    let slot = find_or_take(Object(css), serial).unwrap_or(SLOT_OTHER);
    if slot == SLOT_OTHER {
        entry.record.cgroups.refused += 1;
        entry.record.cgroups.retry_at = now + RETRY_NS;
    }
    // Use an empty place, otherwise either of the two: so cgroups that displace each other soon have
    // one each.
    let place = place(serial);
    let (one, other) = (*at_place(entry, place), *at_place(entry, place ^ OTHER_PLACE));
    let mut at = place ^ (now & OTHER_PLACE);
    if one == 0 || CgroupState::unpack(one).0 == serial {
        at = place;
    } else if other == 0 || CgroupState::unpack(other).0 == serial {
        at = place ^ OTHER_PLACE;
    }
    let found = CgroupState::pack(serial, slot);
    *at_place(entry, at) = found;
    if slot == SLOT_OTHER { REFUSED } else { found }
}

/// The slot of a cgroup; `None` if it has none and none is free.
#[inline(always)]
fn find_or_take(css: Object, serial: u64) -> Option<u32> {
    let cgroup = css.follow(global!(CssCgroup));
    let id = id(cgroup);
    if let Some(slot) = find(id, serial) {
        return Some(slot);
    }
    if !is_online(cgroup) {
        return Some(SLOT_REMOVED);
    }
    let (slot, meta) = take()?;
    let claim = CLAIM | u64::from(slot);
    // SAFETY: no CPU but the one with the claim writes here, and no other knows the slot yet.
    unsafe {
        (*meta).serial = 0;
        compiler_barrier();
        (*meta).id = id;
        (*meta).removed = 0;
        (*meta).hierarchy = u64::from(hierarchy(cgroup));
        (*meta).check = CgroupMeta::check(serial, id);
        compiler_barrier();
        (*meta).serial = serial;
    }
    if CGROUP_SLOTS.insert(id, slot, u64::from(BPF_NOEXIST)).is_ok() {
        let _ = CGROUP_SLOTS.remove(claim);
        if is_online(cgroup) {
            wake();
        } else {
            // Removed in the meantime, perhaps before the hook could find the slot.
            retire(id, meta);
        }
        return Some(slot);
    }
    // Another CPU was first.
    // SAFETY: as above.
    unsafe {
        (*meta).serial = 0;
        compiler_barrier();
        (*meta).id = 0;
        (*meta).check = 0;
    }
    let _ = CGROUP_SLOTS.remove(claim);
    let _ = CGROUP_FREE.push(slot, 0);
    find(id, serial)
}

/// The slot that the cgroup with this id has: [`SLOT_OTHER`] if it is another cgroup's, and `None` if there
/// is none.
#[inline(always)]
fn find(id: u64, serial: u64) -> Option<u32> {
    let slot = CGROUP_SLOTS.get_ptr(id)?;
    // SAFETY: an aligned word of the map.
    let slot = unsafe { slot.read_volatile() };
    Some(if owner(slot) == serial { slot } else { SLOT_OTHER })
}

/// Takes a free slot, which is then claimed. The number may be anything, because user space wrote it.
#[inline(always)]
fn take() -> Option<(u32, *mut CgroupMeta)> {
    let slot = CGROUP_FREE.pop().ok()??;
    if slot < FIRST_SLOT {
        return None;
    }
    // There is no such slot if the number is too large.
    let meta = CGROUP_META.get_ptr_mut(slot)?;
    let claim = CLAIM | u64::from(slot);
    // The number may have been there twice: only one CPU at a time continues. The next one sees what it
    // has written, because the hash map has locks.
    CGROUP_SLOTS.insert(claim, slot, u64::from(BPF_NOEXIST)).ok()?;
    // SAFETY: aligned words of the map.
    let (owner, id, removed) = unsafe {
        (
            (&raw const (*meta).serial).read_volatile(),
            (&raw const (*meta).id).read_volatile(),
            (&raw const (*meta).removed).read_volatile(),
        )
    };
    if owner != 0 && removed != id {
        if global!(HasRemovalHook) != 0 {
            // Its owner still exists.
            let _ = CGROUP_SLOTS.remove(claim);
            return None;
        }
        // Without the hook, only user space can know that the owner is removed. If it is not, it gets
        // another slot, and what it had is then in the rows for removed cgroups.
        let _ = CGROUP_SLOTS.remove(id);
    }
    Some((slot, meta))
}

/// Marks the owner of a slot as removed, so that the slot is no longer found by its id.
#[inline(always)]
fn retire(id: u64, meta: *mut CgroupMeta) {
    // SAFETY: an aligned word of the map. The slot can have no other owner yet, and if it had, this would
    // not be its id.
    unsafe { (&raw mut (*meta).removed).write_volatile(id) };
    let _ = CGROUP_SLOTS.remove(id);
    wake();
}

/// Wakes user space, unless it was woken and has not read yet, as is the case if the buffer is full.
#[inline(always)]
fn wake() {
    let _ = CGROUP_EVENTS.output::<u64>(1, 0);
}

/// The number of the cgroup's directory, which is unique in its hierarchy for as long as the machine
/// runs.
#[inline(always)]
pub(crate) fn id(cgroup: Object) -> u64 {
    cgroup.follow(global!(CgroupNode)).read(global!(KernfsNodeId))
}

/// The number of the cgroup's hierarchy.
#[inline(always)]
pub(crate) fn hierarchy(cgroup: Object) -> u32 {
    cgroup.follow(global!(CgroupRoot)).read(global!(CgroupRootHierarchy))
}

#[inline(always)]
fn is_online(cgroup: Object) -> bool {
    cgroup.read::<u32>(global!(CgroupFlags)) & CSS_ONLINE != 0
}

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`: the cgroup has been removed.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/cgroup/cgroup.c#L6158>
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Object(ctx.arg(0));
    let id = id(cgroup);
    let Some(slot) = CGROUP_SLOTS.get_ptr(id) else { return 0 };
    // SAFETY: an aligned word of the map.
    let slot = unsafe { slot.read_volatile() };
    let Some(meta) = CGROUP_META.get_ptr_mut(slot) else { return 0 };
    // SAFETY: an aligned word of the map.
    let own = unsafe { (&raw const (*meta).hierarchy).read_volatile() };
    // Cgroups of two hierarchies can have the same number.
    if own == u64::from(hierarchy(cgroup)) {
        retire(id, meta);
    }
    0
}
