//! Private network namespaces for tests.

use std::{io, net::UdpSocket, os::fd::AsRawFd as _, ptr, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace of its own, with loopback up. Namespaces are per thread, so
/// the test runs on a new one.
pub fn alone(test: impl FnOnce() + Send) {
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback().unwrap();
        test();
    };
    thread::scope(|scope| {
        scope.spawn(enter);
    });
}

/// Does the same as `ip link set lo up`.
pub fn loopback() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the name is shorter than the array, which ends with zeros.
    unsafe { ptr::copy_nonoverlapping(c"lo".as_ptr(), request.ifr_name.as_mut_ptr(), 2) };
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the request is of the kind that the call expects, and outlives it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
