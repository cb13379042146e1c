//! Attacks on the exporter's connections, one after another. Beside each, honest clients are answered
//! within a second and memory stays bounded; afterwards, memory is released.

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use sched_exporter_tests::client::Client;

use crate::{Shared, invariant::Invariant, resources::Resources};

/// What the attacker does with each of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Sends nothing.
    Silent,
    /// Sends one request, reads the response, and keeps the connection.
    OneRequest,
    /// Sends half a request.
    HalfRequest,
    /// Sends a header byte by byte.
    Trickle,
    /// Sends many requests at once, and reads no response.
    Deaf,
    /// Sends requests without waiting for responses, and reads what comes.
    Flood,
}

impl Attack {
    const ALL: [Self; 6] =
        [Self::Silent, Self::OneRequest, Self::HalfRequest, Self::Trickle, Self::Deaf, Self::Flood];

    /// Number of connections, which is above the exporter's limit where that is what the attack is about.
    const fn connections(self) -> usize {
        match self {
            Self::Silent => 1_700,
            Self::OneRequest | Self::HalfRequest | Self::Trickle => 520,
            Self::Deaf => 64,
            Self::Flood => 500,
        }
    }

    /// What the attacker sends on a new connection.
    fn opening(self) -> Vec<u8> {
        match self {
            Self::Silent | Self::Flood => Vec::new(),
            Self::OneRequest => REQUEST.to_vec(),
            Self::HalfRequest => REQUEST[..REQUEST.len() / 2].to_vec(),
            Self::Trickle => b"GET /metrics HTTP/1.1\r\nHost: soak\r\nX-Slow: ".to_vec(),
            Self::Deaf => REQUEST.repeat(600),
        }
    }

    /// What it sends in each later round.
    fn later(self) -> Vec<u8> {
        match self {
            Self::Trickle => b"x".to_vec(),
            Self::Flood => REQUEST.repeat(20),
            Self::Silent | Self::OneRequest | Self::HalfRequest | Self::Deaf => Vec::new(),
        }
    }
}

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n";

/// Duration of an attack. Timeouts of the exporter are longer, so only its limits can help.
const DURATION: Duration = Duration::from_secs(6);

/// The attacker visits each of its connections once in this time.
const ROUND: Duration = Duration::from_millis(100);

/// Most new connections in a round, so that the load is bounded.
const CONNECTS: usize = 200;

/// Most milliseconds that an honest client waits.
const HONEST_MS: u64 = 1_000;

/// Period of honest scrapes and health checks.
const PERIOD: Duration = Duration::from_millis(100);

/// Most resident memory during the attacks.
const PEAK_KIB: u64 = 48 << 10;

/// Most memory that is still resident some time after the attacks.
const KEPT_KIB: u64 = 2 << 10;

/// Time for the exporter to close the connections and to release their memory.
const RECOVERY: Duration = Duration::from_secs(15);

/// Runs every attack, and returns the invariants that must hold meanwhile.
pub(crate) fn run(address: SocketAddr, process: Pid, shared: &Shared) -> Result<[Invariant; 4]> {
    raise_descriptor_limit()?;
    let mut scrapes = Invariant::new("under attack, scrapes are answered within a second");
    let mut health = Invariant::new("under attack, health checks are answered within a second");
    let mut peak = Invariant::new("under attack, resident memory stays bounded");
    let mut kept = Invariant::new("after attacks, memory is released");
    let before = Resources::of(process)?;
    // Resets the peak. https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    fs::write(format!("/proc/{process}/clear_refs"), "5")?;
    for attack in Attack::ALL {
        if shared.is_interrupted() {
            break;
        }
        let until = Instant::now() + DURATION;
        let attacker = thread::spawn(move || attack_until(attack, address, until));
        let (mut worst, mut failed) = (0, 0);
        while Instant::now() < until {
            for (path, invariant) in [("/metrics", &mut scrapes), ("/-/healthy", &mut health)] {
                let waited = ask(address, path);
                worst = worst.max(waited.as_ref().copied().unwrap_or(0));
                failed += u64::from(waited.is_err());
                match waited {
                    Ok(ms) => invariant.at_most(ms, HONEST_MS, "ms", || format!("{attack:?}")),
                    Err(error) => invariant.check(false, || format!("{attack:?}: {error}")),
                }
            }
            thread::sleep(PERIOD);
        }
        let Ok(closed) = attacker.join() else { bail!("the attacker panicked") };
        eprintln!(
            "{attack:?}: honest clients waited at most {worst} ms, {failed} got no response; \
             {closed} connections of the attacker were closed; peak {} KiB",
            peak_kib(process)?
        );
        scrapes.note(format!("{attack:?} {worst} ms"));
    }
    peak.at_most(peak_kib(process)?, PEAK_KIB, "KiB", || "the peak".to_owned());
    let deadline = Instant::now() + RECOVERY;
    let bound = before.rss_kib + KEPT_KIB;
    let mut after = Resources::of(process)?;
    while after.rss_kib > bound && Instant::now() < deadline {
        thread::sleep(PERIOD);
        after = Resources::of(process)?;
    }
    kept.at_most(after.rss_kib, bound, "KiB", || format!("{} before", before.rss_kib));
    Ok([scrapes, health, peak, kept])
}

/// Asks over a new connection, and returns how many milliseconds that took.
fn ask(address: SocketAddr, path: &str) -> io::Result<u64> {
    let started = Instant::now();
    let answer = Client::try_connect(address)?.try_request("GET", path, &[])?;
    if answer.status != 200 {
        return Err(io::Error::other(format!("{path} responded with {}", answer.status)));
    }
    Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Attacks over as many connections as the attack needs, and reopens those that the exporter closes.
/// Returns how many it closed.
fn attack_until(attack: Attack, address: SocketAddr, until: Instant) -> u64 {
    let mut closed = 0;
    let (opening, later) = (attack.opening(), attack.later());
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    connections.resize_with(attack.connections(), || None);
    while Instant::now() < until {
        let started = Instant::now();
        let mut connects = 0;
        for slot in &mut connections {
            match slot {
                Some(stream) => {
                    let reads = attack != Attack::Deaf;
                    if is_closed(stream, reads) || is_broken(stream.write(&later)) {
                        *slot = None;
                        closed += 1;
                    }
                }
                None if connects < CONNECTS && Instant::now() < until => {
                    connects += 1;
                    *slot = open(address, &opening).ok();
                }
                None => {}
            }
        }
        thread::sleep(ROUND.saturating_sub(started.elapsed()));
    }
    closed
}

fn open(address: SocketAddr, opening: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, ROUND)?;
    stream.set_nonblocking(true)?;
    // The rest of a long opening is left out if the socket's buffer is full.
    if is_broken(stream.write(opening)) {
        return Err(ErrorKind::BrokenPipe.into());
    }
    Ok(stream)
}

/// Whether the exporter has closed a connection. Reads what has arrived, if it `reads`.
fn is_closed(stream: &mut TcpStream, reads: bool) -> bool {
    if !reads {
        return stream.take_error().is_ok_and(|error| error.is_some());
    }
    let mut chunk = [0; 1 << 14];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Whether writing failed for another reason than a full buffer.
fn is_broken(written: io::Result<usize>) -> bool {
    written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
}

/// The peak of resident memory.
fn peak_kib(process: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    peak.with_context(|| format!("/proc/{process}/status has no VmHWM"))
}

/// Raises the limit of open files as far as it can be raised, for this process only.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
