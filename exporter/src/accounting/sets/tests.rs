use super::*;

type Sets = CgroupSets<&'static str>;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn sets(limit: usize) -> Sets {
    Sets::new(0, Budget { limit, keep: Duration::from_mins(5) })
}

/// A snapshot of cgroups that have run: serial number and nanoseconds.
fn snapshot(cgroups: &[(u64, u64)]) -> CgroupsSnapshot {
    let reading = |(serial, ns): &(u64, u64)| CgroupReading {
        serial: *serial,
        id: 1_000 + serial,
        is_removed: false,
        totals: ran(*ns),
    };
    CgroupsSnapshot {
        cgroups: cgroups.iter().map(reading).collect(),
        other: CgroupTotals::ZERO,
        removed: CgroupTotals::ZERO,
    }
}

fn ran(cpu_ns: u64) -> CgroupTotals {
    CgroupTotals { cpu_ns, ..CgroupTotals::ZERO }
}

impl CgroupsSnapshot {
    /// Marks a cgroup removed.
    fn without(mut self, serial: u64) -> Self {
        self.cgroups.iter_mut().filter(|reading| reading.serial == serial).for_each(|reading| {
            reading.is_removed = true;
        });
        self
    }

    /// Adds to what removed cgroups had.
    fn removed(mut self, ns: u64) -> Self {
        self.removed.cpu_ns += ns;
        self
    }
}

/// The nanoseconds that are shown: of each set, `other`, removed and forgotten.
fn shown(
    sets: &Sets,
    now: u64,
    snapshot: &CgroupsSnapshot,
) -> (Vec<(&'static str, u64)>, [u64; 3]) {
    let values = sets.values(now, snapshot);
    let ns = values.sets.iter().map(|set| (*set.labels, set.values.totals.cpu_ns));
    let rest = [values.other.totals, values.removed, values.forgotten].map(|totals| totals.cpu_ns);
    (ns.collect(), rest)
}

fn created(sets: &Sets, now: u64, snapshot: &CgroupsSnapshot) -> Vec<(&'static str, u64)> {
    let values = sets.values(now, snapshot);
    values.sets.iter().map(|set| (*set.labels, set.created_at)).collect()
}

/// Names each cgroup, right after a scrape.
fn assign(
    sets: &mut Sets,
    now: u64,
    snapshot: &CgroupsSnapshot,
    named: &[(u64, Option<&'static str>)],
) {
    sets.show(now, snapshot);
    sets.assign(now, snapshot, named.iter().copied());
}

/// The serial numbers of the cgroups that can give back their slots.
fn gone(sets: &Sets, snapshot: &CgroupsSnapshot) -> Vec<u64> {
    sets.gone(snapshot).map(|reading| reading.serial).collect()
}

fn settle(sets: &mut Sets, now: u64, snapshot: &CgroupsSnapshot) {
    sets.settle(now, snapshot, BTreeSet::new());
}

#[test]
fn time_that_a_scrape_has_shown_in_other_stays_there() {
    let mut sets = sets(250);
    let early = snapshot(&[(3, 10), (5, 200)]);
    assert_eq!(shown(&sets, 0, &early), (vec![], [210, 0, 0]));
    let now = snapshot(&[(3, 12), (5, 250)]);
    assign(&mut sets, 1, &now, &[(5, Some("a")), (3, None)]);
    assert_eq!(shown(&sets, 1, &now), (vec![("a", 0)], [262, 0, 0]));
    assert_eq!(shown(&sets, 2, &snapshot(&[(3, 13), (5, 257)])), (vec![("a", 7)], [263, 0, 0]));
    // The next one with the same labels adds only what it does from then on.
    let later = snapshot(&[(3, 13), (5, 257), (8, 90)]);
    assign(&mut sets, 2, &later, &[(8, Some("a"))]);
    assert_eq!(shown(&sets, 2, &later), (vec![("a", 7)], [353, 0, 0]));
    let later = snapshot(&[(3, 13), (5, 258), (8, 91)]);
    assert_eq!(shown(&sets, 3, &later), (vec![("a", 9)], [353, 0, 0]));
}

#[test]
fn time_that_no_scrape_has_shown_moves_to_the_set() {
    let mut sets = sets(250);
    sets.show(7, &snapshot(&[(3, 10)]));
    let now = snapshot(&[(3, 12), (5, 200), (6, 3_000)]);
    sets.assign(9, &now, [(3, Some("a")), (5, Some("a")), (6, None)]);
    assert_eq!(shown(&sets, 9, &now), (vec![("a", 202)], [3_010, 0, 0]));
    // It was 0 when the last scrape did not show it.
    assert_eq!(created(&sets, 9, &now), [("a", 7)]);
    // A set that is shown continues.
    let later = snapshot(&[(3, 12), (5, 201), (6, 3_000), (8, 40_000)]);
    sets.assign(11, &later, [(8, Some("a"))]);
    assert_eq!(shown(&sets, 11, &later), (vec![("a", 40_203)], [3_010, 0, 0]));
    assert_eq!(created(&sets, 11, &later), [("a", 7)]);
}

#[test]
fn a_set_that_waits_for_a_place_leaves_its_time_in_other() {
    let mut sets = sets(1);
    let now = snapshot(&[(3, 10), (5, 200)]);
    sets.assign(9, &now, [(3, Some("a")), (5, Some("b"))]);
    assert_eq!(shown(&sets, 9, &now), (vec![("b", 200)], [10, 0, 0]));
    sets.show(9, &now);
    let budget = Budget { limit: 2, ..sets.budget };
    sets.regroup(10, &now, budget, |serial| Some(if serial == 3 { "a" } else { "b" }));
    assert_eq!(shown(&sets, 10, &now), (vec![("a", 0), ("b", 200)], [10, 0, 0]));
    assert_eq!(created(&sets, 10, &now), [("a", 10), ("b", 0)]);
}

#[test]
fn less_than_a_scrape_has_shown_stays_in_other() {
    let mut sets = sets(250);
    sets.show(0, &snapshot(&[(3, 10)]));
    let less = snapshot(&[(3, 4)]);
    sets.assign(1, &less, [(3, Some("a"))]);
    assert_eq!(shown(&sets, 1, &less), (vec![("a", 0)], [4, 0, 0]));
}

/// Assigning a cgroup again moves it.
#[test]
fn a_cgroup_that_changes_its_set_counts_for_the_new_one_from_then_on() {
    let mut sets = sets(250);
    sets.assign(0, &snapshot(&[(3, 10), (5, 1)]), [(3, Some("a")), (5, Some("b"))]);
    let now = snapshot(&[(3, 12), (5, 3)]);
    sets.assign(1, &now, [(3, Some("b")), (5, Some("b"))]);
    assert_eq!(shown(&sets, 1, &now), (vec![("a", 12), ("b", 3)], [0, 0, 0]));
    let now = snapshot(&[(3, 112), (5, 4)]);
    assert_eq!(shown(&sets, 2, &now), (vec![("a", 12), ("b", 104)], [0, 0, 0]));
    // The set that it left ends, and `other` is a place like a set.
    sets.assign(2, &now, [(3, None)]);
    let later = snapshot(&[(3, 1_112), (5, 4)]);
    assert_eq!(shown(&sets, 2, &later), (vec![("a", 12), ("b", 104)], [1_000, 0, 0]));
    sets.assign(3, &later, [(3, Some("c"))]);
    let last = snapshot(&[(3, 1_119), (5, 4)]);
    let expected = (vec![("a", 12), ("b", 104), ("c", 7)], [1_000, 0, 0]);
    assert_eq!(shown(&sets, 3, &last), expected);
    assert_eq!(created(&sets, 3, &last), [("a", 0), ("b", 0), ("c", 3)]);
    let over = 1 + 5 * MINUTE;
    assert_eq!(shown(&sets, over, &last), (vec![("b", 104), ("c", 7)], [1_000, 0, 12]));
}

#[test]
fn only_cgroups_that_exist_are_unnamed() {
    let mut sets = sets(250);
    let now = snapshot(&[(3, 10), (5, 200), (6, 0), (8, 1)]).without(6);
    assign(&mut sets, 0, &now, &[(5, None), (9, Some("a"))]);
    let unnamed = sets.unnamed(&now).map(|reading| (reading.serial, reading.id));
    assert_eq!(unnamed.collect::<Vec<_>>(), [(3, 1_003), (8, 1_008)]);
    assert_eq!(gone(&sets, &now), [6]);
}

#[test]
fn a_removed_cgroup_can_wait_for_its_name() {
    let mut sets = sets(250);
    let removed = snapshot(&[(3, 10), (5, 200)]).without(3).without(5);
    sets.settle(0, &removed, [3].into());
    assert_eq!(sets.unnamed(&removed).map(|reading| reading.serial).collect::<Vec<_>>(), [3]);
    assert_eq!(gone(&sets, &removed), [5]);
    // Until then, it is in `other`, as a late task of it is.
    let late = snapshot(&[(3, 14), (5, 207)]).without(3).without(5);
    assert_eq!(shown(&sets, 0, &late), (vec![], [214, 7, 0]));
    let mut named = sets.clone();
    named.assign(1, &late, [(3, Some("a")), (5, Some("b"))]);
    assert_eq!(shown(&named, 1, &late), (vec![("a", 14)], [200, 7, 0]));
    assert_eq!(gone(&named, &late), [3, 5]);
    // It has left its set, which is kept.
    let later = snapshot(&[(3, 19)]).without(3).removed(207);
    assert_eq!(shown(&named, 2, &later), (vec![("a", 14)], [200, 12, 0]));
    assert_eq!(shown(&named, 1 + 5 * MINUTE, &later), (vec![], [200, 12, 14]));
    // It is no longer awaited.
    settle(&mut sets, 1, &late);
    sets.assign(1, &late, [(3, Some("a"))]);
    assert_eq!(shown(&sets, 1, &late), (vec![], [214, 7, 0]));
    assert_eq!(gone(&sets, &late), [3, 5]);
}

#[test]
fn what_a_removed_cgroup_had_stays_in_its_set() {
    let mut sets = sets(250);
    assign(&mut sets, 0, &snapshot(&[(3, 0), (5, 0)]), &[(3, Some("a")), (5, Some("b"))]);
    let removed = snapshot(&[(3, 10), (5, 200)]).without(3);
    assert_eq!(shown(&sets, 1, &removed), (vec![("a", 10), ("b", 200)], [0, 0, 0]));
    settle(&mut sets, 1, &removed);
    assert_eq!(shown(&sets, 1, &removed), (vec![("a", 10), ("b", 200)], [0, 0, 0]));
    // A late task, before and after the slot is given back.
    let late = snapshot(&[(3, 14), (5, 200)]).without(3);
    assert_eq!(shown(&sets, 2, &late), (vec![("a", 10), ("b", 200)], [0, 4, 0]));
    let given_back = snapshot(&[(5, 200)]).removed(15);
    assert_eq!(shown(&sets, 3, &given_back), (vec![("a", 10), ("b", 200)], [0, 5, 0]));
}

#[test]
fn a_cgroup_that_is_removed_before_it_is_named_stays_in_other() {
    let mut sets = sets(250);
    let removed = snapshot(&[(3, 10)]).without(3);
    settle(&mut sets, 0, &removed);
    assign(&mut sets, 0, &removed, &[(3, Some("a"))]);
    assert_eq!(shown(&sets, 0, &removed), (vec![], [10, 0, 0]));
    assert_eq!(shown(&sets, 0, &snapshot(&[]).removed(12)), (vec![], [10, 2, 0]));
}

#[test]
fn a_set_without_cgroups_is_kept_and_then_forgotten() {
    let mut sets = sets(250);
    assign(&mut sets, 7, &snapshot(&[(3, 0)]), &[(3, Some("a"))]);
    settle(&mut sets, MINUTE, &snapshot(&[(3, 10)]).without(3));
    let gone = snapshot(&[]).removed(10);
    let over = 6 * MINUTE;
    assert_eq!(shown(&sets, over - 1, &gone), (vec![("a", 10)], [0, 0, 0]));
    assert_eq!(shown(&sets, over, &gone), (vec![], [0, 0, 10]));

    // It continues if it returns before that.
    let back = snapshot(&[(9, 1)]).removed(10);
    let mut kept = sets.clone();
    assign(&mut kept, over - 1, &back, &[(9, Some("a"))]);
    assert_eq!(
        shown(&kept, 2 * over, &snapshot(&[(9, 3)]).removed(10)),
        (vec![("a", 12)], [1, 0, 0])
    );
    assert_eq!(created(&kept, 2 * over, &back), [("a", 7)]);

    // Otherwise it begins at 0.
    assign(&mut sets, over, &back, &[(9, Some("a"))]);
    assert_eq!(
        shown(&sets, 2 * over, &snapshot(&[(9, 3)]).removed(10)),
        (vec![("a", 2)], [1, 0, 10])
    );
    assert_eq!(created(&sets, 2 * over, &back), [("a", over)]);
}

#[test]
fn the_largest_sets_are_shown() {
    let mut sets = sets(2);
    // At first, by what they have done so far.
    let now = snapshot(&[(1, 5), (2, 30), (3, 20)]);
    assign(&mut sets, 0, &now, &[(1, Some("a")), (2, Some("b")), (3, Some("c"))]);
    assert_eq!(shown(&sets, 0, &now), (vec![("b", 0), ("c", 0)], [55, 0, 0]));
    // `a` exceeds `c`, but not by a quarter.
    let now = snapshot(&[(1, 125), (2, 130), (3, 100)]);
    sets.rank(MINUTE, &now);
    assert_eq!(shown(&sets, MINUTE, &now), (vec![("b", 100), ("c", 80)], [175, 0, 0]));
    // It does, but a minute has not ended.
    let now = snapshot(&[(1, 126), (2, 131), (3, 100)]);
    sets.rank(2 * MINUTE - 1, &now);
    assert_eq!(shown(&sets, MINUTE, &now), (vec![("b", 101), ("c", 80)], [176, 0, 0]));
    sets.rank(2 * MINUTE, &now);
    assert_eq!(shown(&sets, 2 * MINUTE, &now), (vec![("a", 0), ("b", 101)], [176, 0, 80]));
    // From then on, `c` counts for `other`.
    let now = snapshot(&[(1, 127), (2, 131), (3, 103)]);
    assert_eq!(shown(&sets, 2 * MINUTE, &now), (vec![("a", 1), ("b", 101)], [179, 0, 80]));
    // Five minutes after the first minute only what happened since counts, and `c` begins at 0.
    for minute in 3..=7 {
        sets.rank(minute * MINUTE, &now);
    }
    assert_eq!(created(&sets, 7 * MINUTE, &now), [("a", 2 * MINUTE), ("c", 6 * MINUTE)]);
    assert_eq!(shown(&sets, 7 * MINUTE, &now), (vec![("a", 1), ("c", 0)], [179, 0, 181]));
}

#[test]
fn waits_count_for_the_rank() {
    let mut sets = sets(1);
    let mut now = snapshot(&[(1, 5), (2, 4)]);
    now.cgroups[1].totals.wait_ns = 2;
    assign(&mut sets, 0, &now, &[(1, Some("a")), (2, Some("b"))]);
    assert_eq!(created(&sets, 0, &now), [("b", 0)]);
}

#[test]
fn removed_cgroups_count_for_the_rank_of_their_set() {
    let mut sets = sets(1);
    let now = snapshot(&[(1, 50), (2, 0), (3, 0)]);
    assign(&mut sets, 0, &now, &[(1, Some("a")), (2, Some("b")), (3, Some("b"))]);
    settle(&mut sets, 1, &snapshot(&[(1, 50), (2, 70), (3, 0)]).without(2));
    let now = snapshot(&[(1, 50), (3, 0)]).removed(70);
    sets.rank(MINUTE, &now);
    assert_eq!(created(&sets, MINUTE, &now), [("b", MINUTE)]);
}

#[test]
fn a_place_that_becomes_free_is_filled() {
    let mut sets = sets(1);
    let now = snapshot(&[(1, 50), (2, 10), (3, 20)]);
    assign(&mut sets, 0, &now, &[(1, Some("a")), (2, Some("b")), (3, Some("c"))]);
    settle(&mut sets, 1, &now.clone().without(1));
    let later = snapshot(&[(2, 10), (3, 20)]).removed(50);
    let over = 1 + 5 * MINUTE;
    assert_eq!(created(&sets, over - 1, &later), [("a", 0)]);
    settle(&mut sets, over, &later);
    assert_eq!(created(&sets, over, &later), [("c", over)]);
}

#[test]
fn a_reload_continues_sets_with_the_same_labels_only() {
    let mut sets = sets(250);
    let now = snapshot(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
    let named = [(1, Some("a")), (2, Some("a")), (3, Some("b")), (4, Some("kept"))];
    assign(&mut sets, 0, &now, &named);
    let now = snapshot(&[(1, 10), (2, 200), (3, 3_000), (4, 7)]).without(4);
    settle(&mut sets, 1, &now);
    let expected = (vec![("a", 210), ("b", 3_000), ("kept", 7)], [0, 0, 0]);
    let (budget, labels) = (sets.budget, ["", "a", "a", "b"]);
    sets.regroup(2, &now, budget, |serial| Some(labels[usize::try_from(serial).unwrap()]));
    assert_eq!(shown(&sets, 2, &now), expected);

    let labels = ["", "a", "c", "c"];
    sets.regroup(3, &now, budget, |serial| Some(labels[usize::try_from(serial).unwrap()]));
    assert_eq!(shown(&sets, 3, &now), (vec![("a", 210), ("c", 0)], [0, 0, 3_007]));
    let later = snapshot(&[(1, 11), (2, 202), (3, 3_003), (4, 7)]).without(4);
    assert_eq!(shown(&sets, 4, &later), (vec![("a", 211), ("c", 5)], [0, 0, 3_007]));
    assert_eq!(created(&sets, 4, &later), [("a", 0), ("c", 3)]);

    sets.regroup(4, &later, budget, |_| None);
    assert_eq!(shown(&sets, 4, &later), (vec![], [0, 0, 3_223]));
}

#[test]
fn a_reload_changes_the_budget() {
    let mut sets = sets(250);
    let now = snapshot(&[(1, 0), (2, 0), (3, 0)]);
    let named = [(1, Some("a")), (2, Some("b")), (3, Some("c"))];
    assign(&mut sets, 0, &now, &named);
    let labels = |serial| named.iter().find(|(of, _)| *of == serial).and_then(|(_, name)| *name);
    let now = snapshot(&[(1, 10), (2, 30), (3, 20)]).without(2);
    let budget = Budget { limit: 2, keep: Duration::from_secs(1) };
    sets.regroup(SECOND, &now, budget, labels);
    assert_eq!(shown(&sets, SECOND, &now), (vec![("b", 30), ("c", 20)], [0, 0, 10]));
    // `b` is kept for a second only.
    let now = snapshot(&[(1, 11), (3, 20)]).removed(30);
    assert_eq!(shown(&sets, 2 * SECOND, &now), (vec![("c", 20)], [1, 0, 40]));
    let budget = Budget { limit: 2, keep: Duration::from_mins(1) };
    sets.regroup(3 * SECOND, &now, budget, labels);
    assert_eq!(shown(&sets, 3 * SECOND, &now), (vec![("a", 0), ("c", 20)], [1, 0, 40]));
}

#[test]
fn sets_show_what_the_quotas_of_their_cgroups_held_back() {
    let mut sets = sets(1);
    let now = snapshot(&[(1, 9), (2, 9), (3, 9), (4, 9)]);
    let named = [(1, Some("a")), (2, Some("a")), (3, Some("a")), (4, None)];
    assign(&mut sets, 0, &now, &named);
    let quotas = |sets: &Sets, snapshot: &CgroupsSnapshot| {
        let values = sets.values(0, snapshot);
        values.sets.first().map(|set| set.values.quotas)
    };
    let reading = |serial, cpus, periods| QuotaReading {
        serial,
        cpus,
        counts: QuotaCounts { throttled_ns: 1_000 * periods, periods, throttled_periods: 0 },
    };
    let expected = |periods, cpus| {
        let counts = QuotaCounts { throttled_ns: 1_000 * periods, periods, throttled_periods: 0 };
        Some(Some(Quotas { counts, cpus }))
    };
    assert_eq!(quotas(&sets, &now), Some(None));
    sets.read_quotas([reading(3, None, 5), reading(8, Some(1.0), 1)]);
    assert_eq!(quotas(&sets, &now), Some(None));
    // The first readings are where the counts begin.
    sets.read_quotas([reading(1, Some(0.5), 700), reading(2, Some(2.0), 80)]);
    assert_eq!(quotas(&sets, &now), expected(0, Some(2.5)));
    sets.read_quotas([reading(1, Some(0.5), 703), reading(2, Some(1.0), 84)]);
    assert_eq!(quotas(&sets, &now), expected(7, Some(1.5)));
    // One quota goes away, and the other's counters start over.
    sets.read_quotas([reading(1, None, 704), reading(2, Some(1.0), 2)]);
    assert_eq!(quotas(&sets, &now), expected(8, Some(1.0)));
    sets.read_quotas([reading(2, Some(1.0), 3)]);
    assert_eq!(quotas(&sets, &now), expected(9, Some(1.0)));
    // What a removed cgroup counted stays.
    let removed = now.clone().without(2);
    assert_eq!(quotas(&sets, &removed), expected(9, None));
    settle(&mut sets, 0, &removed);
    sets.read_quotas([reading(2, Some(1.0), 50), reading(1, None, 705)]);
    assert_eq!(quotas(&sets, &removed), expected(10, None));
    assert_eq!(sets.values(0, &removed).other.quotas, None);
    sets.read_quotas([reading(4, Some(4.0), 0)]);
    assert_eq!(sets.values(0, &removed).other.quotas, expected(0, Some(4.0)).flatten());
}

#[test]
fn nothing_grows_while_cgroups_come_and_go() {
    let mut sets = sets(10);
    let name = |serial: u64| -> &'static str { (serial % 1_000).to_string().leak() };
    let mut removed = 0;
    for round in 0..10_000 {
        let now = round * SECOND;
        let serials = [4 * round, 4 * round + 1, 4 * round + 2, 4 * round + 3];
        let alive = snapshot(&serials.map(|serial| (serial, 1))).removed(removed);
        let named: Vec<_> = serials.iter().map(|serial| (*serial, Some(name(*serial)))).collect();
        assign(&mut sets, now, &alive, &named);
        sets.rank(now, &alive);
        settle(&mut sets, now, &serials.iter().fold(alive, |alive, serial| alive.without(*serial)));
        removed += 4;
        assert!(sets.members.len() <= 4, "{round}");
        assert!(sets.sets.len() <= 10 + 4, "{round}");
    }
    assert!(sets.members.capacity() < 100 && sets.sets.capacity() < 100);
}
