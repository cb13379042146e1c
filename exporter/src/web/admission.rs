//! Decides which connections stay open, and for how long. It knows origins and instants, and no sockets.
//!
//! A connection is *idle* while it has no complete request: since its last answer, or since it was
//! accepted. The bytes of an unfinished head do not count.
//!
//! * At most `limit` connections that have sent a request are open. [`NEWCOMERS`] places beyond the limit
//!   are for clients whose first request is not complete.
//! * A client that needs a place gets it from another connection: the one that has been idle longest;
//!   if none is idle, the one whose client has not read its answer for longest; if there is none either,
//!   one that asks again within [`AGAIN`] of its last answer, or that waits for a reload or for the check of a
//!   password.
//! * Other requests, answers that their clients read, and connections accepted within the last
//!   [`MOMENT`] are left alone. If there are only these, a newcomer that asks keeps its place beyond the
//!   limit until it is answered, and further ones wait to be admitted.
//! * While an origin has more than its share, a quarter of the limit, the one with most connections loses
//!   one of its own.
//! * Up to four connections from this machine are safe from those of other machines.

use std::{cmp::Reverse, collections::BTreeMap, mem, time::Duration};

use tokio::time::Instant;

use crate::access::Origin;

/// Places beyond the limit for clients whose first request is not complete.
pub(super) const NEWCOMERS: usize = 16;

/// Time for a client to send the whole head of a request: of the first since it was accepted, of further
/// ones since their first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle between requests. It exceeds the usual scrape intervals, so that
/// scrapes can reuse a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// Time for a client to read some of an answer.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a client to read a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A request this soon after the last answer on its connection comes after those of others.
const AGAIN: Duration = Duration::from_secs(1);

/// For this long after it was accepted, the first request of a connection may be under way, so that it does
/// not count as idle. While all places beyond the limit are taken by such connections, newcomers wait, so
/// this bounds how many are admitted in a second: 16 in 5 ms, or 1,024, as the kernel queues, in 320 ms.
pub(super) const MOMENT: Duration = Duration::from_millis(5);

/// Most connections from this machine that those of other machines do not displace.
const KEPT_FOR_LOCAL: usize = 4;

/// Identifies a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64);

/// What happens on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Bytes arrived.
    Read,
    /// The answer has to wait for something slow, so that others may displace the connection meanwhile.
    Waits,
    /// The client no longer waits for the answer that was being prepared, and keeps the connection.
    Abandoned,
    /// The answer is ready to be sent.
    Answered,
    /// The socket took bytes of the answer.
    Wrote,
    /// The socket took none, since the client has not read the earlier ones.
    Blocked,
    /// The answer's last bytes are among those written since, or the next to be written.
    Handed,
    /// The socket took all bytes so far.
    Flushed,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It came shortly after the last answer on its connection, so others come first.
    pub(super) is_again: bool,
    /// Its connection has a place only until it is answered.
    pub(super) is_last: bool,
    /// A connection to close for it.
    pub(super) evict: Option<Id>,
}

/// Whether a new connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is, after closing another if need be.
    Yes(Id, Option<Id>),
    /// It is not, for now: all others are busy.
    No,
}

#[derive(Debug)]
struct Connection {
    origin: Origin,
    /// Whether a request has arrived.
    has_asked: bool,
    answered_at: Option<Instant>,
    /// Whether the next request arrived during the answer.
    is_next_here: bool,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// There is no complete request. The head of the next began at `head`, if at all.
    Idle { since: Instant, head: Option<Instant> },
    /// A request is to be answered. Others may displace it if it `yields`.
    Asked { since: Instant, yields: bool },
    /// An answer is being sent.
    Sending { since: Instant, progress: Instant, is_blocked: bool, is_handed: bool },
}

/// How readily a connection is closed for another: lower ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Idle since then.
    Idle(Instant),
    /// Its client has read nothing since then.
    Stuck(Instant),
    /// It asked again then, for a reload, or with a password that is being checked.
    Yielding(Reverse<Instant>),
}

impl Connection {
    fn standing(&self, now: Instant) -> Option<Standing> {
        match self.state {
            State::Idle { since, .. } if !self.has_asked && now - since < MOMENT => None,
            State::Idle { since, .. } => Some(Standing::Idle(since)),
            State::Sending { progress, is_blocked: true, .. } => Some(Standing::Stuck(progress)),
            State::Asked { since, yields: true } => Some(Standing::Yielding(Reverse(since))),
            State::Sending { .. } | State::Asked { .. } => None,
        }
    }

    /// Starts to answer a request; returns whether it came shortly after the last answer.
    fn ask(&mut self, is_reload: bool, now: Instant) -> bool {
        let is_again = self.answered_at.is_some_and(|answered| now - answered < AGAIN);
        self.state = State::Asked { since: now, yields: is_again || is_reload };
        is_again
    }
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    next: u64,
    connections: BTreeMap<Id, Connection>,
    /// Number of connections of each origin that has some.
    origins: BTreeMap<Origin, usize>,
    /// Number of connections that have asked.
    asked: usize,
}

impl Admission {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: 0, connections: BTreeMap::new(), origins: BTreeMap::new(), asked: 0 }
    }

    /// The number of open connections.
    pub(super) fn open(&self) -> usize {
        self.connections.len()
    }

    /// Admits a new connection. One to be evicted is no longer counted.
    pub(super) fn admit(&mut self, origin: Origin, now: Instant) -> Admitted {
        let mut evict = None;
        if self.open() >= self.limit + NEWCOMERS {
            evict = self.evict(Some(origin), now, |_, _| true);
            if evict.is_none() {
                return Admitted::No;
            }
        }
        let id = Id(self.next);
        self.next += 1;
        let state = State::Idle { since: now, head: None };
        let connection =
            Connection { origin, has_asked: false, answered_at: None, is_next_here: false, state };
        self.connections.insert(id, connection);
        *self.origins.entry(origin).or_default() += 1;
        Admitted::Yes(id, evict)
    }

    /// Records that a connection has a complete request, and decides how it is answered. One to be
    /// evicted is no longer counted.
    pub(super) fn ask(&mut self, id: Id, is_reload: bool, now: Instant) -> Verdict {
        let Some(connection) = self.connections.get_mut(&id) else { return Verdict::default() };
        let origin = connection.origin;
        let is_again = if matches!(connection.state, State::Sending { .. }) {
            connection.is_next_here = true;
            true
        } else {
            connection.ask(is_reload, now)
        };
        let is_first = !mem::replace(&mut connection.has_asked, true);
        self.asked += usize::from(is_first);
        if !is_first || self.asked <= self.limit {
            return Verdict { is_again, ..Verdict::default() };
        }
        let evict = self.evict(Some(origin), now, |other, it| other != id && it.has_asked);
        Verdict { is_again, is_last: evict.is_none(), evict }
    }

    /// Records an event.
    pub(super) fn record(&mut self, id: Id, event: Event, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match (event, &mut connection.state) {
            (Event::Read, State::Idle { head, .. }) => *head = head.or(Some(now)),
            (Event::Waits, State::Asked { yields, .. }) => *yields = true,
            (Event::Abandoned, state @ State::Asked { .. }) => {
                *state = State::Idle { since: now, head: None };
            }
            (Event::Answered, state) => {
                *state = State::Sending {
                    since: now,
                    progress: now,
                    is_blocked: false,
                    is_handed: false,
                };
            }
            (Event::Wrote, State::Sending { progress, is_blocked, .. }) => {
                (*progress, *is_blocked) = (now, false);
            }
            (Event::Blocked, State::Sending { is_blocked, .. }) => *is_blocked = true,
            (Event::Handed, State::Sending { is_handed, .. }) => *is_handed = true,
            (Event::Flushed, State::Sending { is_handed: true, .. }) => {
                connection.answered_at = Some(now);
                connection.state = State::Idle { since: now, head: None };
                if mem::take(&mut connection.is_next_here) {
                    connection.ask(false, now);
                }
            }
            _ => {}
        }
    }

    /// When a connection is to be closed if nothing happens on it. `None` if it is not up to its client.
    pub(super) fn deadline(&self, id: Id) -> Option<Instant> {
        let connection = self.connections.get(&id)?;
        match connection.state {
            State::Idle { since, .. } if !connection.has_asked => Some(since + HEAD_TIMEOUT),
            State::Idle { head: Some(head), .. } => Some(head + HEAD_TIMEOUT),
            State::Idle { since, head: None } => Some(since + IDLE_TIMEOUT),
            State::Asked { .. } => None,
            State::Sending { since, progress, .. } => {
                Some((progress + PROGRESS_TIMEOUT).min(since + ANSWER_TIMEOUT))
            }
        }
    }

    /// Whether a connection waits between two requests, so that its end is nothing special.
    pub(super) fn is_between_requests(&self, id: Id) -> bool {
        let connection = self.connections.get(&id);
        connection
            .is_some_and(|it| it.has_asked && matches!(it.state, State::Idle { head: None, .. }))
    }

    /// Evicts the connection that any newcomer would displace first. Returns it unless all are busy.
    pub(super) fn evict_any(&mut self, now: Instant) -> Option<Id> {
        self.evict(None, now, |_, _| true)
    }

    /// Evicts the connection whose client has not read its answer for longest, and at least for `least`.
    pub(super) fn evict_stuck(&mut self, least: Duration, now: Instant) -> Option<Id> {
        self.evict(
            None,
            now,
            |_, it| matches!(it.standing(now), Some(Standing::Stuck(since)) if now - since >= least),
        )
    }

    /// Forgets a connection, if it has not been evicted.
    pub(super) fn remove(&mut self, id: Id) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.asked -= usize::from(connection.has_asked);
        if let Some(count) = self.origins.get_mut(&connection.origin) {
            *count -= 1;
            if *count == 0 {
                self.origins.remove(&connection.origin);
            }
        }
    }

    /// Removes and returns the first connection to be closed for one of `newcomer`, among those that
    /// match.
    fn evict(
        &mut self,
        newcomer: Option<Origin>,
        now: Instant,
        matches: impl Fn(Id, &Connection) -> bool,
    ) -> Option<Id> {
        let count = |origin| self.origins.get(&origin).copied().unwrap_or_default();
        let share = (self.limit / 4).max(1);
        let kept_for_local = KEPT_FOR_LOCAL.min(self.limit / 2);
        let are_locals_safe = newcomer.is_some_and(|it| it != Origin::Local)
            && count(Origin::Local) <= kept_for_local;
        let candidates = self.connections.iter().filter_map(|(id, it)| {
            let is_safe = it.origin == Origin::Local && are_locals_safe;
            let standing = it.standing(now).filter(|_| !is_safe && matches(*id, it))?;
            Some((Reverse(count(it.origin).max(share)), standing, *id))
        });
        let (.., id) = candidates.min()?;
        self.remove(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: Origin = Origin::V4([10, 0, 0, 1]);
    const B: Origin = Origin::V4([10, 0, 0, 2]);

    /// Connections, and a clock in milliseconds.
    struct House {
        admission: Admission,
        start: Instant,
    }

    impl House {
        fn new(limit: usize) -> Self {
            Self { admission: Admission::new(limit), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        #[track_caller]
        fn admit(&mut self, origin: Origin, millis: u64) -> (Id, Option<Id>) {
            match self.admission.admit(origin, self.at(millis)) {
                Admitted::Yes(id, evicted) => (id, evicted),
                Admitted::No => panic!("not admitted"),
            }
        }

        fn ask(&mut self, id: Id, millis: u64) -> Verdict {
            self.admission.ask(id, false, self.at(millis))
        }

        fn record(&mut self, id: Id, millis: u64, events: &[Event]) {
            for event in events {
                self.admission.record(id, *event, self.at(millis));
            }
        }

        fn answer(&mut self, id: Id, millis: u64) {
            let events = [Event::Answered, Event::Handed, Event::Wrote, Event::Flushed];
            self.record(id, millis, &events);
        }

        /// A connection that was answered.
        fn idle(&mut self, origin: Origin, millis: u64) -> Id {
            let (id, _) = self.admit(origin, millis);
            self.ask(id, millis);
            self.answer(id, millis);
            id
        }

        /// A connection whose request waits to be answered.
        fn busy(&mut self, origin: Origin, millis: u64) -> Id {
            let (id, _) = self.admit(origin, millis);
            self.ask(id, millis);
            id
        }

        /// A connection whose client does not read its answer.
        fn stuck(&mut self, origin: Origin, millis: u64) -> Id {
            let id = self.busy(origin, millis);
            self.record(
                id,
                millis,
                &[Event::Answered, Event::Handed, Event::Wrote, Event::Blocked],
            );
            id
        }

        fn evicts(&mut self, id: Id, millis: u64) -> Option<Id> {
            self.ask(id, millis).evict
        }

        fn deadline(&self, id: Id) -> Option<Duration> {
            Some(self.admission.deadline(id)? - self.start)
        }
    }

    #[test]
    fn at_the_limit_the_longest_idle_is_evicted() {
        let mut house = House::new(2);
        let first = house.idle(A, 0);
        let second = house.idle(A, 1);
        // Bytes of an unfinished head do not renew the first one.
        house.record(first, 5_000, &[Event::Read]);
        let (third, evicted) = house.admit(A, 6_000);
        assert_eq!(evicted, None);
        assert_eq!(house.evicts(third, 6_001), Some(first));
        house.answer(third, 6_002);
        house.ask(second, 7_000);
        house.answer(second, 7_001);
        let (fourth, _) = house.admit(A, 8_000);
        assert_eq!(house.evicts(fourth, 8_000), Some(third));
    }

    #[test]
    fn silent_newcomers_fill_the_places_beyond_the_limit_and_then_displace_each_other() {
        let mut house = House::new(2);
        let asked = [house.idle(A, 0), house.idle(A, 1)];
        let silent: Vec<_> = (0..NEWCOMERS).map(|i| house.admit(A, 10 + i as u64)).collect();
        assert!(silent.iter().all(|(_, evicted)| evicted.is_none()));
        let mut order = asked.into_iter().chain(silent.iter().map(|(id, _)| *id));
        for i in 0..40 {
            let (_, evicted) = house.admit(A, 100 + 10 * i);
            if let Some(expected) = order.next() {
                assert_eq!(evicted, Some(expected));
            }
            assert_eq!(house.admission.open(), 2 + NEWCOMERS);
        }
    }

    #[test]
    fn an_origin_over_its_share_loses_its_own() {
        let mut house = House::new(8);
        let honest = [house.idle(B, 0), house.idle(B, 1)];
        let greedy: Vec<_> = (0..6).map(|i| house.idle(A, 10 + i)).collect();
        let (newcomer, _) = house.admit(B, 100);
        assert_eq!(house.evicts(newcomer, 100), Some(greedy[0]));
        house.answer(newcomer, 101);
        // Its own newcomers too.
        let (newcomer, _) = house.admit(A, 102);
        assert_eq!(house.evicts(newcomer, 102), Some(greedy[1]));
        // Even if all it has is busy, and others are idle.
        for id in &greedy[2..] {
            house.ask(*id, 110);
            house.record(*id, 110, &[Event::Answered, Event::Blocked]);
        }
        let (newcomer, _) = house.admit(B, 120);
        assert_eq!(house.evicts(newcomer, 120), Some(greedy[2]));
        assert!(honest.iter().all(|id| house.admission.connections.contains_key(id)));
    }

    #[test]
    fn an_origin_alone_may_have_all_places_and_is_never_refused() {
        let mut house = House::new(512);
        for i in 0..2_000 {
            let (id, _) = house.admit(Origin::Local, i);
            assert!(!house.ask(id, i).is_last);
            house.answer(id, i);
        }
        assert_eq!(house.admission.open(), 512);
    }

    #[test]
    fn the_stuck_come_after_the_idle_and_before_those_that_ask_again() {
        let mut house = House::new(3);
        let again = house.idle(A, 0);
        assert!(house.ask(again, 10).is_again);
        let stuck = house.stuck(A, 20);
        let idle = house.idle(A, 30);
        for expected in [idle, stuck, again] {
            let newcomer = house.admit(A, 100).0;
            assert_eq!(house.evicts(newcomer, 100), Some(expected));
        }
    }

    #[test]
    fn the_one_stuck_longest_comes_first_and_a_reading_client_is_left_alone() {
        let mut house = House::new(3);
        let [first, second, reading] = [10, 20, 30].map(|at| house.stuck(A, at));
        house.record(first, 50, &[Event::Wrote, Event::Blocked]);
        house.record(reading, 50, &[Event::Wrote]);
        for expected in [second, first] {
            let newcomer = house.admit(A, 100).0;
            assert_eq!(house.evicts(newcomer, 100), Some(expected));
        }
        let newcomer = house.admit(A, 100).0;
        assert_eq!(house.evicts(newcomer, 100), None);
    }

    #[test]
    fn when_all_are_busy_newcomers_take_the_places_beyond_the_limit() {
        let mut house = House::new(2);
        let busy = [house.busy(A, 0), house.busy(A, 0)];
        let last = Verdict { is_again: false, is_last: true, evict: None };
        for _ in 0..NEWCOMERS {
            let newcomer = house.admit(B, 1).0;
            assert_eq!(house.ask(newcomer, 1), last);
        }
        assert_eq!(house.admission.admit(B, house.at(2)), Admitted::No);
        house.answer(busy[0], 3);
        assert_eq!(house.admit(B, 4).1, Some(busy[0]));
    }

    #[test]
    fn requests_that_wait_for_a_reload_are_displaced() {
        let mut house = House::new(1);
        let reload = house.admit(A, 0).0;
        house.admission.ask(reload, true, house.at(0));
        let newcomer = house.admit(A, 1).0;
        assert_eq!(house.evicts(newcomer, 1), Some(reload));
    }

    #[test]
    fn a_newcomer_has_a_moment_to_ask() {
        let mut house = House::new(1);
        let flood = house.idle(A, 0);
        assert!(house.ask(flood, 1).is_again);
        let newcomers: Vec<_> = (0..NEWCOMERS).map(|_| house.admit(A, 10).0).collect();
        assert_eq!(house.admit(A, 11).1, Some(flood));
        assert_eq!(house.admission.admit(A, house.at(12)), Admitted::No);
        assert_eq!(house.evicts(newcomers[0], 13), None);
        assert_eq!(house.admit(A, 15).1, Some(newcomers[1]));
    }

    #[test]
    fn some_local_connections_are_safe_from_other_machines() {
        let mut house = House::new(4);
        let local = [house.idle(Origin::Local, 0), house.idle(Origin::Local, 1)];
        let remote = [house.idle(A, 10), house.idle(B, 11)];
        let newcomer = house.admit(Origin::V6([1; 4]), 20).0;
        assert_eq!(house.evicts(newcomer, 20), Some(remote[0]));
        house.answer(newcomer, 21);
        // A local one displaces them as usual.
        let newcomer = house.admit(Origin::Local, 30).0;
        assert_eq!(house.evicts(newcomer, 30), Some(local[0]));
    }

    #[test]
    fn a_request_that_arrives_during_an_answer_keeps_the_connection_busy() {
        let mut house = House::new(1);
        let id = house.busy(A, 0);
        house.record(id, 1, &[Event::Answered, Event::Handed]);
        assert!(house.ask(id, 2).is_again);
        house.record(id, 3, &[Event::Wrote, Event::Flushed]);
        assert_eq!(house.deadline(id), None);
        house.answer(id, 4);
        assert_eq!(house.deadline(id), Some(IDLE_TIMEOUT + Duration::from_millis(4)));
    }

    #[test]
    fn a_flush_in_the_middle_of_an_answer_does_not_end_it() {
        let mut house = House::new(1);
        let id = house.busy(A, 0);
        house.record(id, 1, &[Event::Answered, Event::Wrote, Event::Flushed]);
        assert_eq!(house.deadline(id), Some(Duration::from_millis(10_001)));
    }

    #[test]
    fn heads_and_answers_have_deadlines_as_a_whole() {
        let mut house = House::new(2);
        let (id, _) = house.admit(A, 0);
        for at in [1_000, 9_000] {
            house.record(id, at, &[Event::Read]);
            assert_eq!(house.deadline(id), Some(HEAD_TIMEOUT));
        }
        house.ask(id, 9_500);
        assert_eq!(house.deadline(id), None);
        house.answer(id, 10_000);
        assert_eq!(house.deadline(id), Some(Duration::from_secs(160)));
        assert!(house.admission.is_between_requests(id));
        for at in [20_000, 25_000] {
            house.record(id, at, &[Event::Read]);
            assert_eq!(house.deadline(id), Some(Duration::from_secs(30)));
            assert!(!house.admission.is_between_requests(id));
        }
        house.ask(id, 26_000);
        house.record(id, 30_000, &[Event::Answered, Event::Blocked]);
        assert_eq!(house.deadline(id), Some(Duration::from_secs(40)));
        for at in [35_000, 45_000, 55_000, 65_000, 75_000, 85_000] {
            house.record(id, at, &[Event::Wrote, Event::Blocked]);
        }
        assert_eq!(house.deadline(id), Some(Duration::from_secs(90)));
    }

    /// A step of a client, chosen by a number.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Connect(u8),
        Ask(usize, bool),
        Happen(usize, u8),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<u8>().prop_map(Step::Connect),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(it, reload)| Step::Ask(it, reload)),
            3 => (any::<usize>(), any::<u8>()).prop_map(|(it, event)| Step::Happen(it, event)),
            1 => any::<usize>().prop_map(Step::Leave),
        ]
    }

    #[test]
    fn who_waits_for_something_slow_is_displaced() {
        let mut house = House::new(1);
        let slow = house.admit(A, 0).0;
        house.ask(slow, 0);
        let other = house.admit(B, 10).0;
        // The answer to a request is not interrupted.
        assert!(house.ask(other, 10).evict.is_none());
        house.record(slow, 11, &[Event::Waits]);
        let third = house.admit(B, 20).0;
        assert_eq!(house.ask(third, 20).evict, Some(slow));
    }

    #[test]
    fn a_request_that_is_taken_back_leaves_its_connection_idle() {
        let mut house = House::new(1);
        let id = house.admit(A, 0).0;
        house.ask(id, 0);
        assert_eq!(house.admission.deadline(id), None);
        house.record(id, 100, &[Event::Abandoned]);
        assert_eq!(house.admission.deadline(id), Some(house.at(100) + IDLE_TIMEOUT));
        let other = house.admit(B, 200).0;
        assert_eq!(house.ask(other, 200).evict, Some(id));
    }

    proptest! {
        #[test]
        fn bounds_hold_whatever_clients_do(
            limit in 1_usize..6,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut house = House::new(limit);
            let mut open = BTreeSet::new();
            for (at, step) in (0..).zip(steps) {
                let now = house.at(at);
                let pick = |it: usize| open.iter().nth(it % open.len().max(1)).copied();
                match step {
                    Step::Connect(origin) => {
                        let origin =
                            if origin % 3 == 0 { Origin::Local } else { Origin::V4([origin % 4; 4]) };
                        let silent = house.admission.connections.values().any(|it| {
                            !it.has_asked && it.standing(now).is_some()
                        });
                        match house.admission.admit(origin, now) {
                            Admitted::Yes(id, evicted) => {
                                prop_assert!(evicted.is_none_or(|id| open.remove(&id)));
                                prop_assert!(open.insert(id));
                            }
                            // A silent connection of another machine is always displaced.
                            Admitted::No => prop_assert!(!silent || origin != Origin::Local),
                        }
                    }
                    Step::Ask(it, is_reload) => {
                        let Some(id) = pick(it) else { continue };
                        let verdict = house.admission.ask(id, is_reload, now);
                        if let Some(evicted) = verdict.evict {
                            prop_assert!(evicted != id && open.remove(&evicted));
                        }
                    }
                    Step::Happen(it, event) => {
                        let Some(id) = pick(it) else { continue };
                        let event = [
                            Event::Read, Event::Waits, Event::Abandoned, Event::Answered, Event::Wrote,
                            Event::Blocked, Event::Handed,
                            Event::Flushed,
                        ][usize::from(event % 8)];
                        house.admission.record(id, event, now);
                    }
                    Step::Leave(it) => {
                        let Some(id) = pick(it) else { continue };
                        open.remove(&id);
                        house.admission.remove(id);
                    }
                }
                prop_assert!(house.admission.open() <= limit + NEWCOMERS);
                prop_assert!(open.iter().eq(house.admission.connections.keys()));
                let asked = house.admission.connections.values().filter(|it| it.has_asked).count();
                prop_assert_eq!(asked, house.admission.asked);
                prop_assert_eq!(house.admission.origins.values().sum::<usize>(), open.len());
            }
        }
    }
}
