//! Misbehaving clients: some stall for as long as they can, others disconnect during a response.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{Shared, invariant::Invariant};

/// How a client stalls.
#[derive(Clone, Copy, Debug)]
enum Stall {
    /// Sends nothing.
    Silent,
    /// Sends half a request.
    Half,
    /// Requests more than socket buffers hold, and reads nothing.
    Deaf,
}

/// Clients stalling at any time, fewer than the limit of concurrent scrapes.
const STALLED: [Stall; 12] = {
    use Stall::{Deaf, Half, Silent};
    [Silent, Half, Deaf, Silent, Half, Deaf, Silent, Half, Deaf, Silent, Half, Deaf]
};

/// Requests of a client that reads nothing; the responses are several MiB.
const REQUESTS: usize = 600;

/// The exporter gives a client 10 s to send a request and 10 s to read some of the response.
const PATIENCE: Duration = Duration::from_secs(12);

/// Time between two clients that disconnect during a response.
const PAUSE: Duration = Duration::from_millis(50);

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n";

/// A client that stalls.
struct Stalled {
    how: Stall,
    stream: TcpStream,
    since: Instant,
}

impl Stalled {
    fn connect(how: Stall, address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).context("connecting a stalling client")?;
        match how {
            Stall::Silent => {}
            Stall::Half => stream.write_all(&REQUEST[..15])?,
            Stall::Deaf => stream.write_all(&REQUEST.repeat(REQUESTS))?,
        }
        Ok(Self { how, stream, since: Instant::now() })
    }

    /// Reads the rest of a connection; returns whether the exporter has closed it.
    fn ends(mut self) -> bool {
        let mut chunk = vec![0; 1 << 16];
        let _ = self.stream.set_read_timeout(Some(Duration::from_secs(5)));
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
}

/// Runs clients until the soak ends, then disconnects them all at once. Returns how many
/// disconnected during a response. Checks in `cut_off` that stalling ones are disconnected.
pub(crate) fn misbehave(
    address: SocketAddr,
    shared: &Shared,
    cut_off: &mut Invariant,
) -> Result<u64> {
    let mut gone = 0;
    let mut stalled = Vec::new();
    for how in STALLED {
        stalled.push(Stalled::connect(how, address)?);
    }
    while !shared.is_over() {
        for client in &mut stalled {
            if client.since.elapsed() > PATIENCE {
                let how = client.how;
                let old = std::mem::replace(client, Stalled::connect(how, address)?);
                cut_off.check(old.ends(), || {
                    format!("a client is still connected after {PATIENCE:?}: {how:?}")
                });
            }
        }
        disconnect_during_response(address)?;
        gone += 1;
        thread::sleep(PAUSE);
    }
    Ok(gone)
}

fn disconnect_during_response(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("connecting a client that disconnects")?;
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut [0; 100]).context("reading the beginning of a response")
}
