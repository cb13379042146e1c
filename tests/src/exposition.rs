//! A lenient parser of expositions, just enough for what our encoder writes. Strict third-party
//! parsers test the encoder itself.

use std::collections::BTreeMap;

/// Sample values by series: name and labels as written.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    series: BTreeMap<String, String>,
}

impl Exposition {
    /// Parses the samples. Fails on a duplicate series, a line without a value, and a text without
    /// samples.
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

    /// As [`Exposition::read`], but panics on errors.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        Self::read(text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// All series with their values as written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.series.iter().map(|(series, value)| (series.as_str(), value.as_str()))
    }

    /// Series with this sample name and all these label pairs.
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

    /// The value of the only matching series; panics unless there is exactly one.
    #[track_caller]
    pub fn value(&self, name: &str, pairs: &[&str]) -> f64 {
        let found: Vec<_> = self.select(name, pairs).collect();
        assert_eq!(found.len(), 1, "{name} {pairs:?}: {found:?}");
        found[0].1.parse().unwrap()
    }

    /// The exact sum of all matching series of seconds, in nanoseconds.
    pub fn sum_ns(&self, name: &str, pairs: &[&str]) -> u64 {
        self.select(name, pairs).map(|(_, value)| nanoseconds(value)).sum()
    }

    /// The sum of all matching series of integers.
    pub fn sum(&self, name: &str, pairs: &[&str]) -> u64 {
        self.select(name, pairs).map(|(_, value)| value.parse::<u64>().unwrap()).sum()
    }
}

/// Converts decimal seconds to nanoseconds without loss.
pub fn nanoseconds(seconds: &str) -> u64 {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    assert!(fraction.len() <= 9, "{seconds} is finer than a nanosecond");
    let whole: u64 = whole.parse().unwrap();
    whole * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().unwrap()
}
