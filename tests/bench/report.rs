//! Results as tables: Markdown for people, JSON for programs.

use std::fmt::{self, Display};

use serde_json::{Value, json};

use crate::summary::Summary;

/// A group of figures: a section of the page.
pub(crate) struct Group {
    title: &'static str,
    /// Explanation of the figures.
    note: &'static str,
    rows: Vec<Row>,
}

/// A figure with its summary and target.
pub(crate) struct Row {
    what: String,
    unit: Unit,
    summary: Summary,
    at_most: Option<f64>,
}

/// Unit of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Ns,
    Us,
    Ms,
    Bytes,
    Kib,
    Mib,
    Count,
    Ratio,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Us => "µs",
            Self::Ms => "ms",
            Self::Bytes => "B",
            Self::Kib => "KiB",
            Self::Mib => "MiB",
            Self::Count | Self::Ratio => "",
        }
    }

    /// Number of significant digits after the decimal point.
    const fn digits(self) -> usize {
        match self {
            Self::Bytes | Self::Count => 0,
            Self::Ns | Self::Us | Self::Kib => 1,
            Self::Ms | Self::Mib => 2,
            Self::Ratio => 3,
        }
    }
}

impl Group {
    pub(crate) const fn new(title: &'static str, note: &'static str) -> Self {
        Self { title, note, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The group as a JSON object.
    pub(crate) fn json(&self) -> Value {
        json!({ "title": self.title, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>() })
    }
}

impl Display for Group {
    /// A section of Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.note)?;
        writeln!(f, "| what | median | min–max | target | met? |\n|---|--:|--:|--:|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl Row {
    pub(crate) const fn new(what: String, unit: Unit, summary: Summary) -> Self {
        Self { what, unit, summary, at_most: None }
    }

    /// Sets the target: the median must not exceed it.
    pub(crate) const fn at_most(mut self, most: f64) -> Self {
        self.at_most = Some(most);
        self
    }

    fn is_met(&self) -> Option<bool> {
        self.at_most.map(|most| self.summary.median <= most)
    }

    fn json(&self) -> Value {
        let Summary { median, min, max, count } = self.summary;
        json!({
            "what": self.what,
            "unit": self.unit.name(),
            "median": median,
            "min": min,
            "max": max,
            "count": count,
            "at_most": self.at_most,
            "met": self.is_met(),
        })
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { median, min, max, count } = self.summary;
        let (digits, unit) = (self.unit.digits(), self.unit.name());
        let gap = if unit.is_empty() { "" } else { " " };
        write!(f, "| {} | {median:.digits$}{gap}{unit} | ", self.what)?;
        if count > 1 {
            write!(f, "{min:.digits$}–{max:.digits$} ")?;
        }
        f.write_str("| ")?;
        if let Some(most) = self.at_most {
            write!(f, "≤ {most}{gap}{unit} ")?;
        }
        f.write_str(match self.is_met() {
            Some(true) => "| yes |",
            Some(false) => "| **no** |",
            None => "| |",
        })
    }
}
