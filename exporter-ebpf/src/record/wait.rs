//! The slots that count run-queue waits by length: the buckets of a Prometheus native histogram of
//! schema 3, eight to each doubling. Bucket `i` of that schema holds the waits of
//! `2^((i-1)/8) < wait <= 2^(i/8)` seconds.
//!
//! Slot 0 is the histogram's zero bucket, with the threshold 2^-24 s. Slot `s` up to 240 is bucket
//! `s - 192`. The last slot, 241, is for everything above 2^6 s.
//! <https://prometheus.io/docs/specs/native_histograms/>

/// Number of slots: one up to 2^-24 s, eight for each of 30 doublings, and one above 2^6 s.
pub const WAIT_SLOTS: usize = 1 + 8 * 30 + 1;

/// The longest wait of slot 0 in nanoseconds: 2^-24 s, rounded down.
const LONGEST_OF_FIRST: u64 = 1_000_000_000 >> 24;

/// The shortest wait of the last slot in nanoseconds: the next after 2^6 s.
const SHORTEST_OF_LAST: u64 = (1_000_000_000 << 6) + 1;

/// `floor(10^9 * 2^((c+1)/8 + 33))`: the eight bounds within a doubling; see [`wait_slot`].
static BOUNDS: [u64; 8] = [
    0x81ff_a7a9_549c_a6e3,
    0x8dc3_b896_0164_a7d9,
    0x9a98_6705_4d51_2391,
    0xa896_5f74_bf06_5071,
    0xb7d8_8a12_d0dd_9ea0,
    0xc87c_3e7d_03cd_bec3,
    0xdaa1_7c2c_d195_55db,
    0xee6b_2800_0000_0000,
];

/// For each sixteenth of a doubling, 4 bits: this many of `BOUNDS`, or one more, are below any wait in
/// it, since no sixteenth contains more than one bound.
const BELOW_SIXTEENTH: u64 = 0x7777_6655_5433_2210;

/// The slot for a wait in nanoseconds: below [`WAIT_SLOTS`], and exact for each wait.
///
/// `10^9` is between `2^29` and `2^30`. So each doubling of nanoseconds, from `2^e` to `2^(e+1)`,
/// contains eight bounds, which are `2^e * m` for the same eight numbers `m` in each. Shifting the wait
/// left until its highest bit is set multiplies it by `2^(63-e)`, without loss. It is above `2^e * m`
/// exactly if the shifted wait is above `2^63 * m`, and since the shifted wait is an integer, exactly if
/// it is above the integer part of that, which is one of `BOUNDS`. So the position of a wait among all
/// bounds is `8 * e` plus how many of `BOUNDS` are below the shifted wait. The sixteenth that the wait
/// is in leaves two possible numbers, and one comparison decides.
///
/// For example, 1,000,000 ns are `2^19 * 1.907`. That is in sixteenth 14, from 1.875 to 1.9375, so 7 or 8
/// bounds are below it. The eighth is 1.863, so it is 8; the position is `8 * 19 + 8 = 160`, and the slot
/// is `160 - 47 = 113`. This is bucket -79: waits above 2^-10 s (976,562.5 ns), up to 2^(-79/8) s
/// (1,064,942.7 ns).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the result is small")]
pub const fn wait_slot(wait_ns: u64) -> usize {
    /// Position of the waits of slot 0.
    const FIRST: u64 = 47;
    let mut wait = wait_ns;
    if wait < LONGEST_OF_FIRST {
        wait = LONGEST_OF_FIRST;
    }
    if wait > SHORTEST_OF_LAST {
        wait = SHORTEST_OF_LAST;
    }
    let shift = wait.leading_zeros() as u64;
    let shifted = wait << shift;
    let sixteenth = shifted >> 59 & 15;
    let below = BELOW_SIXTEENTH >> (4 * sixteenth) & 7;
    // Both have their highest bit set, so the sign of the difference compares them.
    let is_above = BOUNDS[below as usize].wrapping_sub(shifted) >> 63;
    (8 * (63 - shift) + below + is_above - FIRST) as usize
}

/// The slot of bucket `index` of the native histogram. The waits up to `2^(index/8)` seconds are those of
/// the slots up to this one. `index` must be from -192 to 48.
pub const fn wait_slot_of_index(index: i32) -> usize {
    (index + 192).cast_unsigned() as usize
}
