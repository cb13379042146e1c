//! A proxy that requests the text format from the exporter; Prometheus 2.42 can't be configured to.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use sched_exporter_tests::client::Client;

/// Forwards requests to an exporter until this process ends. Returns the proxy's address.
pub(super) fn text_format(exporter: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Either end may close the connection.
            thread::spawn(move || drop(pass_on(stream, exporter)));
        }
    });
    address
}

fn pass_on(stream: TcpStream, exporter: SocketAddr) -> io::Result<()> {
    let mut prometheus = BufReader::new(stream);
    let mut exporter = Client::try_connect(exporter)?;
    loop {
        let mut head = Vec::new();
        while head.last().is_none_or(|line| line != "\r\n") {
            let mut line = String::new();
            if prometheus.read_line(&mut line)? == 0 {
                return Ok(());
            }
            head.push(line);
        }
        let path = head[0].split(' ').nth(1).unwrap_or_default();
        let accept = [("Accept", "text/plain;version=0.0.4"), ("Accept-Encoding", "gzip")];
        let answer = exporter.try_request("GET", path, &accept)?;
        let mut text = format!("HTTP/1.1 {} Forwarded\r\n", answer.status);
        for (name, value) in &answer.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        prometheus.get_mut().write_all(text.as_bytes())?;
        prometheus.get_mut().write_all(&answer.body)?;
    }
}
