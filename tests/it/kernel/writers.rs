//! Files that are read while someone writes them.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use sched_exporter_tests::{
    exposition::Exposition,
    process::{CONFIG, Exporter},
    workload::Ending,
};

const SECONDS: &str = "sched_cpu_seconds_total";

/// Disables polling, so that it cannot cause the reload under test.
const NO_POLL: &str = "--config.auto-reload-interval=0s";

/// A configuration whose every prefix of whole lines is one, too.
const LINES: [&str; 5] =
    ["# The new one.\n", "labels:\n", "  host: new-host\n", "  zone: new-zone\n", "  rack: r1\n"];

/// The pause between two lines.
const PAUSE: Duration = Duration::from_millis(300);

/// Whether the scheduler's series have all labels of [`LINES`]; otherwise they must have those of [`CONFIG`].
#[track_caller]
fn is_new(exposition: &Exposition) -> bool {
    let count = |pairs: &[&str]| exposition.select(SECONDS, pairs).count();
    let all = count(&[]);
    let new = count(&["host=\"new-host\"", "zone=\"new-zone\"", "rack=\"r1\""]);
    let old = count(&["host=\"test-host\"", "zone=\"test-zone\""]);
    assert!(all > 0 && (new == all || old == all), "{new} new and {old} old of {all}");
    new == all
}

fn failures(exposition: &Exposition) -> u64 {
    exposition.sum("sched_exporter_config_reloads_total", &["outcome=\"failed\""])
}

/// Writes the file line by line, keeping it open.
fn write_slowly(path: &Path) {
    let mut file = File::create(path).unwrap();
    for line in LINES {
        thread::sleep(PAUSE);
        file.write_all(line.as_bytes()).unwrap();
    }
    thread::sleep(PAUSE);
}

/// Writes the file line by line, opening it for each.
fn append_slowly(path: &Path) {
    File::create(path).unwrap();
    for line in LINES {
        OpenOptions::new().append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
        thread::sleep(PAUSE);
    }
}

/// Scrapes while the file is written and until it is applied; checks that labels never vanish.
fn check(exporter: &Exporter, write: impl FnOnce() + Send) {
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let _ending = Ending(&written);
            write();
        });
        let mut client = exporter.connect();
        while !written.load(Ordering::Relaxed) {
            is_new(&Exposition::parse(&client.get("/metrics").text()));
            thread::sleep(Duration::from_millis(10));
        }
        writing.join().unwrap();
    });
    let applied = exporter.wait_until("applied", is_new);
    assert_eq!(failures(&applied), 0, "{}", exporter.log());
}

#[test]
fn a_file_written_line_by_line_is_applied_once_it_is_closed() {
    let exporter = Exporter::start(&[NO_POLL]);
    exporter.wait_for_log("watching the configuration");
    check(&exporter, || write_slowly(exporter.config()));
}

#[test]
fn a_file_opened_for_each_line_is_applied_after_the_last() {
    let exporter = Exporter::start(&[NO_POLL]);
    exporter.wait_for_log("watching the configuration");
    check(&exporter, || append_slowly(exporter.config()));
}

#[test]
fn requests_wait_until_the_file_is_complete() {
    let exporter = Exporter::start(&[NO_POLL, "--web.enable-lifecycle"]);
    exporter.wait_for_log("watching the configuration");
    for write in [write_slowly, append_slowly] {
        fs::write(exporter.config(), CONFIG).unwrap();
        exporter.wait_until("as before", |exposition| !is_new(exposition));
        let mut client = exporter.connect();
        check(&exporter, || {
            thread::scope(|scope| {
                let writing = scope.spawn(|| write(exporter.config()));
                thread::sleep(PAUSE * 5 / 2);
                exporter.signal(Signal::SIGHUP);
                let answer = client.request("POST", "/-/reload", &[]);
                assert_eq!((answer.status, answer.text().as_str()), (200, "applied\n"));
                assert!(is_new(&exporter.scrape()));
                writing.join().unwrap();
            });
        });
    }
}

/// The new file is where no event comes from: its directory has changed by a link.
#[test]
fn without_events_a_file_is_applied_once_it_stands_still() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().to_owned();
    for name in ["old", "new"] {
        fs::create_dir(top.join(name)).unwrap();
    }
    fs::write(top.join("old/exporter.yaml"), CONFIG).unwrap();
    symlink("old", top.join("current")).unwrap();
    let path = top.join("current/exporter.yaml");
    let args = ["--config.auto-reload-interval=400ms"];
    let exporter = Exporter::start_at(directory, path, &args);
    exporter.wait_for_log("watching the configuration");
    check(&exporter, || {
        File::create(top.join("new/exporter.yaml")).unwrap();
        symlink("new", top.join("link")).unwrap();
        fs::rename(top.join("link"), top.join("current")).unwrap();
        write_slowly(&top.join("new/exporter.yaml"));
    });
}

#[test]
fn a_truncated_file_is_rejected() {
    let exporter = Exporter::start(&[NO_POLL, "--web.enable-lifecycle"]);
    exporter.wait_for_log("watching the configuration");
    File::create(exporter.config()).unwrap();
    let rejected = exporter.wait_until("rejected", |exposition| failures(exposition) == 1);
    assert!(!is_new(&rejected));
    exporter.wait_for_log("is empty; write `{}`");
    for text in ["", "# labels:\n#   host: a\n"] {
        fs::write(exporter.config(), text).unwrap();
        let answer = exporter.connect().request("POST", "/-/reload", &[]);
        assert_eq!(answer.status, 500, "{text}");
        assert!(!is_new(&exporter.scrape()));
    }
    fs::write(exporter.config(), "{}\n").unwrap();
    exporter
        .wait_until("applied", |it| it.select(SECONDS, &["host=\"test-host\""]).next().is_none());
}

#[test]
fn the_value_of_a_file_stays_while_it_is_written() {
    let exporter = Exporter::start_with("{}", &[NO_POLL]);
    let file = exporter.directory().join("zone");
    fs::write(&file, "old").unwrap();
    let zone = format!("labels: {{zone: \"{{{{ file('{}') }}}}\"}}\n", file.display());
    fs::write(exporter.config(), zone).unwrap();
    let is_in = |exposition: &Exposition, zone: &str| {
        let pair = format!("zone=\"{zone}\"");
        exposition.select(SECONDS, &[&pair]).count() == exposition.select(SECONDS, &[]).count()
    };
    exporter.wait_until("applied", |exposition| is_in(exposition, "old"));
    let mut writer = File::create(&file).unwrap();
    for part in ["n", "e", "w"] {
        for _ in 0..6 {
            thread::sleep(PAUSE / 6);
            assert!(is_in(&exporter.scrape(), "old"), "{}", exporter.log());
        }
        writer.write_all(part.as_bytes()).unwrap();
    }
    drop(writer);
    exporter.wait_until("followed", |exposition| is_in(exposition, "new"));
    // Empty for a moment.
    fs::write(&file, "").unwrap();
    thread::sleep(Duration::from_secs(1));
    assert!(is_in(&exporter.scrape(), "new"), "{}", exporter.log());
    fs::write(&file, "last").unwrap();
    let last = exporter.wait_until("followed again", |exposition| !is_in(exposition, "new"));
    assert!(is_in(&last, "last"), "{}", exporter.log());
}
