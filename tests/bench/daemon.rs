//! The exporter as it is shipped, with the shipped configuration, as a child process.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use sched_exporter_tests::process::{PATIENCE, binary};
use tempfile::TempDir;

use crate::children;

/// The configuration that the repository ships.
pub(crate) const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/exporter.yaml");

/// A running exporter; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    address: SocketAddr,
    /// From the start of the process to its answer that it is ready.
    pub(crate) startup: Duration,
    /// With its configuration.
    _directory: TempDir,
    /// Kept open, so that it can log.
    _log: BufReader<ChildStderr>,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub(crate) fn start() -> Result<Self> {
        // In a directory of its own: what others do beside a file wakes whoever watches it.
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("exporter.yaml");
        fs::copy(CONFIG, &config).context(CONFIG)?;
        let started = Instant::now();
        let mut child = children::spawn(
            Command::new(binary())
                .arg(format!("--config.file={}", config.display()))
                .arg("--web.listen-address=127.0.0.1:0")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let log = child.stderr.take().context("the exporter has no standard error")?;
        let mut log = BufReader::new(log);
        let address = address(&mut log);
        let mut daemon = Self {
            child,
            address: address?,
            startup: Duration::ZERO,
            _log: log,
            _directory: directory,
        };
        daemon.connect()?.get("/-/ready", "")?;
        daemon.startup = started.elapsed();
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads, those that have ended included. Exact while it waits.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(self.pid().cast_signed()))?;
        Ok(clock_gettime(clock)?.into())
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, buffer: vec![0; 1 << 20] })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to where it says the address.
fn address(log: &mut impl BufRead) -> Result<SocketAddr> {
    let mut text = String::new();
    while log.read_line(&mut text)? > 0 {
        let Some((_, rest)) = text.split_once("address=") else { continue };
        let address = rest.split_whitespace().next().unwrap_or_default().trim_matches('"');
        return address.parse().with_context(|| format!("address `{address}`"));
    }
    bail!("the exporter did not start:\n{text}")
}

/// A connection that is kept alive and allocates nothing once it is open.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Asks for a path with the given header lines, and returns how long the body is. Any status
    /// but 200 is an error.
    pub(crate) fn get(&mut self, path: &str, headers: &str) -> Result<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n");
        self.send(request.as_bytes())
    }

    /// As [`Connection::get`], with the bytes of the request.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the exporter closed the connection");
            filled += read;
            let answer = &self.buffer[..filled];
            let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                continue;
            };
            let body = length(std::str::from_utf8(&answer[..head])?)?;
            if filled == head + 4 + body {
                return Ok(body);
            }
        }
    }
}

/// Length of the body, from the head of an answer.
fn length(head: &str) -> Result<usize> {
    ensure!(head.starts_with("HTTP/1.1 200 "), "the exporter answered {head}");
    let header = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    header.context("no content-length")?.parse().context("content-length")
}
