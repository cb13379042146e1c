//! Scrapes in each format in turn, and checks of each.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    net::SocketAddr,
};

use flate2::read::GzDecoder;
use sched_exporter::{config::Config, exposition};
use sched_exporter_tests::{
    client::{Answer, Client},
    exposition::Exposition,
    sample::Sample,
    workload::{monotonic_ns, online},
};

use crate::{
    Shared,
    cgroups::{Cgroups, is_of_cgroup},
    files,
    invariant::Invariant,
};

/// Prometheus' default timeout of a scrape.
const SCRAPE_TIMEOUT_MS: u64 = 10_000;

/// Most nanoseconds between accounts of the same time.
const EXACT_NS: u64 = 100_000;

/// Number of scrapes per connection.
const ON_A_CONNECTION: usize = 50;

/// Headers of a request, and the expected content type and encoding.
struct Form {
    headers: [(&'static str, &'static str); 2],
    content_type: &'static str,
    encoding: &'static str,
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

const FORMS: [Form; 3] = [
    Form {
        headers: [("Accept", "application/openmetrics-text"), ("Accept-Encoding", "identity")],
        content_type: OPEN_METRICS,
        encoding: "",
    },
    Form {
        headers: [("Accept", "text/plain"), ("Accept-Encoding", "identity")],
        content_type: "text/plain; version=0.0.4",
        encoding: "",
    },
    Form {
        headers: [("Accept", "application/openmetrics-text"), ("Accept-Encoding", "gzip")],
        content_type: OPEN_METRICS,
        encoding: "gzip",
    },
];

/// The configuration of a scrape, identified by everything that depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Served {
    /// The number in its labels.
    number: u64,
    generation: u64,
    sha256: String,
}

/// All scrapes so far.
pub(crate) struct Scrapes {
    address: SocketAddr,
    shared: Shared,
    client: Option<Client>,
    count: usize,
    cpus: Vec<String>,
    served: Served,
    reloads: u64,
    /// Number of configurations served that no signal announced.
    untold: u64,
    switches: u64,
    /// Last values of counters, by series without the labels from the configuration.
    counters: BTreeMap<String, f64>,
    /// Range of `CLOCK_MONOTONIC` in which the accounts have begun, by the scrapes so far: each was
    /// answered between two readings of the clock.
    began: (u64, u64),
    answered: Invariant,
    whole: Invariant,
    alike: Invariant,
    exact: Invariant,
    forward: Invariant,
    buckets: Invariant,
    one_generation: Invariant,
    no_older: Invariant,
    bad_files: Invariant,
    cgroups: Cgroups,
}

impl Scrapes {
    pub(crate) fn new(address: SocketAddr, shared: &Shared) -> Self {
        Self {
            address,
            shared: shared.clone(),
            client: None,
            count: 0,
            cpus: online().iter().map(|cpu| format!("cpu=\"{cpu}\"")).collect(),
            served: Served::default(),
            reloads: 0,
            untold: 0,
            switches: 0,
            counters: BTreeMap::new(),
            began: (0, u64::MAX),
            answered: Invariant::new("scrapes return 200 in the requested format"),
            whole: Invariant::new("expositions are complete, without duplicate series"),
            alike: Invariant::new("all CPUs account for the same time"),
            exact: Invariant::new("the time accounted for is the time that has passed"),
            forward: Invariant::new("no counter decreases"),
            buckets: Invariant::new("buckets are cumulative, and the last is the count"),
            one_generation: Invariant::new("each scrape shows one valid configuration"),
            no_older: Invariant::new("no scrape returns to an earlier configuration"),
            bad_files: Invariant::new("invalid files are reported, and change nothing"),
            cgroups: Cgroups::new(),
        }
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count as u64
    }

    /// Number of the configuration in the last scrape.
    pub(crate) const fn served(&self) -> u64 {
        self.served.number
    }

    /// Number of reloads.
    pub(crate) const fn reloads(&self) -> u64 {
        self.reloads
    }

    /// Number of configurations served that no signal announced.
    pub(crate) const fn untold(&self) -> u64 {
        self.untold
    }

    /// Context switches since the exporter attached.
    pub(crate) fn switches(&self) -> u64 {
        self.switches
    }

    /// Slots of cgroups in use at the last scrape.
    pub(crate) const fn cgroup_slots(&self) -> u64 {
        self.cgroups.used()
    }

    /// Closes the connection.
    pub(crate) fn disconnect(&mut self) {
        self.client = None;
    }

    pub(crate) fn into_invariants(self) -> Vec<Invariant> {
        let mut invariants = vec![
            self.answered,
            self.whole,
            self.alike,
            self.exact,
            self.forward,
            self.buckets,
            self.one_generation,
            self.no_older,
            self.bad_files,
        ];
        invariants.extend(self.cgroups.into_invariants());
        invariants
    }

    /// Scrapes once and checks everything.
    pub(crate) fn scrape(&mut self) {
        let form = &FORMS[self.count % FORMS.len()];
        if self.count.is_multiple_of(ON_A_CONNECTION) {
            self.disconnect();
        }
        self.count += 1;
        let before = monotonic_ns();
        let answer = self.ask(form);
        let after = monotonic_ns();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.answered.check(false, || error.to_string());
                self.disconnect();
                return;
            }
        };
        self.answered.at_most((after - before) / 1_000_000, SCRAPE_TIMEOUT_MS, "ms", || {
            "later than Prometheus' timeout".to_owned()
        });
        let is_right = answer.status == 200
            && answer.header("content-type").starts_with(form.content_type)
            && answer.header("content-encoding") == form.encoding;
        self.answered.check(is_right, || format!("{} {:?}", answer.status, answer.headers));
        match read(&answer, form) {
            Ok((exposition, samples)) => {
                self.whole.check(true, String::new);
                self.switches = exposition.sum("sched_context_switches_total", &[]);
                self.reloads = exposition.sum("sched_exporter_config_reloads_total", &[]);
                self.check_time(&exposition, before, after);
                self.check_counters(&samples);
                self.check_buckets(&samples);
                self.cgroups.check(&exposition, &samples);
                self.check_generation(&exposition, &samples);
            }
            Err(wrong) => self.whole.check(false, || wrong),
        }
    }

    fn ask(&mut self, form: &Form) -> io::Result<Answer> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::try_connect(self.address)?),
        };
        client.try_request("GET", "/metrics", &form.headers)
    }

    /// Checks that all CPUs account for the same time, and that all scrapes imply the same instant
    /// of attaching.
    fn check_time(&mut self, exposition: &Exposition, before: u64, after: u64) {
        let accounts = self.cpus.iter().map(|cpu| {
            exposition.sum_ns("sched_cpu_seconds_total", &[cpu])
                + exposition.sum_ns("sched_exporter_unattributed_seconds_total", &[cpu])
        });
        let accounts: Vec<u64> = accounts.collect();
        let (Some(least), Some(most)) = (accounts.iter().min(), accounts.iter().max()) else {
            return;
        };
        self.alike.at_most(most - least, EXACT_NS, "ns apart", || {
            format!("{accounts:?} ns, answered within {} ns", after - before)
        });
        let (from, to) = &mut self.began;
        *from = (*from).max(before.saturating_sub(*least));
        *to = (*to).min(after.saturating_sub(*most));
        self.exact.at_most(from.saturating_sub(*to), EXACT_NS, "ns off", || {
            format!("{accounts:?} ns between {before} and {after} of CLOCK_MONOTONIC")
        });
    }

    fn check_counters(&mut self, samples: &[Sample]) {
        const SUFFIXES: [&str; 5] = ["_total", "_bucket", "_count", "_sum", "_generation"];
        let is_counter = |it: &&Sample| SUFFIXES.iter().any(|end| it.name.ends_with(end));
        for sample in samples.iter().filter(|it| is_counter(it) && !is_of_cgroup(it)) {
            let own = sample.labels.iter().filter(|(name, _)| name != "config" && name != "zone");
            let series = format!("{}{:?}", sample.name, own.collect::<Vec<_>>());
            let value = number(&sample.value);
            let old = self.counters.get(&series).copied().unwrap_or(0.0);
            self.forward.check(old <= value, || format!("{series} fell from {old} to {value}"));
            self.counters.insert(series, value);
        }
    }

    fn check_buckets(&mut self, samples: &[Sample]) {
        let mut histograms: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        let key = |sample: &Sample, suffix| {
            let labels = sample.labels.iter().filter(|(name, _)| name != "le").cloned();
            Some((sample.name.strip_suffix(suffix)?.to_owned(), labels.collect::<Vec<_>>()))
        };
        for sample in samples {
            if let (Some(key), Some(le)) = (key(sample, "_bucket"), sample.label("le")) {
                histograms.entry(key).or_default().push((number(le), number(&sample.value)));
            }
        }
        // Those of cgroups are summaries.
        for sample in samples.iter().filter(|it| !is_of_cgroup(it)) {
            let Some(histogram) = key(sample, "_count") else { continue };
            let mut buckets = histograms.remove(&histogram).unwrap_or_default();
            buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let last = Some((f64::INFINITY, number(&sample.value)));
            let holds =
                buckets.is_sorted_by_key(|(_, count)| *count) && buckets.last().copied() == last;
            self.buckets.check(holds, || format!("{histogram:?} {buckets:?}, {}", sample.value));
        }
    }

    fn check_generation(&mut self, exposition: &Exposition, samples: &[Sample]) {
        let latest = self.shared.latest_config();
        let mut ours = samples
            .iter()
            .filter(|it| it.name.starts_with("sched_") && !it.name.starts_with("sched_exporter_"));
        let first = ours.clone().find_map(|sample| sample.label("config")).unwrap_or_default();
        let Ok(number) = first.parse::<u64>() else {
            self.one_generation.check(false, || format!("the label config is {first:?}"));
            return;
        };
        let config = Config::parse(&files::good(number)).unwrap();
        let stray = ours.find(|sample| !is_of(sample, &config));
        self.one_generation.check(stray.is_none(), || format!("{number}, but {stray:?}"));
        let found = bounds(samples);
        let indices = config.runqueue_latency().bucket_indices();
        let mut expected: Vec<_> = indices.iter().map(|it| exposition::le(*it)).collect();
        expected.push("+Inf".to_owned());
        self.one_generation.check(found == expected, || format!("{number}, but {found:?}"));

        let sha256 = samples.iter().find_map(|sample| sample.label("sha256")).unwrap_or_default();
        let generation = exposition.sum("sched_exporter_config_generation", &[]);
        let served = Served { number, generation, sha256: sha256.to_owned() };
        let old = std::mem::replace(&mut self.served, served);
        let served = &self.served;
        let is_new = old.number != served.number;
        self.untold += u64::from(is_new && self.shared.is_untold(served.number));
        let all_new = old.number < number
            && old.generation < generation
            && old.sha256 != sha256
            && number <= latest;
        self.no_older.check(all_new || old == *served, || {
            format!("{served:?} after {old:?}; the latest in place is {latest}")
        });
        // No valid configuration has its labels; the end of the soak shows that it was reported.
        let failed = exposition.sum("sched_exporter_config_last_reload_successful", &[]) == 0;
        if failed {
            self.bad_files.check(true, String::new);
        }
    }
}

/// Decodes and parses the body.
fn read(answer: &Answer, form: &Form) -> Result<(Exposition, Vec<Sample>), String> {
    let mut text = String::new();
    let read = match form.encoding {
        "gzip" => GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text),
        _ => answer.body.as_slice().read_to_string(&mut text),
    };
    read.map_err(|error| error.to_string())?;
    let is_ended = text.ends_with("\n# EOF\n") == (form.content_type == OPEN_METRICS);
    if !is_ended {
        return Err(format!("it ends with {:?}", text.lines().last()));
    }
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(Sample::read).collect::<Result<_, _>>()?;
    Ok((Exposition::read(&text)?, samples))
}

/// Whether a sample has the labels and the series of a configuration.
fn is_of(sample: &Sample, config: &Config) -> bool {
    let labels =
        config.labels().iter().all(|(name, value)| sample.label(name) == Some(value.as_str()));
    let per_cpu = config.runqueue_latency().per_cpu() || !sample.name.starts_with("sched_runqueue");
    let per_cpu = per_cpu && !is_of_cgroup(sample);
    labels && sample.label("cpu").is_some() == per_cpu
}

/// Bucket bounds of the first histogram of run-queue waits, as written.
fn bounds(samples: &[Sample]) -> Vec<String> {
    let buckets = || samples.iter().filter(|it| it.name == "sched_runqueue_latency_seconds_bucket");
    let cpu = buckets().next().and_then(|sample| sample.label("cpu"));
    let of_one = buckets().filter(|sample| sample.label("cpu") == cpu);
    of_one.filter_map(|sample| sample.label("le").map(str::to_owned)).collect()
}

/// Parses a number of an exposition.
fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}
