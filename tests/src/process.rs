//! The real exporter, started the way a user starts it.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _},
    mem,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{self, Signal},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    client::{Client, OPEN_METRICS},
    exposition::Exposition,
};

/// The default configuration of tests.
pub const CONFIG: &str = "labels:\n  host: test-host\n  zone: test-zone\n";

/// Timeout for anything that should take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Path of the binary: the one given by `cargo xtask test`, or the one next to this test's own.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("SCHED_EXPORTER_BIN") {
        return path.into();
    }
    let tests = env::current_exe().unwrap();
    let binary = tests.ancestors().nth(2).unwrap().join("sched_exporter");
    assert!(binary.exists(), "no {}: run the tests with `cargo xtask test`", binary.display());
    binary
}

/// Runs the binary with arguments and waits for it.
#[track_caller]
pub fn run(args: &[&str]) -> Output {
    output(ending_with_us(&binary()).args(args))
}

/// Runs a program and waits for it; kills it and panics after a timeout.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = pid_of(&child);
    let (ending, ended) = mpsc::channel();
    thread::spawn(move || ending.send(child.wait_with_output()));
    if let Ok(output) = ended.recv_timeout(PATIENCE) {
        return output.unwrap();
    }
    let _ = signal::kill(pid, Signal::SIGKILL);
    let Output { stdout, stderr, .. } = ended.recv().unwrap().unwrap();
    let [stdout, stderr] = [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes));
    panic!("{command:?} did not end\n{stdout}\n{stderr}");
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// A command that is killed when the thread that started it ends, for whatever reason. A terminal's
/// Ctrl-C does not reach it.
pub fn ending_with_us(program: &Path) -> Command {
    let end_with_us = || set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    let mut command = Command::new(program);
    // SAFETY: between fork and exec, a system call and nothing else.
    unsafe { command.pre_exec(end_with_us) };
    command.process_group(0);
    command
}

/// A running exporter; killed when dropped, and when the thread that started it ends for whatever
/// reason. A terminal's Ctrl-C does not reach it.
pub struct Exporter {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    directory: TempDir,
    config: PathBuf,
}

impl Exporter {
    /// Starts it with [`CONFIG`] and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(CONFIG, args)
    }

    /// Starts it with a configuration and waits until it listens.
    pub fn start_with(config: &str, args: &[&str]) -> Self {
        Self::start_with_prepared(config, args, |_| ())
    }

    /// Starts it with a configuration, after `prepare` has changed how it is started, and waits until it
    /// listens.
    pub fn start_with_prepared(
        config: &str,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let (directory, config) = in_place(config);
        Self::start_prepared(directory, config, args, prepare)
    }

    /// Starts it with [`CONFIG`] and additional environment variables.
    pub fn start_in(environment: &[(&str, &str)], args: &[&str]) -> Self {
        let (directory, config) = in_place(CONFIG);
        Self::spawn(directory, config, environment, args)
    }

    /// Starts it with an existing configuration file; keeps `directory` until dropped.
    pub fn start_at(directory: TempDir, config: PathBuf, args: &[&str]) -> Self {
        Self::spawn(directory, config, &[], args)
    }

    /// Starts it with an existing configuration file, after `prepare` has changed how it is started.
    pub fn start_prepared(
        directory: TempDir,
        config: PathBuf,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let mut exporter = Self::launch(directory, config, args, prepare);
        exporter.address = exporter.wait_for_address();
        exporter
    }

    /// Starts it with [`CONFIG`] without waiting; [`Exporter::address`] is not known.
    pub fn begin(args: &[&str]) -> Self {
        Self::begin_with(CONFIG, args)
    }

    /// As [`Exporter::begin`], with another configuration.
    pub fn begin_with(config: &str, args: &[&str]) -> Self {
        let (directory, config) = in_place(config);
        Self::launch(directory, config, args, |_| ())
    }

    fn spawn(
        directory: TempDir,
        config: PathBuf,
        environment: &[(&str, &str)],
        args: &[&str],
    ) -> Self {
        Self::start_prepared(directory, config, args, |command| {
            command.envs(environment.iter().copied());
        })
    }

    fn launch(
        directory: TempDir,
        config: PathBuf,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = ending_with_us(&binary());
        command
            .arg(format!("--config.file={}", config.display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.level=debug"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, address: ([127, 0, 0, 1], 0).into(), log, directory, config }
    }

    fn wait_for_address(&mut self) -> SocketAddr {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let address = log
                .split("address=")
                .nth(1)
                .and_then(|rest| rest.split([' ', '\n']).next()?.trim_matches('"').parse().ok());
            if let Some(address) = address {
                return address;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}\n{log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Takes what it has logged since the last call.
    pub fn take_log(&self) -> String {
        mem::take(&mut self.log.lock().unwrap())
    }

    /// Its PID.
    pub fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// Path of its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its private directory, which contains the configuration file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal).unwrap();
    }

    /// Opens a new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Scrapes once in OpenMetrics, over a new connection.
    pub fn scrape(&self) -> Exposition {
        Exposition::parse(&self.connect().request("GET", "/metrics", &[OPEN_METRICS]).text())
    }

    /// Scrapes until `done`; panics with the log if that takes too long.
    #[track_caller]
    pub fn wait_until(&self, what: &str, done: impl FnMut(&Exposition) -> bool) -> Exposition {
        scrape_until(what, || self.scrape(), || self.log(), done)
    }

    /// Waits until its log contains `expected`.
    #[track_caller]
    pub fn wait_for_log(&self, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(expected) {
            assert!(Instant::now() < deadline, "never logged {expected}\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the process to exit.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Scrapes until `done`; panics with the log if that takes too long.
#[track_caller]
pub(crate) fn scrape_until(
    what: &str,
    scrape: impl Fn() -> Exposition,
    log: impl Fn() -> String,
    mut done: impl FnMut(&Exposition) -> bool,
) -> Exposition {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let exposition = scrape();
        if done(&exposition) {
            return exposition;
        }
        assert!(Instant::now() < deadline, "never {what}\n{}", log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a configuration file in a directory of its own.
fn in_place(config: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("exporter.yaml");
    fs::write(&path, config).unwrap();
    (directory, path)
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let mut rest = String::new();
            if let Some(stderr) = &mut self.child.stderr {
                let _ = stderr.read_to_string(&mut rest);
            }
            println!("log of the exporter:\n{}{rest}", self.log());
        }
    }
}
