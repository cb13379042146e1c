//! Listens on Unix sockets that have a path.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
        stat::{Mode, fchmod},
    },
};
use tokio::net::{UnixListener, UnixSocket};

/// Rights to connect, whatever the umask: the process's user and group.
const MODE: u32 = 0o660;

/// The file of a bound socket. Dropping it removes the file, unless another has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Listens on a path with mode 0660. A socket that nobody listens on is replaced.
///
/// Fails if another process listens on it, or if it is not a socket. Call it inside a tokio runtime.
pub(crate) fn bind(path: &Path, backlog: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    // The file gets the mode of the socket, so nobody else can connect before the mode is final.
    // https://github.com/torvalds/linux/blob/v6.12/net/unix/af_unix.c#L1290
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    match socket.bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(path)?;
        }
        bound => bound?,
    }
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.into(), device: metadata.dev(), inode: metadata.ino() };
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok((socket.listen(backlog)?, file))
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let reason = "the file exists and is not a socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    // Without O_NONBLOCK, connecting would wait while the other's backlog is full.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        Ok(()) | Err(Errno::EAGAIN) => {
            let reason = "another process listens on this socket";
            Err(io::Error::new(io::ErrorKind::AddrInUse, reason))
        }
        Err(error) => Err(error.into()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        (directory, path)
    }

    #[tokio::test]
    async fn user_and_group_may_connect_and_the_file_is_removed_at_the_end() {
        let (_directory, path) = path();
        let (listener, file) = bind(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let (_directory, path) = path();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _live = bind(&path, 1).unwrap();
        let error = bind(&path, 1).unwrap_err();
        assert_eq!(error.to_string(), "another process listens on this socket");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_live_socket_with_a_full_backlog_is_not_replaced() {
        let (_directory, path) = path();
        let _live = bind(&path, 0).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn other_files_are_not_replaced() {
        let (directory, path) = path();
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().to_string(), "the file exists and is not a socket");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(bind(directory.path(), 1).is_err());
    }

    #[tokio::test]
    async fn a_socket_that_replaced_ours_is_not_removed() {
        let (_directory, path) = path();
        let ours = bind(&path, 1).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
