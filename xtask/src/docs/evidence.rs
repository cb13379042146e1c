//! Reads the figures of the README's first screen from the measured pages, and writes their table.

use anyhow::{Context as _, Result};

use self::tables::Page;

mod tables;

const ACCURACY: &str = "docs/accuracy.md";
const PERFORMANCE: &str = "docs/performance.md";

/// The figures that the table and the chart show.
pub(crate) struct Evidence {
    pub dodge: Bursts,
    pub meet: Bursts,
    /// CPU time that a program adds to a load that only switches tasks, in percent.
    pub switch: Pair,
    /// Median time of a scrape as text 0.0.4, in microseconds.
    pub scrape: Pair,
    /// Resident memory after the scrapes, in MiB.
    pub memory: Pair,
    /// The machines of the two pages; one if they are the same.
    pub machines: Vec<String>,
}

/// How long a CPU was busy with short bursts of work, in milliseconds.
pub(crate) struct Bursts {
    /// According to perf's trace.
    pub trace: Figure,
    pub ours: Figure,
    /// The sum of the modes of `/proc/stat`.
    pub stat: Figure,
}

/// The same figure for the exporter and for a peer.
pub(crate) struct Pair {
    pub ours: Figure,
    pub peer: Figure,
}

/// A median over rounds.
#[derive(Debug, PartialEq)]
pub(crate) struct Figure {
    pub value: f64,
    pub least: f64,
    pub most: f64,
    /// The value with its unit.
    pub text: String,
    /// The difference from the trace, with sign and unit; empty if there is no trace to compare with.
    pub off: String,
}

impl Evidence {
    /// Reads the two pages.
    pub(crate) fn read(accuracy: &str, performance: &str) -> Result<Self> {
        let accuracy = Page::new(ACCURACY, "cargo xtask accuracy --write", accuracy);
        let performance = Page::new(PERFORMANCE, "cargo xtask bench --write", performance);
        let pipe = "Switching from end to end: two tasks on one CPU";
        let pair = |section, ours, peer| -> Result<_> {
            Ok(Pair {
                ours: performance.figure(section, ours)?,
                peer: performance.figure(section, peer)?,
            })
        };
        let switch =
            pair(pipe, "CPU time, the exporter / nothing", "CPU time, `runqlat` / nothing")?;
        let mut machines = vec![accuracy.machine()?, performance.machine()?];
        machines.dedup();
        Ok(Self {
            dodge: bursts(&accuracy, "Bursts that dodge the tick")?,
            meet: bursts(&accuracy, "Bursts that meet the tick")?,
            switch: Pair { ours: added(&switch.ours), peer: added(&switch.peer) },
            scrape: pair(
                "Scrapes",
                "text 0.0.4: median time",
                "`node_exporter`, `cpu` and `stat` alone: median time",
            )?,
            memory: pair(
                "Start and memory",
                "resident memory, steady",
                "`node_exporter`, `cpu` and `stat` alone: resident memory, steady",
            )?,
            machines,
        })
    }

    /// The README's table.
    pub(crate) fn table(&self) -> String {
        let bursts = |what: &str, subject: &str, Bursts { trace, ours, stat }: &Bursts| {
            format!(
                "| CPU time of bursts that {what} the tick; by perf's trace {} | {} ({}) | `/proc/stat`: {} ({}) | \
                 [accuracy]({ACCURACY}#bursts-that-{what}-the-tick): `cargo xtask accuracy {subject}` |",
                trace.text, ours.text, ours.off, stat.text, stat.off
            )
        };
        let pair =
            |what: &str, Pair { ours, peer }: &Pair, who: &str, anchor: &str, subject: &str| {
                format!(
                    "| {what} | {} | {who}: {} | \
                 [performance]({PERFORMANCE}#{anchor}): `cargo xtask bench {subject}` |",
                    ours.text, peer.text
                )
            };
        let node_exporter = "node_exporter, `cpu` and `stat` only";
        let rows = [
            "| | sched_exporter | others | measured by |".to_owned(),
            "|---|---|---|---|".to_owned(),
            bursts("dodge", "dodge", &self.dodge),
            bursts("meet", "meet", &self.meet),
            pair(
                "CPU time added to a load that only switches, the worst case",
                &self.switch,
                "bcc's `runqlat`",
                "switching-from-end-to-end-two-tasks-on-one-cpu",
                "pipe",
            ),
            pair("Time of a scrape", &self.scrape, node_exporter, "scrapes", "scrape"),
            pair("Resident memory", &self.memory, node_exporter, "start-and-memory", "memory"),
        ];
        let machines = self.machines.join(" and on ");
        format!("\n{}\n\nMedians on {machines}. Scrapes are text 0.0.4.\n", rows.join("\n"))
    }
}

fn bursts(page: &Page<'_>, section: &str) -> Result<Bursts> {
    // The unit is in the heading of these tables.
    let figure = |what| -> Result<_> {
        let figure = page.figure(section, what)?;
        Ok(Figure { text: format!("{} ms", figure.text), ..figure })
    };
    Ok(Bursts {
        trace: figure("not idle: the trace")?,
        ours: figure("not idle: ours")?,
        stat: figure("not idle: `/proc/stat`, sum of modes")?,
    })
}

/// Converts a ratio to the time with nothing attached into the added share, in percent.
fn added(ratio: &Figure) -> Figure {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    Figure {
        value: percent(ratio.value),
        least: percent(ratio.least),
        most: percent(ratio.most),
        text: format!("{:+.1} %", percent(ratio.value)),
        off: String::new(),
    }
}

/// Returns the document with `content` between its markers `<!-- NAME … -->` and `<!-- /NAME -->`.
pub(crate) fn with_block(document: &str, name: &str, content: &str) -> Result<String> {
    let markers = || {
        let (before, rest) = document.split_once(&format!("<!-- {name}"))?;
        let (opening, rest) = rest.split_once("-->\n")?;
        let (_, after) = rest.split_once(&format!("<!-- /{name} -->"))?;
        Some((before, opening, after))
    };
    let (before, opening, after) = markers()
        .with_context(|| format!("no block between <!-- {name} --> and <!-- /{name} -->"))?;
    Ok(format!("{before}<!-- {name}{opening}-->\n{content}<!-- /{name} -->{after}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Pages with the rows that are read, and figures that are easy to tell apart.
    pub(crate) fn pages() -> (String, String) {
        let bursts = |title: &str, stat: &str| {
            format!(
                "## {title}\n\nProse.\n\n| CPU 0 | ms | min–max | off the trace | min–max |\n\
                 |---|--:|--:|--:|--:|\n\
                 | not idle: the trace | 1000.00 | 990.00–1010.00 | | |\n\
                 | not idle: ours | 1000.02 | 990.01–1010.03 | +0.0020 % | +0.0010 % … +0.0030 % |\n\
                 | not idle: `/proc/stat`, sum of modes | {stat} | -98 % | -99 % … -96 % |\n\n"
            )
        };
        let accuracy = format!(
            "# Accuracy\n\nMeasured on 2 CPUs of a test,\nLinux 6.1.\n\n{}{}",
            bursts("Bursts that dodge the tick", "20.00 | 10.00–30.00"),
            bursts("Bursts that meet the tick", "3000.00 | 2990.00–3010.00")
        );
        let performance = "# Performance

Measured on 2 CPUs of a test, Linux 6.1.

## Switching from end to end: two tasks on one CPU

| what | median | min–max | target | met? |
|---|--:|--:|--:|---|
| CPU time, the exporter / nothing | 1.082 | 1.056–1.102 | ≤ 1.1 | yes |
| CPU time, `runqlat` / nothing | 1.361 | 1.345–1.396 | | |

## Scrapes

| text 0.0.4: median time | 52.1 µs | 51.0–53.0 | | |
| `node_exporter`, `cpu` and `stat` alone: median time | 363.7 µs | 361.0–372.1 | | |

## Start and memory

| resident memory, steady | 6.55 MiB | 6.54–6.55 | ≤ 12 MiB | yes |
| `node_exporter`, `cpu` and `stat` alone: resident memory, steady | 19.90 MiB | 19.75–20.12 | | |
";
        (accuracy, performance.to_owned())
    }

    #[test]
    fn table_shows_the_figures_of_the_pages() {
        let (accuracy, performance) = pages();
        let table = Evidence::read(&accuracy, &performance).unwrap().table();
        let rows: Vec<_> = table.lines().collect();
        assert!(rows[3].starts_with(
            "| CPU time of bursts that dodge the tick; by perf's trace 1000.00 ms | 1000.02 ms (+0.0020 %) | \
             `/proc/stat`: 20.00 ms (-98 %) | [accuracy](docs/accuracy.md#bursts-that-dodge-the-tick)"
        ));
        assert!(rows[5].contains("| +8.2 % | bcc's `runqlat`: +36.1 % |"), "{}", rows[5]);
        assert!(rows[7].contains("| 6.55 MiB | "), "{}", rows[7]);
        assert_eq!(
            rows.last(),
            Some(&"Medians on 2 CPUs of a test, Linux 6.1. Scrapes are text 0.0.4.")
        );
    }

    #[test]
    fn missing_row_is_named_with_its_page_and_the_command_that_writes_it() {
        let (accuracy, performance) = pages();
        let error = Evidence::read(&accuracy, &performance.replace("`runqlat`", "`other`"));
        assert_eq!(
            error.err().unwrap().to_string(),
            "docs/performance.md has no row `CPU time, `runqlat` / nothing` under `Switching from end \
             to end: two tasks on one CPU`; write the page again with every peer installed: `cargo \
             xtask bench --write`"
        );
    }

    #[test]
    fn block_is_replaced_between_its_markers_only() {
        let document = "a\n<!-- x: generated -->\nold\n<!-- /x -->\nb\n";
        let replaced = with_block(document, "x", "new\n").unwrap();
        assert_eq!(replaced, "a\n<!-- x: generated -->\nnew\n<!-- /x -->\nb\n");
        assert!(with_block("a", "x", "").is_err());
    }
}
