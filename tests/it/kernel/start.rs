//! Start-up, failures to start, and one-shot modes.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use libc::CLONE_NEWTIME;
use nix::{
    fcntl::AT_FDCWD,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags},
        prctl::{set_keepcaps, set_pdeathsig},
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd::{setgroups, setresgid, setresuid},
};
use sched_exporter::kernel::{
    btf::Btf,
    layout::{DisabledFeatures, Hierarchy, Layout},
    preflight::{BTF_PATH, Facts},
    scheduler::{LoadError, Scheduler},
};
use sched_exporter_ebpf::Global;
use sched_exporter_tests::{
    client::Client,
    exposition::Exposition,
    network,
    process::{CONFIG, Exporter, PATIENCE, binary, ending_with_us, output, run},
    quiet,
    tls::{Certificates, argument},
    workload::{online, pin},
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A configuration file in a directory of its own.
fn config_file(yaml: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("exporter.yaml");
    fs::write(&path, yaml).unwrap();
    let flag = format!("--config.file={}", path.display());
    (directory, flag)
}

#[track_caller]
fn check_refusal(output: &Output, expected: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    for expected in expected {
        assert!(stderr.contains(expected), "{stderr:?} lacks {expected:?}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
}

#[test]
fn once_prints_one_exposition() {
    let (_directory, config) = config_file(CONFIG);
    let once = |flags: &[&str]| {
        let output = run(&[&[config.as_str(), "--once"], flags].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    for flags in [&[][..], &["--format=text"], &["--format=openmetrics"]] {
        let stdout = once(flags);
        let is_open_metrics = flags == ["--format=openmetrics"];
        assert_eq!(stdout.ends_with("# EOF\n"), is_open_metrics, "{stdout}");
        assert_eq!(stdout.contains("# UNIT"), is_open_metrics, "{stdout}");
        let exposition = Exposition::parse(&stdout);
        assert!(exposition.sum_ns("sched_cpu_seconds_total", &["host=\"test-host\""]) > 0);
        assert!(!stdout.contains("_created") && !stdout.contains("\nprocess_"), "{stdout}");
    }
    let stdout = once(&["--format=openmetrics", "--web.created-samples"]);
    assert!(stdout.contains("sched_cpu_seconds_created{"));
}

#[test]
fn a_format_that_the_mode_lacks_is_rejected() {
    let (_directory, config) = config_file(CONFIG);
    for (flags, expected) in [
        (&["--once", "--format=json"][..], "--once prints `text` or `openmetrics`"),
        (&["--config.check", "--format=text"], "--config.check prints `table` or `json`"),
        (&["--format=text"], "add --config.check or --once"),
    ] {
        let output = run(&[&[config.as_str()], flags].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected) && output.stdout.is_empty(), "{stderr}");
    }
}

#[test]
fn once_shows_cpus_that_did_not_switch_on_their_own() {
    let (_directory, config) = config_file(CONFIG);
    let cpus = online();
    // On a thread of its own, because the exporter inherits the affinity of the thread.
    let once = || {
        pin(cpus[0]);
        run(&[&config, "--once"])
    };
    // Other CPUs may happen to switch, but not every time.
    for _ in 0..5 {
        let output = thread::scope(|scope| scope.spawn(once).join().unwrap());
        let exposition = Exposition::parse(&text(&output.stdout));
        for cpu in &cpus {
            let cpu = format!("cpu=\"{cpu}\"");
            assert_eq!(exposition.select("sched_cpu_seconds_total", &[&cpu]).count(), 8, "{cpu}");
        }
    }
}

#[test]
fn version_shows_revision_and_target() {
    let output = run(&["--version"]);
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("sched_exporter 0."), "{stdout}");
    assert!(stdout.contains("revision: ") && stdout.contains("target: "), "{stdout}");
}

#[test]
fn the_check_accepts_a_valid_configuration_and_reports_every_error() {
    let (_directory, config) = config_file(CONFIG);
    let output = run(&[&config, "--config.check"]);
    assert!(output.status.success() && text(&output.stdout).contains("valid"));
    let (_directory, config) = config_file("labels:\n  le: a\n  zone: [7]\n");
    check_refusal(
        &run(&[&config, "--config.check"]),
        &["2 errors", ":2:3: labels.le", ":3:9: labels.zone", "a list is not a string"],
    );
}

#[test]
fn an_empty_configuration_is_rejected_unless_it_says_so() {
    for (yaml, is_accepted) in [("", false), ("# labels:\n\n#  host: a\n", false), ("{}\n", true)] {
        let (_directory, config) = config_file(yaml);
        let output = run(&[&config, "--once"]);
        assert_eq!(output.status.success(), is_accepted, "{yaml}");
        assert_eq!(text(&output.stderr).contains("is empty; write `{}`"), !is_accepted, "{yaml}");
    }
}

#[test]
fn an_invalid_configuration_ends_the_start_before_attaching() {
    let (_directory, config) = config_file("label: {}\n");
    let output = run(&[&config, "--web.listen-address=127.0.0.1:0"]);
    check_refusal(&output, &[":1:1", "label"]);
    assert!(!text(&output.stderr).contains("attached"));
    let output = run(&["--config.file=/no/such/file.yaml", "--once"]);
    check_refusal(&output, &["/no/such/file.yaml", "No such file"]);
}

#[test]
fn the_health_check_queries_the_exporter() {
    let exporter = Exporter::start(&[]);
    let address = format!("--web.listen-address={}", exporter.address);
    let healthy = run(&["healthcheck", &address]);
    assert!(healthy.status.success(), "{}", text(&healthy.stderr));
    // A wildcard address is checked on the loopback.
    let port = format!("--web.listen-address=:{}", exporter.address.port());
    assert!(run(&["healthcheck", &port]).status.success());
    drop(exporter);
    check_refusal(&run(&["healthcheck", &address]), &["127.0.0.1:", "Connection refused"]);
}

#[test]
fn the_health_check_fails_for_other_servers() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--web.listen-address={}", other.local_addr().unwrap());
    let silent = run(&["healthcheck", &address]);
    check_refusal(&silent, &["no response within 2s"]);
    let server = thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        // The connection of the first check, which has timed out.
        drop(stream);
        (stream, _) = other.accept().unwrap();
        // Read the request first: an earlier response would be invalid HTTP.
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    check_refusal(&run(&["healthcheck", &address]), &["/-/healthy responded with 404"]);
    server.join().unwrap();
}

#[test]
fn an_address_in_use_is_reported() {
    let exporter = Exporter::start(&[]);
    let (_directory, config) = config_file(CONFIG);
    let address = format!("--web.listen-address={}", exporter.address);
    let output = run(&[&config, &address]);
    check_refusal(&output, &[&exporter.address.to_string(), "in use"]);
}

#[test]
fn a_port_in_use_on_one_address_is_served_on_none() {
    network::alone(|| {
        let taken = TcpListener::bind("[::1]:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let (_directory, config) = config_file(CONFIG);
        let address = format!("--web.listen-address=:{port}");
        // The second address belongs to no machine, so the start fails in any case.
        let output = run(&[&config, &address, "--web.listen-address=192.0.2.1:1"]);
        check_refusal(&output, &[&format!("cannot listen on `:{port}`"), "in use"]);
    });
}

#[test]
fn a_port_without_an_address_is_served_on_ipv4_and_ipv6() {
    network::alone(|| {
        for only in ["0", "1"] {
            fs::write("/proc/sys/net/ipv6/bindv6only", only).unwrap();
            let _exporter = Exporter::start(&["--web.listen-address=:10435"]);
            for address in ["127.0.0.1:10435", "[::1]:10435"] {
                let mut client = Client::connect(address.parse().unwrap());
                assert_eq!(client.get("/-/ready").status, 200, "{address} {only}");
            }
        }
    });
}

/// The binary run as user nobody with these capabilities, unable to gain others.
fn as_nobody(capabilities: &[Capability], args: &[&str]) -> Command {
    let mut command = ending_with_us(&binary());
    become_nobody(&mut command, capabilities);
    command.args(args);
    command
}

/// The number of user nobody.
pub(super) const NOBODY: u32 = 65_534;

/// Makes a command run as user nobody with these capabilities, unable to gain others.
pub(super) fn become_nobody(command: &mut Command, capabilities: &[Capability]) {
    let kept: CapsHashSet = capabilities.iter().copied().collect();
    let others: Vec<_> = caps::all().difference(&kept).copied().collect();
    let failed = |error: CapsError| io::Error::other(error.to_string());
    let give_up = move || {
        for capability in &others {
            // The kernel and the crate may each know capabilities that the other lacks.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
        set_keepcaps(true)?;
        setgroups(&[])?;
        setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
            caps::set(None, set, &kept).map_err(failed)?;
        }
        // Changing the user has cleared it.
        Ok(set_pdeathsig(Signal::SIGKILL)?)
    };
    // SAFETY: only system calls, except after an error, which ends the test.
    unsafe { command.pre_exec(give_up) };
}

/// A configuration in a world-readable directory.
fn config_for_nobody() -> (tempfile::TempDir, String) {
    let (directory, config) = config_file(CONFIG);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    (directory, config)
}

#[test]
fn two_capabilities_are_enough() {
    let (_directory, config) = config_for_nobody();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let output = output(&mut as_nobody(&capabilities, &[&config, "--once"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("sched_runqueue_latency_seconds_count"));
}

/// Its entries in `/proc` belong to root, because it forbids tracing.
#[test]
fn a_user_other_than_root_gets_the_metrics_of_the_process() {
    let (directory, _) = config_for_nobody();
    let config = directory.path().join("exporter.yaml");
    let exporter = Exporter::start_prepared(directory, config, &[], |command| {
        become_nobody(command, &[Capability::CAP_BPF, Capability::CAP_PERFMON]);
    });
    let exposition = exporter.scrape();
    let families = [
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
    ];
    for family in families {
        assert!(exposition.value(family, &[]) > 0.0, "{family}");
    }
    assert_eq!(exposition.select("process_cpu_seconds_total", &[]).count(), 1);
}

#[test]
fn a_configuration_that_reloads_could_not_read_ends_the_start() {
    let nobody = 65_534;
    let (directory, config) = config_file(CONFIG);
    let file = directory.path().join("exporter.yaml");
    chown(directory.path(), Some(nobody), Some(nobody)).unwrap();
    chown(&file, Some(nobody), Some(nobody)).unwrap();
    let address = "--web.listen-address=127.0.0.1:0";
    let advice = "chown or chmod it, or start with --privileges.keep";
    for (open, closed) in [(directory.path(), &*file), (&file, directory.path())] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(closed, fs::Permissions::from_mode(0o600)).unwrap();
        let access = format!("`{}` (mode 0600, owner 65534:65534)", closed.display());
        check_refusal(&run(&[&config, address]), &["Permission denied", &access, advice]);
        // Neither reads it again.
        for mode in ["--once", "--config.check"] {
            let output = run(&[&config, mode]);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
    let kept = Exporter::start_at(directory, file, &["--privileges.keep"]);
    kept.scrape();
}

#[test]
fn missing_capabilities_are_reported() {
    let (_directory, config) = config_for_nobody();
    let none = output(&mut as_nobody(&[], &[&config, "--once"]));
    check_refusal(&none, &["CAP_BPF and CAP_PERFMON missing", "run as root"]);
    let one = output(&mut as_nobody(&[Capability::CAP_BPF], &[&config, "--once"]));
    check_refusal(&one, &["capabilities: CAP_PERFMON missing", "sched_switch"]);
}

#[test]
fn a_locked_memory_limit_is_reported_on_kernels_that_apply_it_to_bpf() {
    let (_directory, config) = config_for_nobody();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let mut command = as_nobody(&capabilities, &[&config, "--once"]);
    // The hard limit too: aya raises the soft one.
    let limit = || Ok(setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0)?);
    // SAFETY: a system call and nothing else.
    unsafe { command.pre_exec(limit) };
    let output = output(&mut command);
    if output.status.success() {
        let kernel = Facts::gather().kernel;
        assert!(!kernel.starts_with("5.10."), "{kernel}");
    } else {
        check_refusal(&output, &["locked memory: limited to 0 bytes", "LimitMEMLOCK"]);
    }
}

#[test]
fn a_limit_of_threads_is_reported() {
    let (_directory, config) = config_for_nobody();
    let mut command = as_nobody(&[], &[&config, "--config.check"]);
    let limit = || Ok(setrlimit(Resource::RLIMIT_NPROC, 0, 0)?);
    // SAFETY: a system call and nothing else.
    unsafe { command.pre_exec(limit) };
    let expected =
        ["cannot start the thread that starts the exporter: Resource temporarily unavailable"];
    check_refusal(&output(&mut command), &expected);
}

#[test]
fn missing_btf_is_reported() {
    let (_directory, config) = config_file(CONFIG);
    let mut command = ending_with_us(&binary());
    command.args([&config, "--once"]);
    let hide = || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
        Ok(mount(Some("tmpfs"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), none)?)
    };
    // SAFETY: system calls and nothing else.
    unsafe { command.pre_exec(hide) };
    check_refusal(&output(&mut command), &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"]);
}

#[test]
fn reload_signals_during_start_are_not_lost() {
    let mut exporter = Exporter::begin(&[]);
    let pid = exporter.pid();
    let handled = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (Signal::SIGUSR1 as u32 - 1) != 0
    };
    let deadline = Instant::now() + PATIENCE;
    while !handled() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    exporter.signal(Signal::SIGHUP);
    exporter.wait_for_log("cause=SIGHUP");
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait().success());
}

#[test]
fn the_verifiers_verdict_is_reported() {
    let bytes = fs::read(BTF_PATH).unwrap();
    let btf = Btf::parse(&bytes).unwrap();
    let mut layout =
        Layout::from_btf(&btf, DisabledFeatures::default(), Hierarchy::default()).unwrap();
    // Larger than any task.
    for (_, value) in layout.globals.iter_mut().filter(|(name, _)| *name == Global::TaskFlags) {
        *value = 1 << 20;
    }
    let error = Scheduler::attach(layout, 0, false, None).err().unwrap();
    let said = error.to_string();
    assert!(matches!(error, LoadError::Rejected { .. }) && !error.is_permission(), "{said}");
    assert!(said.contains("the verifier rejects it: ") && said.contains("task_struct"), "{said}");
}

#[test]
fn a_process_in_a_time_namespace_does_not_start() {
    let (_directory, config) = config_file(CONFIG);
    let mut command = ending_with_us(&binary());
    let enter = || {
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
        fs::write("/proc/self/timens_offsets", "monotonic 1000 0")?;
        let time = fs::File::open("/proc/self/ns/time_for_children")?;
        Ok(setns(time, CloneFlags::from_bits_retain(CLONE_NEWTIME))?)
    };
    // SAFETY: the child has one thread, so no other holds a lock.
    unsafe { command.pre_exec(enter) };
    let output = output(command.args([&config, "--once"]));
    check_refusal(&output, &["CLOCK_MONOTONIC", "time namespace"]);
}

/// Blocks every open of the file until this is dropped.
fn gate(file: &Path) -> Fanotify {
    let flags = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC;
    let gate = Fanotify::init(InitFlags::FAN_CLASS_CONTENT, flags).unwrap();
    let (mark, opening) = (MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_PERM);
    gate.mark(mark, opening, AT_FDCWD, Some(file)).unwrap();
    gate
}

#[test]
fn a_configuration_that_hangs_is_rejected_and_does_not_delay_shutdown() {
    let mut exporter = Exporter::start(&["--web.enable-lifecycle"]);
    let failed =
        |it: &Exposition| it.value("sched_exporter_config_last_reload_successful", &[]) < 0.5;
    let held = gate(exporter.config());
    for _ in 0..2 {
        let answer = exporter.connect().request("POST", "/-/reload", &[]);
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("loading timed out after 10s"), "{}", answer.text());
    }
    assert!(failed(&exporter.scrape()));
    drop(held);
    exporter.wait_until("reloaded", |_| {
        exporter.connect().request("POST", "/-/reload", &[]).status == 200
    });
    assert!(!failed(&exporter.scrape()));

    let held = gate(exporter.config());
    exporter.signal(Signal::SIGHUP);
    held.read_events().unwrap();
    let asked = Instant::now();
    exporter.signal(Signal::SIGTERM);
    assert!(exporter.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn the_kernel_program_logs_through_the_same_logger() {
    let exporter = Exporter::start(&["--log.ebpf"]);
    exporter.wait_until("logged a seed", |_| exporter.log().contains("is seeded by pid"));
    let quiet = Exporter::start(&[]);
    thread::sleep(Duration::from_millis(200));
    assert!(!quiet.log().contains("is seeded by pid"));
}

#[test]
fn the_log_is_json_on_request() {
    let (_directory, config) = config_file(CONFIG);
    let output = run(&[&config, "--once", "--log.format=json"]);
    let stderr = text(&output.stderr);
    assert!(!stderr.is_empty());
    for line in stderr.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        assert!(line.contains("\"level\":") && line.contains("\"message\":"), "{line}");
    }
}

#[test]
fn a_disabled_feature_has_no_series_and_a_reason() {
    let (latency, switches) =
        ("sched_runqueue_latency_seconds_count", "sched_context_switches_total");
    for (collector, is_off, is_on) in
        [("runqueue-latency", latency, switches), ("context-switches", switches, latency)]
    {
        let flag = format!("--no-collector.{collector}");
        let exporter = Exporter::start(&[&flag]);
        let exposition = exporter.scrape();
        assert_eq!(exposition.select(is_off, &[]).count(), 0);
        assert!(exposition.sum(is_on, &[]) > 0);
        let feature = format!("feature=\"{}\"", collector.replace('-', "_"));
        let reason = format!("reason=\"{flag}\"");
        let enabled = "sched_exporter_feature_enabled";
        assert!(exposition.value(enabled, &[&feature, &reason]) < 0.5);
        assert_eq!(exposition.sum(enabled, &["reason=\"\""]), 2);
    }
}

#[test]
fn times_of_each_cpu_add_up_over_http() {
    quiet::attempt(check_times_over_http);
}

fn check_times_over_http() {
    let exporter = Exporter::start(&[]);
    let first = exporter.scrape();
    thread::sleep(Duration::from_secs(1));
    let second = exporter.scrape();
    let mut grown = Vec::new();
    for cpu in online() {
        let cpu = format!("cpu=\"{cpu}\"");
        let total = |exposition: &Exposition| {
            exposition.sum_ns("sched_cpu_seconds_total", &[&cpu])
                + exposition.sum_ns("sched_exporter_unattributed_seconds_total", &[&cpu])
        };
        grown.push(total(&second) - total(&first));
    }
    let spread = grown.iter().max().unwrap() - grown.iter().min().unwrap();
    assert!(spread < 100_000, "{grown:?}");
    assert!((1_000_000_000..1_500_000_000).contains(&grown[0]), "{grown:?}");
}

#[test]
fn docs_metrics_md_lists_exactly_the_families_served() {
    let documented = include_str!("../../../docs/metrics.md");
    let documented: Vec<_> = documented.lines().filter(|line| line.starts_with("| `")).collect();
    // Some families are of the web configuration.
    let certificates = Certificates::new();
    let web = argument(&certificates.web_text("http_server_config: {http2: true}\n"));
    let labels = "labels: {host: '{{ hostname }}'}\nlabels_on: both\n";
    let exporter = Exporter::start_with(labels, &[&web]);
    let mut client = exporter.connect();
    client.get("/-/ready");
    let text = client.request("GET", "/metrics", &[("Accept", "text/plain")]).text();
    let served: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    for (name, help) in served.iter().filter_map(|line| line.split_once(' ')) {
        let row = documented.iter().find(|row| row.starts_with(&format!("| `{name}` | ")));
        let row = row.unwrap_or_else(|| panic!("docs/metrics.md lacks {name}"));
        assert!(row.ends_with(&format!(" | {help} |")), "{row}\nis not\n{help}");
    }
    assert_eq!(documented.len(), served.len());
}
