//! What the exporter does when the system allows it no more threads, inotify instances or descriptors.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, thread};

use caps::Capability;
use nix::sys::{
    inotify::{InitFlags, Inotify},
    resource::{Resource, getrlimit},
    signal::Signal,
};
use sched_exporter_tests::{exposition::Exposition, pids::PidsLimit, process::Exporter};

use super::start::{NOBODY, become_nobody};

const SECONDS: &str = "sched_cpu_seconds_total";

fn successful(exposition: &Exposition) -> bool {
    exposition.sum("sched_exporter_config_last_reload_successful", &[]) == 1
}

fn failures(exposition: &Exposition) -> u64 {
    exposition.sum("sched_exporter_config_reloads_total", &["outcome=\"failed\""])
}

/// Whether series have this zone.
fn is_in(exposition: &Exposition, zone: &str) -> bool {
    let pair = format!("zone=\"{zone}\"");
    exposition.select(SECONDS, &[&pair]).next().is_some()
}

fn config(zone: &str) -> String {
    format!("labels: {{zone: {zone}}}\n")
}

/// A label whose value is in a file.
fn zone_of(file: &Path) -> String {
    format!("labels: {{zone: \"{{{{ file('{}') | default('none') }}}}\"}}\n", file.display())
}

#[test]
fn without_threads_reloads_fail_until_the_limit_is_lifted() {
    type Trigger = fn(&Exporter);
    let poll: Trigger = |_| ();
    let triggers: [(&str, &str, Trigger); 4] = [
        ("60s", "cause=SIGHUP", |exporter| exporter.signal(Signal::SIGHUP)),
        ("60s", "cause=change", |exporter| fs::write(exporter.config(), config("b")).unwrap()),
        ("60s", "cause=/-/reload", |exporter| {
            assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 500);
        }),
        ("200ms", "cause=poll", poll),
    ];
    for (interval, cause, trigger) in triggers {
        let interval = format!("--config.auto-reload-interval={interval}");
        let exporter = Exporter::start(&[&interval, "--web.enable-lifecycle"]);
        exporter.wait_for_log("watching the configuration");
        let limit = PidsLimit::new(exporter.pid());
        limit.allow_no_more();
        trigger(&exporter);
        let refused = exporter.wait_until("failed", |exposition| failures(exposition) > 0);
        assert!(!successful(&refused) && is_in(&refused, "test-zone"));
        exporter.wait_for_log("cannot start a thread to load it");
        // For the watches it is logged once, however often it is tried.
        let log = exporter.log();
        assert!(log.contains(cause), "{log}");
        assert!(log.matches("cannot watch for changes").count() <= 1, "{log}");
        // It tries again by itself.
        limit.lift();
        let back = exporter.wait_until("recovered", successful);
        assert_eq!(is_in(&back, "b"), cause == "cause=change");
        drop(exporter);
    }
}

#[test]
fn without_threads_the_last_values_of_files_stay() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=500ms"]);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "eu-1").unwrap();
    fs::write(exporter.config(), zone_of(&zone)).unwrap();
    exporter.wait_until("applied", |exposition| is_in(exposition, "eu-1"));
    let limit = PidsLimit::new(exporter.pid());
    limit.allow_no_more();
    let refused = exporter.wait_until("failed", |exposition| !successful(exposition));
    assert!(is_in(&refused, "eu-1"));
    limit.lift();
    assert!(is_in(&exporter.wait_until("recovered", successful), "eu-1"));
    drop(exporter);
}

/// The number of descriptors of an exporter that are inotify instances, and of its threads.
fn resources(exporter: &Exporter) -> (usize, usize) {
    let process = Path::new("/proc").join(exporter.pid().to_string());
    let entries =
        |name| fs::read_dir(process.join(name)).unwrap().map(|entry| entry.unwrap().path());
    let instances = entries("fd").filter(|descriptor| {
        fs::read_link(descriptor).is_ok_and(|file| file == Path::new("anon_inode:inotify"))
    });
    (instances.count(), entries("task").count())
}

#[test]
fn forty_files_take_one_inotify_instance_and_no_thread() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=0s"]);
    exporter.wait_for_log("watching the configuration");
    let (_, threads) = resources(&exporter);
    let file = |number: usize| exporter.directory().join(format!("{}/zone{number}", number % 3));
    let mut lines = vec!["limits: {labels: 40}\nlabels:\n".to_owned()];
    for number in 0..40 {
        let file = file(number);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("z{number}")).unwrap();
        lines.push(format!("  l{number}: \"{{{{ file('{}') }}}}\"\n", file.display()));
    }
    fs::write(exporter.config(), lines.concat()).unwrap();
    let shows = |pair: &str| {
        exporter.wait_until(pair, |it| it.select(SECONDS, &[pair]).next().is_some());
    };
    shows("l39=\"z39\"");
    exporter.wait_until("at rest", |_| resources(&exporter) == (1, threads));
    for number in [0, 17, 39] {
        fs::write(file(number), "new").unwrap();
        shows(&format!("l{number}=\"new\""));
    }
}

/// Takes all inotify instances of user nobody.
fn all_of_nobody() -> Vec<Inotify> {
    // Only this thread changes its user: the system call, unlike libc's function, is about one thread.
    let take = || {
        let unchanged = -1_i64;
        // SAFETY: a system call that takes no pointers.
        let status =
            unsafe { libc::syscall(libc::SYS_setresuid, unchanged, i64::from(NOBODY), unchanged) };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        let mut taken = Vec::new();
        while let Ok(inotify) = Inotify::init(InitFlags::IN_CLOEXEC) {
            taken.push(inotify);
        }
        taken
    };
    thread::spawn(take).join().unwrap()
}

#[test]
fn without_inotify_the_limit_is_named_and_watching_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("exporter.yaml");
    fs::write(&path, config("a")).unwrap();
    let taken = all_of_nobody();
    let args = ["--config.auto-reload-interval=500ms"];
    let exporter = Exporter::start_prepared(directory, path, &args, |command| {
        become_nobody(command, &[Capability::CAP_BPF, Capability::CAP_PERFMON]);
    });
    exporter.wait_for_log("raise fs.inotify.max_user_instances");
    assert_eq!(resources(&exporter).0, 0);
    // Polling finds changes.
    fs::write(exporter.config(), config("b")).unwrap();
    exporter.wait_until("polled", |exposition| is_in(exposition, "b"));
    drop(taken);
    exporter.wait_until("watched", |_| resources(&exporter).0 == 1);
    assert_eq!(exporter.log().matches("cannot watch for changes").count(), 1, "{}", exporter.log());
}

/// Sets how many descriptors a process may have.
fn limit_descriptors(exporter: &Exporter, count: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let limit = libc::rlimit { rlim_cur: count, rlim_max: hard };
    // SAFETY: the kernel reads the limit and writes nothing.
    let status = unsafe {
        libc::prlimit(
            exporter.pid().as_raw(),
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}

#[test]
fn without_descriptors_nothing_is_lost() {
    let exporter = Exporter::start(&["--config.auto-reload-interval=300ms"]);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "eu-1").unwrap();
    fs::write(exporter.config(), zone_of(&zone)).unwrap();
    exporter.wait_until("applied", |exposition| is_in(exposition, "eu-1"));
    let mut client = exporter.connect();
    limit_descriptors(&exporter, 0);
    exporter.wait_for_log("source unavailable");
    assert!(exporter.log().contains("Too many open files"), "{}", exporter.log());
    limit_descriptors(&exporter, 1 << 10);
    let exposition = Exposition::parse(&client.get("/metrics").text());
    assert!(is_in(&exposition, "eu-1"), "{}", exporter.log());
    exporter.wait_until("recovered", successful);
}
