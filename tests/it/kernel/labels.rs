//! Labels computed for the machine, and continuity of counters when labels change.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::utsname::uname;
use sched_exporter_tests::{
    client::OPEN_METRICS,
    exposition::{Exposition, nanoseconds},
    process::{Exporter, run},
    workload::{Ending, online},
};
use serde_json::{Value, json};

const SECONDS: &str = "sched_cpu_seconds_total";

/// A configuration that splits the CPUs into two pools, with additional keys.
fn split(more: &str) -> String {
    let (first, others) = halves();
    format!(
        "labels: {{zone: eu-1}}\n\
         cpus:\n\
         - {{match: '{first}', labels: {{pool: latency, zone: '{{{{ zone }}}}-a'}}}}\n\
         - {{match: '{others}', labels: {{pool: batch}}}}\n\
         {more}\n"
    )
}

/// The first online CPU, and the list of the others.
fn halves() -> (usize, String) {
    let cpus = online();
    let others: Vec<_> = cpus[1..].iter().map(usize::to_string).collect();
    (cpus[0], others.join(","))
}

#[test]
fn pools_are_reported_separately_with_exact_sums() {
    let exporter = Exporter::start_with(&split("without: [cpu]"), &["--web.enable-lifecycle"]);
    let times = |exposition: &Exposition| {
        ["latency", "batch"].map(|pool| exposition.sum_ns(SECONDS, &[&format!("pool=\"{pool}\"")]))
    };
    let others = online().len() as u64 - 1;
    let growth = |from: &Exposition, to: &Exposition| {
        let [latency, batch] = [0, 1].map(|pool| times(to)[pool] - times(from)[pool]);
        // The same time has passed on every CPU.
        assert!((latency * others).abs_diff(batch) < 100_000 * others, "{latency} {batch}");
        latency
    };
    let first = exporter.scrape();
    thread::sleep(Duration::from_millis(500));
    let before = Instant::now();
    let second = exporter.scrape();
    growth(&first, &second);
    assert_eq!(second.select(SECONDS, &["mode=\"idle\""]).count(), 2);
    assert_eq!(second.select(SECONDS, &["zone=\"eu-1-a\"", "pool=\"latency\""]).count(), 8);
    assert_eq!(second.select("sched_exporter_missed_switches_total", &[]).count(), 1);

    // The CPUs continue from the sums: together they have grown by exactly the time that passed.
    fs::write(exporter.config(), split("")).unwrap();
    assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
    let parts = exporter.scrape();
    let grown = u128::from(growth(&second, &parts));
    assert!(grown < before.elapsed().as_nanos() + 100_000, "{grown}");
    assert_eq!(parts.select(SECONDS, &["mode=\"idle\""]).count(), online().len());
}

#[test]
fn target_info_comes_first_and_series_lack_its_labels() {
    let exporter = Exporter::start_with(&split("labels_on: target_info"), &[]);
    let text = exporter.connect().request("GET", "/metrics", &[OPEN_METRICS]).text();
    assert!(text.starts_with("# TYPE target info\n# HELP target "), "{text}");
    let exposition = Exposition::parse(&text);
    assert_eq!(exposition.sum("target_info", &["zone=\"eu-1\""]), 1);
    let first = format!(
        "{SECONDS}{{pool=\"latency\",zone=\"eu-1-a\",cpu=\"{}\",mode=\"idle\"}}",
        online()[0]
    );
    assert!(text.contains(&first), "{text}");
    let other = format!("{SECONDS}{{pool=\"batch\",cpu=\"{}\",mode=\"idle\"}}", online()[1]);
    assert!(text.contains(&other), "{text}");
}

#[test]
fn probable_mistakes_are_logged_at_start_and_at_each_reload() {
    let exporter =
        Exporter::start_with("labels: {host: $(NODE_NAME)}", &["--web.enable-lifecycle"]);
    let reload = |outcome: &str| {
        assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
        exporter.wait_for_log(&format!("outcome={outcome}"));
        exporter.take_log()
    };
    exporter.wait_for_log("listening");
    let log = exporter.take_log();
    let file = exporter.config().display();
    let host = format!("{file}:1:16: labels.host: $(NODE_NAME) is served as written; write ");
    assert!(log.contains("level=warn") && log.contains(&host), "{log}");
    let scrape = exporter.scrape();
    let written = scrape.select(SECONDS, &["host=\"$(NODE_NAME)\""]).count();
    assert_eq!(written, scrape.select(SECONDS, &[]).count());
    let log = reload("unchanged");
    assert!(!log.contains("as written"), "{log}");
    fs::write(exporter.config(), "labels: {host: $(NODE_NAME), rack: \"${RACK}\"}").unwrap();
    let log = reload("applied");
    assert!(log.contains(&host) && log.contains(":1:37: labels.rack: ${RACK} is"), "{log}");
    fs::write(exporter.config(), "labels: {host: '{{ env.NODE_NAME }}'}").unwrap();
    let log = reload("applied");
    assert!(!log.contains("warnings"), "{log}");
}

#[test]
fn labels_follow_a_file_and_counters_continue() {
    let exporter = Exporter::start_with("{}", &["--config.auto-reload-interval=0s"]);
    let zone = exporter.directory().join("zone");
    fs::write(exporter.config(), zone_of(&zone)).unwrap();
    let up = |exposition: &Exposition| {
        exposition.sum("sched_exporter_label_source_up", &["source=\"file\""])
    };
    let generation =
        |exposition: &Exposition| exposition.sum("sched_exporter_config_generation", &[]);
    let wait_for = |zone: &str| {
        let pair = format!("zone=\"{zone}\"");
        let exposition = exporter
            .wait_until(&pair, |exposition| exposition.select(SECONDS, &[&pair]).next().is_some());
        let series = exposition.select(SECONDS, &[]).count();
        assert_eq!(exposition.select(SECONDS, &[&pair]).count(), series);
        exposition
    };
    let mut last = wait_for("none");
    assert_eq!(up(&last), 0);
    for value in ["\u{feff}eu-1 \t\r\n", "eu-2", "eu-3-longer-than-it-may-be"] {
        fs::write(&zone, value).unwrap();
        let expected =
            ["eu-1", "eu-2"].into_iter().find(|it| value.contains(it)).unwrap_or("other");
        let next = wait_for(expected);
        assert_eq!(up(&next), 1);
        assert_eq!(generation(&next), generation(&last) + 1);
        assert!(next.sum_ns(SECONDS, &[]) > last.sum_ns(SECONDS, &[]));
        last = next;
    }
    let rejected = |reason: &str| {
        last.sum("sched_exporter_labels_rejected_total", &[&format!("reason=\"{reason}\"")])
    };
    assert_eq!((rejected("value_bytes"), rejected("series")), (1, 0));
    assert!(exporter.log().contains("limits.value_bytes"), "{}", exporter.log());
    // A label that is replaced while serving is an error at start.
    let output =
        run(&[&format!("--config.file={}", exporter.config().display()), "--config.check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("of the host has 26 bytes, 8 at most"),
        "{said}"
    );
    fs::remove_file(zone).unwrap();
    assert_eq!(up(&wait_for("none")), 0);
}

/// A configuration whose zone is the content of a file, limited to 8 bytes.
fn zone_of(file: &Path) -> String {
    format!(
        "labels: {{zone: '{{{{ file(\"{}\") | default(\"none\") }}}}'}}\nlimits: {{value_bytes: 8}}\n",
        file.display()
    )
}

/// Whether all series have this zone.
fn is_in(exposition: &Exposition, zone: &str) -> bool {
    let pair = format!("zone=\"{zone}\"");
    exposition.select(SECONDS, &[&pair]).count() == exposition.select(SECONDS, &[]).count()
}

fn successful(exposition: &Exposition) -> bool {
    exposition.sum("sched_exporter_config_last_reload_successful", &[]) == 1
}

#[test]
fn a_rejected_configuration_is_applied_once_its_labels_fit() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=0s"]);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "longer-than-it-may-be").unwrap();
    // A newer file would be read again without an event, since it may still be written.
    thread::sleep(Duration::from_millis(2_100));
    fs::write(exporter.config(), zone_of(&zone)).unwrap();
    let refused = exporter.wait_until("rejected", |exposition| !successful(exposition));
    assert!(is_in(&refused, "test-zone"));
    fs::write(&zone, "eu-1").unwrap();
    let applied = exporter.wait_until("applied", |exposition| is_in(exposition, "eu-1"));
    assert!(successful(&applied));
}

#[test]
fn labels_follow_their_sources_while_the_configuration_is_invalid() {
    let flags = ["--web.enable-lifecycle", "--config.auto-reload-interval=0s"];
    let exporter = Exporter::start(&flags);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "eu-1").unwrap();
    fs::write(exporter.config(), zone_of(&zone)).unwrap();
    exporter.wait_until("applied", |exposition| is_in(exposition, "eu-1"));
    // One reload finds both changes.
    fs::write(&zone, "eu-2").unwrap();
    fs::write(exporter.config(), "labels: [").unwrap();
    assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 500);
    let bad = exporter.scrape();
    assert!(is_in(&bad, "eu-2") && !successful(&bad), "{}", exporter.log());
    // This time only the source changes.
    fs::write(&zone, "eu-3").unwrap();
    let bad = exporter.wait_until("followed", |exposition| is_in(exposition, "eu-3"));
    assert!(!successful(&bad));
}

#[test]
fn no_series_decreases_or_jumps_while_cpus_change_groups() {
    // Series get other CPUs, disappear, and come back with the same or other CPUs.
    let (first, others) = halves();
    let pools = |of_first: &str, of_others: &str| {
        format!(
            "cpus:\n- {{match: '{first}', labels: {{pool: {of_first}}}}}\n\
             - {{match: '{others}', labels: {{pool: {of_others}}}}}\nwithout: [cpu]\n"
        )
    };
    let configs =
        [pools("a", "b"), pools("a", "a"), pools("b", "a"), pools("c", "a"), pools("b", "b")];
    let exporter = Exporter::start_with(&configs[0], &["--web.enable-lifecycle"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraping = scope.spawn(|| {
            let mut client = exporter.connect();
            let mut seen = BTreeMap::new();
            let mut scrapes = 0;
            while !done.load(Ordering::Relaxed) {
                check_growth(&mut seen, || Exposition::parse(&client.get("/metrics").text()));
                scrapes += 1;
            }
            scrapes
        });
        let ending = Ending(&done);
        let mut client = exporter.connect();
        for round in 0..150 {
            // A different order in each cycle.
            let config = &configs[(round * 7 + round / 5) % 5];
            fs::write(exporter.config(), format!("{config}# {round}\n")).unwrap();
            assert_eq!(client.request("POST", "/-/reload", &[]).status, 200);
        }
        drop(ending);
        let scrapes = scraping.join().unwrap();
        assert!(scrapes > 50, "{scrapes} scrapes");
    });
}

/// Scrapes, and compares each of the scheduler's series with its last value: none decreases, and
/// times grow by no more than all CPUs together can.
fn check_growth(seen: &mut BTreeMap<String, (u64, Instant)>, scrape: impl FnOnce() -> Exposition) {
    let before = Instant::now();
    let exposition = scrape();
    for (series, value) in exposition.iter().filter(|(series, _)| series.contains("pool=")) {
        let value = nanoseconds(value);
        if let Some((old, since)) = seen.insert(series.to_owned(), (value, before)) {
            assert!(old <= value, "{series} fell from {old} to {value}");
            let most = since.elapsed().as_nanos() * online().len() as u128 + 100_000;
            let jumps = series.starts_with(SECONDS) && u128::from(value - old) > most;
            assert!(!jumps, "{series} rose from {old} to {value}, by more than {most} ns");
        }
    }
}

#[test]
fn the_check_shows_the_labels_of_each_cpu_and_their_origins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("exporter.yaml");
    let config = split("relabel_configs: [{target_label: rack, replacement: r1}]");
    fs::write(&path, config.replace("zone: eu-1}", "zone: eu-1, host: '{{ hostname }}'}")).unwrap();
    let check = |more: &[&str]| {
        let flag = format!("--config.file={}", path.display());
        let output = run(&[&[flag.as_str(), "--config.check"], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = check(&[]);
    let name = uname().unwrap();
    let hostname = name.nodename().to_str().unwrap();
    let (first, _) = halves();
    for expected in [
        format!("{}: valid\n", path.display()),
        "  zone   eu-1".to_owned(),
        "  cpus[0].labels.zone: label zone\n".to_owned(),
        "  relabel_configs[0]\n".to_owned(),
        "  labels.host: hostname\n".to_owned(),
        format!("\ncpu {first}"),
    ] {
        assert!(table.contains(&expected), "no {expected:?} in\n{table}");
    }
    let report: Value = serde_json::from_str(&check(&["--format=json"])).unwrap();
    assert_eq!(
        report["host"]["host"],
        json!({ "value": hostname, "from": "labels.host: hostname" })
    );
    assert_eq!(
        report["cpus"][0]["labels"]["pool"],
        json!({ "value": "latency", "from": "cpus[0].labels.pool" })
    );
    let output = run(&["--format=json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--config.check"), "{said}");
}
