//! The sockets of clients: what the kernel holds for them is bounded too, since it may count as this
//! process's memory.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How much of an answer the kernel accepts, in bytes, before it has sent the rest to the client. What was
/// sent and not read is held at the client's end. The kernel may exceed this by a segment.
/// <https://www.kernel.org/doc/html/v6.12/networking/ip-sysctl.html>, `tcp_notsent_lowat`.
const UNSENT_BYTES: u32 = 16 << 10;

/// How much the kernel accepts from a client that sends requests faster than they are answered, in bytes.
/// The kernel doubles it, for its own overhead.
const RECEIVED_BYTES: usize = 8 << 10;

/// Bounds what the kernel holds for each connection that this listening socket accepts.
pub(super) fn limit_buffers(listener: &impl AsFd) -> io::Result<()> {
    let listener = SockRef::from(listener);
    listener.set_recv_buffer_size(RECEIVED_BYTES)?;
    listener.set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// How much of an answer the kernel accepts on a Unix socket before the client has read it, in bytes. The
/// kernel doubles it, for its own overhead.
const UNIX_BYTES: usize = 32 << 10;

/// Bounds what the kernel holds for a client on a Unix socket.
pub(super) fn limit_unix_buffer(accepted: &impl AsFd) -> io::Result<()> {
    SockRef::from(accepted).set_send_buffer_size(UNIX_BYTES)
}

/// A socket that is reset if it is dropped while the client has not read everything. Otherwise the kernel
/// would keep the rest, and count it as this process's memory, until it gives up the client, which takes
/// minutes.
pub(super) struct Resetting {
    stream: TcpStream,
    is_shut_down: bool,
}

impl Resetting {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, is_shut_down: false }
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if !self.is_shut_down {
            // If it fails, the kernel gives up the client in time.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resetting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Resetting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
