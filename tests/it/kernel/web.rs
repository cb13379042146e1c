//! Passwords, headers, rate limits and reloads by HTTP, with a web configuration.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    client::{Answer, Client, OPEN_METRICS},
    exposition::Exposition,
    process::{CONFIG, Exporter, run},
    tls::{ALICE, BOB, Certificates, USERS, argument},
};

use super::http::poll;

/// Starts an exporter with a web configuration without TLS.
fn start(web: &str, arguments: &[&str]) -> (Certificates, Exporter) {
    let certificates = Certificates::new();
    let web = argument(&certificates.web_text(web));
    let exporter = Exporter::start(&[&[&*web], arguments].concat());
    (certificates, exporter)
}

fn get(exporter: &Exporter, path: &str, headers: &[(&str, &str)]) -> Answer {
    exporter.connect().request("GET", path, headers)
}

/// Whether the last web configuration was valid, by the metric.
fn is_valid(exporter: &Exporter, headers: &[(&str, &str)]) -> bool {
    let answer = get(exporter, "/metrics", &[&[OPEN_METRICS], headers].concat());
    let name = "sched_exporter_web_config_last_reload_successful";
    Exposition::parse(&answer.text()).value(name, &[]) > 0.5
}

#[test]
fn a_scrape_needs_a_password_and_a_probe_does_not() {
    let (_files, exporter) = start(USERS, &["--web.enable-lifecycle"]);
    for headers in [
        &[][..],
        &[("Authorization", "Basic YWxpY2U6YWxpY2UxMjQ=")],
        &[("Authorization", "Basic bm9ib2R5OmFsaWNlMTIz")],
        &[("Authorization", "Bearer YWxpY2U6YWxpY2UxMjM=")],
    ] {
        for path in ["/metrics", "/", "/no-page", "/-/reload"] {
            let answer = get(&exporter, path, headers);
            let challenge = "Basic realm=\"sched_exporter\"";
            let found = (answer.status, answer.header("www-authenticate"));
            assert_eq!(found, (401, challenge), "{path} {headers:?}");
            assert!(!answer.text().contains("sched_"), "{}", answer.text());
        }
        assert_eq!(exporter.connect().request("POST", "/-/reload", headers).status, 401);
        for path in ["/-/healthy", "/-/ready"] {
            assert_eq!(get(&exporter, path, headers).status, 200, "{path} {headers:?}");
        }
    }
    // Each maker's prefix of hashes.
    let carol = ("Authorization", "Basic Y2Fyb2w6Y2Fyb2wxMjM=");
    for user in [ALICE, BOB, carol] {
        for path in ["/metrics", "/"] {
            assert_eq!(get(&exporter, path, &[user]).status, 200, "{path} {user:?}");
        }
        assert_eq!(exporter.connect().request("POST", "/-/reload", &[user]).status, 200);
    }
}

#[test]
fn a_flood_of_wrong_passwords_does_not_delay_who_is_known() {
    let (_files, exporter) = start(USERS, &[]);
    assert_eq!(get(&exporter, "/metrics", &[ALICE]).status, 200);
    let (ending, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = exporter.address;
    let flood: Vec<_> = (0..24)
        .map(|attacker| {
            let (ending, refused) = (Arc::clone(&ending), Arc::clone(&refused));
            thread::spawn(move || {
                let mut client = Client::connect(address);
                for attempt in 0_u64.. {
                    if ending.load(Ordering::Relaxed) {
                        break;
                    }
                    let wrong = format!("Basic {}", base64(&format!("alice:{attacker}-{attempt}")));
                    let headers = [("Authorization", &*wrong)];
                    match client.try_request("GET", "/metrics", &headers) {
                        Ok(answer) => {
                            assert!([401, 503].contains(&answer.status), "{}", answer.status);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => client = Client::connect(address),
                    }
                }
            })
        })
        .collect();
    poll("the flood", || refused.load(Ordering::Relaxed) > 50);
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(get(&exporter, "/metrics", &[ALICE]).status, 200);
        assert_eq!(get(&exporter, "/-/healthy", &[]).status, 200);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    ending.store(true, Ordering::Relaxed);
    for attacker in flood {
        attacker.join().unwrap();
    }
}

/// Encodes a text. <https://www.rfc-editor.org/rfc/rfc4648#section-4>
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            encoded.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    encoded
}

#[test]
fn users_change_without_a_restart_and_an_invalid_file_changes_nothing() {
    let (files, exporter) = start(USERS, &[]);
    let mut client = exporter.connect();
    assert_eq!(client.request("GET", "/metrics", &[ALICE]).status, 200);
    assert!(is_valid(&exporter, &[ALICE]));

    // A key that does not exist.
    files.web_text(&format!("{USERS}tls: {{}}\n"));
    poll("the file is invalid", || !is_valid(&exporter, &[ALICE]));
    exporter.wait_for_log("web configuration rejected");
    assert!(exporter.log().contains("web.yml:5:1: tls: unknown key"), "{}", exporter.log());
    assert_eq!(get(&exporter, "/metrics", &[]).status, 401);
    // An empty file, which would let everybody in.
    files.web_text("");
    exporter.wait_for_log("is empty now");
    assert_eq!(get(&exporter, "/metrics", &[]).status, 401);
    assert_eq!(exporter.log().matches("web configuration rejected").count(), 2);

    // Without alice: at once, also on connections that she has.
    let others: String = USERS
        .lines()
        .filter(|it| !it.contains("alice"))
        .fold(String::new(), |others, line| others + line + "\n");
    files.web_text(&others);
    poll("alice is gone", || get(&exporter, "/metrics", &[ALICE]).status == 401);
    assert_eq!(client.request("GET", "/metrics", &[ALICE]).status, 401);
    assert!(is_valid(&exporter, &[BOB]));
    let log = exporter.log();
    assert!(log.contains("web configuration applied") && !log.contains("$2"), "{log}");

    // TLS would need a restart.
    files.web("", &others);
    exporter.wait_for_log("turns TLS on, which needs a restart");
    assert_eq!(get(&exporter, "/metrics", &[BOB]).status, 200);
}

#[test]
fn a_reload_by_http_answers_for_the_web_configuration_too() {
    let arguments = ["--web.enable-lifecycle", "--config.auto-reload-interval=0s"];
    let (files, exporter) = start(USERS, &arguments);
    let reload = || exporter.connect().request("POST", "/-/reload", &[BOB]);
    files.web_text(&format!("{USERS}tls: {{}}\n"));
    let answer = reload();
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("tls: unknown key"), "{}", answer.text());
    files.web_text(USERS);
    assert_eq!(reload().status, 200);
    assert!(is_valid(&exporter, &[BOB]));
}

#[test]
fn headers_are_on_all_answers_but_those_of_the_rate_limit() {
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    \
                   Content-Security-Policy: \"default-src 'self'\"\n";
    let (_files, exporter) = start(&format!("{USERS}{headers}"), &[]);
    for (path, user, status) in [
        ("/metrics", &[ALICE][..], 200),
        ("/metrics", &[], 401),
        ("/-/healthy", &[], 200),
        ("/no-page", &[ALICE], 404),
    ] {
        let answer = get(&exporter, path, user);
        assert_eq!((answer.status, answer.header("x-frame-options")), (status, "deny"), "{path}");
        assert_eq!(answer.header("content-security-policy"), "default-src 'self'");
    }
}

#[test]
fn the_rate_limit_spares_probes() {
    let web = "http_server_config: {headers: {X-Frame-Options: deny}}\n\
               rate_limit: {interval: 1h, burst: 5}\n";
    let (files, exporter) = start(web, &[]);
    let mut client = exporter.connect();
    let statuses: Vec<_> = (0..8).map(|_| client.get("/metrics").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let limited = client.get("/metrics");
    assert_eq!((limited.status, limited.header("x-frame-options")), (429, ""));
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(client.get(path).status, 200);
    }
    // Without the limit again.
    files.web_text("http_server_config: {headers: {X-Frame-Options: deny}}\n");
    poll("no limit", || client.get("/metrics").status == 200);
}

#[test]
fn a_page_of_another_site_cannot_reload() {
    let exporter = Exporter::start(&["--web.enable-lifecycle"]);
    let reload =
        |headers: &[(&str, &str)]| exporter.connect().request("POST", "/-/reload", headers).status;
    // The host of the client's requests is `test`.
    assert_eq!(reload(&[]), 200);
    assert_eq!(reload(&[("Origin", "http://test")]), 200);
    for foreign in ["http://evil.example", "null", "http://test.evil.example"] {
        assert_eq!(reload(&[("Origin", foreign)]), 403, "{foreign}");
    }
    // Scrapes by a dashboard of another site are up to the browser.
    assert_eq!(get(&exporter, "/metrics", &[("Origin", "http://evil.example")]).status, 200);
}

#[test]
fn without_a_web_configuration_there_is_no_metric_of_it() {
    let exporter = Exporter::start(&["--web.config.file="]);
    let text = exporter.connect().get("/metrics").text();
    assert!(!text.contains("web_config"), "{text}");
    let (_files, exporter) = start(USERS, &[]);
    let text = get(&exporter, "/metrics", &[ALICE]).text();
    for name in ["successful", "success_timestamp_seconds"] {
        assert!(text.contains(&format!("\nsched_exporter_web_config_last_reload_{name} ")));
    }
}

#[test]
fn an_invalid_web_configuration_is_an_error_at_the_start_and_in_a_check() {
    let files = Certificates::new();
    let config = files.path("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let config = format!("--config.file={}", config.display());
    for (text, expected) in [
        ("tls: {}\n", "web.yml:1:1: tls: unknown key"),
        (
            "basic_auth_users: {a: b}\n",
            "web.yml:1:23: basic_auth_users.a: this is not a bcrypt hash",
        ),
        ("tls_server_config: {cert_file: no-file, key_file: server.key}\n", "no-file"),
    ] {
        let web = argument(&files.web_text(text));
        for mode in [&["--config.check"][..], &["--web.listen-address=127.0.0.1:0"]] {
            let output = run(&[&[&*config, &*web], mode].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(expected), "{mode:?}: {said}");
        }
    }
    let web = argument(&files.path("missing.yml"));
    let output = run(&[&config, &web, "--config.check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("missing.yml"), "{said}");
}

#[test]
fn a_file_that_reloads_could_not_read_is_refused_at_the_start() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let files = Certificates::new();
    let web = files.web("", "");
    // Root reads any file, but not without capabilities.
    let key = files.path("server.key");
    chown(&key, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let config = files.path("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let output = run(&[
        &format!("--config.file={}", config.display()),
        &argument(&web),
        "--web.listen-address=127.0.0.1:0",
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("server.key") && said.contains("could never reload"), "{said}");
}
