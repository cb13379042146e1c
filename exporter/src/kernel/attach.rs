//! Attaches the kernel program: a new one with maps of its own, or, with pins, the one that is there, or a new
//! one that takes over its maps.
//!
//! ```text
//!  pins ─┬─ none, or the last start did not finish ─────────────> start at zero
//!        ├─ other records, offsets, kernel, or settings ────────> remove them, and start at zero
//!        ├─ the same program ───────────────────────────────────> adopt it as it is
//!        └─ another program ────────────────────────────────────> load, attach, pin; then detach the old one
//! ```
//!
//! While two versions are attached, both see each switch on each CPU. The first counts it; the second finds the
//! next task in the record already, and counts nothing, as long as [`HANDOVER`] allows it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    mem::offset_of,
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, IterableMap as _, Map, MapData},
    programs::{BtfTracePoint, links::FdLink, tp_btf::BtfTracePointLink},
};
use nix::{
    sys::utsname::uname,
    time::{ClockId, clock_gettime},
};
use sched_exporter_ebpf::{
    BIRTHS_BYTES, CGROUP_FREE, CGROUP_META, CGROUP_ROWS, CGROUP_SLOTS, CgroupMeta, CgroupRow,
    CgroupState, CgroupTotals, CpuEntry, CpuRecord, FIRST_SLOT, HANDOVER, HOOK, JOURNAL, LOG_LEVEL,
    MAP, MEANING, SHARED_MAPS, TABLE, Totals, WAIT_SLOTS,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::kernel::{
    bpf::{self, Kind},
    cgroups, constants,
    error::LoadError,
    layout::Layout,
    pins::{self, HOOKS, PinDirectory, PinError, STATE},
    program_log::ProgramLog,
    state::{FORMAT, PAGE, Section, State, StateError, Unreadable},
    verifier::refused,
};

/// The kernel program, as `cargo xtask ebpf` builds it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/sched.bpf.o"));

/// The maps that only the kernel program writes.
const FROZEN: [&str; 4] = [MAP, CGROUP_ROWS, CGROUP_META, CGROUP_SLOTS];

/// Size of the log's ring buffer while the log is off; aya rounds it up to one page.
const LOG_BUFFER_BYTES_OFF: u32 = 4_096;

/// How long a CPU may still be in the middle of a switch that the detached version saw.
const LAST_SWITCH: Duration = Duration::from_secs(1);

/// The number of the current boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What to attach.
pub(super) struct Plan<'l> {
    layout: &'l Layout,
    cpus: u32,
    slots: u32,
    log: bool,
    /// With the constants of this machine.
    object: Vec<u8>,
}

/// The attached program.
pub(super) struct Attached {
    pub(super) maps: Maps,
    /// Of a program that ends with this process.
    pub(super) links: Vec<FdLink>,
    /// On `CLOCK_MONOTONIC`, in nanoseconds.
    pub(super) began_at: u64,
    /// The zero of `CLOCK_MONOTONIC` when the counts began, in nanoseconds since the epoch.
    pub(super) epoch_ns: u64,
    pub(super) log: Option<ProgramLog>,
    /// With pins.
    pub(super) state: Option<Arc<State>>,
    pub(super) start: Start,
}

/// How accounting starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At zero: nothing was pinned.
    New,
    /// At zero, for this reason, although something was pinned.
    Anew(String),
    /// Where the last process left it, with the program that is attached.
    Adopted,
    /// The same, with another program.
    TakenOver,
}

impl Start {
    /// Whether counts continue that an earlier process began.
    pub const fn continues(&self) -> bool {
        matches!(self, Self::Adopted | Self::TakenOver)
    }
}

/// The maps that are shared by versions of the program, until each is taken.
pub(super) struct Maps(HashMap<&'static str, Map>);

/// What is pinned.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    phase: Phase,
    /// Of the records, the offsets and the kernel.
    layout: String,
    /// Of the program.
    program: String,
    began_at: u64,
    epoch_ns: u64,
    /// The kernel's numbers of the maps, by name.
    maps: BTreeMap<String, u32>,
    /// The kernel's numbers of the links, by hook.
    links: BTreeMap<String, u32>,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Not everything is pinned.
    Creating,
    /// Done.
    Complete,
    /// Two versions of the program may be attached.
    HandingOver,
}

/// What the pins of an earlier process allow.
enum Found {
    Nothing,
    /// They are of no use, for this reason.
    Outdated(String),
    Adoptable(Identity, Arc<State>),
    Replaceable(Identity, Arc<State>),
}

impl<'l> Plan<'l> {
    /// Plans for `cpus` CPU numbers and `slots` slots for cgroups; `log` turns on the program's log.
    pub(super) fn new(
        layout: &'l Layout,
        cpus: u32,
        slots: u32,
        log: bool,
    ) -> Result<Self, LoadError> {
        let mut object = OBJECT.to_vec();
        constants::set(&mut object, &layout.globals).map_err(LoadError::Constants)?;
        Ok(Self { layout, cpus, slots, log, object })
    }

    /// Attaches the program, with pins if there is a directory for them.
    pub(super) fn attach(&self, pins: Option<&PinDirectory>) -> Result<Attached, LoadError> {
        let Some(pins) = pins else { return self.begin(None) };
        let started = Instant::now();
        match self.find(pins)? {
            Found::Nothing => self.begin_pinned(pins, Start::New),
            Found::Outdated(reason) => {
                give_up(pins)?;
                self.begin_pinned(pins, Start::Anew(reason))
            }
            Found::Adoptable(identity, state) => {
                let maps = Maps::open(pins, &identity)?;
                tracing::info!(
                    milliseconds = started.elapsed().as_secs_f64() * 1e3,
                    "counts continue: adopted the program that is attached"
                );
                Ok(identity.attached(maps, None, state, Start::Adopted))
            }
            Found::Replaceable(identity, state) => {
                let attached = self.take_over(pins, identity, state)?;
                tracing::info!(
                    milliseconds = started.elapsed().as_secs_f64() * 1e3,
                    "counts continue: this version's program took over from the one that was attached"
                );
                Ok(attached)
            }
        }
    }

    /// The hooks: those of cgroups first, so that none that has a slot is removed unseen.
    fn hooks(&self) -> impl Iterator<Item = &'static str> {
        let of_cgroups = if self.slots == 0 { &[][..] } else { &self.layout.cgroup_hooks };
        of_cgroups.iter().copied().chain([HOOK])
    }

    /// Starts at zero with pins; leaves none if that fails.
    fn begin_pinned(&self, pins: &PinDirectory, start: Start) -> Result<Attached, LoadError> {
        let result = self.begin(Some(pins));
        if result.is_err() {
            pins.clear()?;
        }
        result.map(|attached| Attached { start, ..attached })
    }

    /// Starts at zero.
    fn begin(&self, pins: Option<&PinDirectory>) -> Result<Attached, LoadError> {
        let created = pins.map(|pins| self.create_state(pins)).transpose()?;
        let mut ebpf = self.load(pins)?;
        let mut maps = Maps::take_from(&mut ebpf)?;
        let log = self.open_log(&mut ebpf)?;
        for name in FROZEN {
            maps.freeze(name)?;
        }
        if self.slots > 0 {
            cgroups::free_all(maps.get_mut(CGROUP_FREE)?, self.slots)?;
        }
        if pins.is_none() {
            maps.freeze(HANDOVER)?;
        }
        self.load_programs(&mut ebpf)?;
        let mut links = Vec::new();
        let mut began_at = 0;
        for hook in self.hooks() {
            began_at = now_on(ClockId::CLOCK_MONOTONIC)?;
            links.push((hook, attach_program(&mut ebpf, hook)?));
        }
        let epoch_ns =
            now_on(ClockId::CLOCK_REALTIME)?.saturating_sub(now_on(ClockId::CLOCK_MONOTONIC)?);
        let mut state = None;
        if let (Some(pins), Some((mut identity, created))) = (pins, created) {
            identity.links = ids(&links)?;
            for (hook, link) in std::mem::take(&mut links) {
                pin(link, &pins.pin(hook))?;
            }
            identity.phase = Phase::Complete;
            identity.began_at = began_at;
            identity.epoch_ns = epoch_ns;
            identity.maps = maps.ids()?;
            save(&created, &identity)?;
            state = Some(created);
        }
        let links = links.into_iter().map(|(_, link)| link).collect();
        Ok(Attached { maps, links, began_at, epoch_ns, log, state, start: Start::New })
    }

    /// Pins the state first: what else is pinned before it is complete can be removed.
    fn create_state(&self, pins: &PinDirectory) -> Result<(Identity, Arc<State>), LoadError> {
        let (map, state) = State::create(self.cpus, self.slots).map_err(PinError::State)?;
        let identity = Identity {
            phase: Phase::Creating,
            layout: self.layout_hash(),
            program: self.program_hash(),
            began_at: 0,
            epoch_ns: 0,
            maps: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        save(&state, &identity)?;
        let path = pins.pin(STATE);
        map.map().pin(&path).map_err(|source| LoadError::Pin { path, source })?;
        Ok((identity, Arc::new(state)))
    }

    /// Loads the program into maps that are there, attaches it, and detaches the one that was.
    fn take_over(
        &self,
        pins: &PinDirectory,
        mut identity: Identity,
        state: Arc<State>,
    ) -> Result<Attached, LoadError> {
        // What can fail comes first.
        let mut ebpf = self.load(Some(pins))?;
        let mut maps = Maps::take_from(&mut ebpf)?;
        let log = self.open_log(&mut ebpf)?;
        self.load_programs(&mut ebpf)?;

        identity.phase = Phase::HandingOver;
        save(&state, &identity)?;
        hand_over_until(&mut maps, u64::MAX)?;
        let replaced = self.replace(pins, &mut ebpf);
        let now = now_on(ClockId::CLOCK_MONOTONIC)?;
        hand_over_until(&mut maps, now + u64::try_from(LAST_SWITCH.as_nanos()).unwrap_or(0))?;
        // After a failure, the next start takes over from those that are pinned then.
        identity.links = replaced?;
        identity.phase = Phase::Complete;
        identity.program = self.program_hash();
        save(&state, &identity)?;
        Ok(identity.attached(maps, log, state, Start::TakenOver))
    }

    /// Attaches all programs, and then detaches all that were attached before. Returns the kernel's numbers of
    /// the new links.
    fn replace(
        &self,
        pins: &PinDirectory,
        ebpf: &mut Ebpf,
    ) -> Result<BTreeMap<String, u32>, LoadError> {
        let mut links = Vec::new();
        for hook in self.hooks() {
            links.push((hook, attach_program(ebpf, hook)?));
        }
        let ids = ids(&links)?;
        // The kernel detaches a link at once if the last that refers to it is a descriptor, and later if it is a
        // pin. <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `bpf_link_put_direct`
        let mut old = Vec::new();
        for (hook, link) in links {
            let (next, last) = (pins.next_pin(hook), pins.pin(hook));
            old.extend([&next, &last].map(|path| bpf::open_pin(path).ok()));
            pins::remove(&next)?;
            pin(link, &next)?;
            fs::rename(&next, &last).map_err(pins::failed("replace", &last))?;
        }
        drop(old);
        Ok(ids)
    }

    /// Finds out what can be done with the pins. Changes nothing that is complete.
    fn find(&self, pins: &PinDirectory) -> Result<Found, LoadError> {
        if !pins.check()? {
            return Ok(Found::Nothing);
        }
        let Some((identity, state)) = read_state(pins)? else {
            return Ok(Found::Outdated(
                "an exporter with another format of its state pinned them".to_owned(),
            ));
        };
        let Some(identity) = identity.filter(|identity| identity.phase != Phase::Creating) else {
            return Ok(Found::Outdated("an earlier start did not come to its end".to_owned()));
        };
        if identity.layout != self.layout_hash() {
            let what = "the records, the offsets in the kernel, the number of CPUs, the hierarchy of \
                        cgroups, or flags that change what is counted differ";
            return Ok(Found::Outdated(what.to_owned()));
        }
        for section in [Section::Groups, Section::Sets, Section::Shown] {
            match state.load::<serde::de::IgnoredAny>(section) {
                Err(error @ StateError::Lost(_)) => {
                    return Ok(Found::Outdated(error.to_string()));
                }
                Err(error) => return Err(pins.foreign(STATE, error.to_string()).into()),
                Ok(_) => {}
            }
        }
        Maps::check(pins, &identity)?;
        if identity.phase == Phase::HandingOver {
            return Ok(Found::Replaceable(identity, Arc::new(state)));
        }
        self.check_links(pins, &identity)?;
        let is_same = identity.program == self.program_hash();
        // Only the process that loads a program can open its log.
        Ok(if is_same && !self.log {
            Found::Adoptable(identity, Arc::new(state))
        } else {
            Found::Replaceable(identity, Arc::new(state))
        })
    }

    /// Checks that the pins of links are those that were left.
    fn check_links(&self, pins: &PinDirectory, identity: &Identity) -> Result<(), LoadError> {
        for hook in HOOKS {
            let expected = identity.links.get(hook).copied();
            if has_next(pins, hook) || expected.is_none() && pins.has(hook) {
                return Err(pins.foreign(hook, "was not left by an exporter").into());
            }
            if self.hooks().any(|it| it == hook) != expected.is_some() {
                return Err(pins.foreign(hook, "is not what the state says").into());
            }
            let Some(expected) = expected else { continue };
            let path = pins.pin(hook);
            let (link, kind) = open(pins, hook)?;
            if kind != Kind::Link {
                return Err(pins.foreign(hook, "is not a link of a program").into());
            }
            drop(link);
            let link = aya::programs::links::PinnedLink::from_pin(&path);
            let id = link.map(FdLink::from).and_then(|link| Ok(link.info()?.id()));
            if id.ok() != Some(expected) {
                return Err(pins.foreign(hook, "is another link than the exporter pinned").into());
            }
        }
        Ok(())
    }

    fn load(&self, pins: Option<&PinDirectory>) -> Result<Ebpf, LoadError> {
        let mut loader = EbpfLoader::new();
        let log_level: u8 = if self.log { u8::MAX } else { 0 };
        loader.map_max_entries(MAP, self.cpus);
        cgroups::set_sizes(&mut loader, self.slots, self.cpus);
        loader.override_global(LOG_LEVEL, &log_level, true);
        if !self.log {
            loader.map_max_entries("AYA_LOGS", LOG_BUFFER_BYTES_OFF);
        }
        if let Some(pins) = pins {
            // Opens those that are there, and pins the others.
            for name in SHARED_MAPS {
                loader.map_pin_path(name, pins.pin(name));
            }
        }
        loader.load(&self.object).map_err(LoadError::Object)
    }

    fn open_log(&self, ebpf: &mut Ebpf) -> Result<Option<ProgramLog>, LoadError> {
        self.log.then(|| ProgramLog::open(ebpf)).transpose().map_err(LoadError::Log)
    }

    fn load_programs(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
        for hook in [HOOK].into_iter().chain(self.hooks().filter(|hook| *hook != HOOK)) {
            program(ebpf, hook)?.load(hook, &btf).map_err(|error| refused(hook, error))?;
        }
        Ok(())
    }

    /// Differs if a program could misread what another has written: by the records, the offsets, the kernel, or
    /// what is counted.
    fn layout_hash(&self) -> String {
        let mut text = format!("{MEANING} {FORMAT} {} {}", self.cpus, self.slots);
        let hooks: Vec<_> = self.hooks().collect();
        let _ = write!(text, "{:?} {:?} {hooks:?}", records(), self.layout.globals);
        if let Ok(kernel) = uname() {
            let (release, version) = (kernel.release().display(), kernel.version().display());
            let _ = write!(text, "{release} {version}");
        }
        text.push_str(&fs::read_to_string(BOOT_ID).unwrap_or_default());
        hex(text.as_bytes())
    }

    fn program_hash(&self) -> String {
        let mut program = self.object.clone();
        program.push(self.log.into());
        hex(&program)
    }
}

impl Identity {
    fn attached(
        self,
        maps: Maps,
        log: Option<ProgramLog>,
        state: Arc<State>,
        start: Start,
    ) -> Attached {
        let Self { began_at, epoch_ns, .. } = self;
        Attached { maps, links: Vec::new(), began_at, epoch_ns, log, state: Some(state), start }
    }
}

impl Maps {
    fn take_from(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let take = |name| Some((name, ebpf.take_map(name)?));
        let maps: HashMap<_, _> = SHARED_MAPS.into_iter().filter_map(take).collect();
        match SHARED_MAPS.into_iter().find(|name| !maps.contains_key(name)) {
            Some(missing) => Err(LoadError::Incomplete(missing)),
            None => Ok(Self(maps)),
        }
    }

    /// Opens the maps that are pinned, and [checked](Self::check).
    fn open(pins: &PinDirectory, identity: &Identity) -> Result<Self, LoadError> {
        let mut maps = HashMap::new();
        for name in SHARED_MAPS {
            maps.insert(name, open_map(pins, name, identity)?);
        }
        Ok(Self(maps))
    }

    /// Checks that the pins of maps are those that were left.
    fn check(pins: &PinDirectory, identity: &Identity) -> Result<(), LoadError> {
        Self::open(pins, identity).map(drop)
    }

    pub(super) fn take(&mut self, name: &'static str) -> Result<Map, LoadError> {
        self.0.remove(name).ok_or(LoadError::Incomplete(name))
    }

    pub(super) fn array_or_hash(&self, name: &'static str) -> Result<&MapData, LoadError> {
        match self.0.get(name) {
            Some(Map::Array(map) | Map::HashMap(map)) => Ok(map),
            _ => Err(LoadError::Incomplete(name)),
        }
    }

    fn get_mut(&mut self, name: &'static str) -> Result<&mut Map, LoadError> {
        self.0.get_mut(name).ok_or(LoadError::Incomplete(name))
    }

    /// Leaves a map to the kernel program. A hash map can be frozen, too: the kernel checks it at each write by
    /// bpf(2). <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `map_get_sys_perms`.
    fn freeze(&self, name: &'static str) -> Result<(), LoadError> {
        let map = self.array_or_hash(name)?.fd().as_fd();
        bpf::freeze(map).map_err(|source| LoadError::Freeze { map: name, source })
    }

    /// The kernel's numbers of the maps.
    fn ids(&self) -> Result<BTreeMap<String, u32>, LoadError> {
        let mut ids = BTreeMap::new();
        for (name, map) in &self.0 {
            let (Map::Array(map) | Map::HashMap(map) | Map::Stack(map) | Map::RingBuf(map)) = map
            else {
                return Err(LoadError::Incomplete(name));
            };
            let info = map.info().map_err(|source| LoadError::Info { map: name, source })?;
            ids.insert((*name).to_owned(), info.id());
        }
        Ok(ids)
    }
}

/// Opens a pinned map, if it is the one that was left.
fn open_map(
    pins: &PinDirectory,
    name: &'static str,
    identity: &Identity,
) -> Result<Map, LoadError> {
    let (map, kind) = open(pins, name)?;
    if kind != Kind::Map {
        return Err(pins.foreign(name, "is not a map").into());
    }
    let map = MapData::from_fd(map).map_err(|source| LoadError::Info { map: name, source })?;
    let info = map.info().map_err(|source| LoadError::Info { map: name, source })?;
    if identity.maps.get(name) != Some(&info.id()) {
        return Err(pins.foreign(name, "is another map than the exporter pinned").into());
    }
    Map::from_map_data(map).map_err(|source| LoadError::Info { map: name, source })
}

/// The identity and the state that are pinned; `None` if their format is another. Without an identity, the
/// state has not been pinned for long.
fn read_state(pins: &PinDirectory) -> Result<Option<(Option<Identity>, State)>, LoadError> {
    let (map, kind) = open(pins, STATE)?;
    if kind != Kind::Map {
        return Err(pins.foreign(STATE, "is not a map").into());
    }
    let path = pins.pin(STATE);
    let info = map.try_clone().map_err(pins::failed("open", &path))?;
    let info = MapData::from_fd(info).and_then(|map| map.info());
    let info = info.map_err(|source| LoadError::Info { map: STATE, source })?;
    if info.value_size() != PAGE || info.key_size() != 4 {
        return Err(pins.foreign(STATE, "is not the state of an exporter").into());
    }
    let state = State::open(map.as_fd(), info.max_entries());
    match state.map_err(pins::failed("map", &path))? {
        Ok(state) => match state.load(Section::Identity) {
            Ok(identity) => Ok(Some((identity, state))),
            Err(error) => Err(pins.foreign(STATE, error.to_string()).into()),
        },
        Err(Unreadable::OtherFormat) => Ok(None),
        Err(Unreadable::Foreign(reason)) => Err(pins.foreign(STATE, reason).into()),
    }
}

/// Removes pins that are of no use. If this does not come to its end, the next start does it.
fn give_up(pins: &PinDirectory) -> Result<(), LoadError> {
    if let Ok(Some((Some(identity), state))) = read_state(pins) {
        save(&state, &Identity { phase: Phase::Creating, ..identity })?;
    }
    Ok(pins.clear()?)
}

fn open(pins: &PinDirectory, name: &str) -> Result<(std::os::fd::OwnedFd, Kind), LoadError> {
    if !pins.has(name) {
        return Err(pins.foreign(name, "is missing, although other pins are there").into());
    }
    let path = pins.pin(name);
    Ok(bpf::open_pin(&path).map_err(pins::failed("open", &path))?)
}

fn has_next(pins: &PinDirectory, hook: &str) -> bool {
    fs::symlink_metadata(pins.next_pin(hook)).is_ok()
}

fn save(state: &State, identity: &Identity) -> Result<(), LoadError> {
    state.save(Section::Identity, identity).map_err(LoadError::State)
}

/// Tells both versions of the program until when the other may be attached.
fn hand_over_until(maps: &mut Maps, until: u64) -> Result<(), LoadError> {
    let words = Array::<_, u64>::try_from(maps.get_mut(HANDOVER)?);
    words.and_then(|mut words| words.set(0, until, 0)).map_err(LoadError::Handover)
}

fn pin(link: FdLink, path: &Path) -> Result<(), LoadError> {
    link.pin(path).map(drop).map_err(|source| LoadError::Pin { path: path.to_owned(), source })
}

/// The kernel's numbers of links.
fn ids(links: &[(&'static str, FdLink)]) -> Result<BTreeMap<String, u32>, LoadError> {
    let id = |(hook, link): &(&'static str, FdLink)| {
        let info = link.info().map_err(|source| LoadError::LinkInfo { hook, source })?;
        Ok(((*hook).to_owned(), info.id()))
    };
    links.iter().map(id).collect()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, LoadError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Incomplete(name))
}

/// Attaches a program that is loaded.
fn attach_program(ebpf: &mut Ebpf, hook: &'static str) -> Result<FdLink, LoadError> {
    let program = program(ebpf, hook)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    let link: BtfTracePointLink = link.map_err(|source| LoadError::Attach { hook, source })?;
    Ok(link.into())
}

fn now_on(clock: ClockId) -> Result<u64, LoadError> {
    let now = Duration::from(clock_gettime(clock).map_err(LoadError::Clock)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// The sizes of the records, and the places of their fields.
fn records() -> Vec<usize> {
    vec![
        size_of::<CpuEntry>(),
        offset_of!(CpuEntry, table),
        size_of::<CpuRecord>(),
        offset_of!(CpuRecord, open),
        offset_of!(CpuRecord, current),
        offset_of!(CpuRecord, seeded_at),
        offset_of!(CpuRecord, offline_ns),
        offset_of!(CpuRecord, totals),
        offset_of!(CpuRecord, cgroups),
        offset_of!(CpuRecord, check),
        offset_of!(CpuRecord, started),
        size_of::<Totals>(),
        offset_of!(Totals, mode_ns),
        offset_of!(Totals, switches),
        offset_of!(Totals, missed_switches),
        offset_of!(Totals, wait_ns),
        offset_of!(Totals, wait_slots),
        size_of::<CgroupState>(),
        offset_of!(CgroupState, current),
        offset_of!(CgroupState, poured),
        offset_of!(CgroupState, sum),
        offset_of!(CgroupState, waits),
        offset_of!(CgroupState, pours),
        offset_of!(CgroupState, base),
        offset_of!(CgroupState, last_slot),
        offset_of!(CgroupState, refused),
        offset_of!(CgroupState, retry_at),
        offset_of!(CgroupState, journal),
        size_of::<CgroupTotals>(),
        offset_of!(CgroupTotals, cpu_ns),
        offset_of!(CgroupTotals, wait_ns),
        offset_of!(CgroupTotals, waits),
        offset_of!(CgroupTotals, voluntary),
        offset_of!(CgroupTotals, preempted),
        size_of::<CgroupRow>(),
        offset_of!(CgroupRow, serial),
        offset_of!(CgroupRow, totals),
        offset_of!(CgroupRow, check),
        size_of::<CgroupMeta>(),
        offset_of!(CgroupMeta, serial),
        offset_of!(CgroupMeta, id),
        offset_of!(CgroupMeta, removed),
        offset_of!(CgroupMeta, hierarchy),
        offset_of!(CgroupMeta, check),
        WAIT_SLOTS,
        JOURNAL,
        TABLE,
        FIRST_SLOT as usize,
        BIRTHS_BYTES as usize,
    ]
}

/// SHA-256 in hex.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::Global;

    use super::*;

    fn layout(offset: u32) -> Layout {
        Layout {
            globals: vec![(Global::TaskFlags, offset), (Global::CountCgroups, 1)],
            features: Vec::new(),
            cgroup_hooks: vec!["cgroup_rmdir"],
            no_removal_hook: None,
            no_birth_hook: None,
        }
    }

    fn hashes(layout: &Layout, cpus: u32, slots: u32, log: bool) -> (String, String) {
        let plan = Plan::new(layout, cpus, slots, log).unwrap();
        (plan.layout_hash(), plan.program_hash())
    }

    #[test]
    fn only_what_a_program_could_misread_makes_pins_useless() {
        let layout_44 = layout(44);
        let (records, program) = hashes(&layout_44, 2, 100, false);
        assert_eq!(hashes(&layout(44), 2, 100, false), (records.clone(), program.clone()));
        assert_eq!(records.len(), 64);
        // The same counts by another program.
        let (same, other) = hashes(&layout_44, 2, 100, true);
        assert!(same == records && other != program);
        for (layout, cpus, slots) in
            [(layout(48), 2, 100), (layout(44), 3, 100), (layout(44), 2, 9)]
        {
            assert_ne!(hashes(&layout, cpus, slots, false).0, records, "{cpus} {slots}");
        }
        let mut hooks = layout(44);
        hooks.cgroup_hooks.clear();
        assert_ne!(hashes(&hooks, 2, 100, false).0, records);
    }

    /// What an earlier process has written must be read for as long as [`FORMAT`] stays.
    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let text = r#"{"phase":"Complete","layout":"a","program":"b","began_at":5,
            "epoch_ns":7,"maps":{"CPU":1},"links":{"sched_switch":2}}"#;
        let identity: Identity = serde_json::from_str(text).unwrap();
        assert_eq!((identity.phase, identity.began_at), (Phase::Complete, 5));
        let again = serde_json::to_string(&identity).unwrap();
        assert_eq!(again, text.split_whitespace().collect::<String>());
    }
}
