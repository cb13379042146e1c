//! Decides which sets of cgroups are shown if there are more than the limit: those that used most of the
//! CPUs, or waited for them longest, in the last five minutes.
//!
//! Uses are noted once a minute, whatever is scraped, so that all servers see the same sets.

use std::cmp::Reverse;

use sched_exporter_ebpf::CgroupTotals;

/// Length of the window.
const MINUTES: usize = 5;

/// Nanoseconds between two rankings.
const MINUTE_NS: u64 = 60_000_000_000;

/// Nanoseconds that a cgroup ran or waited.
pub(super) fn use_ns(totals: &CgroupTotals) -> u64 {
    totals.cpu_ns.wrapping_add(totals.wait_ns)
}

/// When the next minute ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Nanoseconds on the clock of the snapshots.
    ends_at: u64,
    /// The number of the minute, modulo [`MINUTES`].
    minute: usize,
}

impl Clock {
    pub(super) const fn new(now: u64) -> Self {
        Self { ends_at: now.saturating_add(MINUTE_NS), minute: 0 }
    }

    pub(super) const fn ends_at(self) -> u64 {
        self.ends_at
    }

    /// Begins the minute of `now`.
    pub(super) fn advance(&mut self, now: u64) {
        let minutes = now.saturating_sub(self.ends_at) / MINUTE_NS + 1;
        self.ends_at = self.ends_at.saturating_add(minutes.saturating_mul(MINUTE_NS));
        self.minute = (self.minute + 1) % MINUTES;
    }
}

/// The use of one cgroup at the ends of the last minutes, at the number of each minute. Zero for those
/// before it was first seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses([u64; MINUTES]);

impl Uses {
    /// A window that begins now.
    pub(super) const fn since(now_ns: u64) -> Self {
        Self([now_ns; MINUTES])
    }

    /// The use in the window that ends now, with the minute that has not ended.
    pub(super) fn recent(&self, clock: Clock, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.0[clock.minute])
    }

    /// Notes the use at the end of a minute.
    pub(super) fn note(&mut self, clock: Clock, now_ns: u64) {
        self.0[clock.minute] = now_ns;
    }
}

/// What cgroups that were removed from a set still add to its use, by the number of the minute in which
/// it is computed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PastUses([u64; MINUTES]);

impl PastUses {
    /// Adds a cgroup that used `last_ns` until it was removed.
    pub(super) fn add(&mut self, uses: &Uses, last_ns: u64) {
        for (past, before) in self.0.iter_mut().zip(uses.0) {
            *past = past.saturating_add(last_ns.saturating_sub(before));
        }
    }

    pub(super) fn recent(&self, clock: Clock) -> u64 {
        self.0[clock.minute]
    }

    /// Forgets what is older than the window at the end of a minute.
    pub(super) fn forget(&mut self, clock: Clock) {
        self.0[clock.minute] = 0;
    }
}

/// A set that is shown, or waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its index among all sets.
    pub(super) index: usize,
    /// Its use in the window.
    pub(super) recent_ns: u64,
}

/// What changes for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is shown from now on.
    Shown,
    /// It is no longer shown.
    Demoted,
}

/// Demotes the least of the sets that are `shown` down to `limit`, and fills free places with the largest
/// of those that are `waiting`.
pub(super) fn fill(
    limit: usize,
    shown: &mut Vec<Candidate>,
    waiting: &mut Vec<Candidate>,
) -> Vec<(usize, Change)> {
    sort(shown);
    sort(waiting);
    let places = limit.saturating_sub(shown.len()).min(waiting.len());
    let demoted = shown.drain(limit.min(shown.len())..);
    let demoted = demoted.map(|set| (set.index, Change::Demoted));
    demoted.chain(waiting.drain(..places).map(|set| (set.index, Change::Shown))).collect()
}

/// Replaces the least of the sets that are `shown` by the largest that are `waiting`, if those exceed
/// them by a quarter. Both are as [`fill`] left them.
///
/// For example, of `shown` with 100, 20 and 8, and `waiting` with 30, 10 and 9, the 30 replaces the 8;
/// the 10 does not exceed the 20.
pub(super) fn replace(shown: &[Candidate], waiting: &[Candidate]) -> Vec<(usize, Change)> {
    let exceeds = |(new, least): &(&Candidate, &Candidate)| {
        u128::from(new.recent_ns) * 4 > u128::from(least.recent_ns) * 5
    };
    let replaced = waiting.iter().zip(shown.iter().rev()).take_while(exceeds);
    let changes = |(new, least): (&Candidate, &Candidate)| {
        [(least.index, Change::Demoted), (new.index, Change::Shown)]
    };
    replaced.flat_map(changes).collect()
}

/// Sorts by use, the largest first; equal ones in the order of their labels.
fn sort(sets: &mut [Candidate]) {
    sets.sort_unstable_by_key(|set| (Reverse(set.recent_ns), set.index));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(uses: &[(usize, u64)]) -> Vec<Candidate> {
        uses.iter()
            .map(|(index, recent_ns)| Candidate { index: *index, recent_ns: *recent_ns })
            .collect()
    }

    fn changes(
        limit: usize,
        shown: &[(usize, u64)],
        waiting: &[(usize, u64)],
    ) -> Vec<(usize, Change)> {
        let (mut shown, mut waiting) = (candidates(shown), candidates(waiting));
        let mut changes = fill(limit, &mut shown, &mut waiting);
        changes.extend(replace(&shown, &waiting));
        changes
    }

    #[test]
    fn the_largest_fill_free_places() {
        let waiting = [(1, 5), (2, 7), (3, 0), (4, 7)];
        assert_eq!(
            changes(4, &[(0, 1)], &waiting),
            [(2, Change::Shown), (4, Change::Shown), (1, Change::Shown)]
        );
        assert_eq!(changes(9, &[], &[(3, 0)]), [(3, Change::Shown)]);
    }

    #[test]
    fn the_least_go_if_the_limit_shrinks() {
        let shown = [(0, 3), (1, 5), (2, 3)];
        assert_eq!(changes(1, &shown, &[]), [(0, Change::Demoted), (2, Change::Demoted)]);
        assert_eq!(changes(0, &[(0, 3)], &[(1, 9)]), [(0, Change::Demoted)]);
    }

    #[test]
    fn a_newcomer_must_exceed_the_least_by_a_quarter() {
        assert_eq!(changes(1, &[(0, 100)], &[(1, 125)]), []);
        let replaced = [(0, Change::Demoted), (1, Change::Shown)];
        assert_eq!(changes(1, &[(0, 100)], &[(1, 126)]), replaced);
        assert_eq!(changes(1, &[(0, 0)], &[(1, 0)]), []);
        assert_eq!(changes(1, &[(0, u64::MAX)], &[(1, u64::MAX)]), []);
    }

    #[test]
    fn each_newcomer_is_compared_with_the_next_larger() {
        let shown = [(0, 100), (1, 20), (2, 8)];
        let waiting = [(3, 9), (4, 30), (5, 10)];
        assert_eq!(changes(3, &shown, &waiting), [(2, Change::Demoted), (4, Change::Shown)]);
    }

    #[test]
    fn use_leaves_the_window_after_five_minutes() {
        let mut clock = Clock::new(0);
        let (mut uses, mut past) = (Uses::default(), PastUses::default());
        // 100 in the first minute, nothing afterwards.
        let recent: Vec<u64> = (0..7)
            .map(|_| {
                let recent = uses.recent(clock, 100);
                uses.note(clock, 100);
                clock.advance(clock.ends_at());
                recent
            })
            .collect();
        assert_eq!(recent, [100, 100, 100, 100, 100, 0, 0]);
        // The cgroup uses 30 more and is removed.
        past.add(&uses, 130);
        let recent: Vec<u64> = (0..7)
            .map(|_| {
                let recent = past.recent(clock);
                past.forget(clock);
                clock.advance(clock.ends_at());
                recent
            })
            .collect();
        assert_eq!(recent, [30, 30, 30, 30, 30, 0, 0]);
    }

    #[test]
    fn minutes_end_on_a_grid() {
        let mut clock = Clock::new(7);
        clock.advance(7 + MINUTE_NS);
        assert_eq!(clock.ends_at(), 7 + 2 * MINUTE_NS);
        clock.advance(7 + 5 * MINUTE_NS - 1);
        assert_eq!(clock.ends_at(), 7 + 5 * MINUTE_NS);
    }
}
