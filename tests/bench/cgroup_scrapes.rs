//! Scrapes of machines with many cgroups: of the real exporter, and its reading and rendering for
//! machines larger than this one.

use std::{hint::black_box, time::Instant};

use anyhow::Result;
use sched_exporter::exposition::Format;
use sched_exporter_tests::{cgroups::Tree, maps::Maps, rendering::Rendering};

use crate::{
    Effort,
    daemon::Daemon,
    peers::Peers,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, ms, number},
};

const NOTE: &str = "\
Consecutive scrapes in text 0.0.4 of an exporter on a machine with many cgroups, in each of which a task
has run. CPU is that of the exporter per scrape, over all threads, while nothing else happens. No cgroup
has a quota. node_exporter, which knows nothing of cgroups, is scraped on the same machine.

Larger machines are synthetic: their maps are files with numbers as long as those of a machine that has
been up for a month, mapped as the kernel's are. The exporter's own code reads and renders them; that is
all of a scrape but the HTTP. Every cgroup has run on every CPU. On a real machine with so many CPUs, the rows are in
the caches of other CPUs, so a scrape takes longer. 512 CPUs with 1,000
cgroups need `--ebpf.cgroup-memory=40MiB`, and more than 4,093 cgroups have no slots of their own on any
machine.";

/// A number of cgroups, and of the sets that they are in.
struct Machine {
    cgroups: usize,
    sets: usize,
    /// The target in milliseconds.
    at_most: Option<f64>,
}

/// Those on this machine. The second has nearly as many cgroups as there are slots.
const HERE: [Machine; 2] = [
    Machine { cgroups: 1_000, sets: 250, at_most: Some(1.0) },
    Machine { cgroups: 4_000, sets: 1_000, at_most: None },
];

/// Synthetic ones, by number of CPUs.
const SYNTHETIC: [(u32, Machine); 3] = [
    (2, Machine { cgroups: 1_000, sets: 250, at_most: Some(1.0) }),
    (2, Machine { cgroups: 10_000, sets: 1_000, at_most: Some(8.0) }),
    (512, Machine { cgroups: 1_000, sets: 250, at_most: Some(10.0) }),
];

impl Machine {
    fn name(&self) -> String {
        format!("{} cgroups in {} sets", self.cgroups, self.sets)
    }

    /// Marks the row that has the target.
    fn target(&self, row: Row) -> Row {
        match self.at_most {
            Some(most) => row.at_most(most),
            None => row,
        }
    }
}

/// Measures all machines.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let mut group = Group::new("Scrapes of many cgroups", NOTE);
    for machine in &HERE {
        measure_here(&mut group, machine, effort, peers)?;
    }
    for (cpus, machine) in &SYNTHETIC {
        measure_synthetic(&mut group, *cpus, machine, effort);
    }
    Ok(group)
}

/// Scrapes exporters on this machine while it has these cgroups.
fn measure_here(group: &mut Group, machine: &Machine, effort: Effort, peers: &Peers) -> Result<()> {
    const HEADERS: &str = "Accept: text/plain;version=0.0.4\r\n";
    let exporter = Daemon::start_with(&config(machine.sets))?;
    let tree = Tree::new();
    for number in 0..machine.cgroups {
        let cgroup = tree.create(&format!("{}-{number}", number % machine.sets));
        cgroup.start(|| ()).wait();
    }
    // The cgroups that were there before have sets, too.
    exporter.wait_for_sets("", machine.sets)?;
    let bytes = exporter.connect()?.get("/metrics", HEADERS)?;
    let others = peers.exporters().map(|peer| Ok((Some(peer.name), Daemon::start_peer(peer)?)));
    let mut daemons = others.collect::<Result<Vec<_>>>()?;
    daemons.insert(0, (None, exporter));
    let scrapes = effort.choose(100, 30);
    let cpu = in_turn(&daemons, effort.choose(9, 3), |(_, daemon)| {
        let mut connection = daemon.connect()?;
        let before = daemon.cpu_time()?;
        for _ in 0..scrapes {
            connection.get("/metrics", HEADERS)?;
        }
        Ok(ms(daemon.cpu_time()?.saturating_sub(before)) / number(scrapes))
    })?;
    for ((peer, _), cpu) in daemons.iter().zip(cpu) {
        let (name, cpu) = (machine.name(), Summary::of(cpu));
        if let Some(peer) = peer {
            group.push(Row::new(format!("{name}: {peer}: CPU"), Unit::Ms, cpu));
        } else {
            let size = Summary::of([number(bytes)]);
            group.push(machine.target(Row::new(format!("{name}: CPU"), Unit::Ms, cpu)));
            group.push(Row::new(format!("{name}: size"), Unit::Bytes, size));
        }
    }
    Ok(())
}

/// A configuration that makes this many sets of the cgroups of [`measure_here`].
fn config(sets: usize) -> String {
    format!(
        "cgroups:\n  labels: {{set: \"{{{{ cgroup.path }}}}\"}}\n  relabel_configs:\n  - {{source_labels: [set], \
         regex: \"/sched_exporter-test-[^/]*/([^-]*)-.*\", target_label: set}}\nlimits: {{cgroups: {sets}}}\n"
    )
}

/// Reads and renders synthetic maps.
fn measure_synthetic(group: &mut Group, cpus: u32, machine: &Machine, effort: Effort) {
    const TIMES: u32 = 10;
    let maps = Maps::of(cpus, machine.cgroups);
    let rendering = Rendering::of_maps(&maps, machine.sets);
    let each = |started: Instant| ms(started.elapsed()) / f64::from(TIMES);
    let (mut reading, mut rendered, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..effort.choose(21, 5) {
        let snapshot = maps.snapshot();
        let started = Instant::now();
        for _ in 0..TIMES {
            black_box(maps.snapshot());
        }
        reading.push(each(started));
        let started = Instant::now();
        for _ in 0..TIMES {
            bytes = black_box(rendering.render_as(Format::Text, &snapshot)).len();
        }
        rendered.push(each(started));
        let started = Instant::now();
        for _ in 0..TIMES {
            black_box(rendering.render_as(Format::Text, &maps.snapshot()));
        }
        both.push(each(started));
    }
    let name = format!("synthetic, {cpus} CPUs, {}", machine.name());
    let row =
        |what: &str, ms: Vec<f64>| Row::new(format!("{name}: {what}"), Unit::Ms, Summary::of(ms));
    group.push(row("reading", reading));
    group.push(row("rendering", rendered));
    group.push(machine.target(row("both", both)));
    let size = Summary::of([number(bytes)]);
    group.push(Row::new(format!("{name}: size"), Unit::Bytes, size));
}
