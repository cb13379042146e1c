//! Labels and a configuration from files on a filesystem that hangs. Needs FUSE, which provides it.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sched_exporter_tests::{
    exposition::Exposition,
    process::{CONFIG, Exporter, PATIENCE, binary, ending_with_us, output},
};
use tempfile::TempDir;

/// A mounted filesystem that answers no request; callers hang until it is dropped.
struct Hanging {
    place: PathBuf,
    /// Removed after the filesystem is unmounted.
    _directory: Option<TempDir>,
    /// Receives the kernel's requests, which nobody reads.
    _unread: File,
}

impl Hanging {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::mounted(directory.path().to_owned(), Some(directory))
    }

    /// Mounts it over a directory, whose files are hidden until it is dropped.
    fn over(place: &Path) -> Self {
        Self::mounted(place.to_owned(), None)
    }

    fn mounted(place: PathBuf, directory: Option<TempDir>) -> Self {
        let unread = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        // <https://docs.kernel.org/filesystems/fuse.html#mount-options>
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", unread.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("fuse"), &place, Some("fuse"), flags, Some(options.as_str())).unwrap();
        Self { place, _directory: directory, _unread: unread }
    }

    /// A configuration that reads a file on it.
    fn configuration(&self) -> String {
        let file = self.place.join("zone");
        format!("labels: {{zone: \"{{{{ file('{}') | default('none') }}}}\"}}\n", file.display())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        umount2(&self.place, MntFlags::MNT_DETACH).unwrap();
    }
}

const SECONDS: &str = "sched_cpu_seconds_total";

#[test]
fn hanging_files_delay_neither_start_nor_reloads() {
    let hanging = Hanging::new();
    let exporter = Exporter::start_with(&hanging.configuration(), &["--web.enable-lifecycle"]);
    assert!(exporter.scrape().select(SECONDS, &["zone=\"none\""]).next().is_some());
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    }
    exporter.wait_until("logged", |_| exporter.log().contains("does not respond"));

    fs::write(exporter.config(), "labels: {zone: a}\n").unwrap();
    assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
    assert!(exporter.scrape().select(SECONDS, &["zone=\"a\""]).next().is_some());

    // Once the filesystem is gone, files are watched again.
    drop(hanging);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "b").unwrap();
    let label = format!("labels: {{zone: \"{{{{ file('{}') }}}}\"}}\n", zone.display());
    fs::write(exporter.config(), label).unwrap();
    let shows = |zone: &str| {
        let pair = format!("zone=\"{zone}\"");
        exporter.wait_until(&pair, |it| it.select(SECONDS, &[&pair]).next().is_some());
    };
    shows("b");
    fs::write(&zone, "c").unwrap();
    shows("c");
}

#[test]
fn the_last_value_of_a_file_stays_while_it_hangs() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=500ms"]);
    let directory = exporter.directory().join("labels");
    fs::create_dir(&directory).unwrap();
    let zone = directory.join("zone");
    fs::write(&zone, "a").unwrap();
    let label =
        format!("labels: {{zone: \"{{{{ file('{}') | default('none') }}}}\"}}\n", zone.display());
    fs::write(exporter.config(), label).unwrap();
    let is_in = |it: &Exposition, zone: &str| {
        it.select(SECONDS, &[&format!("zone=\"{zone}\"")]).next().is_some()
    };
    exporter.wait_until("in a", |it| is_in(it, "a"));
    let hanging = Hanging::over(&directory);
    let is_up =
        |it: &Exposition| it.sum("sched_exporter_label_source_up", &["source=\"file\""]) == 1;
    let down = exporter.wait_until("down", |it| !is_up(it));
    assert!(is_in(&down, "a"), "{}", exporter.log());
    drop(hanging);
    fs::write(&zone, "b").unwrap();
    exporter.wait_until("up again", |it| is_up(it) && is_in(it, "b"));
}

#[test]
fn hanging_files_do_not_delay_the_check() {
    let hanging = Hanging::new();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, hanging.configuration()).unwrap();
    let mut check = ending_with_us(&binary());
    let flag = format!("--config.file={}", config.display());
    let output = output(check.args(["--config.check", &flag]));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(
        printed.contains("file    an earlier attempt to read it is still running"),
        "{printed}"
    );
}

/// The exporter as the first process of a PID namespace, as in a container: the kernel ignores signals to it
/// that it does not handle. Killed when dropped.
struct First(Child);

impl First {
    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawn = move || {
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            command.spawn().unwrap()
        };
        // Only the next child of this thread is in the namespace.
        Self(thread::spawn(spawn).join().unwrap())
    }

    /// Waits until it says what it waits for, and then ends it.
    #[track_caller]
    fn check(mut self, expected: &str) {
        let lines = BufReader::new(self.0.stderr.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        assert_eq!(said.recv_timeout(PATIENCE).as_deref(), Ok(expected));
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).unwrap();
        // The line for the signal, and the end of standard error as the process ends.
        let last = said.recv_timeout(PATIENCE).unwrap();
        assert!(last.contains("signal=SIGTERM"), "{last}");
        assert_eq!(said.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn exporter(config: &Path) -> Command {
    let mut command = Command::new(binary());
    let flag = format!("--config.file={}", config.display());
    command.args([&flag, "--web.listen-address=127.0.0.1:0"]);
    command
}

#[test]
fn a_start_that_hangs_on_its_configuration_says_so_and_can_be_ended() {
    let hanging = Hanging::new();
    let config = hanging.place.join("exporter.yaml");
    First::spawn(exporter(&config)).check(&format!(
        "sched_exporter: still reading `{}`: the filesystem does not respond",
        config.display()
    ));
}

#[test]
fn a_start_that_hangs_on_the_kernels_types_says_so_and_can_be_ended() {
    let hanging = Hanging::new();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let mut command = exporter(&config);
    let path = hanging.place.clone();
    let cover = move || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
        Ok(mount(Some(&path), "/sys/kernel/btf", none, MsFlags::MS_BIND, none)?)
    };
    // SAFETY: system calls and nothing else.
    unsafe { command.pre_exec(cover) };
    First::spawn(command).check(
        "sched_exporter: still reading `/sys/kernel/btf/vmlinux`: the filesystem does not respond",
    );
}
