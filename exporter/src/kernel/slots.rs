//! How many cgroups the kernel program can account for. Pure.

use sched_exporter_ebpf::{
    BIRTHS_BYTES, CgroupMeta, CgroupRow, CgroupState, CpuEntry, CpuRecord, FIRST_SLOT, MAX_SLOTS,
};

/// What the kernel allocates for an entry of a hash map with a key of 8 bytes and a value of 4, besides its
/// bucket. <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/hashtab.c>, `struct htab_elem`.
const HASH_ENTRY: u64 = 64;

/// A bucket of a hash map. There are as many as entries, rounded up to a power of two.
const HASH_BUCKET: u64 = 16;

/// An entry of the stack of free slots.
const STACK_ENTRY: u64 = 4;

/// Whatever the number of slots and CPUs: the ring buffers of events and births, and headers of the maps.
const FIXED: u64 = 32 * 1024 + BIRTHS_BYTES as u64;

/// The most slots whose maps fit into `bytes` of kernel memory. [`FIRST_SLOT`] of them belong to no single
/// cgroup; 0 if no others would be left. `cpus` is the number of CPU numbers, since an array has an entry
/// for each.
pub fn fitting(bytes: u64, cpus: u32) -> u32 {
    let fits = |slots: &u32| memory(*slots, cpus) <= bytes;
    // Ascending in the number of slots, so halving the range finds the most.
    let (mut fitting, mut too_many) = (0, MAX_SLOTS + 1);
    while too_many - fitting > 1 {
        let middle = fitting.midpoint(too_many);
        if fits(&middle) {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    if fitting > FIRST_SLOT { fitting } else { 0 }
}

/// Bytes of kernel memory that accounting for cgroups takes.
pub fn memory(slots: u32, cpus: u32) -> u64 {
    let (slots, cpus) = (u64::from(slots), u64::from(cpus));
    let record = bytes::<CpuEntry>() - bytes::<CpuRecord>() + bytes::<CgroupState>();
    let rows = slots * bytes::<CgroupRow>();
    // CPUs that take a slot need an entry for that, and each has one in reserve.
    let hash_entries = slots + 2 * cpus;
    let buckets = (slots + cpus).next_power_of_two();
    FIXED
        + cpus * (record + rows)
        + slots * (bytes::<CgroupMeta>() + STACK_ENTRY)
        + hash_entries * HASH_ENTRY
        + buckets * HASH_BUCKET
}

const fn bytes<T>() -> u64 {
    size_of::<T>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn as_many_slots_as_fit_into_the_memory() {
        assert_eq!(fitting(16 * MIB, 1), MAX_SLOTS);
        assert_eq!(fitting(16 * MIB, 32), MAX_SLOTS);
        for cpus in [64, 128, 512, 1024] {
            let slots = fitting(16 * MIB, cpus);
            assert!((FIRST_SLOT + 1..MAX_SLOTS).contains(&slots), "{slots}");
            assert!(memory(slots, cpus) <= 16 * MIB && memory(slots + 1, cpus) > 16 * MIB);
        }
        assert!((430..450).contains(&fitting(16 * MIB, 512)), "{}", fitting(16 * MIB, 512));
    }

    #[test]
    fn without_room_for_a_cgroup_there_are_no_slots() {
        assert_eq!(fitting(0, 2), 0);
        assert_eq!(fitting(memory(FIRST_SLOT, 2), 2), 0);
        assert_eq!(fitting(memory(FIRST_SLOT + 1, 2), 2), FIRST_SLOT + 1);
        assert_eq!(fitting(MIB, 65_536), 0);
    }
}
