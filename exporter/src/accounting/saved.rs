//! How counters are saved for the next process.

use sched_exporter_ebpf::Counters;
use serde::{Deserialize, Serialize};

/// Counters modulo 2^64, as signed numbers, because what series carry is often negative. The zeros at the end
/// are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Words(Vec<i64>);

impl Words {
    pub(super) fn of<'t, T: Counters + 't>(counters: impl Into<Option<&'t T>>) -> Self {
        let words = counters.into().map_or(&[][..], Counters::as_words);
        let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        Self(words[..used].iter().map(|word| word.cast_signed()).collect())
    }

    /// The counters; `None` if there are more than `T` has.
    pub(super) fn read<T: Counters>(&self) -> Option<T> {
        let mut counters = T::ZERO;
        let to = counters.as_words_mut().get_mut(..self.0.len())?;
        for (to, from) in to.iter_mut().zip(&self.0) {
            *to = from.cast_unsigned();
        }
        Some(counters)
    }
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::CgroupTotals;

    use super::*;

    #[test]
    fn counters_are_what_they_were() {
        let totals = CgroupTotals { wait_ns: 7_u64.wrapping_neg(), waits: 5, ..CgroupTotals::ZERO };
        let words = Words::of(&totals);
        assert_eq!(words.0, [0, -7, 5]);
        assert_eq!(words.read(), Some(totals));
        assert_eq!(Words::of(None::<&CgroupTotals>).read(), Some(CgroupTotals::ZERO));
        assert_eq!(Words(vec![0; 6]).read::<CgroupTotals>(), None);
    }
}
