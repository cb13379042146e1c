//! Counts that outlive the exporter.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use sched_exporter_tests::{
    cgroups::{Process, Tree, bursts},
    exposition::Exposition,
    kernel::Stat,
    pins::{BpfFs, Restarts, check_continues, kill},
    process::{CONFIG, Exporter, run},
    workload::{Ending, Load, is_emulated, online},
};

use super::cgroups::{CPU, EACH, OTHER, SECONDS, known_task, missed, ms, scrape, wait_for_series};

/// The maps and links that are pinned, besides the link to `cgroup_rename`, which only version 1 needs.
const PINS: [&str; 12] = [
    "CGROUP_BIRTHS",
    "CGROUP_EVENTS",
    "CGROUP_FREE",
    "CGROUP_META",
    "CGROUP_ROWS",
    "CGROUP_SLOTS",
    "CPU",
    "HANDOVER",
    "cgroup_mkdir",
    "cgroup_rmdir",
    "sched_switch",
    "state",
];

const CREATED: &str = "--web.created-samples";
const SWITCHES: &str = "sched_context_switches_total";
const MISSED: &str = "sched_exporter_missed_switches_total";

#[track_caller]
fn check(before: &Exposition, after: &Exposition) {
    if let Err(wrong) = check_continues(before, after) {
        panic!("{wrong}");
    }
}

/// Nanoseconds of all CPUs.
fn total(exposition: &Exposition) -> u64 {
    exposition.sum_ns("sched_cpu_seconds_total", &[])
}

#[test]
fn counts_continue_after_a_kill_with_the_time_between() {
    // If the kernel does not report a switch, it is unknown whose time that was.
    assert!((0..10).any(|_| is_counted_after_a_kill()), "switches were not reported in each try");
}

/// Whether all switches on [`CPU`] were reported. Checks everything if they were.
fn is_counted_after_a_kill() -> bool {
    let bpf = BpfFs::mount();
    let tree = Tree::new();
    let [cgroup, ended, late] = ["stays", "ended", "late"].map(|name| tree.create(name));
    let work = || bursts(ms(100), ms(10), ms(5));
    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    assert!(PINS.iter().all(|name| bpf.names().contains(*name)), "{:?}", bpf.names());
    assert_eq!(fs::metadata(bpf.pins()).unwrap().mode() & 0o777, 0o700);
    let task = known_task(&exporter, &cgroup, work);
    let ending = known_task(&exporter, &ended, work);
    let before = scrape(&exporter);
    // What it used before it had a name can be in `other`.
    let used_before = ended.usage_ns();
    kill(exporter);

    // Everything runs while no exporter does; one cgroup ends, one comes, and one comes and ends.
    let (pairs, asleep) = ([cgroup.pair(), ended.pair(), late.pair()], Instant::now());
    task.run();
    ending.run();
    drop(ending);
    let used = ended.usage_ns() - used_before;
    ended.remove();
    let new = late.task(CPU, work);
    new.run();
    let brief = tree.create("brief");
    let brief_pair = brief.pair();
    brief.start(|| bursts(ms(30), ms(5), ms(1))).wait();
    brief.remove();
    let gap = u64::try_from(asleep.elapsed().as_nanos()).unwrap();

    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    assert!(exporter.log().contains("adopted the program"), "{}", exporter.log());
    let after = scrape(&exporter);
    check(&before, &after);
    if missed(&after) > missed(&before) {
        return false;
    }
    // The counters of the process are new, and say so.
    let began = |it: &Exposition| it.value("sched_exporter_torn_reads_created", &[]);
    assert!(began(&after) > began(&before));
    let grown = |pair: &str| after.sum_ns(SECONDS, &[pair]) - before.sum_ns(SECONDS, &[pair]);
    assert!(total(&after) - total(&before) >= gap * online().len() as u64, "the gap is missing");
    for pair in &pairs {
        assert!(grown(pair) > 40_000_000, "{pair}: {} ns", grown(pair));
    }
    let shown = grown(&pairs[1]);
    let tolerance = used / if is_emulated() { 5 } else { 10 };
    assert!(shown.abs_diff(used) < tolerance, "{shown} ns by us, {used} ns by the kernel");
    // Its path was sent while nobody listened.
    assert!(after.sum_ns(SECONDS, &[&brief_pair]) > 10_000_000, "{:?}", exporter.log());
    kill(exporter);

    // An orderly end does not differ.
    let mut exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    check(&after, &scrape(&exporter));
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait().success());
    check(&after, &scrape(&Exporter::start_with(EACH, &[&bpf.flag(), CREATED])));
    true
}

/// Cgroups that come and go on all CPUs until `done`, eight at a time.
fn churn(tree: &Tree, done: &AtomicBool) -> u64 {
    let (work, rest) = (Duration::from_micros(200), Duration::from_micros(100));
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let cgroups: Vec<_> = (count..count + 8).map(|it| tree.create(&it.to_string())).collect();
        let start = || bursts(work * 2, work, rest);
        let processes: Vec<_> = cgroups.iter().map(|cgroup| cgroup.start(start)).collect();
        processes.into_iter().for_each(Process::wait);
        for cgroup in cgroups {
            cgroup.remove();
        }
        count += 8;
        thread::sleep(ms(20));
    }
    count
}

#[test]
fn nothing_is_lost_in_fifty_restarts_under_load() {
    let count = if is_emulated() { 5 } else { 50 };
    let tree = Tree::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let cgroups = scope.spawn(|| churn(&tree, &done));
        let mut restarts = Restarts::new();
        {
            let _ending = Ending(&done);
            let _storm = Load::storm(&online());
            for _ in 0..count {
                if let Err(wrong) = restarts.cycle() {
                    panic!("{wrong}");
                }
            }
        }
        assert!(cgroups.join().unwrap() > u64::from(count), "too few cgroups came and went");
        assert!(restarts.adopted() >= count / 5, "{}", restarts.summary());
    });
}

/// A program without log statements and one with them take turns. The kernel counts each switch once, and so
/// must they.
#[test]
fn another_program_takes_over_and_no_switch_is_counted_twice() {
    let bpf = BpfFs::mount();
    let start = |args: &[&str]| {
        let exporter =
            Exporter::start_with(CONFIG, &[&[bpf.flag().as_str(), CREATED], args].concat());
        let exposition = exporter.scrape();
        (exporter, exposition)
    };
    let (exporter, first) = start(&[]);
    kill(exporter);
    let storm = Load::storm(&online());
    let before_kernel = Stat::read().ctxt;
    let (exporter, before) = start(&[]);
    check(&first, &before);
    kill(exporter);
    let mut last = before.clone();
    for round in 0..if is_emulated() { 2 } else { 8 } {
        let args: &[&str] = if round % 2 == 0 { &["--log.ebpf"] } else { &[] };
        let (exporter, next) = start(args);
        let log = exporter.log();
        assert!(log.contains("took over"), "{log}");
        check(&last, &next);
        last = next;
        kill(exporter);
    }
    let kernel = Stat::read().ctxt - before_kernel;
    drop(storm);
    let grown = |name: &str| last.sum(name, &[]) - before.sum(name, &[]);
    let (ours, missed) = (grown(SWITCHES), grown(MISSED));
    assert!(ours <= kernel, "{ours} by us, {kernel} by the kernel");
    assert!(missed <= ours / 100, "{missed} of {ours} were missed");
}

#[test]
fn other_settings_begin_at_zero_and_say_so() {
    let bpf = BpfFs::mount();
    let exporter = Exporter::start(&[&bpf.flag(), CREATED]);
    thread::sleep(ms(500));
    let before = exporter.scrape();
    kill(exporter);
    let exporter = Exporter::start(&[&bpf.flag(), CREATED, "--no-collector.runqueue-latency"]);
    exporter.wait_for_log("counts begin at zero");
    let after = exporter.scrape();
    assert!(total(&after) < total(&before), "{} {}", total(&after), total(&before));
    let created = |it: &Exposition| {
        let series = it.iter().find(|(series, _)| series.starts_with("sched_cpu_seconds_created"));
        series.unwrap().1.parse::<f64>().unwrap()
    };
    assert!(created(&after) > created(&before));
}

/// Runs an exporter that must refuse to start, and name `path`.
#[track_caller]
fn refused(flag: &str, expected: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let config = format!("--config.file={}", config.display());
    let output = run(&[&config, "--web.listen-address=127.0.0.1:0", flag]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in expected {
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Each change is refused, changes nothing, and can be undone.
#[test]
fn damaged_and_foreign_pins_are_refused_and_left_alone() {
    let bpf = BpfFs::mount();
    let exporter = Exporter::start(&[&bpf.flag(), CREATED]);
    let before = exporter.scrape();
    kill(exporter);
    let pins = bpf.pins();
    let elsewhere = bpf.path().join("elsewhere");
    let flag = bpf.flag();
    let unchanged = |expected: &[&str]| {
        let names = bpf.names();
        refused(&flag, expected);
        assert_eq!(bpf.names(), names);
    };
    let named = |name: &str| format!("`{}`", pins.join(name).display());

    for missing in ["sched_switch", "CPU", "HANDOVER", "state"] {
        fs::rename(pins.join(missing), &elsewhere).unwrap();
        unchanged(&[&named(missing), "nothing was changed", "sched_exporter unpin"]);
        fs::rename(&elsewhere, pins.join(missing)).unwrap();
    }
    // Another object in the place of one.
    for (place, other) in
        [("CPU", "CGROUP_META"), ("state", "CPU"), ("sched_switch", "CPU"), ("CPU", "sched_switch")]
    {
        fs::rename(pins.join(place), &elsewhere).unwrap();
        fs::rename(pins.join(other), pins.join(place)).unwrap();
        unchanged(&["nothing was changed"]);
        fs::rename(pins.join(place), pins.join(other)).unwrap();
        fs::rename(&elsewhere, pins.join(place)).unwrap();
    }
    // A link to another hook.
    fs::rename(pins.join("cgroup_mkdir"), &elsewhere).unwrap();
    fs::rename(pins.join("sched_switch"), pins.join("cgroup_mkdir")).unwrap();
    fs::rename(&elsewhere, pins.join("sched_switch")).unwrap();
    unchanged(&["another link"]);
    fs::rename(pins.join("cgroup_mkdir"), &elsewhere).unwrap();
    fs::rename(pins.join("sched_switch"), pins.join("cgroup_mkdir")).unwrap();
    fs::rename(&elsewhere, pins.join("sched_switch")).unwrap();

    fs::create_dir(pins.join("other")).unwrap();
    unchanged(&[&named("other"), "is not a pin of sched_exporter"]);
    let said = run(&["unpin", &flag]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains(&named("other")), "{said:?}");
    fs::remove_dir(pins.join("other")).unwrap();

    chown(pins.join("state"), Some(7), None).unwrap();
    unchanged(&[&named("state"), "belongs to user 7"]);
    chown(pins.join("state"), Some(0), None).unwrap();
    chown(&pins, Some(7), None).unwrap();
    unchanged(&["belongs to user 7"]);
    chown(&pins, Some(0), None).unwrap();
    fs::set_permissions(&pins, Permissions::from_mode(0o755)).unwrap();
    unchanged(&["has mode 0755"]);
    fs::set_permissions(&pins, Permissions::from_mode(0o700)).unwrap();

    let exporter = Exporter::start(&[&flag, CREATED]);
    assert!(exporter.log().contains("adopted the program"), "{}", exporter.log());
    check(&before, &exporter.scrape());
}

#[test]
fn pins_need_a_bpf_filesystem() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let message = format!("`{path}` is not on a BPF filesystem");
    refused(&format!("--ebpf.pin-path={path}"), &[&message, "mount -t bpf"]);
    refused(&format!("--ebpf.pin-path={path}/pins"), &[&message]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_second_exporter_with_the_same_pins_is_refused() {
    let bpf = BpfFs::mount();
    let first = Exporter::start(&[&bpf.flag()]);
    let names = bpf.names();
    let in_use = format!("`{}` is in use by another sched_exporter", bpf.pins().display());
    refused(&bpf.flag(), &[&in_use, "--ebpf.pin-path"]);
    let unpin = run(&["unpin", &bpf.flag()]);
    assert_eq!(unpin.status.code(), Some(1), "{unpin:?}");
    assert!(String::from_utf8_lossy(&unpin.stderr).contains(&in_use), "{unpin:?}");
    assert_eq!(bpf.names(), names);
    assert!(total(&first.scrape()) > 0);
    // One with pins of its own, and one without, count beside it.
    let other = BpfFs::mount();
    for args in [&[other.flag()][..], &[]] {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        assert!(total(&Exporter::start(&args).scrape()) > 0);
    }
}

#[test]
fn unpin_removes_everything() {
    let bpf = BpfFs::mount();
    let said = |output: &std::process::Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(said(&run(&["unpin", &bpf.flag()])).contains("nothing is pinned"));
    kill(Exporter::start(&[&bpf.flag()]));
    assert!(!bpf.names().is_empty());
    assert!(said(&run(&["unpin", &bpf.flag()])).contains("removed the pins"));
    assert!(!bpf.pins().exists());
    assert!(said(&run(&["unpin", &bpf.flag()])).contains("nothing is pinned"));
    let exporter = Exporter::start(&[&bpf.flag()]);
    assert!(!exporter.log().contains("counts continue"), "{}", exporter.log());
    assert!(!exporter.log().contains("counts begin at zero"), "{}", exporter.log());
}

/// Whatever is left of a start that did not come to its end, the next one begins at zero.
#[test]
fn a_start_that_was_interrupted_is_cleared() {
    let bpf = BpfFs::mount();
    for delay in (0..300).step_by(if is_emulated() { 100 } else { 15 }) {
        let exporter = Exporter::begin(&[&bpf.flag()]);
        thread::sleep(ms(delay));
        kill(exporter);
    }
    let exporter = Exporter::start(&[&bpf.flag()]);
    assert!(total(&exporter.scrape()) > 0);
}

#[test]
fn what_was_left_is_reported_by_a_start_without_pins() {
    let bpf = BpfFs::mount();
    // The usual path, in a mount namespace of its own.
    let at_usual_path = |flags: &[&str], bpf: &Path| {
        let bpf = bpf.to_owned();
        Exporter::start_with_prepared(CONFIG, flags, |command| {
            let hide = move || {
                let none = None::<&str>;
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
                Ok(mount(Some(&bpf), "/sys/fs/bpf", none, MsFlags::MS_BIND, none)?)
            };
            // SAFETY: between fork and exec, system calls and nothing else.
            unsafe { command.pre_exec(hide) };
        })
    };
    let warning = "has left its kernel program here";
    let exporter = at_usual_path(&[], bpf.path());
    assert!(!exporter.log().contains(warning), "{}", exporter.log());
    drop(exporter);
    kill(at_usual_path(&["--ebpf.pin-path=/sys/fs/bpf/sched_exporter"], bpf.path()));
    at_usual_path(&[], bpf.path()).wait_for_log(warning);
}

/// CPU 0 leaves a series for another, by a reload. What the series carries for it outlives the exporter.
#[test]
fn series_of_cpus_continue_as_reloads_have_left_them() {
    let bpf = BpfFs::mount();
    let grouped = |regex: &str| {
        format!(
            "cpu_relabel_configs:\n\
             - {{source_labels: [cpu], regex: \"{regex}\", target_label: part, replacement: a}}\n\
             - {{regex: cpu, action: labeldrop}}\n"
        )
    };
    let exporter = Exporter::start_with(&grouped(".*"), &[&bpf.flag(), CREATED]);
    thread::sleep(ms(300));
    let all = exporter.scrape();
    fs::write(exporter.config(), grouped("0")).unwrap();
    exporter.signal(Signal::SIGHUP);
    let a = ["part=\"a\""];
    let name = "sched_cpu_seconds_total";
    let after = exporter.wait_until("regrouped", |it| {
        it.iter().any(|(series, _)| series.starts_with(name) && !series.contains(a[0]))
    });
    assert!(after.sum_ns(name, &a) >= all.sum_ns(name, &a));
    kill(exporter);
    // It carries what the other CPUs had.
    let exporter = Exporter::start_with(&grouped("0"), &[&bpf.flag(), CREATED]);
    check(&after, &exporter.scrape());
    kill(exporter);
    // Another configuration while no exporter runs is like a reload.
    let exporter = Exporter::start_with(&grouped(".*"), &[&bpf.flag(), CREATED]);
    let back = exporter.scrape();
    assert!(back.sum_ns(name, &a) >= after.sum_ns(name, &a));
}

#[test]
fn throttling_outlives_the_exporter() {
    let bpf = BpfFs::mount();
    let tree = Tree::new();
    let cgroup = tree.create("limited");
    cgroup.limit(Some(ms(20)), ms(100));
    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    let task = cgroup.task(CPU, || bursts(ms(400), ms(400), ms(1)));
    cgroup.put_under_limit(task.pid());
    task.run();
    wait_for_series(&exporter, &cgroup);
    let pair = cgroup.pair();
    let name = "sched_cgroup_throttled_periods_total";
    exporter.wait_until("the quota is read", |it| it.select(name, &[&pair]).next().is_some());
    task.run();
    let before = exporter.wait_until("throttled", |it| it.sum(name, &[&pair]) > 0);
    kill(exporter);
    task.run();
    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    check(&before, &exporter.scrape());
    let now = before.sum(name, &[&pair]);
    exporter.wait_until("throttled again", |it| it.sum(name, &[&pair]) > now);
}

/// What a scrape has shown in `other` stays there, although the cgroup gets its name later.
#[test]
fn what_other_has_shown_does_not_decrease_after_a_restart() {
    let bpf = BpfFs::mount();
    let tree = Tree::new();
    let cgroup = tree.create("late");
    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    let task = cgroup.task(CPU, || bursts(ms(60), ms(10), ms(1)));
    task.begin();
    let mut last = exporter.scrape();
    for _ in 0..20 {
        last = exporter.scrape();
        thread::sleep(ms(1));
    }
    kill(exporter);
    task.finish();
    let exporter = Exporter::start_with(EACH, &[&bpf.flag(), CREATED]);
    let now = wait_for_series(&exporter, &cgroup);
    check(&last, &now);
    assert!(now.sum_ns(SECONDS, &[OTHER]) >= last.sum_ns(SECONDS, &[OTHER]));
}
