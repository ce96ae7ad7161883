//! Chance with a seed: the same seed and stream give the same draws on every machine. Nothing here is secret or fair
//! enough for more than a simulation.

use oorandom::Rand64;

/// A stream of draws.
#[derive(Debug, Clone)]
pub struct Chance(Rand64);

/// Draws that are never made: what cannot happen waits this long, in ms (a thousand years).
pub const NEVER_MILLIS: u64 = 1_000 * 366 * 86_400_000;

impl Chance {
    /// The stream of one part of one run: neighbours share nothing but the seed.
    pub fn new(seed: u64, run: u64, part: u64) -> Self {
        let key = u128::from(mixed(seed ^ mixed(run))) << 64 | u128::from(mixed(part ^ mixed(seed)));
        Self(Rand64::new_inc(key, u128::from(mixed(run ^ mixed(part)))))
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        self.0.rand_float()
    }

    /// Whether what happens with this probability happens.
    pub fn flips(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// From 0 to below `end`; 0 for an empty range.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.rand_range(0..end) }
    }

    /// The time to the next of events that come at random, once in `mean_millis` on average.
    pub fn gap_millis(&mut self, mean_millis: f64) -> u64 {
        let gap = -libm::log(1.0 - self.unit()) * mean_millis;
        whole(gap).min(NEVER_MILLIS)
    }

    /// How many failures come before the first success of trials that succeed with this probability.
    pub fn failures_before_success(&mut self, probability: f64) -> u64 {
        if probability >= 1.0 {
            0
        } else if probability <= 0.0 {
            NEVER_MILLIS
        } else {
            whole(libm::floor(libm::log(1.0 - self.unit()) / libm::log(1.0 - probability))).min(NEVER_MILLIS)
        }
    }
}

/// A number that is no fraction and not below zero.
fn whole(number: f64) -> u64 {
    libm::round(number.max(0.0)) as u64
}

/// Spreads neighbouring numbers over the whole range (S. Vigna, SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let draws = |seed, run, part| {
            let mut chance = Chance::new(seed, run, part);
            (0..8).map(|_| chance.below(1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1, 2, 3), draws(1, 2, 3));
        assert_eq!(draws(1, 2, 3)[..3], [320_528, 120_498, 357_335]);
        for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(draws(1, 2, 3), draws(other.0, other.1, other.2), "{other:?}");
        }
    }

    #[test]
    fn draws_have_the_mean_they_are_asked_for() {
        let mut chance = Chance::new(7, 0, 0);
        let mean = |draw: &mut dyn FnMut() -> f64| (0..20_000).map(|_| draw()).sum::<f64>() / 20_000.0;
        let check = |found: f64, expected: f64| {
            assert!((found - expected).abs() < expected * 0.05, "{found} for {expected}");
        };
        check(mean(&mut || f64::from(u8::from(chance.flips(0.3)))), 0.3);
        check(mean(&mut || chance.gap_millis(5_000.0) as f64), 5_000.0);
        check(mean(&mut || chance.failures_before_success(0.02) as f64), 49.0);
        assert_eq!(chance.failures_before_success(1.0), 0);
        assert_eq!(chance.failures_before_success(0.0), NEVER_MILLIS);
    }
}
