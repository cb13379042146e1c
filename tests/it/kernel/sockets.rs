//! Unix sockets, and sockets that systemd passes.

use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sched_exporter_tests::process::{
    CONFIG, Exporter, PATIENCE, binary, ending_with_us, output, run,
};

const REQUEST: &[u8] = b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn ask(mut stream: impl Read + Write) -> String {
    stream.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_unix_socket_is_served_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    // Left by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("--web.listen-address=unix:{}", path.display());
    let mut exporter = Exporter::start(&[&address]);
    assert!(ask(connect(&path)).starts_with("HTTP/1.1 200"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(run(&["healthcheck", &address]).status.success());

    let config = format!("--config.file={}", exporter.config().display());
    let second = run(&[&config, &address]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process listens on this socket"), "{said}");
    assert!(ask(connect(&path)).starts_with("HTTP/1.1 200"));

    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait().success());
    assert!(!path.exists());
    let unhealthy = run(&["healthcheck", &address]);
    let said = String::from_utf8(unhealthy.stderr).unwrap();
    assert!(!unhealthy.status.success() && said.contains(path.to_str().unwrap()), "{said}");
}

/// Starts the exporter with descriptors 3 and up, as systemd does.
fn activated(sockets: Vec<OwnedFd>) -> (tempfile::TempDir, Command) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let count = CString::new(sockets.len().to_string()).unwrap();
    let mut command = ending_with_us(&binary());
    command.arg(format!("--config.file={}", config.display())).arg("--web.systemd-socket");
    let pass = move || {
        // The command itself must not change the environment, or exec would not use this one.
        let process = CString::new(process::id().to_string())?;
        for (name, value) in [(c"LISTEN_PID", &process), (c"LISTEN_FDS", &count)] {
            // SAFETY: the new process has one thread.
            unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) };
        }
        for (socket, number) in sockets.iter().zip(3..) {
            // SAFETY: a system call; dup2 clears the flag that would close the descriptor.
            if unsafe { libc::dup2(socket.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: system calls, and allocations, which glibc allows after fork.
    unsafe { command.pre_exec(pass) };
    (directory, command)
}

/// Ends a process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Moves a descriptor out of the range that is passed, so that dup2 overwrites none still to be passed.
fn high(socket: impl Into<OwnedFd>) -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    let socket = socket.into();
    // SAFETY: a system call with an open descriptor.
    let number = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
    assert!(number >= 100);
    // SAFETY: the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn sockets_that_systemd_passes_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let (_config, mut command) = activated(vec![high(tcp), high(unix)]);
    let running = Running(command.stderr(Stdio::null()).spawn().unwrap());
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(stream).starts_with("HTTP/1.1 200"));
    assert!(ask(connect(&path)).starts_with("HTTP/1.1 200"));
    drop(running);
    assert!(path.exists(), "systemd's socket was removed");
}

#[test]
fn the_start_fails_if_systemd_passes_nothing_to_listen_on() {
    let file = fs::File::open("/dev/null").unwrap();
    for (sockets, expected) in [
        (vec![], "systemd passed no sockets"),
        (vec![high(file)], "file descriptor 3, passed by systemd, is not a TCP or Unix stream"),
    ] {
        let (_config, mut command) = activated(sockets);
        let output = output(&mut command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
