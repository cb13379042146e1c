//! A client's socket that reports what happens on it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{self, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{admission::Event, listener::Socket, places::Place, response::Body};

/// A socket that reports reads and writes.
pub(super) struct Watched {
    socket: Box<dyn Socket>,
    place: Arc<Place>,
    is_http2: bool,
}

impl Watched {
    pub(super) fn new(socket: Box<dyn Socket>, place: Arc<Place>, is_http2: bool) -> Self {
        Self { socket, place, is_http2 }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(1..)) => self.place.record(Event::Wrote),
            Poll::Ready(_) => {}
            Poll::Pending => self.place.record(Event::Blocked),
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        // In HTTP/2, clients also send what begins no request.
        if buffer.filled().len() > before && !self.is_http2 {
            self.place.record(Event::Read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper calls this only when it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes bytes before the socket does.
        let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(cx) else {
            self.place.record(Event::Blocked);
            return Poll::Pending;
        };
        flushed?;
        self.place.record(Event::Flushed);
        if self.is_http2 {
            // If there is more of the answer, it waits until the client can receive it.
            self.place.record(Event::Blocked);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The body of an answer. It reports when hyper has taken all of it. In HTTP/2, hyper takes it before the client
/// can receive it, so there it reports when hyper has written all of it.
pub(super) struct Answer {
    body: Body,
    handed: Handed,
}

enum Handed {
    WhenTaken(#[expect(dead_code, reason = "reports when it is dropped")] Report),
    WhenWritten(Arc<Report>),
}

struct Report(Arc<Place>);

impl Drop for Report {
    fn drop(&mut self) {
        self.0.record(Event::Handed);
    }
}

/// A part of an answer that hyper has not written.
struct Unwritten {
    bytes: Bytes,
    _report: Arc<Report>,
}

impl AsRef<[u8]> for Unwritten {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Answer {
    pub(super) fn new(body: Body, place: Arc<Place>, is_http2: bool) -> Self {
        let report = Report(place);
        let handed = if is_http2 {
            Handed::WhenWritten(Arc::new(report))
        } else {
            Handed::WhenTaken(report)
        };
        Self { body, handed }
    }
}

impl body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let Handed::WhenWritten(report) = &self.handed else { return frame };
        let unwritten = |bytes| Bytes::from_owner(Unwritten { bytes, _report: Arc::clone(report) });
        frame.map_ok(|frame| frame.map_data(unwritten))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
