//! Limits how often messages of one kind are logged. Pure.
//!
//! Messages are of one kind if they come from one statement in the code and their first field, their
//! subject, is equal: `reason`, `source` or `path` tells apart what an operator must see separately.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata, callsite::Identifier};

/// Number of messages of a kind that are logged at once.
const BURST: u32 = 10;

/// After a burst, one line per period for each kind. A kind without messages for `BURST` periods may
/// have a whole burst again.
const PERIOD: Duration = Duration::from_secs(10);

/// Maximum number of kinds per statement. Messages of further kinds count as one, so that memory and the
/// number of lines are bounded if subjects come from outside.
const MAX_SUBJECTS: usize = 256;

/// If there are too many kinds, forget those whose last message was this long ago.
const FORGET: Duration = Duration::from_hours(1);

/// An event, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// The text without fields.
    pub(super) text: String,
    /// The value of the first field.
    pub(super) subject: String,
    /// All fields.
    pub(super) fields: String,
}

/// Messages of one kind that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) level: Level,
    pub(super) count: u64,
    pub(super) last: Message,
}

/// Decides which messages are logged.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    sites: HashMap<Identifier, Site>,
    hasher: RandomState,
    /// Number of kinds with messages left out.
    pending: usize,
}

/// The kinds of one statement.
#[derive(Debug)]
struct Site {
    /// By the hash of the subject.
    subjects: HashMap<u64, Kind>,
    others: Kind,
}

/// A token bucket, and what did not get a token.
#[derive(Clone, Debug)]
struct Kind {
    /// When the bucket is full again.
    full_at: Instant,
    left_out: Option<LeftOut>,
}

impl Limiter {
    /// Whether to log a message now. If not, it is counted, and [`Limiter::take`] will return the count.
    pub(super) fn admit(
        &mut self,
        site: &'static Metadata<'static>,
        message: Message,
        now: Instant,
    ) -> bool {
        let subject = self.hasher.hash_one(&message.subject);
        let kind = self.sites.entry(site.callsite()).or_insert_with(|| Site::new(now));
        let kind = kind.of(subject, now);
        if kind.left_out.is_none() && kind.wait(now).is_zero() {
            kind.spend(now);
            return true;
        }
        self.pending += usize::from(kind.left_out.is_none());
        let count = kind.left_out.as_ref().map_or(0, |left_out| left_out.count) + 1;
        kind.left_out = Some(LeftOut { level: *site.level(), count, last: message });
        false
    }

    /// Number of kinds with messages left out.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// The time until [`Limiter::take`] returns something; `None` if nothing was left out.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.pending == 0 {
            return None;
        }
        let kinds = self.sites.values().flat_map(Site::kinds);
        kinds.filter(|kind| kind.left_out.is_some()).map(|kind| kind.wait(now)).min()
    }

    /// Takes what was left out of each kind that may have a line again, or of each kind if `all`.
    pub(super) fn take(&mut self, now: Instant, all: bool) -> Vec<LeftOut> {
        let mut taken = Vec::new();
        if self.pending > 0 {
            for kind in self.sites.values_mut().flat_map(Site::kinds_mut) {
                if (all || kind.wait(now).is_zero())
                    && let Some(left_out) = kind.left_out.take()
                {
                    kind.spend(now);
                    taken.push(left_out);
                }
            }
            self.pending -= taken.len();
        }
        taken
    }
}

impl Site {
    fn new(now: Instant) -> Self {
        Self { subjects: HashMap::new(), others: Kind::new(now) }
    }

    fn of(&mut self, subject: u64, now: Instant) -> &mut Kind {
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&subject) {
            self.subjects.retain(|_, kind| !kind.is_forgotten(now));
            if self.subjects.len() >= MAX_SUBJECTS {
                return &mut self.others;
            }
        }
        self.subjects.entry(subject).or_insert_with(|| Kind::new(now))
    }

    fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.subjects.values().chain([&self.others])
    }

    fn kinds_mut(&mut self) -> impl Iterator<Item = &mut Kind> {
        self.subjects.values_mut().chain([&mut self.others])
    }
}

impl Kind {
    fn new(now: Instant) -> Self {
        Self { full_at: now, left_out: None }
    }

    /// The time until there is a token.
    fn wait(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now).saturating_sub(PERIOD * (BURST - 1))
    }

    fn spend(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + PERIOD;
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.left_out.is_none() && self.full_at + FORGET <= now
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite as _, callsite::DefaultCallsite};

    use super::*;

    /// The metadata of a statement of its own.
    macro_rules! site {
        () => {{
            static SITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
            static METADATA: Metadata<'static> = tracing::metadata! {
                name: "event",
                target: module_path!(),
                level: Level::WARN,
                fields: &["message"],
                callsite: &SITE,
                kind: tracing::metadata::Kind::EVENT
            };
            SITE.metadata()
        }};
    }

    fn about(subject: &str, number: u64) -> Message {
        let subject = subject.to_owned();
        Message { text: "it failed".into(), subject, fields: number.to_string() }
    }

    /// Sends messages of one kind. Returns how many are admitted.
    fn send(
        limiter: &mut Limiter,
        site: &'static Metadata<'static>,
        count: u64,
        now: Instant,
    ) -> u64 {
        (1..=count).map(|number| u64::from(limiter.admit(site, about("a", number), now))).sum()
    }

    #[test]
    fn a_burst_is_followed_by_one_line_per_period() {
        let (mut limiter, site, start) = (Limiter::default(), site!(), Instant::now());
        assert_eq!(limiter.wait(start), None);
        assert_eq!(send(&mut limiter, site, 1_000, start), 10);
        assert_eq!((limiter.pending(), limiter.wait(start)), (1, Some(PERIOD)));
        assert_eq!(limiter.take(start, false), []);
        let later = start + PERIOD;
        // What was left out comes before anything new.
        assert_eq!(send(&mut limiter, site, 3, later), 0);
        let level = Level::WARN;
        let expected = LeftOut { level, count: 993, last: about("a", 3) };
        assert_eq!(limiter.take(later, false), [expected]);
        assert_eq!((limiter.pending(), limiter.wait(later)), (0, None));
        assert_eq!(send(&mut limiter, site, 1, later), 0);
        assert_eq!(limiter.take(later, false), []);
        let expected = LeftOut { level, count: 1, last: about("a", 1) };
        assert_eq!(limiter.take(later, true), [expected]);
        assert_eq!(send(&mut limiter, site, 1_000, later + PERIOD * BURST * 2), 10);
    }

    #[test]
    fn kinds_do_not_limit_each_other() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let (one, other) = (site!(), site!());
        assert_eq!(send(&mut limiter, one, 20, now), 10);
        assert_eq!(send(&mut limiter, other, 20, now), 10);
        assert!(limiter.admit(one, about("b", 1), now));
        assert_eq!(limiter.pending(), 2);
    }

    #[test]
    fn memory_is_bounded_and_other_statements_are_not_affected() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let (attacked, other) = (site!(), site!());
        let flood = |limiter: &mut Limiter, range: std::ops::Range<usize>, now| {
            range.filter(|it| limiter.admit(attacked, about(&format!("host {it}"), 1), now)).count()
        };
        assert_eq!(flood(&mut limiter, 0..10_000, now), MAX_SUBJECTS + 10);
        assert_eq!(limiter.sites[&attacked.callsite()].subjects.len(), MAX_SUBJECTS);
        assert_eq!(send(&mut limiter, other, 1, now), 1);
        let later = now + PERIOD;
        assert_eq!(flood(&mut limiter, 10_000..20_000, later), 0);
        assert_eq!(limiter.take(later, false)[0].count, 20_000 - 266);
        let much_later = now + FORGET + PERIOD;
        assert_eq!(flood(&mut limiter, 20_000..30_000, much_later), 266);
    }
}
