//! The daemon's own metrics that change as it runs, kept by the `prometheus` crate: requests,
//! scrapes, reloads, and the process.

use std::time::{Duration, SystemTime};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
    proto::{MetricFamily, MetricType},
};

use crate::{
    exposition::{Encoder, Family, Kind, Labels, Value, canonical},
    generation::ReloadOutcome,
    labels::ViolationKind,
};

/// Bounds of the scrape duration, in seconds.
const SCRAPE_BOUNDS: [f64; 8] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1];

/// The metrics, and the registry they are gathered from.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
    requests: IntCounterVec,
    scrapes_in_flight: IntGauge,
    scrape_seconds: Histogram,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    reload_success_timestamp: Gauge,
    label_source_up: IntGaugeVec,
    labels_rejected: IntCounterVec,
    capability_kept: IntGaugeVec,
}

impl Telemetry {
    /// Registers all metrics. Fails only where two have one name.
    pub fn new() -> prometheus::Result<Self> {
        let telemetry = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(
                Opts::new(
                    "sched_exporter_http_requests_total",
                    "HTTP requests answered, by path and status code; a path that does not exist \
                     counts as other.",
                ),
                &["path", "code"],
            )?,
            scrapes_in_flight: IntGauge::new(
                "sched_exporter_scrapes_in_flight",
                "Scrapes that are rendered but not all sent yet, which takes as long as their clients \
                 do; the scrape that says so is not among them.",
            )?,
            scrape_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "sched_exporter_scrape_duration_seconds",
                    "Time to read the kernel's map and render an exposition, for the scrapes \
                     before this one.",
                )
                .buckets(SCRAPE_BOUNDS.to_vec()),
            )?,
            reloads: IntCounterVec::new(
                Opts::new(
                    "sched_exporter_config_reloads_total",
                    "Reloads of the configuration by outcome: applied, unchanged (the file is what \
                     is served already), failed (the last good file is kept).",
                ),
                &["outcome"],
            )?,
            reload_successful: IntGauge::new(
                "sched_exporter_config_last_reload_successful",
                "Whether the last attempt to load the configuration succeeded.",
            )?,
            reload_success_timestamp: Gauge::new(
                "sched_exporter_config_last_reload_success_timestamp_seconds",
                "When the configuration was last loaded successfully, in seconds of the epoch.",
            )?,
            label_source_up: IntGaugeVec::new(
                Opts::new(
                    "sched_exporter_label_source_up",
                    "Whether each source of label values that a template names could be read when it \
                     was last tried.",
                ),
                &["source"],
            )?,
            labels_rejected: IntCounterVec::new(
                Opts::new(
                    "sched_exporter_labels_rejected_total",
                    "Labels that new values of their sources made unfit, by reason: a template \
                     without a result or a name that can't be (left out), or a limit (left out or \
                     other). A file that gives such labels when it is loaded is refused.",
                ),
                &["reason"],
            )?,
            capability_kept: IntGaugeVec::new(
                Opts::new(
                    "sched_exporter_capability_kept",
                    "Whether the exporter still has each of the capabilities that loading its \
                     program may take. All others are given up with them; before Linux 5.19, reading \
                     the kernel's map can take one.",
                ),
                &["capability"],
            )?,
        };
        let collectors: [Box<dyn Collector>; 9] = [
            Box::new(telemetry.requests.clone()),
            Box::new(telemetry.scrapes_in_flight.clone()),
            Box::new(telemetry.scrape_seconds.clone()),
            Box::new(telemetry.reloads.clone()),
            Box::new(telemetry.reload_successful.clone()),
            Box::new(telemetry.reload_success_timestamp.clone()),
            Box::new(telemetry.label_source_up.clone()),
            Box::new(telemetry.labels_rejected.clone()),
            Box::new(telemetry.capability_kept.clone()),
        ];
        for collector in collectors {
            telemetry.registry.register(collector)?;
        }
        #[cfg(target_os = "linux")]
        telemetry
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        for outcome in ReloadOutcome::ALL {
            telemetry.reloads.with_label_values(&[outcome.name()]);
        }
        for kind in ViolationKind::ALL {
            telemetry.labels_rejected.with_label_values(&[kind.name()]);
        }
        Ok(telemetry)
    }

    /// Counts an answered request.
    pub fn request(&self, path: &str, code: u16) {
        self.requests.with_label_values(&[path, itoa::Buffer::new().format(code)]).inc();
    }

    /// Scrapes whose answer is on its way, to be kept up to date by whoever sends it.
    pub fn scrapes_in_flight(&self) -> &IntGauge {
        &self.scrapes_in_flight
    }

    /// Takes the time that a scrape needed.
    pub fn scrape(&self, duration: Duration) {
        self.scrape_seconds.observe(duration.as_secs_f64());
    }

    /// Records that the first configuration was loaded.
    pub fn loaded(&self) {
        self.reload_successful.set(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.reload_success_timestamp.set(now.as_secs_f64());
    }

    /// Records how a reload ended.
    pub fn reload(&self, outcome: ReloadOutcome) {
        self.reloads.with_label_values(&[outcome.name()]).inc();
        if outcome == ReloadOutcome::Failed {
            self.reload_successful.set(0);
        } else {
            self.loaded();
        }
    }

    /// Updates which sources are up, by name, and forgets the others.
    pub fn label_sources(&self, sources: impl IntoIterator<Item = (&'static str, bool)>) {
        self.label_source_up.reset();
        for (source, is_up) in sources {
            self.label_source_up.with_label_values(&[source]).set(i64::from(is_up));
        }
    }

    /// Counts a label that can't be as the configuration asks.
    pub fn label_rejected(&self, kind: ViolationKind) {
        self.labels_rejected.with_label_values(&[kind.name()]).inc();
    }

    /// Takes which capabilities the process still has, by name.
    pub fn capabilities(&self, kept: impl IntoIterator<Item = (String, bool)>) {
        for (name, is_kept) in kept {
            self.capability_kept.with_label_values(&[name.as_str()]).set(i64::from(is_kept));
        }
    }

    /// The metrics as they are now, sorted by name.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// Writes families that the `prometheus` crate gathered.
pub fn write<'a>(encoder: &mut Encoder<'a>, families: &'a [MetricFamily]) {
    for family in families {
        let Some(kind) = kind_of(family) else { continue };
        encoder.family(family_of(family, kind));
        for metric in family.get_metric() {
            let labels: Labels =
                metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            match kind {
                Kind::Counter => {
                    encoder.sample(&labels, "", Value::Float(metric.get_counter().get_value()));
                }
                Kind::Histogram => {
                    let histogram = metric.get_histogram();
                    let bounds: Vec<_> = histogram
                        .get_bucket()
                        .iter()
                        .map(|bucket| (canonical(bucket.upper_bound()), bucket.cumulative_count()))
                        .collect();
                    let buckets = bounds.iter().map(|(le, count)| (le.as_str(), *count));
                    let sum = Value::Float(histogram.get_sample_sum());
                    encoder.histogram(&labels, buckets, sum, histogram.get_sample_count());
                }
                Kind::Gauge | Kind::Info => {
                    encoder.sample(&labels, "", Value::Float(metric.get_gauge().get_value()));
                }
            }
        }
    }
}

/// The kind of a gathered family; none for those that this exporter has not.
pub fn kind_of(family: &MetricFamily) -> Option<Kind> {
    match family.get_field_type() {
        MetricType::COUNTER => Some(Kind::Counter),
        MetricType::GAUGE => Some(Kind::Gauge),
        MetricType::HISTOGRAM => Some(Kind::Histogram),
        MetricType::SUMMARY | MetricType::UNTYPED => None,
    }
}

/// Name, kind and help of a gathered family.
pub fn family_of(family: &MetricFamily, kind: Kind) -> Family<'_> {
    let name = family.name();
    let name =
        if kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
    Family { name, kind, help: family.help() }
}
