//! Measures compared items in turn.

use anyhow::Result;

/// Measures every item in every round, and returns the measurements of each item, indexed by round.
/// Each round begins with a different item.
pub(crate) fn in_turn<T, M>(
    items: &[T],
    rounds: usize,
    mut measure: impl FnMut(&T) -> Result<M>,
) -> Result<Vec<Vec<M>>> {
    let mut measured: Vec<Vec<M>> = items.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for turn in 0..items.len() {
            let index = (round + turn) % items.len();
            measured[index].push(measure(&items[index])?);
        }
    }
    Ok(measured)
}
