//! What user space counts, in memory that outlives it: a map of the kernel that is mapped for writing, so that
//! saving needs neither a system call nor a right.
//!
//! ```text
//!  header | identity, groups, sets, shown: two copies of each | the owners that gave their slots back
//! ```
//!
//! A section has two copies. The older one is replaced, and counts once its number is written, last: a process
//! that ends while it writes leaves the newer one.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    slice,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use aya::maps::{Array, IterableMap as _, MapData, MapError};
use flate2::Crc;
use serde::{Serialize, de::DeserializeOwned};

/// Marks the map.
const MAGIC: u64 = u64::from_be_bytes(*b"schedexp");

/// Number of the format of everything in the map.
pub(super) const FORMAT: u64 = 1;

/// Bytes of an entry of the map.
pub(super) const PAGE: u32 = 4096;

const WORD: usize = size_of::<u64>();

/// Words of the header, and what is in them.
const HEADER: usize = 8;
const AT_MAGIC: usize = 0;
const AT_FORMAT: usize = 1;
const AT_SLOTS: usize = 2;
/// One more than the slot that is being given back; otherwise 0.
const AT_GIVING: usize = 3;
/// The capacity of each section, in words.
const AT_CAPACITY: usize = 4;

/// Words before a copy of a section, and what is in them.
const COPY_HEADER: usize = 3;
/// Number of the copy: the higher one is newer. 0 while it is written.
const AT_NUMBER: usize = 0;
/// Bytes; [`LOST`] if the value had more than fit.
const AT_LENGTH: usize = 1;
const AT_CHECKSUM: usize = 2;

const LOST: u64 = u64::MAX;

/// A part that is saved as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What is pinned.
    Identity,
    /// The groups of CPUs.
    Groups,
    /// The sets of cgroups.
    Sets,
    /// What the last scrape has shown of cgroups without a name.
    Shown,
}

impl Section {
    const ALL: [Self; 4] = [Self::Identity, Self::Groups, Self::Sets, Self::Shown];

    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Groups => "groups",
            Self::Sets => "sets",
            Self::Shown => "shown",
        }
    }
}

/// A section cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It has more bytes than there is room for. The next start begins at zero, unless a later one fits.
    #[error("section `{section}` has {bytes} bytes, and there is room for {capacity}")]
    TooLarge {
        /// The section's name.
        section: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        capacity: usize,
    },
    /// It cannot be written as text.
    #[error("section `{0}` cannot be written")]
    Unwritable(&'static str, #[source] serde_json::Error),
    /// It is not what this version writes.
    #[error("section `{0}` cannot be read")]
    Unreadable(&'static str, #[source] serde_json::Error),
    /// It is not what the exporter wrote.
    #[error("section `{0}` is damaged")]
    Damaged(&'static str),
    /// The last one did not fit.
    #[error("section `{0}` did not fit")]
    Lost(&'static str),
}

/// Why a map is not the state of an exporter that this one can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// No exporter wrote it.
    Foreign(&'static str),
    /// An exporter wrote it that has another format.
    OtherFormat,
}

/// The map: an array of pages.
pub(super) type Pages = Array<MapData, [u8; PAGE as usize]>;

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>, `BPF_F_MMAPABLE`.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The mapped map.
#[derive(Debug)]
pub struct State {
    start: NonNull<AtomicU64>,
    words: usize,
    layout: Layout,
    writing: Mutex<()>,
}

// SAFETY: the memory is accessed only atomically.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

/// Where everything is, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    capacities: [usize; Section::ALL.len()],
    slots: usize,
}

impl Layout {
    /// With room for what machines of this size usually have: for each CPU what it brings to two groups that it
    /// has left, and for each cgroup its place.
    fn new(cpus: u32, slots: u32) -> Self {
        const KIB: usize = 1024;
        let (cpus, slots) = (cpus as usize, slots as usize);
        let bytes = [
            4 * KIB,
            64 * KIB + cpus * 8 * KIB,
            if slots == 0 { 0 } else { 192 * KIB + slots * 64 },
            if slots == 0 { 0 } else { 16 * KIB + slots * 32 },
        ];
        Self { capacities: bytes.map(|bytes| bytes / WORD), slots }
    }

    fn section(&self, section: Section) -> usize {
        let before = &self.capacities[..section as usize];
        HEADER + before.iter().map(|capacity| 2 * (COPY_HEADER + capacity)).sum::<usize>()
    }

    fn given_back(&self) -> usize {
        let all = self.capacities.iter().map(|capacity| 2 * (COPY_HEADER + capacity));
        HEADER + all.sum::<usize>()
    }

    fn words(&self) -> usize {
        self.given_back() + self.slots
    }
}

/// A copy of a section.
#[derive(Clone, Copy, Debug)]
struct Half {
    /// The index of its first word.
    at: usize,
    number: u64,
    length: u64,
}

impl State {
    /// Creates the map. It goes with its last descriptor, unless it is pinned.
    pub(super) fn create(cpus: u32, slots: u32) -> Result<(Pages, Self), MapError> {
        let layout = Layout::new(cpus, slots);
        let pages = (layout.words() * WORD).div_ceil(PAGE as usize);
        let pages = u32::try_from(pages).map_err(io::Error::other)?;
        let map = Pages::create(pages, BPF_F_MMAPABLE)?;
        let state = Self::map(map.map().fd().as_fd(), pages, layout)?;
        state.set(AT_FORMAT, FORMAT);
        state.set(AT_SLOTS, state.layout.slots as u64);
        for (index, capacity) in state.layout.capacities.into_iter().enumerate() {
            state.set(AT_CAPACITY + index, capacity as u64);
        }
        state.set(AT_MAGIC, MAGIC);
        Ok((map, state))
    }

    /// Opens a map that an earlier process has created.
    pub(super) fn open(map: BorrowedFd<'_>, pages: u32) -> io::Result<Result<Self, Unreadable>> {
        let none = Layout { capacities: [0; Section::ALL.len()], slots: 0 };
        let mut state = Self::map(map, pages, none)?;
        if state.get(AT_MAGIC) != MAGIC {
            return Ok(Err(Unreadable::Foreign("is not the state of an exporter")));
        }
        if state.get(AT_FORMAT) != FORMAT {
            return Ok(Err(Unreadable::OtherFormat));
        }
        // No sum of these can overflow: each is at most the number of words.
        let size = |at| usize::try_from(state.get(at)).unwrap_or(usize::MAX).min(state.words);
        let layout = Layout {
            capacities: std::array::from_fn(|index| size(AT_CAPACITY + index)),
            slots: size(AT_SLOTS),
        };
        if layout.words() > state.words {
            return Ok(Err(Unreadable::Foreign("has sections that are larger than the map")));
        }
        state.layout = layout;
        Ok(Ok(state))
    }

    fn map(map: BorrowedFd<'_>, pages: u32, layout: Layout) -> io::Result<Self> {
        let bytes = pages as usize * PAGE as usize;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let map = map.as_raw_fd();
            libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, map, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let start = NonNull::new(start.cast()).ok_or_else(out_of_memory)?;
        Ok(Self { start, words: bytes / WORD, layout, writing: Mutex::new(()) })
    }

    /// Saves a section in place of the last one. It is there from now on, however this process ends.
    pub fn save(&self, section: Section, value: &impl Serialize) -> Result<(), StateError> {
        let name = section.name();
        let text = serde_json::to_vec(value);
        let text = text.map_err(|error| StateError::Unwritable(name, error))?;
        let capacity = self.layout.capacities[section as usize] * WORD;
        let _writing = self.lock();
        if text.len() > capacity {
            self.write(section, &[], LOST);
            return Err(StateError::TooLarge { section: name, bytes: text.len(), capacity });
        }
        self.write(section, &text, text.len() as u64);
        Ok(())
    }

    /// Loads a section; `None` if it has not been saved.
    pub fn load<T: DeserializeOwned>(&self, section: Section) -> Result<Option<T>, StateError> {
        let name = section.name();
        let _writing = self.lock();
        let Some(newest) = self.copies(section).into_iter().max_by_key(|copy| copy.number) else {
            return Ok(None);
        };
        if newest.number == 0 {
            return Ok(None);
        }
        let text = self.read(section, newest)?;
        let value = serde_json::from_slice(&text);
        value.map(Some).map_err(|error| StateError::Unreadable(name, error))
    }

    /// Notes that a slot is about to be given back by its owner. Then push the slot, and call
    /// [`State::given`].
    pub(super) fn giving(&self, slot: usize, serial: u64) {
        self.set(AT_GIVING, slot as u64 + 1);
        self.set(self.layout.given_back() + slot, serial);
    }

    /// Notes that the slot was pushed.
    pub(super) fn given(&self) {
        self.set(AT_GIVING, 0);
    }

    /// By slot, the owner that gave it back last; and the slot that was being given back when the last process
    /// ended, which may have been pushed or not.
    pub(super) fn given_back(&self) -> (Vec<u64>, Option<usize>) {
        let first = self.layout.given_back();
        let owners = (first..first + self.layout.slots).map(|at| self.get(at)).collect();
        let giving = usize::try_from(self.get(AT_GIVING)).unwrap_or_default();
        (owners, giving.checked_sub(1))
    }

    fn write(&self, section: Section, text: &[u8], length: u64) {
        let copies = self.copies(section);
        let newest = copies.iter().map(|copy| copy.number).max().unwrap_or_default();
        let Some(oldest) = copies.into_iter().min_by_key(|copy| copy.number) else { return };
        self.set(oldest.at + AT_NUMBER, 0);
        let mut words = text.chunks(WORD);
        for (at, word) in (oldest.at + COPY_HEADER..).zip(&mut words) {
            let mut bytes = [0; WORD];
            bytes[..word.len()].copy_from_slice(word);
            self.set_unordered(at, u64::from_ne_bytes(bytes));
        }
        let number = newest + 1;
        self.set(oldest.at + AT_LENGTH, length);
        self.set(oldest.at + AT_CHECKSUM, checksum(number, length, text));
        self.set(oldest.at + AT_NUMBER, number);
    }

    fn read(&self, section: Section, copy: Half) -> Result<Vec<u8>, StateError> {
        let damaged = || StateError::Damaged(section.name());
        let check = self.get(copy.at + AT_CHECKSUM);
        if copy.length == LOST && check == checksum(copy.number, LOST, &[]) {
            return Err(StateError::Lost(section.name()));
        }
        let length = usize::try_from(copy.length).unwrap_or(usize::MAX);
        if length > self.layout.capacities[section as usize] * WORD {
            return Err(damaged());
        }
        let first = copy.at + COPY_HEADER;
        let words = (first..first + length.div_ceil(WORD)).map(|at| self.get(at).to_ne_bytes());
        let mut text: Vec<u8> = words.flatten().collect();
        text.truncate(length);
        if check != checksum(copy.number, copy.length, &text) {
            return Err(damaged());
        }
        Ok(text)
    }

    fn copies(&self, section: Section) -> [Half; 2] {
        let first = self.layout.section(section);
        let second = first + COPY_HEADER + self.layout.capacities[section as usize];
        [first, second].map(|at| Half {
            at,
            number: self.get(at + AT_NUMBER),
            length: self.get(at + AT_LENGTH),
        })
    }

    fn get(&self, at: usize) -> u64 {
        self.words().get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes a word. A process that has ended has written everything up to some statement of this kind, and
    /// what comes before it.
    fn set(&self, at: usize, value: u64) {
        self.set_unordered(at, value);
        fence(Ordering::SeqCst);
    }

    fn set_unordered(&self, at: usize, value: u64) {
        if let Some(word) = self.words().get(at) {
            word.store(value, Ordering::Release);
        }
    }

    const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, and lives as long as this.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * WORD) };
    }
}

fn checksum(number: u64, length: u64, text: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(&number.to_ne_bytes());
    crc.update(&length.to_ne_bytes());
    crc.update(text);
    crc.sum().into()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const PAGES: u32 = 400;

    /// A file in place of a map.
    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((PAGES * PAGE).into()).unwrap();
        file
    }

    fn new(file: &File) -> State {
        let layout = Layout::new(2, 100);
        assert!(layout.words() * WORD <= (PAGES * PAGE) as usize, "{}", layout.words());
        let state = State::map(file.as_fd(), PAGES, layout).unwrap();
        state.set(AT_FORMAT, FORMAT);
        state.set(AT_SLOTS, 100);
        for index in 0..Section::ALL.len() {
            state.set(AT_CAPACITY + index, state.layout.capacities[index] as u64);
        }
        state.set(AT_MAGIC, MAGIC);
        state
    }

    fn reopened(file: &File) -> State {
        State::open(file.as_fd(), PAGES).unwrap().unwrap()
    }

    #[test]
    fn sections_are_what_was_saved_last() {
        let file = file();
        let state = new(&file);
        assert_eq!(reopened(&file).layout, state.layout);
        assert!(reopened(&file).load::<u64>(Section::Groups).unwrap().is_none());
        for value in 0..5_u64 {
            state.save(Section::Groups, &value).unwrap();
            state.save(Section::Sets, &format!("{value} or so")).unwrap();
            let again = reopened(&file);
            assert_eq!(again.load(Section::Groups).unwrap(), Some(value));
            assert_eq!(again.load(Section::Sets).unwrap(), Some(format!("{value} or so")));
        }
        assert!(reopened(&file).load::<String>(Section::Shown).unwrap().is_none());
    }

    #[test]
    fn a_write_that_did_not_end_changes_nothing() {
        let file = file();
        let state = new(&file);
        state.save(Section::Sets, &"first").unwrap();
        state.save(Section::Sets, &"second").unwrap();
        let oldest = state.copies(Section::Sets).into_iter().min_by_key(|it| it.number).unwrap();
        // Whatever is written before the number.
        state.set(oldest.at + AT_NUMBER, 0);
        state.set(oldest.at + COPY_HEADER, 1234);
        state.set(oldest.at + AT_LENGTH, 5);
        assert_eq!(reopened(&file).load(Section::Sets).unwrap(), Some("second".to_owned()));
        state.save(Section::Sets, &"third").unwrap();
        assert_eq!(reopened(&file).load(Section::Sets).unwrap(), Some("third".to_owned()));
    }

    #[test]
    fn damage_is_noticed() {
        let file = file();
        let state = new(&file);
        state.save(Section::Sets, &"text").unwrap();
        let newest = state.copies(Section::Sets).into_iter().max_by_key(|it| it.number).unwrap();
        for at in [AT_NUMBER, AT_LENGTH, AT_CHECKSUM, COPY_HEADER] {
            let word = state.get(newest.at + at);
            for other in [word ^ 1 << 40, word ^ 1] {
                state.set(newest.at + at, other);
                let loaded = reopened(&file).load::<String>(Section::Sets);
                let is_damaged = matches!(loaded, Err(StateError::Damaged("sets")));
                assert!(is_damaged || at == AT_NUMBER && other == 0, "{at} {loaded:?}");
            }
            state.set(newest.at + at, word);
        }
        assert_eq!(reopened(&file).load(Section::Sets).unwrap(), Some("text".to_owned()));
        // A value of another type.
        let other = state.load::<u64>(Section::Sets);
        assert!(matches!(other, Err(StateError::Unreadable(..))), "{other:?}");
    }

    #[test]
    fn what_does_not_fit_is_known_to_be_lost_until_it_fits() {
        let file = file();
        let state = new(&file);
        state.save(Section::Shown, &"before").unwrap();
        let long = "x".repeat(1 << 20);
        let error = state.save(Section::Shown, &long).unwrap_err();
        assert!(error.to_string().contains("`shown` has 1048578 bytes"), "{error}");
        let loaded = reopened(&file).load::<String>(Section::Shown);
        assert!(matches!(loaded, Err(StateError::Lost("shown"))), "{loaded:?}");
        state.save(Section::Shown, &"after").unwrap();
        assert_eq!(reopened(&file).load(Section::Shown).unwrap(), Some("after".to_owned()));
    }

    #[test]
    fn slots_that_were_given_back_are_remembered() {
        let file = file();
        let state = new(&file);
        state.giving(7, 70);
        let (owners, giving) = reopened(&file).given_back();
        assert_eq!((owners.len(), owners[7], giving), (100, 70, Some(7)));
        state.given();
        state.giving(0, 5);
        state.given();
        let (owners, giving) = reopened(&file).given_back();
        assert_eq!((owners[7], owners[0], owners[1], giving), (70, 5, 0, None));
    }

    #[test]
    fn only_a_state_is_opened() {
        let empty = file();
        let opened = State::open(empty.as_fd(), PAGES).unwrap();
        assert!(matches!(opened, Err(Unreadable::Foreign(_))));
        let file = file();
        let state = new(&file);
        state.set(AT_SLOTS, u64::MAX);
        let opened = State::open(file.as_fd(), PAGES).unwrap();
        assert!(matches!(opened, Err(Unreadable::Foreign(_))));
        state.set(AT_FORMAT, FORMAT + 1);
        let opened = State::open(file.as_fd(), PAGES).unwrap();
        assert_eq!(opened.err(), Some(Unreadable::OtherFormat));
    }
}
