//! A model of a CPU that writes its record and rows as the kernel program does, seen by a reader on another
//! CPU. Stores become visible word by word while the reader copies, in program order or in any order; only
//! stores to one word keep their order.

use std::{cell::RefCell, collections::BTreeMap};

use sched_exporter_ebpf::{CgroupState, Mode, Reason, SLOT_OTHER, SLOT_REMOVED, SLOT_ROOT};

use super::*;

const SLOTS: usize = 12;
const CGROUPS: u64 = 30;
const RECORD_WORDS: usize = size_of::<CpuRecord>() / 8;
const ROW_WORDS: usize = size_of::<CgroupRow>() / 8;

/// A random number generator: <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What a CPU has written.
#[derive(Clone, Copy)]
struct Written {
    record: CpuRecord,
    rows: [CgroupRow; SLOTS],
}

impl Written {
    fn words(&self) -> Vec<u64> {
        // SAFETY: both are made of integers without padding.
        let record: [u64; RECORD_WORDS] = unsafe { std::mem::transmute(self.record) };
        // SAFETY: as above.
        let rows: [u64; ROW_WORDS * SLOTS] = unsafe { std::mem::transmute(self.rows) };
        record.into_iter().chain(rows).collect()
    }
}

/// The kernel program.
struct Program {
    now: Written,
    /// By slot.
    owners: [u64; SLOTS],
    time: u64,
}

impl Program {
    fn new() -> Self {
        let mut record = CpuRecord::ZERO;
        record.seeded_at = 1_000;
        record.open = CpuRecord::pack_open(1_000, Mode::Idle as u64);
        record.cgroups.last_slot = u64::from(FIRST_SLOT) - 1;
        record.check = record.checksum();
        let rows = [CgroupRow::ZERO; SLOTS];
        Self { now: Written { record, rows }, owners: [0; SLOTS], time: 1_000 }
    }

    /// A switch to a task of any cgroup, which may have lost its slot to another.
    fn switch(&mut self, random: &mut Random) {
        self.time += 1 + random.below(1_000_000);
        let Written { record, rows } = &mut self.now;
        record.started += 1;
        let (since, mode) = CpuRecord::open(record.open);
        record.totals.mode_ns[usize::try_from(mode).unwrap()] += self.time - since;
        let next = if random.below(4) == 0 { Mode::Idle } else { Mode::Fair };
        record.open = CpuRecord::pack_open(self.time, next as u64);
        record.totals.switches[[Reason::Voluntary, Reason::Preempted, Reason::Idle]
            [usize::try_from(random.below(3)).unwrap()] as usize] += 1;
        if next != Mode::Idle {
            let serial = random.below(CGROUPS);
            let (last, mut slot) = CgroupState::unpack(record.cgroups.current);
            if serial != last {
                let at = slot as usize;
                if slot >= FIRST_SLOT && rows[at].serial != last {
                    if self.owners[at] == last {
                        if rows[at].serial != 0 {
                            let former = std::mem::replace(&mut rows[at], CgroupRow::ZERO);
                            let removed = &mut rows[SLOT_REMOVED as usize];
                            removed.totals.add(&former.totals);
                            removed.check = removed.checksum();
                            note(record, SLOT_REMOVED);
                        }
                        rows[at].serial = last;
                        rows[at].check = rows[at].checksum();
                        record.cgroups.last_slot = record.cgroups.last_slot.max(at as u64);
                    } else {
                        slot = SLOT_REMOVED;
                    }
                }
                let mut used = counted(record, &record.totals);
                used.subtract(&record.cgroups.poured);
                let row = &mut rows[slot as usize];
                row.totals.add(&used);
                row.check = row.checksum();
                record.cgroups.poured.add(&used);
                note(record, slot);
                record.cgroups.current =
                    CgroupState::pack(serial, slot_of(&self.owners, serial, random));
            }
            record.cgroups.sum = record.cgroups.checksum();
            record.totals.wait_ns += random.below(100_000);
            record.cgroups.waits += 1;
        }
        record.check = record.checksum();
        record.done = record.started;
        // Another CPU gives a slot to another cgroup.
        if random.below(3) == 0 {
            let first = u64::from(FIRST_SLOT);
            let slot = first + random.below(SLOTS as u64 - first);
            self.owners[usize::try_from(slot).unwrap()] = 1 + random.below(CGROUPS - 1);
        }
    }
}

fn slot_of(owners: &[u64; SLOTS], serial: u64, random: &mut Random) -> u32 {
    if serial == 0 {
        return SLOT_ROOT;
    }
    let found =
        (FIRST_SLOT..).zip(&owners[FIRST_SLOT as usize..]).find(|(_, owner)| **owner == serial);
    match found {
        Some((slot, _)) => slot,
        None if random.below(2) == 0 => SLOT_OTHER,
        None => SLOT_REMOVED,
    }
}

fn note(record: &mut CpuRecord, slot: u32) {
    let place = usize::try_from(record.cgroups.pours).unwrap() % JOURNAL;
    record.cgroups.journal[place] = slot;
    record.cgroups.pours += 1;
}

/// How stores become visible.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// All stores of a write at once.
    Whole,
    /// As the program makes them.
    Program,
    /// In any order, within bursts of up to three writes.
    Any,
}

/// The memory, as a reader sees it.
struct Shared(RefCell<State>);

struct State {
    visible: Vec<u64>,
    /// Stores that are not visible yet, in program order: word and value.
    pending: Vec<(usize, u64)>,
    program: Program,
    random: Random,
    order: Order,
    /// The number of words that the reader copies, on average, until a store becomes visible.
    pace: u64,
    /// What was written by each write, by the open interval.
    history: BTreeMap<u64, Written>,
}

impl State {
    /// Makes the program write, and keeps its stores.
    fn write(&mut self) {
        let before = self.program.now.words();
        self.program.switch(&mut self.random);
        let after = self.program.now.words();
        let changed = |word: &usize| before[*word] != after[*word];
        let (started, check, done) = (RECORD_WORDS - 1, RECORD_WORDS - 2, 0);
        let body = (1..after.len()).filter(|word| ![started, check].contains(word)).filter(changed);
        let order = [started].into_iter().chain(body).chain([check, done]);
        self.pending.extend(order.map(|word| (word, after[word])));
        let now = self.program.now;
        self.history.insert(now.record.open, now);
    }

    /// Makes a store visible.
    fn show(&mut self) {
        if self.pending.is_empty() {
            let writes = if self.order == Order::Any { 1 + self.random.below(3) } else { 1 };
            (0..writes).for_each(|_| self.write());
        }
        if self.order == Order::Whole {
            for (word, value) in self.pending.drain(..) {
                self.visible[word] = value;
            }
            return;
        }
        let mut at = 0;
        if self.order == Order::Any {
            at = usize::try_from(self.random.below(self.pending.len() as u64)).unwrap();
            let word = self.pending[at].0;
            at = self.pending.iter().position(|store| store.0 == word).unwrap();
        }
        let (word, value) = self.pending.remove(at);
        self.visible[word] = value;
    }

    fn copy<const WORDS: usize>(&mut self, first: usize) -> [u64; WORDS] {
        std::array::from_fn(|word| {
            while self.random.below(self.pace) == 0 {
                self.show();
            }
            self.visible[first + word]
        })
    }
}

impl Memory for Shared {
    fn record(&self, _cpu: u32) -> CpuRecord {
        let words = self.0.borrow_mut().copy::<RECORD_WORDS>(0);
        // SAFETY: a record is made of integers without padding.
        unsafe { std::mem::transmute(words) }
    }

    fn row(&self, _cpu: u32, slot: usize) -> CgroupRow {
        let words = self.0.borrow_mut().copy::<ROW_WORDS>(RECORD_WORDS + slot * ROW_WORDS);
        // SAFETY: as above.
        unsafe { std::mem::transmute(words) }
    }

    fn stores(&self) -> Stores {
        // Without the sums of a machine that keeps the order.
        if self.0.borrow().order == Order::Any { Stores::Reordered } else { Stores::InOrder }
    }
}

fn shared(order: Order, pace: u64, seed: u64) -> Shared {
    let program = Program::new();
    let visible = program.now.words();
    let history = BTreeMap::from([(program.now.record.open, program.now)]);
    let random = Random(seed);
    let state = State { visible, pending: Vec::new(), program, random, order, pace, history };
    Shared(RefCell::new(state))
}

/// Whether a copy shows what one write had left, as far as cgroups are concerned.
fn is_right(copy: &CpuRecord, rows: &[CgroupRow], history: &BTreeMap<u64, Written>) -> bool {
    let Some(then) = history.get(&copy.open) else { return false };
    let (read, unread) = then.rows.split_at(rows.len());
    copy.cgroups.poured == then.record.cgroups.poured
        && copy.cgroups.current == then.record.cgroups.current
        && rows == read
        && unread.iter().all(|row| *row == CgroupRow::ZERO)
}

/// Reads until this many copies are accepted; returns how many were rejected.
fn read(order: Order, pace: u64, seed: u64, copies: u32) -> u32 {
    let memory = shared(order, pace, seed);
    let mut rows = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    while accepted < copies {
        let Some(record) = read_cpu(&memory, 0, SLOTS, &mut rows) else {
            refused += 1;
            assert!(refused < 1_000 * copies, "no copy is accepted");
            continue;
        };
        accepted += 1;
        let state = memory.0.borrow();
        assert!(
            is_right(&record, &rows, &state.history),
            "pours {}: {rows:#?}",
            record.cgroups.pours
        );
    }
    refused
}

#[test]
fn copies_are_of_one_instant_if_stores_are_seen_in_order() {
    for seed in 0..8 {
        for pace in [200, 600, 2_000] {
            read(Order::Program, pace, seed, 100);
        }
    }
}

/// Few copies are refused, although rows are written while they are copied.
#[test]
fn rows_written_in_the_meantime_are_copied_again() {
    let refused: u32 = (0..8).map(|seed| read(Order::Whole, 300, seed, 100)).sum();
    assert!(refused < 100, "{refused} refused");
}

#[test]
fn copies_are_of_one_instant_in_whatever_order_stores_are_seen() {
    let mut refused = 0;
    for seed in 0..8 {
        for pace in [200, 600, 2_000] {
            refused += read(Order::Any, pace, seed, 100);
        }
    }
    assert!(refused > 0, "the model shows nothing wrong");
}

/// The checks find what the order of copying does not prevent: every copy that they accept is right, and
/// some that they refuse are not.
#[test]
fn wrong_copies_are_found_by_their_sums() {
    let (mut wrong, mut right) = (0, 0);
    for seed in 0..200 {
        let memory = shared(Order::Any, 300, seed);
        for _ in 0..20 {
            let rows: Vec<_> = (0..SLOTS).map(|slot| memory.row(0, slot)).collect();
            let record = memory.record(0);
            let is_accepted = is_whole(&record, Stores::Reordered)
                && belong_together(&record, &rows, Stores::Reordered);
            let state = memory.0.borrow();
            if is_right(&record, &rows, &state.history) {
                right += u32::from(is_accepted);
            } else {
                assert!(!is_accepted, "{record:?} {rows:#?}");
                wrong += 1;
            }
        }
    }
    assert!(wrong > 1_000 && right > 0, "{wrong} wrong, {right} right");
}

#[test]
fn without_slots_only_the_record_is_read() {
    let memory = shared(Order::Program, u64::MAX, 1);
    let mut rows = vec![CgroupRow::ZERO];
    assert!(read_cpu(&memory, 0, 0, &mut rows).is_some());
    assert!(rows.is_empty());
}

#[test]
fn rows_above_the_last_in_use_are_not_read() {
    let memory = shared(Order::Program, u64::MAX, 1);
    let mut rows = Vec::new();
    assert!(read_cpu(&memory, 0, SLOTS, &mut rows).is_some());
    assert_eq!(rows.len(), FIRST_SLOT as usize);
}
