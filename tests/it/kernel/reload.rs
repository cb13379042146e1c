//! Reloads of the configuration, however it changes, while the exporter is scraped.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use sched_exporter_tests::{
    config_map::ConfigMap,
    exposition::Exposition,
    process::{CONFIG, Exporter},
    workload::Ending,
};

/// Disables polling, so that it cannot cause the reload under test.
const NO_POLL: &str = "--config.auto-reload-interval=0s";

fn config(host: &str) -> String {
    format!("labels:\n  host: {host}\n  zone: zone-of-{host}\n")
}

/// The value of `host`, which must be the same on all scheduler series.
#[track_caller]
fn host(exposition: &Exposition) -> String {
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\"")).expect(series);
        rest.split('"').next().unwrap().to_owned()
    };
    let mut hosts: Vec<_> = exposition
        .iter()
        .filter(|(series, _)| series.starts_with("sched_") && !series.starts_with("sched_exporter"))
        .map(|(series, _)| (label(series, "host"), label(series, "zone")))
        .collect();
    hosts.dedup();
    let [(host, zone)] = hosts.as_slice() else { panic!("several generations: {hosts:?}") };
    assert!(*zone == format!("zone-of-{host}") || host == "test-host", "{host} in {zone}");
    host.clone()
}

fn successful(exposition: &Exposition) -> bool {
    exposition.value("sched_exporter_config_last_reload_successful", &[]) > 0.0
}

fn generation(exposition: &Exposition) -> u64 {
    exposition.sum("sched_exporter_config_generation", &[])
}

#[track_caller]
fn wait_for_host(exporter: &Exporter, expected: &str) -> Exposition {
    let what = format!("served host {expected}");
    exporter.wait_until(&what, |exposition| host(exposition) == expected)
}

fn replace_by_rename(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn signals_reload() {
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        // Only the signal can find this file: its directory changes by a link, without an event.
        let (exporter, moved) = behind_a_moving_link(NO_POLL);
        moved("b");
        thread::sleep(Duration::from_millis(500));
        assert_eq!(host(&exporter.scrape()), "a");
        exporter.signal(signal);
        let exposition = wait_for_host(&exporter, "b");
        assert_eq!(generation(&exposition), 2);
        let log = exporter.log();
        assert!(log.contains(&format!("cause={signal}")) && !log.contains("panicked"), "{log}");
    }
}

/// Starts an exporter whose configuration can change without an event, by moving the link to its
/// directory.
fn behind_a_moving_link(flag: &str) -> (Exporter, impl Fn(&str) + use<>) {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().to_owned();
    let moved = move |host: &str| {
        fs::create_dir_all(top.join(host)).unwrap();
        fs::write(top.join(host).join("exporter.yaml"), config(host)).unwrap();
        symlink(host, top.join("new")).unwrap();
        fs::rename(top.join("new"), top.join("current")).unwrap();
    };
    moved("a");
    let path = directory.path().join("current/exporter.yaml");
    let exporter = Exporter::start_at(directory, path, &[flag]);
    // Once it watches, it also finds earlier changes.
    exporter.wait_until("watched", |_| exporter.log().contains("watching the configuration"));
    (exporter, moved)
}

#[test]
fn polling_finds_changes_without_an_event() {
    let (exporter, moved) = behind_a_moving_link("--config.auto-reload-interval=500ms");
    moved("b");
    wait_for_host(&exporter, "b");
    assert!(exporter.log().contains("cause=poll"), "{}", exporter.log());
}

#[test]
fn a_file_rewritten_in_place_is_reloaded() {
    let exporter = Exporter::start(&[NO_POLL]);
    fs::write(exporter.config(), config("b")).unwrap();
    wait_for_host(&exporter, "b");
    fs::write(exporter.config(), config("c")).unwrap();
    wait_for_host(&exporter, "c");
}

#[test]
fn a_file_replaced_by_rename_is_reloaded() {
    let exporter = Exporter::start(&[NO_POLL]);
    replace_by_rename(exporter.config(), &config("b"));
    wait_for_host(&exporter, "b");
    replace_by_rename(exporter.config(), &config("c"));
    wait_for_host(&exporter, "c");
}

#[test]
fn a_deleted_file_stays_in_use_and_is_reloaded_when_recreated() {
    let exporter = Exporter::start(&[NO_POLL]);
    fs::remove_file(exporter.config()).unwrap();
    let gone = exporter.wait_until("noticed the deletion", |exposition| !successful(exposition));
    assert_eq!(host(&gone), "test-host");
    fs::write(exporter.config(), config("b")).unwrap();
    let back = wait_for_host(&exporter, "b");
    assert!(successful(&back));
}

#[test]
fn each_configmap_swap_is_reloaded() {
    let mount = ConfigMap::new(&config("a"));
    let exporter = Exporter::start_at(tempfile::tempdir().unwrap(), mount.file(), &[NO_POLL]);
    for host in ["b", "c", "d"] {
        mount.swap(&config(host));
        wait_for_host(&exporter, host);
    }
}

#[test]
fn post_reloads_and_returns_the_outcome() {
    let exporter = Exporter::start(&["--web.enable-lifecycle", NO_POLL]);
    let mut client = exporter.connect();
    let answer = client.request("POST", "/-/reload", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "unchanged\n"));
    fs::write(exporter.config(), config("b")).unwrap();
    let answer = client.request("PUT", "/-/reload", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "applied\n"));
    assert_eq!(host(&exporter.scrape()), "b");
    fs::write(exporter.config(), "labels:\n  cpu: x\n").unwrap();
    let answer = client.request("POST", "/-/reload", &[]);
    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("failed to reload config: "), "{}", answer.text());
    assert!(answer.text().contains("exporter.yaml:2:3"), "{}", answer.text());
    let exposition = exporter.scrape();
    let reloads = |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        exposition.value("sched_exporter_config_reloads_total", &[&outcome])
    };
    assert!(reloads("applied") >= 1.0 && reloads("unchanged") >= 1.0 && reloads("failed") >= 1.0);
    assert!(!successful(&exposition));
    fs::write(exporter.config(), config("c")).unwrap();
    assert_eq!(client.request("POST", "/-/reload", &[]).status, 200);
    assert!(successful(&exporter.scrape()));
}

#[test]
fn concurrent_reload_requests_are_all_answered() {
    let exporter = Exporter::start(&["--web.enable-lifecycle", NO_POLL]);
    let mut clients: Vec<_> = (0..8).map(|_| exporter.connect()).collect();
    for client in &mut clients {
        let request = b"POST /-/reload HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
        client.stream().write_all(request).unwrap();
    }
    for mut client in clients {
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "unchanged\n"));
    }
}

#[test]
fn an_invalid_file_changes_only_the_reload_metrics_and_is_logged_once() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=200ms"]);
    let good = exporter.scrape();
    assert!(successful(&good));
    fs::write(exporter.config(), "labels:\n  host: a\n  zone: [7]\nlabel: {}\n").unwrap();
    let bad = exporter.wait_until("rejected the file", |exposition| !successful(exposition));
    assert_eq!((host(&bad).as_str(), generation(&bad)), ("test-host", 1));
    thread::sleep(Duration::from_secs(1));
    let log = exporter.log();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("configuration rejected")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(":3:") && lines[0].contains(":4:"), "{}", lines[0]);

    // Restoring the served configuration is a success, but not a new generation.
    fs::write(exporter.config(), CONFIG).unwrap();
    let back = exporter.wait_until("recovered", successful);
    assert_eq!(generation(&back), 1);
}

#[test]
fn counters_continue_across_reloads() {
    let exporter = Exporter::start(&[NO_POLL]);
    let before = exporter.scrape();
    fs::write(exporter.config(), config("b")).unwrap();
    let after = wait_for_host(&exporter, "b");
    for (series, value) in after.select("sched_cpu_seconds_total", &[]) {
        let old =
            series.replace("host=\"b\"", "host=\"test-host\"").replace("zone-of-b", "test-zone");
        let (_, old) = before.iter().find(|(series, _)| *series == old).expect(&old);
        assert!(old.parse::<f64>().unwrap() <= value.parse().unwrap(), "{series}");
    }
}

#[test]
fn every_scrape_shows_one_generation_during_rapid_reloads() {
    let exporter = Exporter::start(&["--web.enable-lifecycle"]);
    let done = AtomicBool::new(false);
    let scrapes: usize = thread::scope(|scope| {
        let scrapers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = exporter.connect();
                    let mut scrapes = 0;
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let exposition = Exposition::parse(&client.get("/metrics").text());
                        host(&exposition);
                        let generation = generation(&exposition);
                        assert!(last <= generation, "generation {generation} after {last}");
                        last = generation;
                        scrapes += 1;
                    }
                    scrapes
                })
            })
            .collect();
        let ending = Ending(&done);
        let mut client = exporter.connect();
        for round in 1..=200 {
            let bad = round % 5 == 0;
            let text = if bad { "labels: [".to_owned() } else { config(&format!("h{round}")) };
            replace_by_rename(exporter.config(), &text);
            if round % 3 == 0 {
                exporter.signal(Signal::SIGHUP);
            }
            let status = client.request("POST", "/-/reload", &[]).status;
            assert_eq!(status, if bad { 500 } else { 200 });
        }
        drop(ending);
        scrapers.into_iter().map(|scraper| scraper.join().unwrap()).sum()
    });
    assert!(scrapes > 200, "{scrapes} scrapes");
}
