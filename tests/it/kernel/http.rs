//! The HTTP server, with well-behaved and misbehaving clients.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use nix::sys::signal::Signal;
use sched_exporter_tests::{
    client::Client, exposition::Exposition, process::Exporter, workload::online,
};

const OPEN_METRICS: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Shorter than the exporter's timeout for clients that send nothing: a bad request is answered or
/// closed within it.
const BEFORE_IT_CLOSES: Duration = Duration::from_secs(5);

#[test]
fn the_format_is_negotiated() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    for (accept, content_type) in [
        // Sent by curl.
        ("*/*", TEXT),
        ("text/plain, */*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPEN_METRICS),
        ("application/json", TEXT),
        // Sent by Prometheus 2.42.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPEN_METRICS,
        ),
        // Sent by Prometheus 3.
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
             */*;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
    ] {
        let answer = client.request("GET", "/metrics", &[("Accept", accept)]);
        assert_eq!((answer.status, answer.header("content-type")), (200, content_type), "{accept}");
        assert_eq!(answer.header("vary"), "Accept, Accept-Encoding");
        assert_eq!(answer.text().ends_with("# EOF\n"), content_type != TEXT, "{accept}");
    }
    assert_eq!(client.get("/metrics").header("content-type"), TEXT);
}

#[test]
fn gzip_is_used_on_request() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let accept = ("Accept", "application/openmetrics-text");
    let answer = client.request("GET", "/metrics", &[accept, ("Accept-Encoding", "gzip")]);
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let answer = client.request("GET", "/metrics", &[("Accept-Encoding", "gzip;q=0")]);
    assert_eq!(answer.header("content-encoding"), "");
}

#[test]
fn each_path_accepts_its_methods_and_no_other() {
    let exporter = Exporter::start(&["--web.telemetry-path=/scheduler"]);
    let mut client = exporter.connect();
    for (method, path, status, allow, body) in [
        ("GET", "/scheduler", 200, "", "sched_cpu_seconds_total{"),
        ("POST", "/scheduler", 405, "GET, HEAD", "Method not allowed"),
        ("GET", "/metrics", 404, "", "Not found"),
        ("GET", "/-/healthy", 200, "", "healthy"),
        ("GET", "/-/ready", 200, "", "ready"),
        ("DELETE", "/-/ready", 405, "GET, HEAD", "Method not allowed"),
        ("GET", "/-/reload", 405, "POST, PUT", "Method not allowed"),
        ("POST", "/-/reload", 403, "", "--web.enable-lifecycle"),
        ("GET", "/", 200, "", "<a href=\"/scheduler\">"),
        ("GET", "/-/", 404, "", "Not found"),
    ] {
        let answer = client.request(method, path, &[]);
        let found = (answer.status, answer.header("allow"));
        assert_eq!(found, (status, allow), "{method} {path}");
        assert!(answer.text().contains(body), "{method} {path}: {}", answer.text());
        if method == "GET" && status == 200 {
            let head = client.request("HEAD", path, &[]);
            assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {path}");
            assert_eq!(head.header("content-type"), answer.header("content-type"));
        }
    }
    let exposition = Exposition::parse(&client.get("/scheduler").text());
    let requests = "sched_exporter_http_requests_total";
    assert!(exposition.value(requests, &["path=\"/-/reload\"", "code=\"403\""]) >= 1.0);
    assert!(exposition.value(requests, &["path=\"other\"", "code=\"404\""]) >= 2.0);
}

#[test]
fn every_listen_address_is_served() {
    let second = "--web.listen-address=127.0.0.2:0";
    // With a limit of one connection, no listener may hold a place while idle.
    for limit in ["--web.max-connections=512", "--web.max-connections=1"] {
        let exporter = Exporter::start(&[second, limit]);
        exporter.scrape();
        let addresses: Vec<SocketAddr> = exporter
            .log()
            .lines()
            .filter_map(|line| line.split("address=").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        assert_eq!(addresses.len(), 2, "{}", exporter.log());
        for address in addresses.iter().chain(&addresses) {
            assert_eq!(Client::connect(*address).get("/-/ready").status, 200, "{address} {limit}");
        }
    }
}

/// A configuration whose exposition is megabytes long, on any number of CPUs.
fn large_config() -> String {
    let mut config = String::from("labels:\n");
    for label in 0..64_usize.div_ceil(online().len()) {
        let _ = writeln!(config, "  label_{label}: \"{}\"", "x".repeat(1_000));
    }
    config
}

/// Waits for a condition, for less than the exporter's timeout for clients that do not read.
#[track_caller]
pub(super) fn poll(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 8s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Requests more than socket buffers hold and reads nothing, so that the responses get stuck.
fn request_without_reading(exporter: &Exporter) -> Client {
    let mut client = exporter.connect();
    let accept = "Accept: application/openmetrics-text";
    let request = format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{accept}\r\n\r\n");
    let requests = request.into_bytes().repeat(8);
    client.stream().write_all(&requests).unwrap();
    client
}

#[test]
fn a_scrape_at_the_limit_takes_the_place_of_a_client_that_does_not_read() {
    let exporter = Exporter::start_with(&large_config(), &["--web.max-requests=2"]);
    let mut stuck = [(); 2].map(|()| request_without_reading(&exporter));
    thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    let mut client = exporter.connect();
    for path in ["/metrics", "/-/healthy", "/metrics"] {
        assert_eq!(client.get(path).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // The other one can still read its answers.
    let complete = stuck.iter_mut().filter_map(|client| {
        let mut taken = Vec::new();
        client.stream().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = client.stream().read_to_end(&mut taken);
        taken.ends_with(b"# EOF\n").then_some(taken.len())
    });
    assert_eq!(complete.count(), 1);
}

#[test]
fn clients_that_do_not_read_are_disconnected() {
    let exporter = Exporter::start_with(&large_config(), &[]);
    let in_flight = |scrape: &Exposition| scrape.value("sched_exporter_scrapes_in_flight", &[]);
    let mut stuck = request_without_reading(&exporter);
    exporter.wait_until("in flight", |scrape| in_flight(scrape) > 0.5);
    exporter.wait_until("given up", |scrape| in_flight(scrape) < 0.5);
    let mut taken = Vec::new();
    let _ = stuck.stream().read_to_end(&mut taken);
    assert!(!taken.ends_with(b"# EOF\n"), "all {} bytes arrived", taken.len());
}

#[test]
fn half_open_requests_block_no_scrape_and_are_closed() {
    let exporter = Exporter::start(&[]);
    let mut half_open: Vec<TcpStream> = (0..200)
        .map(|i| {
            let mut stream = TcpStream::connect(exporter.address).unwrap();
            if i % 2 == 0 {
                stream.write_all(b"GET /metrics HT").unwrap();
            }
            stream
        })
        .collect();
    let started = Instant::now();
    exporter.scrape();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    for stream in &mut half_open[..4] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        // Closed, or reset because the request was not read.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn shutdown_completes_scrapes_in_flight() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut exporter = Exporter::start_with(&large_config(), &[]);
        let mut idle = exporter.connect();
        assert_eq!(idle.get("/-/ready").status, 200);
        let mut slow = request_without_reading(&exporter);
        exporter.wait_until("in flight", |scrape| {
            scrape.value("sched_exporter_scrapes_in_flight", &[]) > 0.5
        });
        exporter.signal(signal);
        poll("connections are refused", || TcpStream::connect(exporter.address).is_err());
        let mut answers = 0;
        while let Some(answer) = slow.answer(false) {
            assert_eq!(answer.status, 200);
            assert!(answer.body.ends_with(b"# EOF\n"));
            answers += 1;
        }
        assert!(answers > 0);
        assert!(exporter.wait().success());
        assert!(idle.answer(false).is_none());
        exporter.wait_for_log(signal.as_str());
    }
}

#[test]
fn ready_returns_503_during_shutdown() {
    let mut exporter = Exporter::start(&[]);
    let mut asking = exporter.connect();
    asking.stream().write_all(b"GET /-/ready HTTP/1.1\r\n").unwrap();
    // Later requests are answered, so this half of a request has been read.
    exporter.scrape();
    exporter.scrape();
    exporter.signal(Signal::SIGTERM);
    poll("shutting down", || exporter.log().contains("shutting down"));
    asking.stream().write_all(b"Host: test\r\n\r\n").unwrap();
    let answer = asking.answer(false).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (503, "close"));
    assert!(answer.text().contains("shutting down"), "{}", answer.text());
    assert!(asking.answer(false).is_none());
    assert!(exporter.wait().success());
}

#[test]
fn oversized_request_heads_are_rejected_and_disturb_nobody() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let padding = "x".repeat(12 << 10);
    assert_eq!(client.request("GET", "/-/ready", &[("X", &padding)]).status, 200);
    // Incomplete, so that an exporter without a limit would wait for the rest.
    let padding = "x".repeat(64 << 10);
    let mut large = exporter.connect();
    let _ = write!(large.stream(), "GET /-/ready HTTP/1.1\r\nHost: test\r\nX: {padding}");
    large.stream().set_read_timeout(Some(BEFORE_IT_CLOSES)).unwrap();
    // The reset for the unread rest can overtake the response.
    if let Some(answer) = large.answer(false) {
        assert_eq!(answer.status, 431);
    }
    assert_eq!(client.get("/-/ready").status, 200);
    exporter.scrape();
}

#[test]
fn invalid_requests_get_an_error_or_are_closed() {
    let exporter = Exporter::start(&[]);
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: banana\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = exporter.connect();
        client.stream().set_read_timeout(Some(BEFORE_IT_CLOSES)).unwrap();
        client.stream().write_all(garbage).unwrap();
        if let Some(answer) = client.answer(false) {
            assert_eq!(answer.status, 400, "{garbage:?}");
        }
    }
    let header = "x".repeat(1 << 20);
    let mut client = exporter.connect();
    client.stream().set_read_timeout(Some(BEFORE_IT_CLOSES)).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {header}\r\n\r\n");
    let _ = client.stream().write_all(request.as_bytes());
    if let Some(answer) = client.answer(false) {
        assert_eq!(answer.status, 431);
    }
    exporter.scrape();
}

#[test]
fn requests_name_one_host() {
    let exporter = Exporter::start(&[]);
    for (head, status) in [
        ("HTTP/1.1", 400),
        ("HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        ("HTTP/1.1\r\nHost: a b", 400),
        ("HTTP/1.1\r\nHost:", 200),
        ("HTTP/1.0", 200),
    ] {
        let mut client = exporter.connect();
        write!(client.stream(), "GET /-/ready {head}\r\n\r\n").unwrap();
        assert_eq!(client.answer(false).unwrap().status, status, "{head}");
    }
}
