//! TLS and HTTP/2, with well-behaved and misbehaving clients, and certificates that change.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use sched_exporter_tests::{
    client::Client,
    exposition::Exposition,
    process::{CONFIG, Exporter, binary, ending_with_us, output},
    tls::{self, BOB, Certificates, TlsClient, USERS, argument, wait_until_web_config_is},
};
use tokio::{net::TcpStream as AsyncStream, runtime::Runtime, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::CertificateDer},
};

use super::http::poll;

/// Limit for an honest client, whatever others do.
const SOON: Duration = Duration::from_secs(1);

/// Starts an exporter with a certificate, further keys of `tls_server_config`, and further sections.
fn start(keys: &str, more: &str, arguments: &[&str]) -> (Certificates, Exporter) {
    let files = Certificates::new();
    let web = argument(&files.web(keys, more));
    let exporter = Exporter::start(&[&[&*web], arguments].concat());
    (files, exporter)
}

fn connect(files: &Certificates, exporter: &Exporter) -> TlsClient {
    tls::connect(exporter.address, files.client(None)).unwrap()
}

/// The certificate that the exporter showed.
fn shown(client: &mut TlsClient) -> CertificateDer<'static> {
    client.stream().conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn a_client_without_tls_is_told_so() {
    let (files, exporter) = start("", "", &[]);
    let mut plain = exporter.connect();
    plain.stream().write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.stream().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 ") && answer.contains("HTTPS"), "{answer}");
    // Whatever else, too, is answered or closed.
    for garbage in [&[0; 64][..], b"\x16\x03\x01\xff\xff", b"\r\n\r\n"] {
        let mut client = exporter.connect();
        client.stream().write_all(garbage).unwrap();
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let _ = client.stream().read_to_end(&mut Vec::new());
    }
    let answer = connect(&files, &exporter).get("/metrics");
    assert!(answer.text().contains("sched_cpu_seconds_total{"));
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_closes_none() {
    let (files, exporter) = start("", "", &[]);
    let mut old = connect(&files, &exporter);
    let before = shown(&mut old);
    for _ in 0..3 {
        let renewed = files.renew_server();
        poll("the new certificate", || shown(&mut connect(&files, &exporter)) == renewed);
        assert_eq!(old.get("/metrics").status, 200);
        assert_eq!(shown(&mut old), before);
    }
    wait_until_web_config_is(&exporter, &mut old, true);
    assert!(exporter.log().matches("web configuration applied").count() >= 3);
}

#[test]
fn a_certificate_that_does_not_fit_keeps_the_last_good_one() {
    let (files, exporter) = start("", "", &[]);
    let mut client = connect(&files, &exporter);
    let before = shown(&mut client);
    wait_until_web_config_is(&exporter, &mut client, true);
    let (certificate, key) = (
        fs::read_to_string(files.path("server.crt")).unwrap(),
        fs::read_to_string(files.path("server.key")).unwrap(),
    );
    // Of another key, no PEM, and missing.
    files.write("server.key", &fs::read_to_string(files.path("client.key")).unwrap());
    wait_until_web_config_is(&exporter, &mut client, false);
    exporter.wait_for_log("is not the certificate of");
    files.write("server.key", &key);
    wait_until_web_config_is(&exporter, &mut client, true);
    files.write("server.crt", "nothing\n");
    wait_until_web_config_is(&exporter, &mut client, false);
    assert_eq!(shown(&mut connect(&files, &exporter)), before);
    fs::remove_file(files.path("server.crt")).unwrap();
    exporter.wait_for_log("server.crt`: No such file");
    assert_eq!(shown(&mut connect(&files, &exporter)), before);
    files.write("server.crt", &certificate);
    wait_until_web_config_is(&exporter, &mut client, true);
    // Each is logged once.
    let log = exporter.log();
    assert_eq!(log.matches("web configuration rejected").count(), 3, "{log}");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[test]
fn a_secret_that_kubelet_swaps_is_picked_up() {
    let files = Certificates::new();
    let mounted = files.path("mounted");
    fs::create_dir(&mounted).unwrap();
    let names = ["web.yml", "server.crt", "server.key"];
    files.web("", "");
    // As kubelet does: a new directory, and a link to it that replaces the old one.
    let swap = |name: &str| {
        let new = mounted.join(name);
        fs::create_dir(&new).unwrap();
        for file in names {
            fs::copy(files.path(file), new.join(file)).unwrap();
        }
        symlink(name, mounted.join("..data_tmp")).unwrap();
        fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
    };
    swap("..1");
    for file in names {
        symlink(format!("..data/{file}"), mounted.join(file)).unwrap();
    }
    let web = argument(&mounted.join("web.yml"));
    let exporter = Exporter::start(&[&web, "--config.auto-reload-interval=0s"]);
    connect(&files, &exporter);
    let renewed = files.renew_server();
    swap("..2");
    fs::remove_dir_all(mounted.join("..1")).unwrap();
    poll("the new certificate", || shown(&mut connect(&files, &exporter)) == renewed);
}

#[test]
fn slow_handshakes_block_no_scrape_and_are_closed() {
    let (files, exporter) = start("", "", &[]);
    let mut slow: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(exporter.address).unwrap();
            if number % 2 == 0 {
                // The beginning of a hello.
                stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
            }
            stream
        })
        .collect();
    let started = Instant::now();
    assert_eq!(connect(&files, &exporter).get("/metrics").status, 200);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    for stream in &mut slow[..4] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let scrape = tls::scrape(&mut connect(&files, &exporter), &[]);
    let timeouts = scrape.value("sched_exporter_connections_closed_total", &["reason=\"timeout\""]);
    assert!(timeouts > 3.5, "{timeouts}");
}

#[test]
fn handshakes_of_many_clients_delay_no_scrape() {
    let (files, exporter) = start("", "", &[]);
    let mut honest = connect(&files, &exporter);
    let config = files.client(None);
    let address = exporter.address;
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let config = config.clone();
            thread::spawn(move || {
                for _ in 0..50 {
                    // May be displaced by another.
                    drop(tls::connect(address, config.clone()));
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(honest.get("/metrics").status, 200);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    }
    for client in flood {
        client.join().unwrap();
    }
}

/// Runs `healthcheck`; returns whether it succeeds, and what it says.
fn check_health(exporter: &Exporter, web: &str) -> (bool, String) {
    let mut command = ending_with_us(&binary());
    let listen = format!("--web.listen-address={}", exporter.address);
    let output = output(command.args(["healthcheck", &listen, web]));
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_health_check_works_in_each_mode() {
    let files = Certificates::new();
    let versions = ["", "  max_version: TLS12\n"];
    let modes = [
        ("NoClientCert", true),
        ("RequestClientCert", true),
        ("RequireAnyClientCert", false),
        ("VerifyClientCertIfGiven", true),
        ("RequireAndVerifyClientCert", false),
    ];
    let mut keys = String::new();
    let web = argument(&files.web("", ""));
    let exporter = Exporter::start(&[&web]);
    for (mode, lets_in) in modes {
        for version in versions {
            keys.clear();
            let _ = writeln!(keys, "{version}  client_auth_type: {mode}");
            if mode != "NoClientCert" {
                keys.push_str("  client_ca_file: ca.pem\n");
            }
            let applied = exporter.log().matches("web configuration applied").count();
            files.web(&keys, USERS);
            poll("applied", || {
                exporter.log().matches("web configuration applied").count() > applied
            });
            let (is_healthy, said) = check_health(&exporter, &web);
            assert!(is_healthy, "{keys}\n{said}");
            let mut client = tls::connect(exporter.address, files.client(None));
            let asked = client.as_mut().map(|it| it.try_request("GET", "/-/ready", &[]));
            assert_eq!(asked.is_ok_and(|answer| answer.is_ok()), lets_in, "{keys}");
        }
    }
    let mut client = tls::connect(exporter.address, files.client(Some("client"))).unwrap();
    assert_eq!(client.request("GET", "/metrics", &[BOB]).status, 200);
    drop(exporter);
    // Nobody listens, and somebody who speaks no TLS.
    let plain = Exporter::start(&[]);
    let (is_healthy, said) = check_health(&plain, &web);
    assert!(!is_healthy && said.contains("TLS with"), "{said}");
    let (is_healthy, said) = check_health(&plain, "--web.config.file=/no-file");
    assert!(!is_healthy && said.contains("/no-file"), "{said}");
}

#[test]
fn tls_is_on_unix_sockets_too() {
    let files = Certificates::new();
    let web = argument(&files.web("", ""));
    let listen = format!("--web.listen-address=unix:{}", files.path("socket").display());
    let exporter = Exporter::start(&[&web, &listen]);
    let mut command = ending_with_us(&binary());
    let checked = output(command.args(["healthcheck", &listen, &web]));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    drop(exporter);
}

/// A configuration whose exposition is megabytes long.
fn large_config() -> String {
    let mut config = String::from("labels:\n");
    for label in 0..32 {
        let _ = writeln!(config, "  label_{label}: \"{}\"", "x".repeat(1_000));
    }
    config
}

/// A runtime for clients of HTTP/2.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Offers these protocols by ALPN.
fn speaking(protocols: &[&str], mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

/// Connects by HTTP/2, with a window of this many bytes for answers.
async fn http2(
    address: SocketAddr,
    config: ClientConfig,
    window: u32,
) -> SendRequest<Empty<Bytes>> {
    let config = speaking(&["h2"], config);
    let stream = AsyncStream::connect(address).await.unwrap();
    let name = address.ip().into();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(window).initial_connection_window_size(window.max(65_535));
    let (sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://127.0.0.1{path}")).body(Empty::new()).unwrap()
}

async fn text(answer: hyper::Response<Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn http2_serves_every_path_on_one_connection() {
    let (files, exporter) = start("", USERS, &[]);
    runtime().block_on(async {
        let mut client = http2(exporter.address, files.client(None), 1 << 20).await;
        for _ in 0..3 {
            let mut scrape = request("/metrics");
            scrape.headers_mut().insert("Authorization", BOB.1.parse().unwrap());
            let answer = client.send_request(scrape).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            Exposition::parse(&text(answer).await);
            for (path, status) in [("/-/ready", 200), ("/metrics", 401), ("/no-page", 401)] {
                let answer = client.send_request(request(path)).await.unwrap();
                assert_eq!(answer.status(), status, "{path}");
            }
        }
        // Many at once are answered one after the other.
        let mut clients: Vec<_> = (0..20).map(|_| client.clone()).collect();
        let answers = clients.iter_mut().map(|it| it.send_request(request("/-/healthy")));
        for answer in answers.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        }
    });
    // Off, a client of HTTP/2 finds no common protocol.
    files.web("", "http_server_config: {http2: false}\n");
    poll("no HTTP/2", || {
        tls::connect(exporter.address, speaking(&["h2"], files.client(None))).is_err()
    });
    let config = speaking(&["h2", "http/1.1"], files.client(None));
    let mut client = tls::connect(exporter.address, config).unwrap();
    assert_eq!(client.get("/-/ready").status, 200);
}

#[test]
fn a_connection_of_http2_stays_open_between_scrapes() {
    let (files, exporter) = start("", "", &[]);
    runtime().block_on(async {
        let mut client = http2(exporter.address, files.client(None), 1 << 20).await;
        for _ in 0..2 {
            let answer = client.send_request(request("/metrics")).await.unwrap();
            Exposition::parse(&text(answer).await);
            // Longer than a client may take to send a request once it has begun.
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        let answer = client.send_request(request("/-/ready")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    });
    assert!(!exporter.log().contains("connection closed"), "{}", exporter.log());
}

#[test]
fn clients_that_do_not_read_are_displaced_by_scrapes_and_closed() {
    let files = Certificates::new();
    let web = argument(&files.web("", ""));
    let exporter = Exporter::start_with(&large_config(), &[&web, "--web.max-requests=2"]);
    runtime().block_on(async {
        // A window that the answer exceeds, and answers that are never read.
        let mut stuck = Vec::new();
        for _ in 0..2 {
            let mut client = http2(exporter.address, files.client(None), 1 << 10).await;
            let answer = client.send_request(request("/metrics")).await.unwrap();
            stuck.push((client, answer));
        }
        let started = Instant::now();
        let scrape = async {
            let mut client = http2(exporter.address, files.client(None), 1 << 24).await;
            let answer = client.send_request(request("/metrics")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            text(answer).await
        };
        let scraped = timeout(2 * SOON, scrape).await.unwrap();
        Exposition::parse(&scraped);
        assert!(started.elapsed() < 2 * SOON, "{:?}", started.elapsed());
        // The other one is given up in time.
        let closed = async {
            for (_, answer) in stuck {
                // Reads what is there, but too late.
                tokio::time::sleep(Duration::from_secs(12)).await;
                let _ = answer.into_body().collect().await;
            }
        };
        closed.await;
    });
    let mut client = connect(&files, &exporter);
    let deadline = Instant::now() + Duration::from_secs(10);
    while tls::scrape(&mut client, &[]).value("sched_exporter_scrapes_in_flight", &[]) > 0.5 {
        assert!(Instant::now() < deadline, "{}", exporter.log());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn requests_that_a_client_takes_back_hold_no_place() {
    let (files, exporter) = start("", USERS, &["--web.max-connections=2"]);
    runtime().block_on(async {
        let mut clients = Vec::new();
        for number in 0..2 {
            let mut client = http2(exporter.address, files.client(None), 1 << 20).await;
            let ready = client.send_request(request("/-/ready")).await.unwrap();
            assert_eq!(ready.status(), StatusCode::OK);
            // A password that takes a while to check; it is taken back at once.
            let mut wrong = request("/metrics");
            let header = format!("Basic YWxpY2U6{number}{number}{number}x");
            wrong.headers_mut().insert("Authorization", header.parse().unwrap());
            let taken_back = timeout(Duration::from_millis(5), client.send_request(wrong)).await;
            clients.push((client, taken_back.is_err()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Both are idle again, so that others can displace them, and they can ask again.
        let answer = clients[0].0.send_request(request("/-/ready")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    });
    for _ in 0..4 {
        assert_eq!(connect(&files, &exporter).get("/-/ready").status, 200);
    }
}

#[test]
fn large_heads_of_http2_are_refused() {
    let (files, exporter) = start("", "", &[]);
    runtime().block_on(async {
        let mut client = http2(exporter.address, files.client(None), 1 << 20).await;
        let mut large = request("/-/ready");
        large.headers_mut().insert("x", "x".repeat(64 << 10).parse().unwrap());
        if let Ok(answer) = client.send_request(large).await {
            assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
    });
    assert_eq!(connect(&files, &exporter).get("/-/ready").status, 200);
}

#[test]
fn shutdown_completes_answers_over_tls_and_http2() {
    let files = Certificates::new();
    let web = argument(&files.web("", ""));
    let mut exporter = Exporter::start_with(&large_config(), &[&web]);
    let mut idle = connect(&files, &exporter);
    assert_eq!(idle.get("/-/ready").status, 200);
    let half_open = TcpStream::connect(exporter.address).unwrap();
    runtime().block_on(async {
        let mut client = http2(exporter.address, files.client(None), 1 << 16).await;
        let answer = client.send_request(request("/metrics")).await.unwrap();
        exporter.signal(Signal::SIGTERM);
        tokio::time::sleep(Duration::from_millis(300)).await;
        Exposition::parse(&text(answer).await);
    });
    assert!(exporter.wait().success());
    assert!(idle.try_request("GET", "/-/ready", &[]).is_err());
    drop(half_open);
    let log = exporter.log();
    assert!(log.contains("SIGTERM") && !log.contains("shutdown timed out"), "{log}");
}

#[test]
fn memory_stays_small_with_many_connections() {
    let (files, exporter) = start("", "", &[]);
    let mut held: Vec<_> = (0..64).map(|_| connect(&files, &exporter)).collect();
    for client in &mut held {
        assert_eq!(client.get("/metrics").status, 200);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.pid())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = anonymous.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 24 << 10, "{kib} KiB");
}

#[test]
fn plain_connections_speak_no_http2() {
    let exporter = Exporter::start_with(CONFIG, &[]);
    let mut client = Client::connect(exporter.address);
    client.stream().write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert!(client.answer(false).is_none_or(|answer| answer.status == 400));
}
