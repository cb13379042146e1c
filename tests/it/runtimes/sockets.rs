//! Runtimes that hang, lie or flood: scrapes stay quick, and other runtimes' containers keep their names.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    cgroups::Tree,
    fake_runtime::{Listed, Server},
    process::{Exporter, PATIENCE},
};

use super::{
    check_account, counted,
    fakes::{Conduct, Running, misbehaving},
    find, sets, wait_for,
};

/// Maximum duration of a scrape, also on a busy machine.
const QUICK: Duration = Duration::from_millis(100);

/// Maximum memory that all answers together may take for a while.
const ROOM_KIB: u64 = 48 * 1024;

fn config(servers: &[&Server]) -> String {
    let urls: Vec<_> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
    format!("cgroups: {{runtimes: [{}]}}\n", urls.join(", "))
}

/// A number in a process's status.
fn kib(exporter: &Exporter, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', '\t', ' ']).split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn others_keep_their_names_and_scrapes_stay_quick() {
    let tree = Tree::new();
    let listed = Arc::new(Mutex::new(Vec::new()));
    let honest = Server::listing(Arc::clone(&listed));
    let alone = Exporter::start_with(&config(&[&honest]), &[]);
    let usual = kib(&alone, "VmHWM");
    drop(alone);
    let others = [
        Conduct::Silent,
        Conduct::Closing,
        Conduct::Garbage,
        Conduct::Malformed,
        Conduct::Unfinished,
        Conduct::Dripping,
        Conduct::Flooding,
        Conduct::Crowded,
    ];
    let others = others.map(misbehaving);
    let mut servers: Vec<_> = others.iter().collect();
    servers.insert(4, &honest);
    let exporter = Exporter::start_with(&config(&servers), &[]);
    let mut running: Vec<Running> = Vec::new();
    let started = Instant::now();
    for number in 0.. {
        if started.elapsed() > Duration::from_secs(12) {
            break;
        }
        let name = format!("pod-{number}");
        let next = Running::start(&tree, number, [b"shop", name.as_bytes(), b"main"]);
        listed.lock().unwrap().push(next.listed.clone());
        running.push(next);
        let deadline = Instant::now() + PATIENCE;
        let mut named = false;
        while !named {
            let scrape = Instant::now();
            let exposition = exporter.scrape();
            let took = scrape.elapsed();
            assert!(took < QUICK, "a scrape took {took:?}");
            check_account(&exposition);
            let has = |it: &Running| sets(&exposition, &it.pairs()) == 1;
            let (last, before) = running.split_last().unwrap();
            assert!(before.iter().all(has), "a name is gone");
            named = has(last);
            assert!(Instant::now() < deadline, "{name} has no name");
        }
    }
    let used = kib(&exporter, "VmHWM");
    assert!(used < usual + ROOM_KIB, "{used} KiB, {usual} KiB without them");
    let exposition = exporter.scrape();
    let up = |server: &Server| {
        let source = format!("source=\"{}\"", server.url());
        exposition.sum("sched_exporter_label_source_up", &[&source])
    };
    assert_eq!(up(&honest), 1);
    for (number, other) in others.iter().enumerate() {
        assert_eq!(up(other), 0, "server {number}: {}", exporter.log());
    }
}

/// Tenants choose these names. None can break the exposition, or give time to another's series.
#[test]
fn names_are_data() {
    let tree = Tree::new();
    let long = vec![b'x'; 1 << 20];
    let hostile: [[&[u8]; 3]; 5] = [
        [b"shop", b"a\",namespace=\"kube-system\",pod=\"etcd", b"main"],
        [b"shop", b"a\nsched_cgroup_cpu_seconds_total{namespace=\"kube-system\"} 1", b"main"],
        [b"shop", b"\xff\xfe\x00", b"main"],
        [&long, &long, &long],
        [b"", b"", b""],
    ];
    let names = hostile.iter().zip(1..);
    let hostile: Vec<_> =
        names.map(|(names, number)| Running::start(&tree, number, *names)).collect();
    let victim = Running::start(&tree, 100, [b"kube-system", b"dns", b"main"]);
    let honest = Arc::new(Mutex::new(vec![victim.listed.clone()]));
    // Another runtime claims the victim's container.
    let names = ["shop", "claimed", "main"].map(|name| name.as_bytes().to_vec());
    let claim = Listed { names, ..victim.listed.clone() };
    let lies: Vec<_> = hostile.iter().map(|it| it.listed.clone()).chain([claim]).collect();
    let honest = Server::listing(honest);
    let liar = Server::listing(Arc::new(Mutex::new(lies)));
    let exporter = Exporter::start_with(&config(&[&honest, &liar]), &[]);
    find(&exporter, &victim.pairs());
    let last = Running::start(&tree, 101, [b"kube-system", b"proxy", b"main"]);
    wait_for(&exporter, &["namespace=\"shop\""]);
    let exposition = exporter.scrape();
    check_account(&exposition);
    let system = sets(&exposition, &["namespace=\"kube-system\""]);
    assert_eq!(system, 1, "{exposition:?}");
    assert_eq!(counted(&exporter, &["pod=\"claimed\""]), 0);
    // A container that no runtime knows has its ids.
    wait_for(&exporter, &[format!("container=\"{}\"", last.listed.id)]);
}
