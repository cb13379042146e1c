//! TLS on a client's socket. What is done before the first request is bounded by the time that a client has to
//! send it, and the connection can be displaced by others meanwhile.

use std::{io, mem, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::{
    StartHandshake,
    rustls::{
        self,
        server::{Accepted, Acceptor},
    },
};

use super::{App, listener::Socket};

/// Maximum number of bytes of an answer that are encrypted and not yet sent.
const UNSENT_BYTES: usize = 16 << 10;

/// Time for a client to read why it was refused.
const GOODBYE: Duration = Duration::from_secs(1);

/// The first byte of a record that holds a message of a handshake.
/// <https://www.rfc-editor.org/rfc/rfc8446.html#section-5.1>
const HANDSHAKE: u8 = 22;

/// The answer to a client that speaks HTTP without TLS, as Go gives it.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                         Connection: close\r\n\r\nThis server speaks HTTPS.\n";

/// A socket after the handshake.
pub(super) struct Opened {
    pub(super) socket: Box<dyn Socket>,
    /// Whether the client chose HTTP/2.
    pub(super) is_http2: bool,
}

/// Waits until the handshake is complete. The configuration is the one that is current once the client has said
/// hello.
pub(super) async fn open(socket: Box<dyn Socket>, app: &App) -> io::Result<Opened> {
    let (hello, socket) = hello(socket).await?;
    let hello = StartHandshake::from_parts(hello, socket);
    let current = app.server.gate.current().tls.as_ref().map(Arc::clone);
    // Only a restart turns TLS off.
    let Some(tls) = current else { return Err(io::ErrorKind::Unsupported.into()) };
    // The signature costs the most. Requests on open connections come first.
    app.turns.take(true).await;
    let bound = |it: &mut rustls::ServerConnection| it.set_buffer_limit(Some(UNSENT_BYTES));
    let stream = match hello.into_stream_with(tls, bound).into_fallible().await {
        Ok(stream) => stream,
        Err((error, socket)) => {
            say_goodbye(socket).await;
            return Err(error);
        }
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Opened { socket: Box::new(stream), is_http2 })
}

/// Waits until a client has said hello. A client that does not speak TLS gets an answer in HTTP.
async fn hello(mut socket: Box<dyn Socket>) -> io::Result<(Accepted, Box<dyn Socket>)> {
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; 2_048];
    let mut is_first = true;
    loop {
        let read = socket.read(&mut buffer).await?;
        let mut bytes = &buffer[..read];
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if mem::take(&mut is_first) && bytes[0] != HANDSHAKE {
            // Fails if the client is gone.
            let _ = socket.write_all(NOT_TLS).await;
            say_goodbye(socket).await;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        while !bytes.is_empty() {
            // It takes no more after the client has said that it ends.
            if acceptor.read_tls(&mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok((hello, socket)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                let _ = socket.write_all(&bytes).await;
                say_goodbye(socket).await;
                return Err(io::Error::other(error));
            }
        }
    }
}

/// Closes a connection after what was sent, such as the reason in an alert. Reads what the client still sends: a
/// socket that is closed with unread bytes is reset, and the reset overtakes what was sent.
async fn say_goodbye(mut socket: Box<dyn Socket>) {
    let mut unread = [0; 1_024];
    let read = async {
        socket.shutdown().await?;
        while socket.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // However it ends, the connection is over.
    let _ = timeout(GOODBYE, read).await;
}
