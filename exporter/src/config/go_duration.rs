//! Durations as Go writes them, which Prometheus's configuration files use.

use std::time::Duration;

/// Units with their nanoseconds. The longer names come first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration such as `1h30m` or `1.5s`, or a whole number of nanoseconds, as Go's YAML does. `None` if
/// it is not one, is negative, or exceeds Go's 292 years.
/// <https://pkg.go.dev/time#ParseDuration>
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|ns| *ns <= u64::MAX / 2).map(Duration::from_nanos);
    }
    let (mut rest, mut total) = (text, 0_u128);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, factor) = UNITS.iter().filter(|(unit, _)| after.starts_with(unit)).max_by_key(
            // `m` begins `ms`, too.
            |(unit, _)| unit.len(),
        )?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        total += u128::from(whole) * u128::from(*factor);
        // Digits below a nanosecond do not count.
        let mut scale = *factor;
        for digit in fraction.bytes() {
            scale /= 10;
            total += u128::from(scale * u64::from(digit - b'0'));
        }
        rest = &after[unit.len()..];
    }
    let is_given = !text.is_empty();
    let total = u64::try_from(total).ok().filter(|ns| is_given && *ns <= u64::MAX / 2)?;
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, ns) in [
            ("0", 0),
            ("0s", 0),
            ("1000", 1_000),
            ("1s", 1_000_000_000),
            ("+1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("1h2m3s", 3_723_000_000_000),
            ("3\u{b5}s", 3_000),
            ("7us", 7_000),
            ("2m", 120_000_000_000),
            ("5.s", 5_000_000_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(ns)), "{text}");
        }
        for bad in ["", "s", "1 s", "1d", "-1s", "1.2.3s", ".s", "300000000h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
