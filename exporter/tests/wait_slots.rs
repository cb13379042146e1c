#![cfg(test)]
//! Checks `wait_slot` against bounds that are computed from their definition with integers alone.

use std::sync::LazyLock;

use proptest::prelude::*;
use sched_exporter_ebpf::{WAIT_SLOTS, wait_slot, wait_slot_of_index};

/// The longest waits in nanoseconds of all slots but the last: `floor(10^9 * 2^(i/8))` for `i` from -192
/// to 48.
static LONGEST: LazyLock<Vec<u64>> = LazyLock::new(|| (-192..=48).map(longest).collect());

/// The largest `n` with `n^8 <= 10^72 * 2^index`.
fn longest(index: i32) -> u64 {
    let limit = product(&[&[1_000_000_000; 8][..], &twos(index)].concat());
    let fits = |n: u64| product(&[&[n; 8][..], &twos(-index)].concat()) <= limit;
    let (mut low, mut high) = (0, 1 << 40);
    assert!(!fits(high));
    while low + 1 < high {
        let middle = u64::midpoint(low, high);
        *(if fits(middle) { &mut low } else { &mut high }) = middle;
    }
    low
}

/// Factors of `2^exponent`; none if that is below 1.
fn twos(exponent: i32) -> Vec<u64> {
    let exponent = usize::try_from(exponent).unwrap_or_default();
    let mut factors = vec![1 << 32; exponent / 32];
    factors.push(1 << (exponent % 32));
    factors
}

/// The product of `factors`, its highest 32 bits first.
fn product(factors: &[u64]) -> [u64; 20] {
    const LOW: u128 = u32::MAX as u128;
    let mut product = [0; 20];
    product[19] = 1;
    for factor in factors {
        let mut carry = 0;
        for digit in product.iter_mut().rev() {
            let sum = u128::from(*digit) * u128::from(*factor) + carry;
            *digit = u64::try_from(sum & LOW).unwrap();
            carry = sum >> 32;
        }
        assert_eq!(carry, 0);
    }
    product
}

/// Checks one wait against the definition.
fn check(wait: u64) {
    let slot = LONGEST.partition_point(|longest| *longest < wait);
    assert_eq!(wait_slot(wait), slot, "{wait} ns");
}

#[test]
fn ends_of_slots_are_powers_of_two_of_a_second() {
    assert_eq!(LONGEST.len(), WAIT_SLOTS - 1);
    for (exponent, expected) in [(-24, 59), (-20, 953), (-10, 976_562), (-9, 1_953_125)] {
        assert_eq!(LONGEST[wait_slot_of_index(8 * exponent)], expected);
    }
    assert_eq!(LONGEST[wait_slot_of_index(0)], 1_000_000_000);
    assert_eq!(LONGEST[wait_slot_of_index(48)], 64_000_000_000);
    assert_eq!(LONGEST[wait_slot_of_index(4)], 1_414_213_562);
}

#[test]
fn waits_around_every_bound_are_in_their_slots() {
    for around in LONGEST.iter().copied().chain((0..64).map(|bit| 1 << bit)) {
        (around.saturating_sub(4_096)..=around.saturating_add(4_096)).for_each(check);
    }
    [0, u64::MAX].into_iter().for_each(check);
}

#[test]
fn short_waits_are_in_their_slots() {
    (0..1 << 22).for_each(check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn any_wait_is_in_its_slot(wait in any::<u64>(), shift in 0_u32..64) {
        check(wait >> shift);
    }
}
