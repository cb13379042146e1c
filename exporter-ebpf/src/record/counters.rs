//! Structs of counters, which are added and compared as if they were arrays.

/// A struct of counters. Adding, subtracting and comparing treat all of them alike, so a new counter is
/// one new field.
///
/// # Safety
///
/// The struct is `repr(C)`, and each field is a `u64` or an array of them, so that it has the layout of
/// an array of `u64`.
pub unsafe trait Counters: Copy {
    /// Nothing counted yet.
    // SAFETY: an array of zeros is a value of the struct.
    const ZERO: Self = unsafe { core::mem::zeroed() };

    /// Adds `other`, modulo 2^64.
    fn add(&mut self, other: &Self) {
        for (counter, other) in words_mut(self).iter_mut().zip(words(other)) {
            *counter = counter.wrapping_add(*other);
        }
    }

    /// Subtracts `other`, modulo 2^64.
    fn subtract(&mut self, other: &Self) {
        for (counter, other) in words_mut(self).iter_mut().zip(words(other)) {
            *counter = counter.wrapping_sub(*other);
        }
    }

    /// The counters, in their order.
    fn as_words(&self) -> &[u64] {
        words(self)
    }

    /// The counters as an array.
    fn as_words_mut(&mut self) -> &mut [u64] {
        words_mut(self)
    }

    /// Whether no counter is below its counterpart in `other`.
    fn is_at_least(&self, other: &Self) -> bool {
        words(self).iter().zip(words(other)).all(|(counter, other)| counter >= other)
    }
}

const fn words<T: Counters>(counters: &T) -> &[u64] {
    // SAFETY: the struct has the layout of an array of this length.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(counters).cast(), len::<T>()) }
}

const fn words_mut<T: Counters>(counters: &mut T) -> &mut [u64] {
    // SAFETY: as above; any `u64` is a value of each field.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(counters).cast(), len::<T>()) }
}

const fn len<T>() -> usize {
    size_of::<T>() / size_of::<u64>()
}
