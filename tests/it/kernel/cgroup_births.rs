//! Names of cgroups as they are created: without a mount, and of those that live for milliseconds.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
    thread,
};

use nix::sys::signal::Signal;
use sched_exporter::kernel::{births::Birth, scheduler::Scheduler};
use sched_exporter_tests::{
    cgroups::{Cgroup, Hierarchy, Tree, bursts},
    exposition::Exposition,
    kernel::attach,
    process::Exporter,
    quiet,
    workload::{is_emulated, monotonic_ns, spin_until},
};

use super::{
    cgroup_churn::{SETS, churn},
    cgroups::{CPU, EACH, SECONDS, check_forward, known_task, ms, scrape, wait_for_series},
};

/// What the log says if there is no mount.
const NO_MOUNT: &str = "cgroups from before the start have no names";

/// Long enough for the exporter to name a cgroup. A scrape before would show its time in `other`, where it
/// then stays.
fn wait_for_names() {
    thread::sleep(ms(if is_emulated() { 3_000 } else { 700 }));
}

/// Turns a result of the C library into an error.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Hides all hierarchies of cgroups from a process.
fn hide_mounts() -> io::Result<()> {
    // SAFETY: system calls with strings that end with zero.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        check(libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()))?;
        check(libc::umount2(c"/sys/fs/cgroup".as_ptr(), libc::MNT_DETACH))
    }
}

/// An exporter that sees no mount of cgroups.
fn start_without_mount(config: &str, args: &[&str]) -> Exporter {
    Exporter::start_with_prepared(config, args, |command: &mut Command| {
        // SAFETY: only system calls.
        unsafe { command.pre_exec(hide_mounts) };
    })
}

/// Whether a cgroup has series.
fn is_shown(exposition: &Exposition, cgroup: &Cgroup) -> bool {
    exposition.select(SECONDS, &[&cgroup.pair()]).next().is_some()
}

/// Uses 20 ms of a CPU in a new cgroup, and removes it. Returns its series, and the CPU time that the kernel
/// counted.
fn live_shortly(tree: &Tree, name: &str) -> (String, u64) {
    let cgroup = tree.create(name);
    cgroup.start(|| spin_until(monotonic_ns() + 20_000_000)).wait();
    let (pair, used) = (cgroup.pair(), cgroup.usage_ns());
    cgroup.remove();
    (pair, used)
}

#[test]
fn a_cgroup_that_lives_for_20_ms_is_counted_under_its_name() {
    for exporter in [start_without_mount(EACH, &[]), Exporter::start_with(EACH, &[])] {
        let tree = Tree::new();
        let before = scrape(&exporter);
        let (pair, used) = live_shortly(&tree, "short.service");
        wait_for_names();
        let after = scrape(&exporter);
        check_forward(&before, &after);
        let shown = after.sum_ns(SECONDS, &[&pair]);
        assert!(shown > used * 9 / 10, "{shown} ns of {used}\n{}", exporter.log());
    }
}

#[test]
fn a_thousand_short_lived_cgroups_are_counted_under_their_name() {
    quiet::attempt(|| {
        let exporter = start_without_mount(SETS, &[]);
        let tree = Tree::new();
        let parent = tree.create("churn");
        let count = match (tree.hierarchy(), is_emulated()) {
            (Hierarchy::V1, _) | (_, true) => 100,
            (_, false) => 1_000,
        };
        let before = scrape(&exporter);
        let used = churn(&parent, count);
        wait_for_names();
        let after = scrape(&exporter);
        check_forward(&before, &after);
        let shown = after.sum_ns(SECONDS, &["set=\"churn\""]);
        let bound = used / if is_emulated() { 5 } else { 10 };
        assert!(shown.abs_diff(used) <= bound, "{shown} ns of {used}\n{}", exporter.log());
        assert_eq!(after.sum("sched_exporter_cgroup_slots_refused_total", &[]), 0);
    });
}

#[test]
fn without_a_mount_only_new_cgroups_have_names() {
    let tree = Tree::new();
    let old = tree.create("old");
    let exporter = start_without_mount(EACH, &[]);
    exporter.wait_for_log(NO_MOUNT);
    let old_task = old.task(CPU, || bursts(ms(50), ms(10), ms(1)));
    old_task.run();
    let new = tree.create("new");
    let task = known_task(&exporter, &new, || bursts(ms(50), ms(10), ms(1)));
    let before = scrape(&exporter);
    task.run();
    let after = scrape(&exporter);
    let pair = new.pair();
    let grown = after.sum_ns(SECONDS, &[&pair]) - before.sum_ns(SECONDS, &[&pair]);
    assert!(grown > 20_000_000, "{grown}");
    assert!(!is_shown(&after, &old));
    // It was there before, but its path is no secret.
    assert!(after.select(SECONDS, &["path=\"/\""]).next().is_some());
    let hierarchy = "sched_exporter_cgroup_hierarchy_info";
    assert!(after.select(hierarchy, &[]).any(|(series, _)| series.contains(NO_MOUNT)));
}

#[test]
fn a_renamed_cgroup_and_those_below_have_new_names() {
    let tree = Tree::legacy().expect("only version 1 can rename a cgroup, and it is not mounted");
    let work = || bursts(ms(50), ms(10), ms(1));
    for has_mount in [true, false] {
        let [old, new] = ["old", "new"].map(|name| tree.child(&format!("{name}-{has_mount}")));
        let create = || {
            fs::create_dir(old.directory()).unwrap();
            old.create("below", false)
        };
        // A walk has found the first, and the others were seen when they were created.
        let args = ["--cgroup.hierarchy=v1"];
        let (exporter, below) = if has_mount {
            let below = create();
            (Exporter::start_with(EACH, &args), below)
        } else {
            (start_without_mount(EACH, &args), create())
        };
        let task = known_task(&exporter, &below, work);
        fs::rename(old.directory(), new.directory()).unwrap();
        let below = tree.child(&format!("new-{has_mount}/below"));
        let pair = below.pair();
        let before = wait_for_series(&exporter, &below);
        task.run();
        let grown = scrape(&exporter).sum_ns(SECONDS, &[&pair]) - before.sum_ns(SECONDS, &[&pair]);
        assert!(grown > 20_000_000, "{grown}");
        known_task(&exporter, &new.create("later", false), work);
    }
}

#[test]
fn a_path_that_is_too_long_is_found_by_a_walk() {
    let tree = Tree::new();
    let start = |without_mount: bool| {
        let start = if without_mount { start_without_mount } else { Exporter::start_with };
        start(EACH, &[])
    };
    let exporters = [false, true].map(start);
    let long = tree.create(&"x".repeat(250)).create(&"y".repeat(250), false);
    let task = long.task(CPU, || bursts(ms(20), ms(10), ms(1)));
    task.run();
    wait_for_series(&exporters[0], &long);
    for exporter in &exporters {
        exporter.wait_for_log("the path of a new cgroup is too long");
    }
    assert!(!is_shown(&scrape(&exporters[1]), &long));
}

#[test]
fn cgroups_beyond_the_buffer_are_found_by_a_walk() {
    let exporter = Exporter::start_with(EACH, &[]);
    let tree = Tree::new();
    exporter.signal(Signal::SIGSTOP);
    // Each takes at least 40 bytes of 64 KiB.
    let mut last = tree.create("first");
    for number in 0..1_700 {
        last = tree.create(&number.to_string());
    }
    last.task(CPU, || bursts(ms(20), ms(10), ms(1))).run();
    exporter.signal(Signal::SIGCONT);
    wait_for_series(&exporter, &last);
    exporter.wait_for_log("more cgroups were created at once");
}

/// The number of times that a process went to sleep.
fn sleeps(exporter: &Exporter) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap();
    let of = |task: io::Result<fs::DirEntry>| -> Option<u64> {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line?.trim().parse().ok()
    };
    tasks.filter_map(of).sum()
}

#[test]
fn cgroups_in_which_nothing_runs_wake_nobody() {
    quiet::attempt(|| {
        let args = ["--config.auto-reload-interval=0s"];
        let exporter = Exporter::start_with(EACH, &args);
        exporter.wait_for_log("watching the configuration");
        thread::sleep(ms(1_000));
        let tree = Tree::new();
        let before = sleeps(&exporter);
        let count = 40;
        for number in 0..count {
            tree.create(&number.to_string());
            thread::sleep(ms(30));
        }
        let woken = sleeps(&exporter) - before;
        assert!(woken < count / 2, "woken {woken} times by {count} cgroups");
    });
}

/// A process with a cgroup namespace of its own sees the cgroups below its root, by paths from there.
#[test]
fn names_begin_at_the_root_of_a_mount_that_shows_a_part() {
    let tree = Tree::new();
    assert_ne!(tree.hierarchy(), Hierarchy::V1, "needs version 2");
    let part = tree.create("part");
    let early = part.create("early", false);
    let outside = tree.create("outside");
    let join = CString::new(format!("{}/cgroup.procs", part.directory().display())).unwrap();
    let enter = move || hide_mounts_but_part(&join);
    let exporter = Exporter::start_with_prepared(EACH, &[], |command: &mut Command| {
        // SAFETY: only system calls.
        unsafe { command.pre_exec(enter) };
    });
    exporter.wait_for_log("shows only the cgroups of a container");
    let work = || bursts(ms(20), ms(10), ms(1));
    let from_part =
        |cgroup: &Cgroup| format!("path=\"{}\"", cgroup.path().strip_prefix(part.path()).unwrap());
    let wait_for = |cgroup: &Cgroup| {
        let pair = from_part(cgroup);
        exporter.wait_until(&pair, |it| it.select(SECONDS, &[&pair]).next().is_some());
    };
    let _tasks = [&early, &outside].map(|cgroup| {
        let task = cgroup.task(CPU, work);
        task.run();
        task
    });
    wait_for(&early);
    // The walk for the first new one shows where the mount is.
    let late = part.create("late", false);
    let late_task = late.task(CPU, work);
    late_task.run();
    wait_for(&late);
    // So short-lived ones have names from then on.
    let short = part.create("short", false);
    let pair = from_part(&short);
    short.start(|| spin_until(monotonic_ns() + 20_000_000)).wait();
    let used = short.usage_ns();
    short.remove();
    wait_for_names();
    let after = scrape(&exporter);
    let shown = after.sum_ns(SECONDS, &[&pair]);
    assert!(shown > used * 9 / 10, "{shown} ns of {used}\n{}", exporter.log());
    let outer = |name: &str| after.select(SECONDS, &[&format!("path=\"{name}\"")]).next().is_some();
    assert!(!outer("/outside") && !outer(outside.path()), "{}", exporter.log());
}

/// Joins a cgroup, makes it the root of a namespace, and mounts what that shows instead of the hierarchies.
/// The process is in a cgroup below the root then, as a service of a container is.
fn hide_mounts_but_part(join: &CString) -> io::Result<()> {
    let write_zero = |path: &std::ffi::CStr| {
        // SAFETY: system calls with a string that ends with zero, and a descriptor that they returned.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY);
            let written = libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
            if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
    };
    write_zero(join)?;
    // SAFETY: system calls with strings that end with zero.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWCGROUP))?;
        hide_mounts()?;
        let (kind, place) = (c"cgroup2".as_ptr(), c"/sys/fs/cgroup".as_ptr());
        check(libc::mount(kind, place, kind, 0, std::ptr::null()))?;
        check(libc::mkdir(c"/sys/fs/cgroup/self".as_ptr(), 0o755))?;
    }
    write_zero(c"/sys/fs/cgroup/self/cgroup.procs")
}

/// Takes all births, and whether some may be missing.
fn births(scheduler: &mut Scheduler) -> (Vec<Birth>, bool) {
    let mut births = scheduler.take_cgroup_births().unwrap();
    let mut all = Vec::new();
    let is_full = births.drain(|birth| all.push(birth));
    (all, is_full)
}

#[test]
fn the_kernel_program_tells_ids_and_paths() {
    let tree = Tree::new();
    let mut scheduler = attach();
    let cgroup = tree.create(r"odd\x2d name-é.service");
    let id = fs::metadata(cgroup.directory()).unwrap().ino();
    let (births, is_full) = births(&mut scheduler);
    let found: Vec<_> = births.into_iter().filter(|birth| birth.id == id).collect();
    let path = Some(cgroup.path().into());
    assert_eq!((found, is_full), (vec![Birth { id, is_renamed: false, path }], false));
}

/// Numbers of cgroups are unique in one hierarchy only.
#[test]
fn cgroups_of_other_hierarchies_are_left_out() {
    assert_eq!(Tree::new().hierarchy(), Hierarchy::Hybrid, "needs both versions");
    let legacy = Tree::legacy().unwrap();
    let mut scheduler = attach();
    let cgroup = legacy.create("other");
    let (births, _) = births(&mut scheduler);
    let path = Some(cgroup.path().into());
    assert!(births.iter().all(|birth| birth.path != path), "{births:?}");
}
