//! Pure: token buckets that pace what is sent to the mirror. Time is passed in.
//!
//! A bucket fills at its rate and holds what fills it in [`BURST`]; it begins empty, so that from its first moment on no
//! stretch of time sees more than the rate allows, plus what a quiet time before it has saved up.

use std::time::{Duration, Instant};

/// What a quiet time saves up at most: a small change then goes out at once, and a large one is not made to wait twice.
pub const BURST: Duration = Duration::from_secs(1);

/// Pieces in which a second's bytes are written at least, so that a single large file flows instead of coming in lumps.
const PIECES_A_SECOND: u64 = 4;

/// Writes are cut at multiples of this where the rate allows it: a page.
const PAGE: u64 = 4096;

const NANOS: i128 = 1_000_000_000;

/// Limits in a second; nothing means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of content.
    pub bytes: Option<u64>,
    /// Operations.
    pub ops: Option<u64>,
}

impl Rates {
    /// How much of a write of `len` bytes is to be one operation.
    pub fn piece(&self, len: usize) -> usize {
        let Some(rate) = self.bytes else { return len };
        let most = (rate / PIECES_A_SECOND).max(1);
        let most = if most > PAGE { most - most % PAGE } else { most };
        len.min(usize::try_from(most).unwrap_or(len))
    }
}

/// What one act costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Operations.
    pub ops: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Cost {
    /// An act that the mirror's side does not see.
    pub const FREE: Self = Self::ops(0);

    /// Operations that send no content.
    pub const fn ops(ops: u64) -> Self {
        Self { ops, bytes: 0 }
    }

    /// One write.
    pub const fn write(bytes: usize) -> Self {
        Self { ops: 1, bytes: bytes as u64 }
    }
}

/// One bucket.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    /// What is in it, times [`NANOS`]; below zero after something larger than a burst.
    level: i128,
    /// As of when; nothing before the first use.
    at: Option<Instant>,
}

impl Bucket {
    /// Nothing when `amount` may go now, else when it may if nobody else takes anything.
    fn ready(&mut self, amount: u64, rate: u64, now: Instant) -> Option<Instant> {
        let rate = i128::from(rate.max(1));
        let most = rate * BURST.as_nanos() as i128;
        // Clocks of several threads may come in another order than they were read in.
        let since = now.saturating_duration_since(*self.at.get_or_insert(now));
        self.at = self.at.max(Some(now));
        self.level = (self.level + rate.saturating_mul(since.as_nanos() as i128)).min(most);
        // What is larger than a burst goes when the bucket is full, and is paid off afterwards.
        let missing = (i128::from(amount) * NANOS).min(most) - self.level;
        (missing > 0).then(|| {
            let nanos = (missing + rate - 1) / rate;
            now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        })
    }

    fn spend(&mut self, amount: u64) {
        self.level -= i128::from(amount) * NANOS;
    }
}

/// A bucket of bytes and one of operations.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    bytes: Bucket,
    ops: Bucket,
}

impl Buckets {
    /// Takes all of `cost` out, or nothing.
    ///
    /// # Errors
    /// Not before this moment.
    pub fn take(&mut self, cost: Cost, rates: Rates, now: Instant) -> Result<(), Instant> {
        let mut later = None;
        let each = [(&mut self.bytes, cost.bytes, rates.bytes), (&mut self.ops, cost.ops, rates.ops)];
        for (bucket, amount, rate) in each {
            match rate {
                Some(rate) if amount > 0 => later = later.max(bucket.ready(amount, rate, now)),
                Some(_) => {}
                // A limit that is set later begins with an empty bucket.
                None => *bucket = Bucket::default(),
            }
        }
        if let Some(later) = later {
            return Err(later);
        }
        if rates.bytes.is_some() {
            self.bytes.spend(cost.bytes);
        }
        if rates.ops.is_some() {
            self.ops.spend(cost.ops);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    impl Bucket {
        fn take(&mut self, amount: u64, rate: u64, now: Instant) -> Result<(), Instant> {
            match self.ready(amount, rate, now) {
                Some(later) => Err(later),
                None => {
                    self.spend(amount);
                    Ok(())
                }
            }
        }
    }

    /// A simulated sender: each amount with the pause before it; returns when each one went.
    fn send(amounts: &[(u64, u64)], rate: u64) -> Vec<(Instant, u64)> {
        let (mut bucket, mut now) = (Bucket::default(), Instant::now());
        let mut sent = Vec::new();
        for (amount, pause) in amounts {
            now += Duration::from_micros(*pause);
            while let Err(later) = bucket.take(*amount, rate, now) {
                assert!(later > now, "a wait that does not wait");
                now = later;
            }
            sent.push((now, *amount));
        }
        sent
    }

    proptest! {
        /// The oracle is plain addition over every stretch of time.
        #[test]
        fn no_stretch_of_time_sees_more_than_the_rate_and_a_burst(
            rate in 1u64..2_000_000_000,
            parts in vec((0u64..=1000, 0u64..3_000_000), 1..60),
        ) {
            let amounts: Vec<_> =
                parts.iter().map(|(part, pause)| ((u128::from(rate) * u128::from(*part) / 1000) as u64, *pause)).collect();
            let sent = send(&amounts, rate);
            for first in 0..sent.len() {
                let mut sum = 0u128;
                for last in first..sent.len() {
                    sum += u128::from(sent[last].1);
                    let time = sent[last].0 - sent[first].0 + BURST;
                    prop_assert!(sum * 1_000_000_000 <= u128::from(rate) * time.as_nanos(), "{first}..={last}");
                }
            }
            // From the beginning there is nothing saved up.
            let begin = sent[0].0;
            let all: u128 = sent.iter().skip(1).map(|(_, amount)| u128::from(*amount)).sum();
            let time = sent[sent.len() - 1].0 - begin + BURST;
            prop_assert!(all * 1_000_000_000 <= u128::from(rate) * time.as_nanos());
        }

        /// Who sends all the time gets the whole rate, from an empty bucket on.
        #[test]
        fn a_busy_sender_gets_what_the_rate_allows(rate in 1000u64..2_000_000_000, part in 1u64..=1000, n in 1usize..200) {
            let amount = rate / 1000 * part;
            let begin = Instant::now();
            let mut bucket = Bucket::default();
            // Begins the bucket's time.
            let mut now = match bucket.take(amount, rate, begin) { Ok(()) => begin, Err(later) => later };
            for _ in 0..n {
                while let Err(later) = bucket.take(amount, rate, now) {
                    now = later;
                }
            }
            let ideal = u128::from(amount) * n as u128 * 1_000_000_000 / u128::from(rate);
            let took = (now - begin).as_nanos();
            // Each wait is rounded up to a nanosecond.
            prop_assert!(took >= ideal && took <= ideal + n as u128 + 1, "{took} for {ideal}");
        }

        /// What is larger than a burst is late, not lost and not free.
        #[test]
        fn what_is_larger_than_a_burst_is_paid_off(rate in 1u64..1_000_000, times in 1u64..50, n in 2usize..10) {
            let sent = send(&vec![(rate * times, 0); n], rate);
            let time = sent[n - 1].0 - sent[0].0;
            let paid = u128::from(rate * times) * (n as u128 - 1) * 1_000_000_000;
            prop_assert!(paid <= u128::from(rate) * time.as_nanos());
        }

        #[test]
        fn pieces_are_never_empty_and_fit_a_burst(rate in 1u64.., len in 1usize..4 << 20) {
            let piece = Rates { bytes: Some(rate), ops: None }.piece(len);
            prop_assert!(piece >= 1 && piece <= len && piece as u64 <= rate);
        }
    }

    #[test]
    fn both_limits_hold_and_neither_is_charged_alone() {
        let begin = Instant::now();
        let rates = Rates { bytes: Some(1000), ops: Some(10) };
        let mut buckets = Buckets::default();
        let cost = Cost { ops: 1, bytes: 500 };
        assert_eq!(buckets.take(cost, rates, begin), Err(begin + 500 * MS), "the bytes are what is short");
        assert_eq!(buckets.take(cost, rates, begin + 500 * MS), Ok(()));
        // The first refusal took no operation: five have come in, one is gone.
        for _ in 0..4 {
            assert_eq!(buckets.take(Cost::ops(1), rates, begin + 500 * MS), Ok(()));
        }
        assert_eq!(buckets.take(Cost::ops(1), rates, begin + 500 * MS), Err(begin + 600 * MS));
        assert_eq!(buckets.take(Cost::FREE, rates, begin + 500 * MS), Ok(()));
    }

    #[test]
    fn a_limit_that_is_lifted_and_set_again_begins_empty() {
        let begin = Instant::now();
        let (limited, free) = (Rates { bytes: Some(100), ops: None }, Rates::default());
        let mut buckets = Buckets::default();
        let cost = Cost::write(100);
        assert!(buckets.take(cost, limited, begin).is_err());
        assert_eq!(buckets.take(cost, free, begin), Ok(()));
        assert_eq!(buckets.take(cost, limited, begin + 1000 * MS), Err(begin + 2000 * MS));
    }

    #[test]
    fn a_clock_read_earlier_by_another_thread_gives_nothing_twice() {
        let begin = Instant::now();
        let mut bucket = Bucket::default();
        assert!(bucket.take(100, 100, begin).is_err());
        assert_eq!(bucket.take(100, 100, begin + 1000 * MS), Ok(()));
        assert_eq!(bucket.take(50, 100, begin + 500 * MS), Err(begin + 1000 * MS));
        assert_eq!(bucket.take(50, 100, begin + 1000 * MS), Err(begin + 1500 * MS));
    }
}
