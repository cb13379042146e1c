//! Judges whether a file is complete, or a writer is still at work. Pure: from inotify's events, and from
//! the file's size and times.
//!
//! A file that is replaced by rename is complete at once. One that is written in place is complete when
//! its writer closes it, or stops writing. Without events, as on a network filesystem, it is complete once
//! its size and times have not changed for a moment.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant, SystemTime},
};

/// A writer that has the file open counts as finished this long after its last write.
const STALLED: Duration = Duration::from_secs(10);

/// A file that no event explains, or that is empty, is complete if it has not changed for this long.
const STILL: Duration = Duration::from_secs(2);

/// A writer that has closed the file may be about to open it again, as a script does that appends line by
/// line. Unless a reload was requested, wait this long.
const CLOSED: Duration = Duration::from_millis(500);

/// Time limit for a file that is written, closed and opened again without end.
const REWRITTEN: Duration = Duration::from_secs(30);

/// The identity, size and times of a file's contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Time,
    changed: Time,
}

/// Seconds and nanoseconds since the epoch.
type Time = (i64, i64);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What an event says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// It was written to or truncated.
    Written,
    /// Someone who could write to it closed it.
    Closed,
    /// Its attributes changed.
    Touched,
    /// It was created, deleted, or replaced as a whole.
    Replaced,
}

/// The present, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) monotonic: Instant,
    /// The clock of the files' times.
    pub(super) wall: Time,
}

impl Now {
    pub(super) fn read() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
        Self { monotonic: Instant::now(), wall: (seconds, i64::from(wall.subsec_nanos())) }
    }

    /// Returns how long ago `time` was: zero if it is in the future.
    fn since(&self, time: Time) -> Duration {
        let nanoseconds = |(seconds, nanoseconds): Time| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        let age = nanoseconds(self.wall) - nanoseconds(time);
        // More than five centuries are as good as five.
        Duration::from_nanos(u64::try_from(age.max(0)).unwrap_or(u64::MAX))
    }
}

/// What is known about the writing of one file.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last write of a writer that has not closed the file, by both clocks.
    written: Option<Now>,
    /// The first and the last time that a writer closed it, with less than [`STILL`] between any two.
    closed: Option<(Instant, Instant)>,
    /// When the last event left it without a writer. It explains every earlier change.
    explained: Option<Time>,
    /// The file as last judged, and since when it is like that.
    seen: Option<(Stamp, Instant)>,
    /// The file as last found complete.
    complete: Option<Stamp>,
}

impl Progress {
    /// Takes note of an event.
    pub(super) fn event(&mut self, event: FileEvent, now: Now) {
        match event {
            FileEvent::Written => self.written = Some(now),
            FileEvent::Closed => {
                self.written = None;
                self.explained = Some(now.wall);
                let first = self.closed.filter(|(first, last)| {
                    now.monotonic - *last < STILL && now.monotonic - *first < REWRITTEN
                });
                self.closed =
                    Some((first.map_or(now.monotonic, |(first, _)| first), now.monotonic));
            }
            FileEvent::Touched if self.written.is_some() => {}
            FileEvent::Touched => self.explained = Some(now.wall),
            FileEvent::Replaced => {
                *self =
                    Self { explained: Some(now.wall), complete: self.complete, ..Self::default() };
            }
        }
    }

    /// Takes note that events were lost.
    pub(super) fn forget_events(&mut self) {
        *self = Self { seen: self.seen, complete: self.complete, ..Self::default() };
    }

    /// Takes note that the file was complete.
    pub(super) fn completed(&mut self, stamp: Stamp) {
        self.complete = Some(stamp);
    }

    /// Judges the file as it is now. Returns `None` if it is complete, else when to judge it again. If
    /// `is_requested`, a file that has been closed once is complete.
    pub(super) fn wait(&mut self, stamp: Stamp, is_requested: bool, now: Now) -> Option<Instant> {
        let since = match self.seen {
            Some((seen, since)) if seen == stamp => since,
            _ => now.monotonic,
        };
        self.seen = Some((stamp, since));
        let still_for = (now.monotonic - since).max(now.since(stamp.modified.max(stamp.changed)));
        let still = now.monotonic + STILL.saturating_sub(still_for);
        let is_explained = self.explained.is_some_and(|explained| stamp.changed <= explained);
        // A file that was replaced can still be written to, and inotify reports that under its old name.
        let changed = stamp.modified.max(stamp.changed);
        let written = self.written.filter(|written| written.since(changed) < STILL);
        let ready = match (written, self.closed) {
            (Some(written), _) => written.monotonic + STALLED,
            _ if self.complete == Some(stamp) => now.monotonic,
            _ if !is_explained || stamp.size == 0 => still,
            (None, Some((first, last))) if first != last => (last + STILL).min(first + REWRITTEN),
            (None, Some((_, last))) if !is_requested => last + CLOSED,
            _ => now.monotonic,
        };
        if ready <= now.monotonic {
            self.complete = Some(stamp);
            // Who writes and requests a reload in turns has finished each time.
            self.closed = self.closed.filter(|_| !is_requested);
            return None;
        }
        Some(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, its events and a clock in milliseconds.
    struct File {
        started: Instant,
        progress: Progress,
        stamp: Stamp,
    }

    impl File {
        /// A file that was found complete at 0, long after it was written.
        fn new() -> Self {
            let mut file = Self {
                started: Instant::now(),
                progress: Progress::default(),
                stamp: Stamp::default(),
            };
            file.change(-60_000, 10);
            assert_eq!(file.wait(0), None);
            file
        }

        fn wall(at: i64) -> Time {
            let at = at + 1_000_000;
            (at.div_euclid(1000), at.rem_euclid(1000) * 1_000_000)
        }

        fn now(&self, at: i64) -> Now {
            let monotonic = self.started + Duration::from_millis(at.unsigned_abs());
            Now { monotonic, wall: Self::wall(at) }
        }

        /// Changes it without an event.
        fn change(&mut self, at: i64, size: u64) {
            let time = Self::wall(at);
            self.stamp = Stamp { size, modified: time, changed: time, ..self.stamp };
        }

        fn event(&mut self, at: i64, event: FileEvent) {
            self.progress.event(event, self.now(at));
        }

        fn write(&mut self, at: i64) {
            self.change(at, self.stamp.size + 1);
            self.event(at, FileEvent::Written);
        }

        fn close(&mut self, at: i64) {
            self.event(at, FileEvent::Closed);
        }

        fn truncate(&mut self, at: i64) {
            self.change(at, 0);
            self.event(at, FileEvent::Written);
        }

        fn ready(&mut self, at: i64, is_requested: bool) -> Option<u128> {
            let ready = self.progress.wait(self.stamp, is_requested, self.now(at));
            ready.map(|ready| (ready - self.started).as_millis())
        }

        fn wait(&mut self, at: i64) -> Option<u128> {
            self.ready(at, false)
        }

        fn wait_if_requested(&mut self, at: i64) -> Option<u128> {
            self.ready(at, true)
        }
    }

    #[test]
    fn a_file_that_did_not_change_is_complete() {
        let mut file = File::new();
        assert_eq!(file.wait(1), None);
        assert_eq!(file.wait_if_requested(2), None);
    }

    #[test]
    fn a_closed_file_is_complete_soon_and_at_once_if_requested() {
        let mut file = File::new();
        file.truncate(100);
        file.write(100);
        file.close(100);
        assert_eq!(file.wait(350), Some(600));
        assert_eq!(file.wait_if_requested(350), None);
        // Another write after the reload is not a series.
        file.write(400);
        file.close(400);
        assert_eq!(file.wait_if_requested(400), None);
        let mut file = File::new();
        file.write(100);
        file.close(100);
        assert_eq!(file.wait(600), None);
    }

    #[test]
    fn a_replaced_file_is_complete_at_once() {
        let mut file = File::new();
        // The old file is being written while it is replaced by another.
        file.write(50);
        file.change(90, 20);
        file.event(100, FileEvent::Replaced);
        assert_eq!(file.wait(101), None);
        // The new one is then written in place.
        file.write(200);
        assert_eq!(file.wait(250), Some(10_200));
    }

    #[test]
    fn an_open_file_is_complete_ten_seconds_after_the_last_write() {
        let mut file = File::new();
        file.truncate(0);
        for (written, asked) in [(300, 599), (600, 899), (9_000, 9_100)] {
            file.write(written);
            let ready = u128::try_from(written + 10_000).unwrap();
            assert_eq!(file.wait_if_requested(asked), Some(ready));
        }
        assert_eq!(file.wait(18_999), Some(19_000));
        assert_eq!(file.wait(19_000), None);
        // It stays open.
        file.write(20_000);
        file.event(20_001, FileEvent::Touched);
        assert_eq!(file.wait(20_100), Some(30_000));
    }

    #[test]
    fn a_file_that_is_opened_for_each_line_is_complete_two_seconds_after_the_last() {
        let mut file = File::new();
        file.truncate(0);
        file.close(0);
        for line in 1..=20 {
            file.write(line * 300);
            file.close(line * 300);
            let last = u128::try_from(line * 300).unwrap();
            assert_eq!(file.wait(line * 300 + 150), Some(last + 2_000));
            assert_eq!(file.wait_if_requested(line * 300 + 299), Some(last + 2_000));
        }
        assert_eq!(file.wait(8_000), None);
        // The next edit is a new series.
        file.write(9_000);
        file.close(9_000);
        assert_eq!(file.wait(9_250), Some(9_500));
    }

    #[test]
    fn a_writer_of_a_replaced_file_does_not_hold_up_the_new_one() {
        let mut file = File::new();
        file.write(50);
        file.change(90, 20);
        file.event(100, FileEvent::Replaced);
        // The old one is still written to, every second.
        for written in [1_000, 2_000, 3_000, 4_000] {
            file.event(written, FileEvent::Written);
        }
        assert_eq!(file.wait(4_100), None);
    }

    #[test]
    fn a_file_that_is_rewritten_without_end_is_complete_within_thirty_seconds() {
        let mut file = File::new();
        let rounds = (0..60).map(|round| round * 1_000);
        let complete = rounds.filter(|at| {
            file.write(*at);
            file.close(*at);
            file.wait(at + 600).is_none()
        });
        assert_eq!(complete.collect::<Vec<_>>(), [0, 30_000]);
    }

    #[test]
    fn an_empty_file_is_complete_after_two_seconds() {
        let mut file = File::new();
        file.truncate(100);
        file.close(100);
        assert_eq!(file.wait(350), Some(2_100));
        assert_eq!(file.wait_if_requested(350), Some(2_100));
        assert_eq!(file.wait(2_100), None);
    }

    #[test]
    fn a_change_without_an_event_is_complete_once_it_stands_still() {
        let mut file = File::new();
        file.change(1_000, 20);
        assert_eq!(file.wait_if_requested(1_100), Some(3_000));
        file.change(2_500, 30);
        assert_eq!(file.wait(3_000), Some(4_500));
        assert_eq!(file.wait(4_500), None);
        // An older change is complete at once.
        file.change(5_000, 40);
        assert_eq!(file.wait_if_requested(9_000), None);
        // An event explains only earlier changes.
        file.event(9_500, FileEvent::Touched);
        file.change(9_600, 50);
        assert_eq!(file.wait(9_700), Some(11_600));
    }

    #[test]
    fn a_file_from_the_future_is_complete_once_it_stands_still() {
        let mut file = File::new();
        file.change(1_000_000, 20);
        assert_eq!(file.wait(1_000), Some(3_000));
        file.change(1_001_000, 30);
        assert_eq!(file.wait(2_000), Some(4_000));
        assert_eq!(file.wait(4_000), None);
    }

    #[test]
    fn lost_events_leave_only_times() {
        let mut file = File::new();
        file.write(100);
        file.progress.forget_events();
        assert_eq!(file.wait(200), Some(2_100));
        assert_eq!(file.wait(2_100), None);
    }
}
