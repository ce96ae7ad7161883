//! How fast a body came. A pure measure of one exchange, with its unit; what is slow for a reason is the judge's business.

use crate::record::{HttpExchange, HttpOutcome};

/// Bits in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitsPerSec(pub u64);

/// Fewer body bytes say nothing of speed: a policer lets the first ones pass, and TLS shows its records of 16 KB whole.
pub const GOODPUT_LEN_MIN: u64 = 16 * 1024;

/// Slower than this is slow. Known throttling polices to 128-150 kbit/s (Xue et al., "Throttling Twitter", IMC 2021;
/// net4people/bbs); its burst makes a page of 64 KiB look up to twice as fast.
pub const SLOW_MAX: BitsPerSec = BitsPerSec(256_000);

impl BitsPerSec {
    /// Whether this is at least `times` as much.
    pub fn is_times(self, times: u64, other: Self) -> bool {
        self.0 >= other.0.saturating_mul(times)
    }
}

impl std::fmt::Display for BitsPerSec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} bit/s", self.0),
            1_000..1_000_000 => write!(f, "{} kbit/s", self.0 / 1_000),
            bits => write!(f, "{}.{} Mbit/s", bits / 1_000_000, bits / 100_000 % 10),
        }
    }
}

/// Body bits a second, from the body's first byte to its last; of one that never ended, to the end of the waiting.
/// `None` for fewer than [`GOODPUT_LEN_MIN`] bytes, and where a record tells no times.
pub fn goodput(exchange: &HttpExchange) -> Option<BitsPerSec> {
    if exchange.body_len < GOODPUT_LEN_MIN {
        return None;
    }
    let first = exchange.first_byte_micros?;
    let last = match exchange.outcome {
        HttpOutcome::Timeout => exchange.span.duration_micros,
        _ => exchange.last_byte_micros?,
    };
    // A body that came at once came within a microsecond.
    let micros = last.checked_sub(first)?.max(1);
    let bits = u128::from(exchange.body_len) * 8 * 1_000_000 / u128::from(micros);
    Some(BitsPerSec(u64::try_from(bits).unwrap_or(u64::MAX)))
}

/// Whether a body came slowly; `None` where its speed is not known.
pub fn is_slow(exchange: &HttpExchange) -> Option<bool> {
    goodput(exchange).map(|speed| speed < SLOW_MAX)
}

/// Whether an exchange ended in silence: for the last half of the waiting, at least, no byte came. One that never ended
/// and yet went on is slow, not silent.
pub fn is_silent(exchange: &HttpExchange) -> bool {
    exchange.outcome == HttpOutcome::Timeout
        && exchange
            .last_byte_micros
            .is_none_or(|last| last.saturating_mul(2) <= exchange.span.duration_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Arm, Span};
    use crate::target::{Sha256, TargetUrl};

    fn exchange(body_len: u64, first: Option<u64>, last: Option<u64>, outcome: HttpOutcome) -> HttpExchange {
        HttpExchange {
            arm: Arm::LargePage,
            url: TargetUrl::parse("https://mirror.example/large").unwrap(),
            address: "198.51.100.7:443".parse().unwrap(),
            protocol: "h2".into(),
            span: Span { start_micros: 5, duration_micros: 10_000_000 },
            first_byte_micros: first,
            last_byte_micros: last,
            status: Some(200),
            headers: vec![],
            body_len,
            body_sha256: Sha256::default(),
            title: None,
            canary_found: None,
            excerpt: String::new(),
            outcome,
            transport: None,
        }
    }

    #[test]
    fn goodput_is_bits_of_the_body_over_the_time_it_took() {
        let check = |body_len, first, last, outcome, expected: Option<u64>| {
            let speed = goodput(&exchange(body_len, first, last, outcome));
            assert_eq!(speed.map(|speed| speed.0), expected, "{body_len} {first:?} {last:?}");
        };
        let (kib, done) = (1024, || HttpOutcome::Complete);
        check(64 * kib, Some(100_000), Some(4_196_000), done(), Some(128_000));
        check(128 * kib, Some(0), Some(100_000), done(), Some(10_485_760));
        // At once, in one piece.
        check(64 * kib, Some(7), Some(7), done(), Some(524_288_000_000));
        // Too few bytes, or no times.
        check(GOODPUT_LEN_MIN - 1, Some(0), Some(9_000_000), done(), None);
        check(64 * kib, None, Some(9_000_000), done(), None);
        check(64 * kib, Some(0), None, done(), None);
        // A clock that ran backwards.
        check(64 * kib, Some(9), Some(8), done(), None);
        // Broken off, it counts as far as it came; never ended, as long as it was waited for.
        check(64 * kib, Some(0), Some(1_000_000), HttpOutcome::Reset, Some(524_288));
        check(20_000, Some(2_000_000), Some(2_100_000), HttpOutcome::Timeout, Some(20_000));
        check(u64::MAX, Some(0), Some(0), done(), Some(u64::MAX));
    }

    #[test]
    fn slow_is_what_policers_leave() {
        let check = |body_len, last, expected| {
            let slow = is_slow(&exchange(body_len, Some(0), Some(last), HttpOutcome::Complete));
            assert_eq!(slow, expected, "{body_len} in {last} us");
        };
        check(64_000, 4_000_000, Some(true));
        check(64_000, 2_001_000, Some(true));
        check(64_000, 2_000_000, Some(false));
        check(64_000, 10_000, Some(false));
        check(8_000, 4_000_000, None);
    }

    #[test]
    fn silence_is_not_slowness() {
        let check = |last, outcome, expected| {
            assert_eq!(is_silent(&exchange(20_000, Some(1), last, outcome)), expected, "{last:?}");
        };
        check(Some(300_000), HttpOutcome::Timeout, true);
        check(Some(5_000_000), HttpOutcome::Timeout, true);
        check(Some(9_500_000), HttpOutcome::Timeout, false);
        check(None, HttpOutcome::Timeout, true);
        check(Some(300_000), HttpOutcome::Reset, false);
    }

    #[test]
    fn speeds_are_read_at_a_glance_and_compared_by_factors() {
        let check = |bits, text| assert_eq!(BitsPerSec(bits).to_string(), text);
        check(999, "999 bit/s");
        check(128_900, "128 kbit/s");
        check(10_485_760, "10.4 Mbit/s");
        assert!(
            BitsPerSec(400).is_times(4, BitsPerSec(100)) && !BitsPerSec(399).is_times(4, BitsPerSec(100))
        );
        assert!(!BitsPerSec(5).is_times(4, BitsPerSec(u64::MAX)));
    }
}
