//! Which connections are served when there are many, with clients that hold on to theirs.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sched_exporter_tests::{
    client::Client, exposition::Exposition, process::Exporter, workload::is_emulated,
};

use super::http::poll;

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

/// Limit for an honest client, whatever others do: less than the time that others are waited for.
fn soon() -> Duration {
    Duration::from_secs(if is_emulated() { 5 } else { 1 })
}

/// Raises this process's limit on open files.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Scrapes and checks the health on new connections; both must succeed soon.
#[track_caller]
fn check_honest(exporter: &Exporter, beside: &str) -> Exposition {
    let started = Instant::now();
    let answer = exporter.connect().get("/metrics");
    assert_eq!(answer.status, 200, "{beside}");
    assert_eq!(exporter.connect().get("/-/healthy").status, 200, "{beside}");
    assert!(started.elapsed() < soon(), "{beside}: {:?}", started.elapsed());
    Exposition::parse(&answer.text())
}

fn closed(exposition: &Exposition, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    exposition.value("sched_exporter_connections_closed_total", &[&reason])
}

fn open(exposition: &Exposition) -> f64 {
    exposition.value("sched_exporter_connections_open", &[])
}

/// Whether the exporter has closed a connection, after what it has sent is read.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn connections_are_counted_from_the_start() {
    let exporter = Exporter::start(&[]);
    let first = exporter.scrape();
    for reason in ["evicted", "refused", "timeout", "error"] {
        assert!(closed(&first, reason).abs() < 0.5, "{reason}");
    }
    let held = [exporter.connect(), exporter.connect()];
    exporter.wait_until("counted", |scrape| (open(scrape) - 3.0).abs() < 0.5);
    drop(held);
    exporter.wait_until("counted", |scrape| (open(scrape) - 1.0).abs() < 0.5);
}

#[test]
fn a_failed_connection_is_counted_and_logged() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    client.stream().write_all(b"GET /metrics HT").unwrap();
    drop(client);
    exporter.wait_until("counted", |scrape| closed(scrape, "error") > 0.5);
    exporter.wait_for_log("connection failed");
}

#[test]
fn idle_connections_keep_nobody_out() {
    allow_many_files();
    let exporter = Exporter::start(&[]);
    let mut held = Vec::new();
    for kind in ["one GET, then silence", "silence", "half a head"] {
        for _ in 0..520 {
            let mut client = exporter.connect();
            match kind {
                "silence" => {}
                "half a head" => client.stream().write_all(b"GET /metrics HT").unwrap(),
                _ => assert_eq!(client.get("/-/healthy").status, 200),
            }
            held.push(client);
        }
        let scrape = check_honest(&exporter, kind);
        assert!(open(&scrape) < 528.5, "{kind}: {}", open(&scrape));
    }
    let scrape = check_honest(&exporter, "all of them");
    assert!(closed(&scrape, "evicted") > 900.0, "{}", closed(&scrape, "evicted"));
    assert!(closed(&scrape, "refused").abs() < 0.5);
    exporter.wait_for_log("connection evicted");
}

#[test]
fn at_the_limit_the_longest_idle_connection_is_closed() {
    let exporter = Exporter::start(&["--web.max-connections=2"]);
    let mut held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = exporter.connect();
            assert_eq!(client.get("/-/ready").status, 200);
            client
        })
        .collect();
    // The first has been idle longest, then the second.
    assert_eq!(held[0].get("/-/ready").status, 200);
    assert_eq!(exporter.connect().get("/metrics").status, 200);
    poll("the second is closed", || is_closed(held[1].stream()));
    assert!(!is_closed(held[0].stream()));
    for _ in 0..20 {
        check_honest(&exporter, "two idle connections");
    }
}

#[test]
fn silent_newcomers_leave_room_at_a_small_limit() {
    let exporter = Exporter::start(&["--web.max-connections=2"]);
    let _silent: Vec<_> = (0..100).map(|_| exporter.connect()).collect();
    let scrape = check_honest(&exporter, "100 silent connections");
    assert!(open(&scrape) < 18.5, "{}", open(&scrape));
}

#[test]
fn clients_that_read_no_answer_keep_nobody_out() {
    allow_many_files();
    let exporter = Exporter::start(&["--web.max-connections=8"]);
    // More than the buffers of the sockets hold.
    let pipelined = SCRAPE.repeat(600);
    let _deaf: Vec<_> = (0..45)
        .map(|_| {
            let mut client = exporter.connect();
            client.stream().write_all(&pipelined).unwrap();
            client
        })
        .collect();
    for _ in 0..5 {
        check_honest(&exporter, "45 clients that do not read");
    }
}

/// Sets a flag when dropped, also by a failed assertion.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_pipelined_requests_lets_others_go_first() {
    let exporter = Exporter::start(&[]);
    let is_over = AtomicBool::new(false);
    let mut flood: Vec<_> = (0..100).map(|_| exporter.connect()).collect();
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for clients in flood.chunks_mut(50) {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 16];
                let mut streams: Vec<_> = clients.iter_mut().map(Client::stream).collect();
                for stream in &mut streams {
                    stream.write_all(&SCRAPE.repeat(50)).unwrap();
                    stream.set_nonblocking(true).unwrap();
                }
                while !is_over.load(Ordering::Relaxed) {
                    for stream in &mut streams {
                        let _ = stream.read(&mut buffer);
                        let _ = stream.write(SCRAPE);
                    }
                }
            });
        }
        // The series begins with the first answer.
        let answered = |scrape: &Exposition| {
            scrape.sum("sched_exporter_http_requests_total", &["path=\"/metrics\"", "code=\"200\""])
        };
        exporter.wait_until("flooded", |scrape| answered(scrape) > 500);
        let rendered =
            |scrape: &Exposition| scrape.value("sched_exporter_scrape_duration_seconds_count", &[]);
        let between: Vec<_> = (0..5)
            .map(|_| {
                let mut client = exporter.connect();
                let before = rendered(&check_honest(&exporter, "a flood"));
                rendered(&Exposition::parse(&client.get("/metrics").text())) - before
            })
            .collect();
        // Each scrape waits for a few renderings, not for one of each connection.
        assert!(between.iter().all(|renderings| *renderings < 50.0), "{between:?}");
    });
}

#[test]
fn a_trickled_head_does_not_renew_its_connection() {
    let exporter = Exporter::start(&["--web.max-connections=1"]);
    let mut trickling = exporter.connect();
    assert_eq!(trickling.get("/-/ready").status, 200);
    for byte in SCRAPE.iter().take(10) {
        trickling.stream().write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    check_honest(&exporter, "a trickled head");
    poll("it is closed", || is_closed(trickling.stream()));
}

#[test]
fn without_descriptors_idle_connections_make_room() {
    let exporter = Exporter::start(&[]);
    exporter.scrape();
    let used = std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count() as u64;
    let limit = libc::rlimit { rlim_cur: used + 10, rlim_max: used + 10 };
    // SAFETY: the limit outlives the call, and the old one is not asked for.
    let set = unsafe {
        libc::prlimit(
            exporter.pid().as_raw(),
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
    exporter.take_log();
    let _silent: Vec<_> = (0..100).map(|_| exporter.connect()).collect();
    let scrape = check_honest(&exporter, "no descriptors");
    assert!(closed(&scrape, "evicted") > 80.0);
    thread::sleep(Duration::from_secs(1));
    let failed = exporter.log().matches("accept failed").count();
    assert!(failed < 150, "{failed} lines");
}
