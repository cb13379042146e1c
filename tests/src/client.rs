//! An HTTP/1.1 client written by hand, so that tests see the bytes and can stop in mid-request.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::process::PATIENCE;

/// The header of a scrape in OpenMetrics.
pub const OPEN_METRICS: (&str, &str) = ("Accept", "application/openmetrics-text;version=1.0.0");

/// One connection.
#[derive(Debug)]
pub struct Client<S = TcpStream>(BufReader<S>);

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Lowercase names with their values.
    pub headers: Vec<(String, String)>,
    /// The body as sent.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|(found, _)| found == name);
        header.map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    /// As [`Client::connect`], but returns the error.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl<S: Read + Write> Client<S> {
    /// Speaks over a connection that is open.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// The underlying stream.
    pub fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Sends a GET request without extra headers.
    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[])
    }

    /// Sends a request without a body.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.try_request(method, path, headers).unwrap()
    }

    /// As [`Client::request`], but returns the error.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Answer> {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n");
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        self.stream().write_all(request.as_bytes())?;
        self.read(method == "HEAD")
    }

    /// Reads a response; `None` if the connection is closed before its first byte. Panics if the
    /// server neither responds nor closes the connection.
    #[track_caller]
    pub fn answer(&mut self, head_only: bool) -> Option<Answer> {
        match self.0.fill_buf() {
            Ok([]) => None,
            Ok(_) => Some(self.read(head_only).unwrap()),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => None,
                _ => panic!("no response, and the connection is still open: {error}"),
            },
        }
    }

    fn read(&mut self, head_only: bool) -> io::Result<Answer> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without a response"));
        }
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status =
            status.ok_or_else(|| io::Error::other(format!("no status code in {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").parse().unwrap_or(0);
        if head_only {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == "chunked" {
            while self.read_chunk(&mut answer.body)? {}
        } else {
            answer.body.resize(length, 0);
            self.0.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads a chunk; returns whether more follow. RFC 9112, section 7.1; without trailers.
    fn read_chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16).map_err(|wrong| {
            io::Error::other(format!("invalid chunk size in {line:?}: {wrong}"))
        })?;
        let start = body.len();
        body.resize(start + length, 0);
        self.0.read_exact(&mut body[start..])?;
        self.0.read_exact(&mut [0; 2])?;
        Ok(length > 0)
    }
}
