//! HTTP/2: its limits, and the tasks of its requests.
//!
//! A connection answers one request at a time, as with HTTP/1.1, so that the same limits hold.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{rt::Executor, server::conn::http2};
use tokio::task::JoinSet;

/// Requests that a connection answers at the same time.
const STREAMS: u32 = 1;

/// Maximum size of a request's headers, as HTTP/2 counts them.
const MAX_HEADER_BYTES: u32 = 1 << 14;

/// How much of a request's body a client may send, and of all together. Bodies are not read.
/// The latter cannot be less: <https://www.rfc-editor.org/rfc/rfc9113.html#section-6.9.2>
const STREAM_WINDOW: u32 = 1 << 10;
const CONNECTION_WINDOW: u32 = (1 << 16) - 1;

/// How much of an answer waits until the client can receive more.
const MAX_SEND_BYTES: usize = 1 << 16;

/// Requests that a client may take back before they are begun, or that may fail, before the connection is
/// closed.
const MAX_RESETS: usize = 8;

/// Runs the requests of a connection. They end with the connection.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for Requests {
    fn execute(&self, request: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            request.await;
        });
    }
}

/// A server within the limits.
pub(super) fn server() -> http2::Builder<Requests> {
    let mut server = http2::Builder::new(Requests::default());
    server
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BYTES)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS);
    server
}
