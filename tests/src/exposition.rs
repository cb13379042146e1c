//! An exposition as numbers. It reads what our encoder writes and nothing more; strict parsers of
//! others judge the encoder itself.

use std::collections::BTreeMap;

/// Samples by their whole series: name and labels as written.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    series: BTreeMap<String, String>,
}

impl Exposition {
    /// Reads the samples, or says what is wrong with them: a series that stands twice, a line that
    /// is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut series = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
            if series.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("duplicate series {name}"));
            }
        }
        if series.is_empty() {
            return Err(format!("no samples in {text:?}"));
        }
        Ok(Self { series })
    }

    /// As [`Exposition::read`]; panics on what is wrong.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        Self::read(text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// Every series with its value as written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.series.iter().map(|(series, value)| (series.as_str(), value.as_str()))
    }

    /// The series of a sample name that have all the given label pairs.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        pairs: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter(move |(series, _)| {
            let (found, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
            found == name && pairs.iter().all(|pair| labels.contains(pair))
        })
    }

    /// The value of the only series that fits.
    #[track_caller]
    pub fn value(&self, name: &str, pairs: &[&str]) -> f64 {
        let found: Vec<_> = self.select(name, pairs).collect();
        assert_eq!(found.len(), 1, "{name} {pairs:?}: {found:?}");
        found[0].1.parse().unwrap()
    }

    /// The sum of all series that fit, in nanoseconds, exactly.
    pub fn sum_ns(&self, name: &str, pairs: &[&str]) -> u64 {
        self.select(name, pairs).map(|(_, value)| nanoseconds(value)).sum()
    }

    /// The sum of all series that fit, of whole numbers.
    pub fn sum(&self, name: &str, pairs: &[&str]) -> u64 {
        self.select(name, pairs).map(|(_, value)| value.parse::<u64>().unwrap()).sum()
    }
}

/// Decimal seconds as nanoseconds, without a float in between.
pub fn nanoseconds(seconds: &str) -> u64 {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    assert!(fraction.len() <= 9, "{seconds} is finer than a nanosecond");
    let whole: u64 = whole.parse().unwrap();
    whole * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().unwrap()
}
