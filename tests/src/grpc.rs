//! A client of unary gRPC calls over a unix socket.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::{error::Error, path::Path};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request,
    client::conn::http2,
    header::{CONTENT_TYPE, TE},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, runtime, time::timeout};

use crate::{process::PATIENCE, protobuf::Message};

/// Calls a method, such as `/runtime.v1.RuntimeService/Version`, and returns the encoded response.
pub fn call(socket: &Path, method: &str, request: &Message) -> Result<Bytes, Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(PATIENCE, exchange(socket, method, request)).await })?
}

async fn exchange(socket: &Path, method: &str, message: &Message) -> Result<Bytes, Box<dyn Error>> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(message)))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    connection.abort();
    // A response without a message has its status in the headers.
    let trailers = body.trailers().unwrap_or(&head.headers);
    let header = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    match header("grpc-status") {
        Some("0") => Ok(body.to_bytes().slice(PREFIX..)),
        status => Err(format!("{method}: {status:?}: {:?}", header("grpc-message")).into()),
    }
}

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A message as it is sent, uncompressed.
pub fn framed(message: &Message) -> Bytes {
    let length = u32::try_from(message.bytes().len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message.bytes()].concat().into()
}

/// The trailers of a successful call.
pub fn success() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])
}
