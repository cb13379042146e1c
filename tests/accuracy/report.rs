//! Results as tables: Markdown for people, JSON for programs.

use std::fmt::{self, Display, Write as _};

use anyhow::Error;
use sched_exporter_tests::{kernel::Stat, summary::Summary};
use serde_json::{Value, json};

use crate::{
    cgroups::{self, Figures},
    window::{Total, Unusable, Window},
    workloads::Workload,
};

/// The results of a workload.
pub(crate) struct Measured {
    pub(crate) workload: Workload,
    pub(crate) cpu: u32,
    /// Number of rounds to measure.
    pub(crate) wanted: usize,
    /// Each the sum of several windows.
    pub(crate) rounds: Vec<Window>,
    /// Windows that were left out.
    pub(crate) unusable: Vec<Unusable>,
    /// Why the kernel rejected the workload, if it did.
    pub(crate) refused: Option<Error>,
}

/// One figure, summarized over the rounds.
struct Row {
    what: String,
    ms: Summary,
    /// Difference from the trace in percent.
    off: Option<Summary>,
}

/// Gets a figure from a window, in nanoseconds.
type Figure<'a> = &'a dyn Fn(&Window) -> u64;

impl Measured {
    fn rows(&self) -> Vec<Row> {
        let class = self.workload.class() as usize;
        let mode = self.workload.mode();
        let trace: Figure<'_> = &|window| window.trace_ns[class];
        let mut rows = vec![
            self.row(format!("`{mode}`: the trace"), trace, None),
            self.row(format!("`{mode}`: ours"), &|window| window.ours_ns[class], Some(trace)),
        ];
        let trace: Figure<'_> = &|window| window.trace_own_ns;
        if self.workload != Workload::Forks {
            rows.push(self.row("these tasks: the trace", trace, None));
        }
        rows.push(self.row("these tasks: their own clocks", &|window| window.own_ns, Some(trace)));
        let trace: Figure<'_> = &Window::trace_busy_ns;
        rows.extend([
            self.row("not idle: the trace", trace, None),
            self.row("not idle: ours", &Window::ours_busy_ns, Some(trace)),
            self.row("not idle: `/proc/stat`, sum of modes", &Window::stat_busy_ns, Some(trace)),
            self.row(
                "not idle: `/proc/stat`, wall minus idle",
                &Window::wall_minus_idle_ns,
                Some(trace),
            ),
        ]);
        if self.workload.is_about_waits() {
            let trace: Figure<'_> = &|window| window.trace_wait_ns;
            rows.extend([
                self.row("waiting: the trace", trace, None),
                self.row("waiting: ours", &|window| window.ours_wait_ns, Some(trace)),
            ]);
            let trace: Figure<'_> = &|window| window.trace_own_wait_ns;
            let run_delay: Figure<'_> = &|window| window.run_delay_ns;
            rows.extend([
                self.row("waiting, these tasks: the trace", trace, None),
                self.row("waiting, these tasks: `run_delay`", run_delay, Some(trace)),
            ]);
        }
        if self.workload == Workload::Cgroups {
            for (index, name) in cgroups::NAMES.iter().enumerate() {
                self.push_cgroup(&mut rows, name, |window| &window.cgroups[index]);
            }
        }
        rows
    }

    /// Adds the figures of a cgroup.
    fn push_cgroup(&self, rows: &mut Vec<Row>, name: &str, of: impl Fn(&Window) -> &Figures) {
        let trace: Figure<'_> = &|window| of(window).trace;
        let usage = format!("`{name}`: `{}`", cgroups::usage_file());
        rows.extend([
            self.row(format!("`{name}`: the trace"), trace, None),
            self.row(format!("`{name}`: ours"), &|window| of(window).ours, Some(trace)),
            self.row(usage, &|window| of(window).usage, Some(trace)),
        ]);
        let trace: Figure<'_> = &|window| of(window).trace_wait;
        let (ours, run_delay): (Figure<'_>, Figure<'_>) =
            (&|window| of(window).ours_wait, &|window| of(window).run_delay);
        rows.extend([
            self.row(format!("`{name}`, waiting: the trace"), trace, None),
            self.row(format!("`{name}`, waiting: ours"), ours, Some(trace)),
            self.row(format!("`{name}`, waiting: `run_delay`"), run_delay, Some(trace)),
        ]);
    }

    fn row(&self, what: impl Into<String>, figure: Figure<'_>, trace: Option<Figure<'_>>) -> Row {
        let off = |trace: Figure<'_>| {
            let off = |window| 100.0 * (float(figure(window)) / float(trace(window)) - 1.0);
            Summary::of(self.rounds.iter().map(off))
        };
        Row { what: what.into(), ms: self.ms(figure), off: trace.map(off) }
    }

    fn ms(&self, figure: Figure<'_>) -> Summary {
        Summary::of(self.rounds.iter().map(|window| float(figure(window)) / 1e6))
    }

    /// All failures, one sentence each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let name = self.workload.title();
        let cpu = self.cpu;
        let mut failures = Vec::new();
        if self.refused.is_none() && self.rounds.len() < self.wanted {
            failures.push(format!(
                "{name}: only {} of {} rounds, because {} windows were unusable",
                self.rounds.len(),
                self.wanted,
                self.unusable.len()
            ));
        }
        for (index, round) in self.rounds.iter().enumerate() {
            let disagreements = round.disagreements(self.workload.is_about_waits());
            let wrong = disagreements.into_iter().chain(round.totals.wrong());
            failures.extend(
                wrong.map(|wrong| format!("{name}, round {}, CPU {cpu}: {wrong}", index + 1)),
            );
        }
        failures
    }

    /// The results as a JSON object.
    pub(crate) fn json(&self) -> Value {
        let summary = |summary: Summary| json!({ "median": summary.median, "min": summary.min, "max": summary.max });
        let rows = self.rows().into_iter().map(|row| {
            json!({ "what": row.what, "ms": summary(row.ms), "off_percent": row.off.map(summary) })
        });
        let modes = Stat::MODES.iter().enumerate().map(|(mode, name)| {
            ((*name).to_owned(), summary(self.ms(&|window| window.stat_ns[mode])))
        });
        json!({
            "workload": self.workload.title(),
            "cpu": self.cpu,
            "rounds": self.rounds.len(),
            "windows_left_out": self.unusable.len(),
            "refused": self.refused.as_ref().map(|error| format!("{error:#}")),
            "rows": rows.collect::<Vec<_>>(),
            "proc_stat_ms": modes.collect::<serde_json::Map<_, _>>(),
            "failures": self.failures(),
        })
    }
}

impl Display for Measured {
    /// A section of Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.workload.title(), wrapped(self.workload.what()))?;
        if let Some(refused) = &self.refused {
            return writeln!(f, "**Not measured**: this kernel rejects it: {refused:#}.");
        }
        if self.rounds.is_empty() {
            return writeln!(
                f,
                "**Not measured**: too many of the windows, {}, were unusable.",
                self.unusable.len()
            );
        }
        writeln!(f, "| CPU {} | ms | min–max | off the trace | min–max |", self.cpu)?;
        writeln!(f, "|---|--:|--:|--:|--:|")?;
        for Row { what, ms, off } in self.rows() {
            write!(f, "| {what} | {:.2} | {:.2}–{:.2} | ", ms.median, ms.min, ms.max)?;
            match off {
                Some(off) => {
                    let [median, min, max] = [off.median, off.min, off.max].map(Percent);
                    writeln!(f, "{median} | {min} … {max} |")?;
                }
                None => writeln!(f, "| |")?,
            }
        }
        let median = |figure: Figure<'_>| self.ms(figure).median;
        let mut modes = "`/proc/stat`, in ms:".to_owned();
        for (mode, name) in Stat::MODES.iter().enumerate() {
            let _ = write!(modes, " {name} {:.0},", median(&|window| window.stat_ns[mode]));
        }
        let all = median(&|window| window.stat_ns.iter().sum());
        let elapsed = median(&|window| window.elapsed_ns);
        let _ = write!(modes, " in total {all:.0} of {elapsed:.0} elapsed.");
        writeln!(f, "\n{}\n\n{}", wrapped(&modes), wrapped(self.workload.why()))
    }
}

/// Wraps text at 100 columns.
fn wrapped(text: &str) -> String {
    let (mut wrapped, mut columns) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if columns > 0 {
            let fits = columns + 1 + length <= 100;
            wrapped.push(if fits { ' ' } else { '\n' });
            columns = if fits { columns + 1 } else { 0 };
        }
        wrapped.push_str(word);
        columns += length;
    }
    wrapped
}

/// A percentage, with more digits the smaller it is.
struct Percent(f64);

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            ..0.1 => 4,
            ..10.0 => 2,
            _ => 0,
        };
        write!(f, "{:+.digits$} %", self.0)
    }
}

/// The table that compares the families with the kernel's totals.
pub(crate) struct Totals<'a>(pub(crate) &'a [Measured]);

impl Display for Totals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| workload | modes off elapsed | cgroups off modes | switches, ours | `ctxt` | off | \
             waits, ours | `run_delay` | off |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for measured in self.0.iter().filter(|measured| !measured.rounds.is_empty()) {
            let of =
                |figure: &dyn Fn(&Window) -> f64| Summary::of(measured.rounds.iter().map(figure));
            let worst = |total: fn(&Window) -> &Total| {
                let excess = measured.rounds.iter().map(|window| total(window).excess());
                excess.max_by_key(|excess| excess.abs()).unwrap_or(0)
            };
            let switches: fn(&Window) -> &Total = |window| &window.totals.switches;
            let wait: fn(&Window) -> &Total = |window| &window.totals.wait_ns;
            writeln!(
                f,
                "| {} | {:.0} ns | {:.0} ns | {:.0} | {:.0} | {:+} | {:.2} ms | {:.2} ms | {:+.3} ms |",
                measured.workload.title(),
                of(&|window| float(window.totals.modes_off_ns)).max,
                of(&|window| float(window.totals.cgroups_off_ns)).max,
                of(&|window| float(switches(window).inner)).median,
                of(&|window| float(switches(window).kernel)).median,
                worst(switches),
                of(&|window| float(wait(window).inner) / 1e6).median,
                of(&|window| float(wait(window).kernel) / 1e6).median,
                float_signed(worst(wait)) / 1e6,
            )?;
        }
        Ok(())
    }
}

/// Converts nanoseconds and counts of a window, which are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn float_signed(count: i64) -> f64 {
    count as f64
}
