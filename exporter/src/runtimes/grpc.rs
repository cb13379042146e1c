//! A gRPC client for calls whose request is empty: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::{io, path::Path};

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    header::{CONTENT_TYPE, HeaderValue, TE},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, task::JoinSet};

use crate::expr::print;

/// Maximum size of what the server may send before it is read.
const WINDOW_BYTES: u32 = 1 << 16;

/// Maximum size of headers and trailers.
const MAX_HEAD_BYTES: u32 = 1 << 14;

/// Maximum number of characters of a server's message in an error.
const MAX_MESSAGE_CHARS: usize = 200;

/// Length of the prefix of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A message without fields.
const EMPTY_MESSAGE: &[u8] = &[0; PREFIX_BYTES];

/// The error when a call returns no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the HTTP/2 exchange failed")]
    Http(#[source] hyper::Error),
    #[error("the answer is not gRPC but HTTP status {0}")]
    NotGrpc(StatusCode),
    #[error("the call failed with gRPC status {}{message}", name_of(*code))]
    Status { code: u32, message: String },
    #[error("the answer has no gRPC status")]
    NoStatus,
    #[error("the answer is not one uncompressed message")]
    Framing,
}

/// <https://grpc.io/docs/guides/status-codes/>
const UNIMPLEMENTED: u32 = 12;

impl GrpcError {
    /// Whether the server speaks gRPC, but does not know the service.
    pub(super) const fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status { code: UNIMPLEMENTED, .. })
    }

    /// Whether the server may speak another protocol.
    pub(super) const fn may_not_be_grpc(&self) -> bool {
        matches!(self, Self::Http(_) | Self::NotGrpc(_))
    }
}

fn name_of(code: u32) -> String {
    let name = match code {
        1 => "CANCELLED",
        2 => "UNKNOWN",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        UNIMPLEMENTED => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        16 => "UNAUTHENTICATED",
        _ => return code.to_string(),
    };
    name.into()
}

/// A connection to a gRPC server. Dropping it ends the calls.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<hyper::Result<()>>,
}

impl Connection {
    pub(super) async fn open(path: &Path) -> Result<Self, GrpcError> {
        let stream = UnixStream::connect(path).await.map_err(GrpcError::Connect)?;
        let mut client = http2::Builder::new(TokioExecutor::new());
        client
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(MAX_HEAD_BYTES);
        let (sender, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(GrpcError::Http)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { sender, _driver: driver })
    }

    /// Calls a method, like `/runtime.v1.RuntimeService/Version`.
    pub(super) async fn call(&mut self, method: &'static str) -> Result<Reply, GrpcError> {
        let mut request = Request::new(Full::new(Bytes::from_static(EMPTY_MESSAGE)));
        *request.method_mut() = Method::POST;
        // Servers check that the authority is valid, and otherwise ignore it.
        *request.uri_mut() =
            format!("http://localhost{method}").parse().expect("methods are paths");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let (head, body) =
            self.sender.send_request(request).await.map_err(GrpcError::Http)?.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_grpc = kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
        if head.status != StatusCode::OK || !is_grpc {
            return Err(GrpcError::NotGrpc(head.status));
        }
        // A call that fails at once has its status here.
        if let Some(status) = status(&head.headers) {
            status?;
        }
        Ok(Reply { body, state: State::Prefix([0; PREFIX_BYTES], 0), has_status: false })
    }
}

/// The message that answers a call.
pub(super) struct Reply {
    body: Incoming,
    state: State,
    has_status: bool,
}

/// What to read next.
enum State {
    /// The rest of a prefix, of which this many bytes are known.
    Prefix([u8; PREFIX_BYTES], usize),
    /// This many bytes of the message.
    Message(usize),
}

impl Reply {
    /// Waits for the next piece of the message; `None` at its end. Fails unless the call succeeds.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, GrpcError> {
        while let Some(frame) = self.body.frame().await {
            match frame.map_err(GrpcError::Http)?.into_data() {
                Ok(data) => {
                    let message = self.data(data)?;
                    if !message.is_empty() {
                        return Ok(Some(message));
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    status(&trailers).ok_or(GrpcError::NoStatus)??;
                    self.has_status = true;
                }
            }
        }
        match self.state {
            _ if !self.has_status => Err(GrpcError::NoStatus),
            State::Message(0) => Ok(None),
            State::Prefix(..) | State::Message(_) => Err(GrpcError::Framing),
        }
    }

    /// Removes the prefix from what has arrived.
    fn data(&mut self, mut data: Bytes) -> Result<Bytes, GrpcError> {
        if let State::Prefix(prefix, known) = &mut self.state {
            let taken = data.len().min(PREFIX_BYTES - *known);
            data.copy_to_slice(&mut prefix[*known..*known + taken]);
            *known += taken;
            if *known < PREFIX_BYTES {
                return Ok(data);
            }
            let [0, length @ ..] = *prefix else { return Err(GrpcError::Framing) };
            let length = usize::try_from(u32::from_be_bytes(length));
            self.state = State::Message(length.map_err(|_large| GrpcError::Framing)?);
        }
        if let State::Message(left) = &mut self.state {
            *left = left.checked_sub(data.len()).ok_or(GrpcError::Framing)?;
        }
        Ok(data)
    }
}

/// The status of a call, if these headers have it.
fn status(headers: &HeaderMap) -> Option<Result<(), GrpcError>> {
    let code = headers.get("grpc-status")?;
    let code = code.to_str().ok().and_then(|code| code.parse().ok());
    Some(match code {
        Some(0) => Ok(()),
        Some(code) => {
            let message = headers.get("grpc-message").map(HeaderValue::as_bytes);
            Err(GrpcError::Status { code, message: message_of(message.unwrap_or_default()) })
        }
        None => Err(GrpcError::NoStatus),
    })
}

/// A server's message after a colon, without its percent-encoding, shortened; empty if there is none.
fn message_of(encoded: &[u8]) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let mut bytes = Vec::new();
    let mut rest = encoded;
    while let [first, after @ ..] = rest {
        let escape = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        bytes.push(escape.map_or(*first, |(high, low)| high << 4 | low));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    match String::from_utf8_lossy(&bytes) {
        text if text.is_empty() => String::new(),
        text => format!(": {}", print::shorten(&text, MAX_MESSAGE_CHARS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_servers_are_decoded_escaped_and_shortened() {
        assert_eq!(message_of(b""), "");
        assert_eq!(message_of(b"unknown service a.B"), ": unknown service a.B");
        assert_eq!(message_of(b"100%25 %c3%a9 %zz %4"), ": 100% é %zz %4");
        assert_eq!(message_of(b"%0a%1b[31m"), r": \n\u{1b}[31m");
        assert_eq!(message_of(&[b'a'; 300]).chars().count(), 2 + MAX_MESSAGE_CHARS + 1);
    }
}
