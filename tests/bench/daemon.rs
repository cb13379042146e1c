//! The shipped exporter as a child process, with any configuration, and peers that are scraped the
//! same way.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use sched_exporter_tests::{
    client::Client,
    process::{PATIENCE, binary},
    rendering::SHIPPED_CONFIG,
    tls,
};
use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;

use crate::{children::Running, peers::Peer};

/// Name of the configuration file.
const CONFIG: &str = "exporter.yaml";

/// A running exporter; killed when dropped.
pub(crate) struct Daemon {
    process: Running,
    address: SocketAddr,
    /// Time from the start of the process to its first response.
    pub(crate) startup: Duration,
    /// The directory of its configuration, if it has one.
    directory: Option<TempDir>,
    /// How its clients speak TLS, if they do.
    tls: Option<ClientConfig>,
}

impl Daemon {
    /// Starts it with the shipped configuration and waits until it is ready.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(SHIPPED_CONFIG)
    }

    /// As [`Daemon::start`], but without cgroups.
    pub(crate) fn start_without_cgroups() -> Result<Self> {
        Self::start_as(SHIPPED_CONFIG, &["--no-collector.cgroups"])
    }

    /// Starts it with a configuration, with reloads by HTTP enabled.
    pub(crate) fn start_with(config: &str) -> Result<Self> {
        Self::start_as(config, &[])
    }

    /// Starts it with the shipped configuration and a web configuration with TLS; `tls` makes clients.
    pub(crate) fn start_with_tls(web: &Path, tls: ClientConfig) -> Result<Self> {
        let flag = format!("--web.config.file={}", web.display());
        Self::start_on(SHIPPED_CONFIG, &[&flag], Some(tls))
    }

    fn start_as(config: &str, flags: &[&str]) -> Result<Self> {
        Self::start_on(config, flags, None)
    }

    fn start_on(config: &str, flags: &[&str], tls: Option<ClientConfig>) -> Result<Self> {
        // In a directory of its own: changes to other files would wake the exporter, which watches
        // it.
        let directory = tempfile::tempdir()?;
        let path = directory.path().join(CONFIG);
        fs::write(&path, config)?;
        let mut command = Command::new(binary());
        command.arg(format!("--config.file={}", path.display())).arg("--web.enable-lifecycle");
        command.args(flags);
        let mut daemon = Self::launch(&mut command, "/-/ready", tls)?;
        daemon.directory = Some(directory);
        Ok(daemon)
    }

    /// Replaces the configuration by rename, as editors do.
    pub(crate) fn configure(&self, config: &str) -> Result<()> {
        let directory =
            self.directory.as_ref().context("this process has no configuration")?.path();
        let new = directory.join("new.yaml");
        fs::write(&new, config)?;
        Ok(fs::rename(new, directory.join(CONFIG))?)
    }

    /// Starts a peer that has the same flag for its address and logs it in the same way.
    pub(crate) fn start_peer(peer: &Peer) -> Result<Self> {
        Self::launch(&mut peer.command(), "/", None)
            .with_context(|| format!("starting {}", peer.name))
    }

    fn launch(command: &mut Command, ready: &str, tls: Option<ClientConfig>) -> Result<Self> {
        let started = Instant::now();
        let mut process = Running::start(
            command
                .arg("--web.listen-address=127.0.0.1:0")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let log = process.child().stderr.take().context("no standard error")?;
        let mut log = BufReader::new(log);
        let address = address(&mut log)?;
        // Keep reading its log, or it would block on a full pipe.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        let startup = Duration::ZERO;
        let mut daemon = Self { process, address, startup, directory: None, tls };
        daemon.connect()?.get(ready, "")?;
        daemon.startup = started.elapsed();
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Binds its threads, and those that they start, to a CPU.
    pub(crate) fn bind(&self, cpu: usize) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let name = task?.file_name();
            let thread = name.to_str().and_then(|name| name.parse().ok()).context("no thread")?;
            sched_setaffinity(Pid::from_raw(thread), &cpus)?;
        }
        Ok(())
    }

    /// CPU time of all its threads, including those that have ended. Exact while it is not running.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(self.pid().cast_signed()))?;
        Ok(clock_gettime(clock)?.into())
    }

    /// Opens a connection for any request.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::try_connect(self.address)?)
    }

    /// The number of sets of cgroups that it shows whose labels contain this.
    pub(crate) fn shown_sets(&self, pair: &str) -> Result<usize> {
        let text = self.client()?.get("/metrics").text();
        let samples = text.lines().filter(|it| it.starts_with("sched_cgroup_cpu_seconds_total{"));
        Ok(samples.filter(|it| it.contains(pair)).count())
    }

    /// Waits until it shows this many.
    pub(crate) fn wait_for_sets(&self, pair: &str, sets: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown_sets(pair)?;
            if shown >= sets {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "the exporter shows {shown} of {sets} sets with `{pair}`"
            );
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Opens a connection for measuring scrapes.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream: Box<dyn Stream> = if let Some(tls) = &self.tls {
            Box::new(tls::open(self.address, tls.clone())?)
        } else {
            let stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Box::new(stream)
        };
        Ok(Connection { stream, buffer: vec![0; 1 << 20] })
    }
}

/// Reads the log up to the address.
fn address(log: &mut impl BufRead) -> Result<SocketAddr> {
    let mut text = String::new();
    while log.read_line(&mut text)? > 0 {
        let Some((_, rest)) = text.split_once("address=") else { continue };
        let address = rest.split_whitespace().next().unwrap_or_default().trim_matches('"');
        return address.parse().with_context(|| format!("address `{address}`"));
    }
    bail!("it did not start:\n{text}")
}

/// A stream of bytes, plain or encrypted.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A persistent connection that allocates nothing once a response has fit into its buffer.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Requests a path with these header lines, and returns the length of the body without the
    /// framing of chunks. Any status but 200 is an error.
    pub(crate) fn get(&mut self, path: &str, headers: &str) -> Result<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n");
        self.send(request.as_bytes())
    }

    /// As [`Connection::get`], but sends these bytes.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(2 * filled, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the exporter closed the connection");
            filled += read;
            if let Some(length) = body_length(&self.buffer[..filled])? {
                return Ok(length);
            }
        }
    }
}

/// Length of the body of a response; `None` if it is incomplete.
fn body_length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = position(answer, b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = (str::from_utf8(&answer[..end])?, &answer[end + 4..]);
    ensure!(head.starts_with("HTTP/1.1 200 "), "the exporter answered {head}");
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
    };
    if header("transfer-encoding") == Some("chunked") {
        return chunked_length(body);
    }
    let length = header("content-length").context("no content-length")?;
    let length = length.parse().context("content-length")?;
    Ok((body.len() == length).then_some(length))
}

/// Length of a chunked body, as Go sends it; `None` if it is incomplete.
fn chunked_length(mut body: &[u8]) -> Result<Option<usize>> {
    let mut length = 0;
    loop {
        let Some(end) = position(body, b"\r\n") else { return Ok(None) };
        let size = usize::from_str_radix(str::from_utf8(&body[..end])?, 16)?;
        let Some(rest) = body.get(end + 2 + size + 2..) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(length));
        }
        (length, body) = (length + size, rest);
    }
}

fn position(bytes: &[u8], separator: &[u8]) -> Option<usize> {
    bytes.windows(separator.len()).position(|window| window == separator)
}
