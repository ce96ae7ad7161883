//! A handful of measurements as a distribution: middle, tail, worst, and a small histogram. Numbers only.

use serde::Serialize;

/// Bars of a histogram.
const BARS: usize = 8;
/// Characters of the longest bar.
const BAR_LEN_MAX: usize = 40;

/// Seconds, sorted and summed up.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Distribution {
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
    #[serde(skip)]
    sorted: Vec<f64>,
}

impl Distribution {
    /// Of these measurements; all zero of none.
    pub fn of(measured: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = measured.collect();
        sorted.sort_by(f64::total_cmp);
        let max = sorted.last().copied().unwrap_or_default();
        Self { p50: rank(&sorted, 50), p95: rank(&sorted, 95), max, sorted }
    }

    /// Lines of a histogram from the smallest to the largest measurement.
    pub fn histogram(&self) -> Vec<String> {
        let (Some(first), Some(last)) = (self.sorted.first(), self.sorted.last()) else { return Vec::new() };
        let width = ((last - first) / BARS as f64).max(f64::MIN_POSITIVE);
        let mut counts = [0; BARS];
        for value in &self.sorted {
            // The cast cuts off: the bar in which it lies; the largest lies in the last.
            counts[(((value - first) / width) as usize).min(BARS - 1)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or_default().max(1);
        let line = |(index, count): (usize, usize)| {
            let from = first + width * index as f64;
            let bar = "#".repeat((count * BAR_LEN_MAX).div_ceil(most));
            format!("{from:>8.1} s .. {:>6.1} s {count:>3} {bar}", from + width)
        };
        counts.into_iter().enumerate().map(line).collect()
    }
}

/// The smallest measurement that `percent` of all do not exceed.
fn rank(sorted: &[f64], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_twenty_the_nineteenth_is_the_95th_percent() {
        let twenty = Distribution::of((1..=20).rev().map(f64::from));
        assert_eq!((twenty.p50, twenty.p95, twenty.max), (10.0, 19.0, 20.0));
        let one = Distribution::of([7.0].into_iter());
        assert_eq!((one.p50, one.p95, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Distribution::of(std::iter::empty()), Distribution::default());
    }

    #[test]
    fn a_histogram_holds_every_measurement() {
        let check = |measured: &[f64], bars: usize| {
            let lines = Distribution::of(measured.iter().copied()).histogram();
            assert_eq!(lines.len(), bars, "{lines:?}");
            let counted: usize = lines
                .iter()
                .map(|line| line.split_whitespace().nth(5).unwrap().parse::<usize>().unwrap())
                .sum();
            assert_eq!(counted, measured.len(), "{lines:?}");
        };
        check(&[], 0);
        check(&[3.0], BARS);
        check(&[3.0, 3.0, 11.0, 5.0], BARS);
    }
}
