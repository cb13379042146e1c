//! Suggests what to write instead of an unknown name.

/// Maximum edit distance of a typo.
const MAX_DISTANCE: usize = 2;

/// Suggests the known name nearest to the written one, or lists all if none is near.
pub fn one_of(written: &str, known: &[&str]) -> String {
    let candidates = known.iter().map(|known| (written, *known));
    nearest(candidates).unwrap_or_else(|| format!("write one of {}", known.join(", ")))
}

/// Suggests the known name nearest to the written one, if any is near. Each candidate is the relevant
/// part of the written name, and a known name; of those equally near, the first wins.
pub fn nearest<'w, K: AsRef<str>>(
    candidates: impl IntoIterator<Item = (&'w str, K)>,
) -> Option<String> {
    let near = candidates.into_iter().filter_map(|(written, known)| {
        let name = known.as_ref();
        // The written name may be as long as a file.
        let is_longer = written.chars().nth(name.chars().count() + MAX_DISTANCE).is_some();
        let distance = if is_longer { usize::MAX } else { strsim::osa_distance(written, name) };
        (distance <= MAX_DISTANCE).then_some((distance, known))
    });
    let (_, nearest) = near.min_by_key(|(distance, _)| *distance)?;
    Some(format!("did you mean {}?", nearest.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_a_name_within_two_edits_and_lists_all_otherwise() {
        let known = ["labels", "limits", "cpus"];
        for (written, expected) in [
            ("lables", "did you mean labels?"),
            ("labelsss", "did you mean labels?"),
            ("cpu", "did you mean cpus?"),
            ("labelssss", "write one of labels, limits, cpus"),
            ("", "write one of labels, limits, cpus"),
            ("ééééé", "write one of labels, limits, cpus"),
            (&"x".repeat(1 << 20), "write one of labels, limits, cpus"),
        ] {
            assert_eq!(one_of(written, &known), expected);
        }
        // Both are one edit away.
        assert_eq!(nearest([("ac", "ab"), ("ac", "ad")]).unwrap(), "did you mean ab?");
    }
}
