//! The log: readers of standard error that stop reading, and messages that repeat.

use std::{
    fs,
    io::{PipeReader, Read as _, Write as _, pipe},
    net::SocketAddr,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use sched_exporter_tests::{
    client::Client,
    exposition::Exposition,
    network,
    process::{CONFIG, Exporter, PATIENCE, binary, ending_with_us},
};

/// Capacity of a pipe. <https://man7.org/linux/man-pages/man7/pipe.7.html>
const PIPE_BYTES: usize = 1 << 16;

/// Far less than a hang, and more than the second that the exporter waits for the reader.
const SOON: Duration = Duration::from_secs(8);

const ADDRESS: &str = "127.0.0.1:10435";

/// An exporter whose standard error is full from the start.
struct Blocked {
    child: Child,
    reader: PipeReader,
}

impl Blocked {
    fn start(args: &[&str]) -> Self {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(&vec![b'\n'; PIPE_BYTES]).unwrap();
        let child = ending_with_us(&binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap();
        Self { child, reader }
    }

    /// Waits for the process to end, which must be soon.
    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < SOON, "still running");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn terminate(&self) {
        signal::kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect() -> Client {
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::try_connect(address) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn dropped() -> u64 {
    let exposition = Exposition::parse(&connect().get("/metrics").text());
    exposition.sum("sched_exporter_log_messages_dropped_total", &[])
}

#[test]
fn a_reader_that_stops_reading_stops_nothing_but_the_log() {
    network::alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("exporter.yaml");
        fs::write(&file, CONFIG).unwrap();
        let config = format!("--config.file={}", file.display());
        let address = format!("--web.listen-address={ADDRESS}");
        let args = [config.as_str(), address.as_str(), "--web.enable-lifecycle"];

        let mut exporter = Blocked::start(&args);
        assert_eq!(dropped(), 0);
        let deadline = Instant::now() + PATIENCE;
        let mut rejected = 0;
        while dropped() == 0 {
            assert!(Instant::now() < deadline, "the queue is never full");
            for _ in 0..20 {
                // Each has another reason to be rejected, of several kilobytes.
                rejected += 1;
                let keys = (0..20).map(|key| format!("key_{rejected}_{key}: 1\n"));
                let next = directory.path().join("next.yaml");
                fs::write(&next, keys.collect::<String>()).unwrap();
                fs::rename(&next, &file).unwrap();
                assert_eq!(connect().request("POST", "/-/reload", &[]).status, 500);
            }
        }

        // Once someone reads, the log continues, and says how many lines are missing.
        let text = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (exporter.reader.try_clone().unwrap(), Arc::clone(&text));
        let reading = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        });
        let log = || String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
        while !log().contains("log messages dropped") {
            assert!(Instant::now() < deadline + PATIENCE, "{}", log());
            thread::sleep(Duration::from_millis(5));
        }
        exporter.terminate();
        assert!(exporter.wait().success());
        reading.join().unwrap();
        let log = log();
        assert!(log.contains("listening") && log.contains("shutting down"), "{log}");

        fs::write(&file, CONFIG).unwrap();
        let mut exporter = Blocked::start(&args);
        dropped();
        exporter.terminate();
        assert!(exporter.wait().success());
    });
}

#[test]
fn failures_to_start_end_even_if_nobody_reads_why() {
    for (args, code) in [
        (["--config.file=/no/such/file.yaml", "--log.level=debug"], 1),
        (["--config.file=/no/such/file.yaml", "--once"], 1),
        (["healthcheck", "--web.listen-address=127.0.0.1:1"], 1),
        (["--no.such.flag", "--once"], 2),
    ] {
        assert_eq!(Blocked::start(&args).wait().code(), Some(code), "{args:?}");
    }
}

#[test]
fn messages_that_repeat_are_limited_and_counted() {
    const RELOADS: u64 = 500;
    let flags = ["--web.enable-lifecycle", "--config.auto-reload-interval=0s"];
    let mut exporter = Exporter::start(&flags);
    let mut client = exporter.connect();
    for _ in 0..RELOADS {
        assert_eq!(client.request("POST", "/-/reload", &[]).status, 200);
    }
    // Another kind of message is not affected.
    fs::write(exporter.config(), "labels: {host: b}\n").unwrap();
    assert_eq!(client.request("POST", "/-/reload", &[]).text(), "applied\n");
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait().success());
    exporter.wait_for_log("messages left out");
    let log = exporter.log();
    let count = |part: &str| {
        let lines = log.lines().filter(|line| line.contains("message=\"configuration reloaded\""));
        lines.filter(|line| line.contains(part)).count()
    };
    assert_eq!((count("outcome=applied"), count("outcome=unchanged")), (1, 10), "{log}");
    let left_out = log.lines().filter(|line| line.contains("message=\"messages left out\""));
    let counted: u64 = left_out
        .filter(|line| line.contains("of=\"configuration reloaded\""))
        .map(|line| {
            let (_, rest) = line.split_once(" count=").unwrap();
            rest.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(counted, RELOADS - 10, "{log}");
}
