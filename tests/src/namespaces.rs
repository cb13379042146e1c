//! Namespaces for programs that mount filesystems and start daemons.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    archive::payload,
    process::{PATIENCE, ending_with_us, pid_of},
};

/// A mount namespace, a PID namespace, and others. When they are dropped, or the thread that made them ends for
/// whatever reason, their processes are killed and their mounts are removed.
#[derive(Debug)]
pub struct Namespaces {
    unshare: Child,
    first: Pid,
}

impl Namespaces {
    /// Makes namespaces with an empty `/run` and no running program.
    pub fn new() -> Self {
        let script = "mount -t tmpfs tmpfs /run; exec \"$0\" pause";
        Self::with(&[], &[payload().as_os_str()], script, |_| ())
    }

    /// Makes namespaces, also of the kinds in these options of `unshare`. Their first process is a shell that runs a
    /// script with arguments from `$0`. The script prints `ready`. `prepare` can change the command that starts it.
    pub fn with(
        options: &[&str],
        args: &[&OsStr],
        script: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = ending_with_us(Path::new("unshare"));
        command.args(["--mount", "--propagation=private", "--mount-proc"]).args(options);
        // Without `--kill-child`, the first process outlives `unshare` if that is killed.
        command.args(["--pid", "--fork", "--kill-child", "sh", "-ec", script]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        prepare(&mut command);
        let mut unshare = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespaces were not made");
        let first = child(pid_of(&unshare)).unwrap();
        Self { unshare, first }
    }

    /// A command that runs in them.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.first)).args(["--all", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a shell script in them. Returns whether it succeeded, and its output.
    pub fn try_run(&self, script: &str) -> (bool, String) {
        let output = self.command("sh").args(["-ec", script]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// As [`Namespaces::try_run`], but panics unless it succeeds.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let (succeeded, said) = self.try_run(script);
        assert!(succeeded, "{script}: {said}");
        said
    }

    /// The path of a file in these namespaces, for this process.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first))
    }

    /// Makes a command see a copy of their mounts, with the caller's `/proc`. It stays in the caller's other
    /// namespaces.
    pub fn share_mounts(&self, command: &mut Command) {
        let mounts = File::open(format!("/proc/{}/ns/mnt", self.first)).unwrap();
        let enter = move || {
            setns(&mounts, CloneFlags::CLONE_NEWNS)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
            Ok(())
        };
        // SAFETY: between fork and exec, system calls and nothing else.
        unsafe { command.pre_exec(enter) };
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = kill(self.first, Signal::SIGKILL);
        // It ends after the first process, which ends after all others.
        let _ = self.unshare.wait();
    }
}

/// A process that runs in [`Namespaces`] and is killed when dropped. Processes that it started stay.
#[derive(Debug)]
pub struct Daemon {
    nsenter: Child,
    process: Pid,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with a command of [`Namespaces::command`]. Its output is appended to a file.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let mut nsenter = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(process) = child(pid_of(&nsenter)) {
                return Self { nsenter, process, log: log.to_owned() };
            }
            let ended = nsenter.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{command:?}: {ended:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it serves; panics with its log if it ends or takes too long.
    #[track_caller]
    pub fn wait_until(&mut self, serves: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !serves() {
            assert!(self.is_running() && Instant::now() < deadline, "{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_running(&mut self) -> bool {
        self.nsenter.try_wait().unwrap().is_none()
    }

    /// Its output so far, with that of earlier processes that wrote to the same file.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `nsenter` has not been waited for, so its child's PID is still valid.
        if self.is_running() {
            let _ = kill(self.process, Signal::SIGKILL);
            let _ = self.nsenter.wait();
        }
        if thread::panicking() {
            println!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// The only child of a process with one thread.
fn child(parent: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Some(Pid::from_raw(children.split_whitespace().next()?.parse().ok()?))
}
