//! Notifications to the service manager, received by a socket in its place.

use std::{
    io::ErrorKind,
    mem,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sched_exporter_tests::{
    process::{Exporter, PATIENCE},
    quiet,
    workload::monotonic_ns,
};
use tempfile::TempDir;

/// The receiving end of the notifications.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, directory }
    }

    fn start(&self, variables: &[(&str, &str)], args: &[&str]) -> Exporter {
        let socket = self.directory.path().join("notify");
        let mut all = vec![("NOTIFY_SOCKET", socket.to_str().unwrap())];
        all.extend(variables);
        Exporter::start_in(&all, args)
    }

    /// The next message except those of the watchdog.
    #[track_caller]
    fn next(&self) -> String {
        self.next_of(|message| message != "WATCHDOG=1\n")
    }

    #[track_caller]
    fn next_of(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        while Instant::now() < deadline {
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let message = str::from_utf8(&bytes[..length]).unwrap();
                    if wanted(message) {
                        return message.to_owned();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no such notification");
    }
}

/// Returns the timestamp of `RELOADING=1`, which must be in the same message.
#[track_caller]
fn reloading(message: &str) -> u64 {
    let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| {
        panic!("{message:?}");
    });
    usec.trim_end().parse().unwrap()
}

#[test]
fn start_reloads_and_stop_are_notified() {
    let manager = Manager::new();
    let mut exporter = manager.start(&[], &[]);
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\nSTATUS=serving with "), "{ready:?}");

    let before = monotonic_ns() / 1_000;
    exporter.signal(Signal::SIGHUP);
    let instant = reloading(&manager.next());
    assert!((before..=monotonic_ns() / 1_000).contains(&instant), "{before} {instant}");
    assert!(manager.next().starts_with("READY=1\n"));

    // A rejected file ends the reload too; otherwise systemd would wait for the end.
    std::fs::write(exporter.config(), "labels: 1\n").unwrap();
    let status = manager.next();
    assert!(status.starts_with("STATUS=") && status.contains("rejected"), "{status:?}");
    exporter.signal(Signal::SIGHUP);
    reloading(&manager.next());
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n") && ready.contains("labels"), "{ready:?}");
    assert_eq!(ready.lines().count(), 2, "{ready:?}");

    exporter.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), "STOPPING=1\n");
    assert!(exporter.wait().success());
}

#[test]
fn the_watchdog_is_fed_at_half_its_timeout() {
    quiet::attempt(check_watchdog);
}

fn check_watchdog() {
    let manager = Manager::new();
    let exporter = manager.start(&[("WATCHDOG_USEC", "1000000")], &[]);
    manager.next();
    let fed = || {
        manager.next_of(|message| message == "WATCHDOG=1\n");
        Instant::now()
    };
    let mut last = fed();
    // A busy machine can delay one or two.
    let mut gaps = [(); 5].map(|()| {
        let now = fed();
        now - mem::replace(&mut last, now)
    });
    gaps.sort();
    assert!(gaps[2] < Duration::from_millis(750), "{gaps:?}");
    drop(exporter);
}

#[test]
fn a_watchdog_timeout_of_zero_disables_it() {
    let manager = Manager::new();
    let exporter = manager.start(&[("WATCHDOG_USEC", "0")], &[]);
    manager.next();
    exporter.scrape();
}

#[test]
fn a_missing_service_manager_does_no_harm() {
    let manager = Manager::new();
    let exporter = manager.start(&[], &[]);
    manager.next();
    drop(manager);
    exporter.signal(Signal::SIGHUP);
    exporter.wait_until("reloaded", |scrape| {
        scrape.sum("sched_exporter_config_reloads_total", &["outcome=\"unchanged\""]) == 1
    });
    exporter.wait_until("logged", |_| exporter.log().contains("cannot notify the service manager"));
}

#[test]
fn a_service_manager_that_does_not_read_delays_nothing_and_misses_no_state() {
    let manager = Manager::new();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    filler.connect(manager.directory.path().join("notify")).unwrap();
    while filler.send(b"filler").is_ok() {}

    let exporter = manager.start(&[], &[]);
    exporter.signal(Signal::SIGHUP);
    exporter.wait_until("reloaded", |scrape| {
        scrape.sum("sched_exporter_config_reloads_total", &["outcome=\"unchanged\""]) == 1
    });
    reloading(&manager.next_of(|message| message != "filler"));
    assert!(manager.next().starts_with("READY=1\n"));
}
