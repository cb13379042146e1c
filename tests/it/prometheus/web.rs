//! A real Prometheus scrapes exporters with each kind of web configuration.

use std::{fmt::Write as _, path::Path};

use sched_exporter_tests::{
    process::{CONFIG, Exporter, binary, ending_with_us, output},
    tls::{Certificates, USERS, argument},
};

use super::server::Prometheus;

/// A web configuration, and whether each client may scrape.
struct Case {
    name: &'static str,
    web: String,
    /// Without a certificate, with one of another authority, with one that is trusted.
    may: [bool; 3],
    needs_password: bool,
}

/// The modes of client certificates, then passwords.
fn cases() -> Vec<Case> {
    let tls = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
    let mode = |mode: &str| format!("{tls}  client_auth_type: {mode}\n  client_ca_file: ca.pem\n");
    let case = |name, web, may| Case { name, web, may, needs_password: false };
    vec![
        case("tls", tls.to_owned(), [true; 3]),
        case("http1", format!("{tls}http_server_config: {{http2: false}}\n"), [true; 3]),
        case("request", mode("RequestClientCert"), [true; 3]),
        case("require-any", mode("RequireAnyClientCert"), [false, true, true]),
        case("verify-if-given", mode("VerifyClientCertIfGiven"), [true, false, true]),
        case("require-and-verify", mode("RequireAndVerifyClientCert"), [false, false, true]),
        Case { name: "users", web: format!("{tls}{USERS}"), may: [true; 3], needs_password: true },
    ]
}

#[test]
fn prometheus_scrapes_with_each_mode() {
    let mut scrapes = "global: {scrape_interval: 1s}\nscrape_configs:\n".to_owned();
    let mut running = Vec::new();
    let mut expected = Vec::new();
    for Case { name, web, may, needs_password } in cases() {
        let certificates = Certificates::new();
        let web = certificates.web_text(&web);
        let exporter = Exporter::start_with(CONFIG, &[&argument(&web)]);
        check_health(&exporter, &web);
        let path = |name: &str| certificates.path(name).display().to_string();
        let shown = [None, Some("other"), Some("client")];
        for (certificate, may) in shown.into_iter().zip(may) {
            let job = format!("{name}-{}", certificate.unwrap_or("none"));
            let _ = write!(
                scrapes,
                "- job_name: {job}\n  scheme: https\n  static_configs: [{{targets: [\"{}\"]}}]\n  \
                 tls_config:\n    ca_file: {}\n",
                exporter.address,
                path("ca.pem"),
            );
            if let Some(name) = certificate {
                let _ = write!(
                    scrapes,
                    "    cert_file: {}\n    key_file: {}\n",
                    path(&format!("{name}.crt")),
                    path(&format!("{name}.key")),
                );
            }
            if needs_password {
                scrapes.push_str("  basic_auth: {username: alice, password: alice123}\n");
            }
            expected.push((job, may));
        }
        if needs_password {
            let _ = write!(
                scrapes,
                "- job_name: wrong-password\n  scheme: https\n  static_configs: [{{targets: \
                 [\"{}\"]}}]\n  tls_config: {{ca_file: {}}}\n  basic_auth: {{username: alice, \
                 password: alice124}}\n",
                exporter.address,
                path("ca.pem"),
            );
            expected.push(("wrong-password".to_owned(), false));
        }
        running.push((exporter, certificates));
    }
    let prometheus = Prometheus::with_config(&scrapes);
    for (job, may) in expected {
        let up = format!("up{{job=\"{job}\"}}");
        let value = prometheus.number(&up, |up| (up > 0.5) == may);
        assert_eq!(value > 0.5, may, "{job}");
        if may {
            let series = format!("sched_cpu_seconds_total{{job=\"{job}\"}}");
            assert!(!prometheus.some(&series).is_empty());
        }
    }
}

/// The health check needs neither certificate nor password.
fn check_health(exporter: &Exporter, web: &Path) {
    let listen = format!("--web.listen-address={}", exporter.address);
    let mut command = ending_with_us(&binary());
    let checked = output(command.args(["healthcheck", &listen, &argument(web)]));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // Without the web configuration, it does not speak TLS.
    let mut command = ending_with_us(&binary());
    assert!(!output(command.args(["healthcheck", &listen])).status.success());
}
