//! The container image, run with two capabilities and a read-only root filesystem.

use std::{
    ffi::CString,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    client::Client,
    commands::block,
    config_map::ConfigMap,
    container::{ADDRESS, CAPABILITIES, Container, image, podman, podman_ok, run},
    process::CONFIG,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn two_capabilities_and_a_read_only_root_suffice() {
    let config = ConfigMap::new(CONFIG);
    let container = Container::start(config.path());
    let exposition = container.scrape();
    assert!(exposition.sum_ns("sched_cpu_seconds_total", &["host=\"test-host\""]) > 0);
    assert!(exposition.sum("sched_context_switches_total", &[]) > 0);
    assert!(exposition.sum("sched_runqueue_latency_seconds_count", &[]) > 0);
    let health = podman(["healthcheck", "run", &container.name]);
    assert!(health.status.success(), "{}", text(&health.stderr));
    assert_eq!(Client::connect(ADDRESS).get("/-/ready").status, 200);
}

#[test]
fn a_paused_container_is_unhealthy() {
    let config = ConfigMap::new(CONFIG);
    let container = Container::start(config.path());
    podman_ok(["pause", &container.name]);
    let health = run(&[], &["healthcheck"]);
    assert_eq!(health.status.code(), Some(1));
    assert!(text(&health.stderr).contains("no response within"), "{}", text(&health.stderr));
    podman_ok(["unpause", &container.name]);
    let health = run(&[], &["healthcheck"]);
    assert!(health.status.success(), "{}", text(&health.stderr));
}

#[test]
fn sighup_reloads_a_swapped_configuration_and_keeps_counts() {
    let config = ConfigMap::new(CONFIG);
    let container = Container::start(config.path());
    let before = container.scrape().sum("sched_context_switches_total", &[]);
    config.swap("labels:\n  host: other-host\n");
    podman_ok(["kill", "--signal=HUP", &container.name]);
    let after = container.wait_until("applied the labels", |exposition| {
        exposition.select("sched_context_switches_total", &["host=\"other-host\""]).count() > 0
    });
    assert_eq!(after.select("sched_context_switches_total", &["host=\"test-host\""]).count(), 0);
    assert!(after.sum("sched_context_switches_total", &[]) > before);
    container.wait_until("logged", |_| container.log().contains("cause=SIGHUP"));
}

#[test]
fn podman_stop_ends_it() {
    let config = ConfigMap::new(CONFIG);
    let container = Container::start(config.path());
    let started = Instant::now();
    podman_ok(["stop", "--time=20", &container.name]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let code = podman_ok(["inspect", "--format={{.State.ExitCode}}", &container.name]);
    assert_eq!(code, "0", "{}", container.log());
}

#[test]
fn missing_capabilities_are_reported() {
    for user in ["0:0", "65534:65534"] {
        let refused = run(&[&format!("--user={user}")], &["--once"]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stderr);
        assert!(said.contains("CAP_BPF and CAP_PERFMON missing"), "{said}");
        assert!(said.contains("--cap-add"), "{said}");
        assert!(!said.contains("no_new_privs is set"), "{said}");
    }
    let refused = run(&["--user=65534", "--security-opt=no-new-privileges"], &["--once"]);
    assert!(text(&refused.stderr).contains("no_new_privs is set"), "{refused:?}");
}

#[test]
fn a_user_other_than_root_can_run_it_with_two_capabilities() {
    let once = run(&[&["--user=65534:65534"], &CAPABILITIES[..]].concat(), &["--once"]);
    assert!(once.status.success(), "{}", text(&once.stderr));
    assert!(text(&once.stdout).contains("\nsched_cpu_seconds_total{host="));
}

/// Docker gives a user other than root no capabilities but those of the file; podman makes them ambient, too.
#[test]
fn the_binary_permits_both_capabilities_and_makes_none_effective() {
    let image = image();
    let root = podman_ok(["image", "mount", &image]);
    let path = CString::new(format!("{root}/bin/sched_exporter")).unwrap();
    let mut found = [0_u8; 64];
    let (value, size) = (found.as_mut_ptr().cast(), found.len());
    // SAFETY: the strings end with zero, and the buffer has the size given.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), value, size) };
    podman_ok(["image", "unmount", &image]);
    // Revision 2 without the effective bit; bits 38 and 39 permitted.
    let expected = [0x0200_0000_u32, 0, 0, 0xc0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(found[..usize::try_from(length).unwrap()], expected);
}

#[test]
fn the_default_configuration_labels_the_host() {
    let once = run(&[&CAPABILITIES[..], &["--uts=private", "--hostname=h1"]].concat(), &["--once"]);
    let exposition = text(&once.stdout);
    assert!(exposition.contains("sched_cpu_seconds_total{host=\"h1\","), "{}", text(&once.stderr));
}

#[test]
fn the_image_contains_only_the_exporter_and_its_configuration() {
    let created = podman_ok(["create", "--pull=never", &image()]);
    let mut export =
        Command::new("podman").args(["export", &created]).stdout(Stdio::piped()).spawn().unwrap();
    let tar = Command::new("tar").arg("--list").stdin(export.stdout.take().unwrap()).output();
    export.wait().unwrap();
    podman_ok(["rm", &created]);
    let listed = text(&tar.unwrap().stdout);
    let mut files: Vec<_> = listed.lines().filter(|file| !file.ends_with('/')).collect();
    files.sort_unstable();
    assert_eq!(files, ["bin/sched_exporter", "etc/sched_exporter/exporter.yaml"]);
    let shell = run(&["--entrypoint=/bin/sh"], &[]);
    assert!(!shell.status.success() && text(&shell.stderr).contains("no such file"), "{shell:?}");
}

#[test]
fn the_commands_of_the_guide_run_query_and_remove_it() {
    let shell = |number| {
        let block = block("A container", "sh", number);
        let output = Command::new("sh").args(["-ec", &block]).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", text(&output.stderr));
        text(&output.stdout)
    };
    shell(1);
    let container = Container::named("sched_exporter".to_owned());
    let id = podman_ok(["inspect", "--format={{.Id}}", &container.name]);
    let printed = shell(2);
    assert!(printed.contains("\nsched_cpu_seconds_total{host="), "{printed}");
    // Its own cgroup has a name, which it can only know from the host's tree.
    assert!(printed.contains(&format!("name=\"{id}\"")), "{printed}");
    assert!(!podman(["container", "exists", &container.name]).status.success());
}

#[test]
fn the_image_has_its_metadata() {
    let label = |name: &str| {
        let format =
            format!("--format={{{{index .Config.Labels \"org.opencontainers.image.{name}\"}}}}");
        podman_ok(["image", "inspect", &format, &image()])
    };
    assert_eq!(label("title"), "sched_exporter");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
    let version = run(&[], &["--version"]);
    assert!(text(&version.stdout).contains(&format!("revision: {}", label("revision"))));
    let config = podman_ok(["image", "inspect", "--format={{.Config.ExposedPorts}}", &image()]);
    assert!(config.contains("10435/tcp"), "{config}");
}
