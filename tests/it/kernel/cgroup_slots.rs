//! The slots of cgroups: who gets one, and what user space can do to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use aya::maps::{Map, MapData, Stack};
use sched_exporter::{
    accounting::{CgroupReading, CgroupsSnapshot, Counters as _},
    kernel::scheduler::Scheduler,
};
use sched_exporter_ebpf::FIRST_SLOT;
use sched_exporter_tests::{
    bpf,
    cgroups::{Cgroup, Tree},
    kernel::attach,
    process::PATIENCE,
    workload::{monotonic_ns, sleep_until},
};

/// Runs a process in a cgroup, which sleeps once.
#[track_caller]
fn run(cgroup: &Cgroup) {
    cgroup.start(|| sleep_until(monotonic_ns() + 1_000_000)).wait();
}

/// Takes a snapshot and checks that nothing is lost, counted twice, or of the wrong owner.
#[track_caller]
fn read(scheduler: &Scheduler) -> CgroupsSnapshot {
    let snapshot = scheduler.snapshot().unwrap();
    let cgroups = snapshot.cgroups.unwrap();
    let mut sum = cgroups.other;
    sum.add(&cgroups.removed);
    cgroups.cgroups.iter().for_each(|cgroup| sum.add(&cgroup.totals));
    let cpus = snapshot.cpus.iter().chain(&snapshot.offline);
    let totals: Vec<_> = cpus.filter_map(|cpu| cpu.totals).collect();
    let busy: u64 = totals.iter().flat_map(|totals| &totals.mode_ns[1..]).sum();
    assert_eq!(sum.cpu_ns, busy);
    assert_eq!(sum.wait_ns, totals.iter().map(|totals| totals.wait_ns).sum::<u64>());
    let ids: BTreeSet<_> = cgroups.cgroups.iter().map(|cgroup| cgroup.id).collect();
    assert_eq!(ids.len(), cgroups.cgroups.len(), "{cgroups:?}");
    assert!(cgroups.cgroups.is_sorted_by(|one, other| one.serial < other.serial), "{cgroups:?}");
    cgroups
}

fn find(cgroups: &CgroupsSnapshot, id: u64) -> Option<CgroupReading> {
    cgroups.cgroups.iter().copied().find(|cgroup| cgroup.id == id)
}

/// The stack of free slots, opened by its number.
fn stack() -> Stack<MapData, u32> {
    const BPF_MAP_TYPE_STACK: &str = "23";
    let maps = bpf::maps("self").unwrap();
    let (id, _) = maps.iter().find(|(_, info)| info["map_type"] == BPF_MAP_TYPE_STACK).unwrap();
    let map = Map::from_map_data(MapData::from_id(*id).unwrap()).unwrap();
    Stack::try_from(map).unwrap()
}

#[test]
fn a_removed_cgroup_gives_its_slot_back_and_takes_its_counts_with_it() {
    let mut scheduler = attach();
    let mut events = scheduler.take_cgroup_events().unwrap();
    let before = read(&scheduler).removed;
    let tree = Tree::new();
    let cgroup = tree.create("removed");
    let id = cgroup.id();
    run(&cgroup);
    assert!(events.drain());
    let alive = find(&read(&scheduler), id).unwrap();
    assert!(
        !alive.is_removed && alive.totals.cpu_ns > 0 && alive.totals.voluntary > 0,
        "{alive:?}"
    );
    scheduler.free_cgroups(&[alive.serial]).unwrap();
    assert!(find(&read(&scheduler), id).is_some(), "it is not removed yet");
    cgroup.remove();
    assert!(events.drain());
    let last = find(&read(&scheduler), id).unwrap();
    assert!(last.is_removed && last.totals.is_at_least(&alive.totals), "{last:?} {alive:?}");
    scheduler.free_cgroups(&[last.serial]).unwrap();
    let after = read(&scheduler);
    assert_eq!(find(&after, id), None);
    let mut removed = after.removed;
    removed.subtract(&before);
    assert!(removed.is_at_least(&last.totals), "{removed:?} {last:?}");
}

/// Whatever numbers there are, each cgroup keeps its slot and its counts.
#[test]
fn numbers_in_the_stack_of_free_slots_are_only_proposals() {
    let scheduler = attach();
    let tree = Tree::new();
    let cgroups: Vec<_> = (0..8).map(|number| tree.create(&format!("old-{number}"))).collect();
    cgroups.iter().for_each(run);
    let ids = |cgroups: &[Cgroup]| cgroups.iter().map(Cgroup::id).collect::<Vec<_>>();
    let old = read(&scheduler);
    let mut stack = stack();
    // No slot at all, those of no cgroup in particular, and those that are in use, twice.
    let in_use = (FIRST_SLOT..FIRST_SLOT + 12).flat_map(|slot| [slot, slot]);
    for slot in [u32::MAX, 4096, 0, 1, 2].into_iter().chain(in_use) {
        if stack.push(slot, 0).is_err() {
            // It is full: make room.
            stack.pop(0).unwrap();
            stack.push(slot, 0).unwrap();
        }
    }
    let more: Vec<_> = (0..40).map(|number| tree.create(&format!("new-{number}"))).collect();
    for cgroup in more.iter().chain(&cgroups) {
        run(cgroup);
        read(&scheduler);
    }
    let new = read(&scheduler);
    let owners = |snapshot: &CgroupsSnapshot| -> BTreeMap<_, _> {
        snapshot.cgroups.iter().map(|cgroup| (cgroup.serial, cgroup.id)).collect()
    };
    let (before, after) = (owners(&old), owners(&new));
    for id in ids(&cgroups) {
        let one = find(&old, id).unwrap();
        let other = find(&new, id).unwrap();
        assert_eq!(before[&one.serial], after[&one.serial]);
        assert!(other.totals.is_at_least(&one.totals), "{one:?} {other:?}");
    }
    let refused = scheduler.cgroup_slots().unwrap().refused;
    assert!(refused > 0 && new.other.is_at_least(&old.other), "{refused}");
    // Once the wrong numbers are used up, new cgroups get slots again.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = tree.create("last");
        let id = last.id();
        run(&last);
        if find(&read(&scheduler), id).is_some() {
            break;
        }
        last.remove();
        assert!(Instant::now() < deadline, "no new cgroup gets a slot");
    }
}
