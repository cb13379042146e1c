//! Finds rows in the tables of a measured page.

use anyhow::{Context as _, Result, bail};

use super::Figure;

/// A page of sections, each with a table of medians and their ranges.
pub(super) struct Page<'a> {
    path: &'static str,
    /// The command that writes the page.
    written_by: &'static str,
    text: &'a str,
}

impl<'a> Page<'a> {
    pub(super) const fn new(path: &'static str, written_by: &'static str, text: &'a str) -> Self {
        Self { path, written_by, text }
    }

    /// The machine that the page was measured on.
    pub(super) fn machine(&self) -> Result<String> {
        let found = self.text.split("\n\n").find_map(|it| it.strip_prefix("Measured on "));
        let machine = found.with_context(|| format!("{} names no machine", self.path))?;
        Ok(machine.trim_end().trim_end_matches('.').replace('\n', " "))
    }

    /// The figure of the row `what` in the table of a section.
    pub(super) fn figure(&self, section: &str, what: &str) -> Result<Figure> {
        let row = self.row(section, what)?;
        Figure::of(&row).with_context(|| format!("{}: row `{what}` of `{section}`", self.path))
    }

    /// The cells after the first of the row that begins with `what`.
    fn row(&self, section: &str, what: &str) -> Result<Vec<&'a str>> {
        let mut lines =
            self.text.lines().skip_while(|line| line.strip_prefix("## ") != Some(section));
        if lines.next().is_none() {
            bail!("{} has no section `{section}`", self.path);
        }
        for line in lines.take_while(|line| !line.starts_with("## ")) {
            let mut cells = line.split('|').map(str::trim).skip(1);
            if line.starts_with('|') && cells.next() == Some(what) {
                return Ok(cells.collect());
            }
        }
        bail!(
            "{} has no row `{what}` under `{section}`; write the page again with every peer \
             installed: `{}`",
            self.path,
            self.written_by
        )
    }
}

impl Figure {
    /// Reads the cells: median, range and, if it is a percentage, the difference from the trace.
    fn of(cells: &[&str]) -> Result<Self> {
        let [median, range, off, ..] = cells else { bail!("too few cells") };
        let number = |text: &str| -> Result<f64> {
            text.trim().parse().with_context(|| format!("not a number: `{text}`"))
        };
        let value = number(median.split(' ').next().unwrap_or_default())?;
        let (least, most) = match range.split_once('–') {
            Some((least, most)) => (number(least)?, number(most)?),
            None => (value, value),
        };
        let off = if off.ends_with('%') { (*off).to_owned() } else { String::new() };
        let text = (*median).to_owned();
        Ok(Self { value, least, most, text, off })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_of_another_section_is_not_taken() {
        let text = "# P\n\n## A\n\n| x | 1 ns | 1–2 | | |\n\n## B\n\n| y | 3 ns | | | |\n";
        let page = Page::new("p.md", "cargo xtask p", text);
        assert_eq!(page.figure("A", "x").unwrap().text, "1 ns");
        assert_eq!(page.figure("B", "y").unwrap().text, "3 ns");
        assert!(page.figure("A", "y").is_err());
        assert!(page.figure("C", "x").is_err());
    }

    #[test]
    fn figure_that_is_not_a_number_is_rejected() {
        let page = Page::new("p.md", "cargo xtask p", "## A\n| x | much ns | | |\n");
        let error = format!("{:#}", page.figure("A", "x").unwrap_err());
        assert!(error.starts_with("p.md: row `x` of `A`: not a number: `much`"), "{error}");
    }
}
