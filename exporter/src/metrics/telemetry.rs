//! The daemon's own metrics that change while it runs, kept by the `prometheus` crate: connections,
//! requests, scrapes and reloads.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
    core::{Atomic, Collector, GenericGauge},
    proto::{Metric, MetricFamily, MetricType},
};

use crate::{
    exposition::{self, Encoder, Kind, Labels, Value, canonical},
    generation::ReloadOutcome,
    labels::{Violation, ViolationKind},
    metrics::{
        catalog::{self, Family, Source},
        selection::Selection,
    },
};

/// Bounds of the scrape duration, in seconds.
const SCRAPE_BOUNDS: [f64; 8] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1];

/// Why a connection ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyEnd {
    /// It was closed to make room for another.
    Evicted,
    /// There was no room for it.
    Refused,
    /// The client took too long.
    Timeout,
    /// A request was malformed, or reading or writing failed.
    Error,
}

impl EarlyEnd {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Evicted, Self::Refused, Self::Timeout, Self::Error];

    /// The value of the label `reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// The metrics, and the registry they are gathered from.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
    requests: IntCounterVec,
    connections_open: IntGauge,
    connections_closed: IntCounterVec,
    scrapes_in_flight: IntGauge,
    scrape_seconds: Histogram,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    reload_success_timestamp: Gauge,
    /// Without labels. There are samples only if there is a web configuration.
    web_reload_successful: GaugeVec,
    web_reload_success_timestamp: GaugeVec,
    label_source_up: IntGaugeVec,
    labels_rejected: IntCounterVec,
    capability_kept: IntGaugeVec,
    protection_enabled: IntGaugeVec,
    process_errors: IntCounter,
}

impl Telemetry {
    /// Registers the families of the catalog that come from the registry.
    ///
    /// Fails if two of them have the same name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let scrape_seconds = catalog::SCRAPE_DURATION;
        let scrape_seconds = HistogramOpts::new(scrape_seconds.name, scrape_seconds.help)
            .buckets(SCRAPE_BOUNDS.to_vec());
        let telemetry = Self {
            requests: counters(&registry, catalog::HTTP_REQUESTS)?,
            connections_open: gauge(&registry, catalog::CONNECTIONS_OPEN)?,
            connections_closed: counters(&registry, catalog::CONNECTIONS_CLOSED)?,
            scrapes_in_flight: gauge(&registry, catalog::SCRAPES_IN_FLIGHT)?,
            scrape_seconds: register(&registry, Histogram::with_opts(scrape_seconds)?)?,
            reloads: counters(&registry, catalog::RELOADS)?,
            reload_successful: gauge(&registry, catalog::LAST_RELOAD_SUCCESSFUL)?,
            reload_success_timestamp: gauge(&registry, catalog::LAST_RELOAD_SUCCESS_TIMESTAMP)?,
            web_reload_successful: optional(&registry, catalog::WEB_CONFIG_LAST_RELOAD_SUCCESSFUL)?,
            web_reload_success_timestamp: optional(
                &registry,
                catalog::WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP,
            )?,
            label_source_up: gauges(&registry, catalog::LABEL_SOURCE_UP)?,
            labels_rejected: counters(&registry, catalog::LABELS_REJECTED)?,
            capability_kept: gauges(&registry, catalog::CAPABILITY_KEPT)?,
            protection_enabled: gauges(&registry, catalog::PROTECTION_ENABLED)?,
            process_errors: counter(&registry, catalog::PROCESS_METRICS_ERRORS)?,
            registry,
        };
        // Counters whose labels are known in advance start at zero, so that `rate()` sees their first
        // event.
        for outcome in ReloadOutcome::ALL {
            telemetry.reloads.with_label_values(&[outcome.name()]);
        }
        for end in EarlyEnd::ALL {
            telemetry.connections_closed.with_label_values(&[end.name()]);
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

    /// Sets the number of open connections.
    pub fn connections(&self, open: usize) {
        self.connections_open.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Counts a connection that ended early.
    pub fn connection_ended(&self, end: EarlyEnd) {
        self.connections_closed.with_label_values(&[end.name()]).inc();
    }

    /// The gauge of scrapes that are being sent; the caller keeps it up to date.
    pub fn scrapes_in_flight(&self) -> &IntGauge {
        &self.scrapes_in_flight
    }

    /// Records how long a scrape took.
    pub fn scrape(&self, duration: Duration) {
        self.scrape_seconds.observe(duration.as_secs_f64());
    }

    /// Records that the first configuration was loaded.
    pub fn loaded(&self) {
        self.reload_successful.set(1);
        self.reload_success_timestamp.set(now());
    }

    /// Records that the web configuration was read, and whether it was valid.
    pub fn web_config(&self, is_valid: bool) {
        let gauge = |family: &GaugeVec| family.with_label_values::<&str>(&[]);
        gauge(&self.web_reload_successful).set(f64::from(u8::from(is_valid)));
        if is_valid {
            gauge(&self.web_reload_success_timestamp).set(now());
        }
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

    /// Updates which sources of templates are up, by name, and forgets the others.
    pub fn label_sources<'s>(&self, sources: impl IntoIterator<Item = (&'s str, bool)>) {
        self.update_sources(sources.into_iter().collect(), |name| !is_of_containers(name));
    }

    /// Updates which sources of the names of containers are up, and forgets the others.
    pub fn container_sources<'s>(&self, sources: impl IntoIterator<Item = (&'s str, bool)>) {
        self.update_sources(sources.into_iter().collect(), is_of_containers);
    }

    /// Updates the sources of one kind.
    fn update_sources(&self, sources: BTreeMap<&str, bool>, is_of_kind: impl Fn(&str) -> bool) {
        for family in self.label_source_up.collect() {
            for pair in family.get_metric().iter().flat_map(Metric::get_label) {
                if is_of_kind(pair.value()) && !sources.contains_key(pair.value()) {
                    // Fails only if it is gone already.
                    let _ = self.label_source_up.remove_label_values(&[pair.value()]);
                }
            }
        }
        for (source, is_up) in sources {
            self.label_source_up.with_label_values(&[source]).set(i64::from(is_up));
        }
    }

    /// Logs and counts labels that were dropped or replaced.
    pub fn labels_rejected(&self, violations: &[Violation]) {
        for Violation { kind, key, message } in violations {
            tracing::warn!(reason = message, key, "label rejected");
            self.labels_rejected.with_label_values(&[kind.name()]).inc();
        }
    }

    /// Records which capabilities the process still holds, by name.
    pub fn capabilities(&self, kept: impl IntoIterator<Item = (String, bool)>) {
        for (name, is_kept) in kept {
            self.capability_kept.with_label_values(&[name.as_str()]).set(i64::from(is_kept));
        }
    }

    /// Records which protections of the process are in force, by name.
    pub fn protections<'p>(&self, protections: impl IntoIterator<Item = (&'p str, bool)>) {
        for (name, is_on) in protections {
            self.protection_enabled.with_label_values(&[name]).set(i64::from(is_on));
        }
    }

    /// Counts a scrape that could not read all metrics of the process.
    pub fn process_error(&self) {
        self.process_errors.inc();
    }

    /// Gathers the metrics in `selection`, sorted by name.
    pub fn gather(&self, selection: &Selection) -> Vec<MetricFamily> {
        if !selection.any(|source| matches!(source, Source::Registry)) {
            return Vec::new();
        }
        let mut families = self.registry.gather();
        families.retain(|family| {
            kind_of(family).is_some_and(|kind| selection.contains(family_of(family, kind).name))
        });
        families
    }
}

/// Seconds since the epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// Whether a source is asked about containers, by its name: the URL of a socket, or `kubernetes-pods`.
fn is_of_containers(source: &str) -> bool {
    source.starts_with("unix://") || source == "kubernetes-pods"
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, family: Family) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(family.sample_name(), family.help)?)
}

fn counters(registry: &Registry, family: Family) -> prometheus::Result<IntCounterVec> {
    let options = Opts::new(family.sample_name(), family.help);
    register(registry, IntCounterVec::new(options, family.labels)?)
}

fn gauges(registry: &Registry, family: Family) -> prometheus::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(family.name, family.help), family.labels)?)
}

/// A gauge that has no sample until it is set.
fn optional(registry: &Registry, family: Family) -> prometheus::Result<GaugeVec> {
    register(registry, GaugeVec::new(Opts::new(family.name, family.help), family.labels)?)
}

fn gauge<P: Atomic + 'static>(
    registry: &Registry,
    family: Family,
) -> prometheus::Result<GenericGauge<P>> {
    register(registry, GenericGauge::new(family.name, family.help)?)
}

/// Writes gathered families.
pub fn write<'a>(encoder: &mut Encoder<'a>, families: &'a [MetricFamily], began: Option<f64>) {
    for family in families {
        let Some(kind) = kind_of(family) else { continue };
        encoder.family(family_of(family, kind));
        encoder.started(began);
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
                Kind::Gauge | Kind::Info | Kind::Summary => {
                    encoder.sample(&labels, "", Value::Float(metric.get_gauge().get_value()));
                }
            }
        }
    }
}

/// The kind of a gathered family; `None` for kinds that this exporter does not use.
fn kind_of(family: &MetricFamily) -> Option<Kind> {
    match family.get_field_type() {
        MetricType::COUNTER => Some(Kind::Counter),
        MetricType::GAUGE => Some(Kind::Gauge),
        MetricType::HISTOGRAM => Some(Kind::Histogram),
        MetricType::SUMMARY | MetricType::UNTYPED => None,
    }
}

/// Name, kind and HELP of a gathered family.
fn family_of(family: &MetricFamily, kind: Kind) -> exposition::Family<'_> {
    let name = family.name();
    let name =
        if kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
    exposition::Family { name, kind, help: family.help() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_one_kind_do_not_replace_the_other() {
        let telemetry = Telemetry::new().unwrap();
        let shown = || {
            let family = telemetry.label_source_up.collect().remove(0);
            let metrics = family.get_metric().iter();
            let values = metrics.map(|metric| {
                let up = metric.get_gauge().get_value();
                format!("{} {up}", metric.get_label()[0].value())
            });
            let mut values: Vec<_> = values.collect();
            values.sort();
            values
        };
        telemetry.label_sources([("env", true), ("node.labels", false)]);
        telemetry
            .container_sources([("unix:///run/docker.sock", false), ("kubernetes-pods", true)]);
        telemetry.label_sources([("env", false)]);
        assert_eq!(shown(), ["env 0", "kubernetes-pods 1", "unix:///run/docker.sock 0"]);
        telemetry.container_sources([("unix:///run/docker.sock", true)]);
        assert_eq!(shown(), ["env 0", "unix:///run/docker.sock 1"]);
    }
}
