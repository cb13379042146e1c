//! Keeps a sum over members continuous while members join and leave it.

use sched_exporter_ebpf::Counters;

/// What a series shows in addition to its members' totals, modulo 2^64. Its value does not change when
/// a member joins or leaves; from then on, the member's counts belong to another series.
///
/// For example, a series shows the 210 of two members with 10 and 200. If the second leaves, the series
/// carries 200. If a member with 3,000 then joins, it carries -2,800, still shows 210, and shows 211 once
/// that member has 3,001.
///
/// `None` means zero, since the totals of a CPU are large, and few series carry any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carried<T>(Option<Box<T>>);

impl<T> Default for Carried<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Carried<T> {
    pub(super) fn as_ref(&self) -> Option<&T> {
        self.0.as_deref()
    }
}

impl<T: Counters + Eq> Carried<T> {
    /// Lets a member join that has counted `totals`; `None` is nothing.
    pub(super) fn join<'t>(&mut self, totals: impl Into<Option<&'t T>>)
    where
        T: 't,
    {
        self.update(totals.into(), T::subtract);
    }

    /// Lets a member leave that has counted `totals`.
    pub(super) fn leave<'t>(&mut self, totals: impl Into<Option<&'t T>>)
    where
        T: 't,
    {
        self.update(totals.into(), T::add);
    }

    /// Adds to the value.
    pub(super) fn add<'t>(&mut self, more: impl Into<Option<&'t T>>)
    where
        T: 't,
    {
        self.update(more.into(), T::add);
    }

    /// The value of a series whose members have counted `totals`.
    pub(super) fn value<'t>(&'t self, totals: impl IntoIterator<Item = &'t T>) -> T {
        sum(totals.into_iter().chain(self.as_ref()))
    }

    fn update(&mut self, by: Option<&T>, update: fn(&mut T, &T)) {
        let Some(by) = by else { return };
        let mut carried = self.0.take().unwrap_or_else(|| Box::new(T::ZERO));
        update(&mut carried, by);
        self.0 = (*carried != T::ZERO).then_some(carried);
    }
}

/// Sums totals, modulo 2^64.
pub(super) fn sum<'t, T: Counters + 't>(all: impl IntoIterator<Item = &'t T>) -> T {
    let mut sum = T::ZERO;
    all.into_iter().for_each(|totals| sum.add(totals));
    sum
}
