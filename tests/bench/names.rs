//! Names from a container runtime: what it costs to ask for them, to keep them, and to label cgroups by them.

use std::{
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sched_exporter::{
    config::Config,
    cpu::topology::Topology,
    expr::{cgroup::CgroupNames, values::Values},
    generation::Generation,
    metrics::catalog::SERIES,
};
use sched_exporter_tests::{
    cgroups::{Cgroup, Tree},
    fake_runtime::{Listed, Server},
};

use crate::{
    Effort,
    daemon::Daemon,
    memory::resident_mib,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, ms},
};

const NOTE: &str = "\
Names of containers in pods, from a server on a Unix socket that imitates a container runtime. In the
cgroup of each container, a task has run. CPU is that of the exporter's process, over all threads, more than
a minute after a scrape: until then, it reads quotas.

A refresh is all that a new container causes: the kernel program sends its path, the exporter asks for the
lists of all containers and pods, and labels its cgroup. In a minute without a new container, the exporter
asks once, ranks the sets once, and reads its configuration once, each time with cold caches. Memory is resident after some scrapes; the exporter that it is compared with shows the same cgroups
by their ids and asks nobody. Labelling is measured without the exporter, for names that are all different,
with the default labels, which are eight templates, and with the default rules.";

/// The exporter reads quotas for this long after a scrape.
const QUOTAS: Duration = Duration::from_mins(1);

/// How long a container is at most without its name.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Containers with cgroups, and the runtime that lists them.
struct Node {
    tree: Tree,
    cgroups: Vec<Cgroup>,
    listed: Arc<Mutex<Vec<Listed>>>,
    runtime: Server,
    pods: u32,
}

impl Node {
    fn start(containers: u32, pods: u32) -> Self {
        let listed = Arc::default();
        let runtime = Server::listing(Arc::clone(&listed));
        let mut node = Self { tree: Tree::new(), cgroups: Vec::new(), listed, runtime, pods };
        for number in 0..containers {
            node.add(number);
        }
        node
    }

    /// Adds a container in one of the pods, and runs a task in it.
    fn add(&mut self, number: u32) {
        let of_pod = number % self.pods;
        let pod = format!("deployment-{}-5d4f8c7b9-{of_pod:05}", of_pod % 20);
        let container = format!("container-{number}");
        let listed = |number| {
            Listed::numbered(number, [b"namespace-1", pod.as_bytes(), container.as_bytes()])
        };
        let Listed { uid, sandbox, .. } = listed(of_pod);
        let container = Listed { uid, sandbox, ..listed(number) };
        let cgroup = self.tree.create_all(&container.cgroup());
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(container);
        visit(&cgroup);
        self.cgroups.push(cgroup);
    }

    /// Starts an exporter that asks the runtime, and waits until all containers have their series.
    fn exporter(&self) -> Result<Daemon> {
        self.exporter_with(&format!("{:?}", self.runtime.url()), "namespace=\"namespace-1\"")
    }

    /// As [`Node::exporter`], but it asks nobody.
    fn exporter_without_names(&self) -> Result<Daemon> {
        self.exporter_with("", "container=\"0000")
    }

    fn exporter_with(&self, runtimes: &str, pair: &str) -> Result<Daemon> {
        let config = format!("cgroups: {{runtimes: [{runtimes}]}}\nlimits: {{cgroups: 2000}}\n");
        let exporter = Daemon::start_with(&config)?;
        // A cgroup has no series before a task runs in it.
        self.cgroups.iter().for_each(visit);
        exporter.wait_for_sets(pair, self.sets())?;
        Ok(exporter)
    }

    /// The number of containers.
    const fn sets(&self) -> usize {
        self.cgroups.len()
    }
}

/// Runs two tasks in a cgroup, one after the other: some kernels do not report every switch.
fn visit(cgroup: &Cgroup) {
    for _ in 0..2 {
        cgroup.start(|| ()).wait();
    }
}

/// Measures refreshes, memory, labelling, and an exporter for which nothing changes.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let mut group = Group::new("Names from a container runtime", NOTE);
    let mut node = Node::start(250, 110);
    let exporter = node.exporter()?;
    let length = Duration::from_secs(effort.choose(120, 60));
    thread::sleep(QUOTAS + SETTLE);
    let before = exporter.cpu_time()?;
    thread::sleep(length);
    let idle = ms(exporter.cpu_time()?.saturating_sub(before)) * 60.0 / length.as_secs_f64();
    let refreshes = refreshes(&mut node, &exporter, effort.choose(30, 5))?;
    let what = "250 containers in 110 pods: refresh: CPU".to_owned();
    group.push(Row::new(what, Unit::Ms, Summary::of(refreshes)).at_most(5.0));
    let what = format!("250 containers in 110 pods: CPU for each minute, over {length:?}");
    group.push(Row::new(what, Unit::Ms, Summary::of([idle])));
    drop((exporter, node));
    memory(&mut group, effort)?;
    let (default, named) = labelling(effort)?;
    group.push(Row::new("10,000 cgroups: labelling".into(), Unit::Ms, Summary::of(default)));
    group.push(Row::new("10,000 containers: labelling".into(), Unit::Ms, Summary::of(named)));
    Ok(group)
}

/// Milliseconds of CPU for each of several new containers.
fn refreshes(node: &mut Node, exporter: &Daemon, rounds: u32) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 1_000..1_000 + rounds {
        let before = exporter.cpu_time()?;
        node.add(number);
        thread::sleep(SETTLE);
        times.push(ms(exporter.cpu_time()?.saturating_sub(before)));
    }
    let (shown, sets) = (exporter.shown_sets("namespace=\"namespace-1\"")?, node.sets());
    ensure!(shown == sets, "{shown} of {sets} containers have their names");
    Ok(times)
}

/// The memory of names of a thousand containers.
fn memory(group: &mut Group, effort: Effort) -> Result<()> {
    let node = Node::start(1_000, 400);
    let starts: [fn(&Node) -> Result<Daemon>; 2] = [Node::exporter, Node::exporter_without_names];
    let held = in_turn(&starts, effort.choose(9, 3), |start| {
        let exporter = start(&node)?;
        let mut connection = exporter.connect()?;
        for _ in 0..100 {
            connection.get("/metrics", "")?;
        }
        resident_mib(exporter.pid(), "VmRSS")
    })?;
    let [with, without] = held.as_slice() else { return Ok(()) };
    let more = with.iter().zip(without).map(|(with, without)| with - without);
    let mut push = |what: &str, values: &mut dyn Iterator<Item = f64>, most: Option<f64>| {
        let what = format!("1,000 containers: resident memory{what}");
        let row = Row::new(what, Unit::Mib, Summary::of(values));
        group.push(match most {
            Some(most) => row.at_most(most),
            None => row,
        });
    };
    push(" with names", &mut with.iter().copied(), None);
    push(" without", &mut without.iter().copied(), None);
    push(", names add", &mut { more }, Some(1.5));
    Ok(())
}

/// Milliseconds for labelling cgroups of units, and of containers.
fn labelling(effort: Effort) -> Result<(Vec<f64>, Vec<f64>)> {
    let config = Config::parse("{}").map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let topology = Topology::of(vec![0, 1]);
    let (generation, _) = Generation::new(&config, "", &Values::default(), &topology, SERIES);
    let labeller = generation.labels.cgroups.as_ref().context("no labels of cgroups")?;
    let units: Vec<_> = (0..10_000)
        .map(|number| CgroupNames {
            unit: format!("service-{number}.service"),
            slice: "system.slice".into(),
            ..CgroupNames::default()
        })
        .collect();
    let containers: Vec<_> = (0..10_000)
        .map(|number| CgroupNames {
            container_id: format!("{number:064x}"),
            container_name: "container".into(),
            image: "registry.example/image:1".into(),
            namespace: format!("namespace-{}", number % 20),
            pod_name: format!("deployment-5d4f8c7b9-{number:05}"),
            pod_uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            ..CgroupNames::default()
        })
        .collect();
    let kinds = [units, containers];
    let mut times = in_turn(&kinds, effort.choose(21, 5), |names| {
        let started = Instant::now();
        let mut violations = labeller.violations();
        let mut batch = labeller.batch(&mut violations);
        for names in names {
            black_box(batch.labels(names));
        }
        Ok(ms(started.elapsed()))
    })?
    .into_iter();
    Ok((times.next().unwrap_or_default(), times.next().unwrap_or_default()))
}
