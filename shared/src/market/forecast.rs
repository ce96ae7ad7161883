//! How long mirrors live: Kaplan-Meier over the lives seen, and what follows for the pool.
//!
//! Lives still going on are censored, not left out. E. L. Kaplan and P. Meier, "Nonparametric estimation from incomplete
//! observations", 1958; intervals by Greenwood's variance. Only the four operations and the square root are used, which
//! every machine rounds alike.

use serde::{Deserialize, Serialize};

use super::Action;
use super::remedy::remedy;
use crate::verdict::{Mechanism, Trigger, words};
use crate::words::{MarketId, MirrorId, UnixMillis};

/// Fewer deaths than this say nothing about the next life.
pub const DEATHS_MIN: u32 = 3;
/// The month a forecast is for, in days.
pub const MONTH_DAYS: f64 = 30.0;
/// Both sides of a normal distribution's 95 %.
const Z: f64 = 1.96;
const DAY_MILLIS: f64 = 86_400_000.0;

words!(
    /// What ended a mirror's life in a market.
    EndCause {
        /// The name was listed.
        Name = "name",
        /// The addresses were blocked.
        Addresses = "addresses",
        /// Nobody could tell.
        Unknown = "unknown",
    }
);

impl EndCause {
    /// Of a block by this way.
    pub(crate) fn of(mechanism: Mechanism, trigger: Option<Trigger>) -> Self {
        match remedy(mechanism, trigger) {
            Action::Rotate => Self::Name,
            Action::MoveHosting => Self::Addresses,
            _ => Self::Unknown,
        }
    }
}

/// A mirror's life in a market, from when it began to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub market: MarketId,
    pub mirror: MirrorId,
    pub from: UnixMillis,
    /// When it ended, or was last seen alive.
    pub until: UnixMillis,
    /// What it died of; none where it lives on, or was taken away.
    pub died_of: Option<EndCause>,
}

/// One step of the curve: who is still alive behind a death.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub days: f64,
    /// Lives that had got so far.
    pub at_risk: u32,
    pub deaths: u32,
    pub survival: f64,
    /// 95 %.
    pub low: f64,
    pub high: f64,
}

/// The curve of some lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub lives: u32,
    pub deaths: u32,
    pub steps: Vec<Step>,
}

/// A number with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    /// None where the lives seen set no bound.
    pub high: Option<f64>,
}

/// What a market may expect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    pub market: MarketId,
    pub lives: u32,
    pub deaths: u32,
    /// Standbys that wait.
    pub fresh: u32,
    /// Mirrors that serve.
    pub serving: u32,
    /// Half of the mirrors live longer, in days; none where more than half of those seen do.
    pub median_days: Option<Estimate>,
    /// The same for deaths of one cause alone, with how many there were.
    pub by_cause: Vec<(EndCause, u32, Option<Estimate>)>,
    /// For each mirror that serves, days it may have left within the next [`MONTH_DAYS`]; none with fewer than [`DEATHS_MIN`] deaths.
    pub left_days: Vec<(MirrorId, Option<Estimate>)>,
    /// New domains needed in a month; none with fewer than [`DEATHS_MIN`] deaths.
    pub needed: Option<Estimate>,
}

impl Curve {
    /// The curve of lives, given as days and whether they ended in a death that counts.
    pub fn of(lives: &[(f64, bool)]) -> Self {
        let mut sorted = lives.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut survival, mut variance_sum, mut steps) = (1.0_f64, 0.0_f64, Vec::new());
        let mut place = 0;
        while let Some(&(days, _)) = sorted.get(place) {
            let same = sorted[place..].iter().take_while(|life| life.0 == days);
            let (ended, deaths) = same.fold((0, 0), |(n, d), life| (n + 1, d + u32::from(life.1)));
            let at_risk = (sorted.len() - place) as u32;
            place += ended;
            if deaths == 0 {
                continue;
            }
            let (risk, dead) = (f64::from(at_risk), f64::from(deaths));
            survival *= (risk - dead) / risk;
            // Greenwood: the last death of all leaves nobody to be unsure of.
            if at_risk > deaths {
                variance_sum += dead / (risk * (risk - dead));
            }
            let margin = Z * survival * variance_sum.sqrt();
            let (low, high) = ((survival - margin).max(0.0), (survival + margin).min(1.0));
            steps.push(Step { days, at_risk, deaths, survival, low, high });
        }
        let deaths = steps.iter().map(|step| step.deaths).sum();
        Self { lives: lives.len() as u32, deaths, steps }
    }

    /// When the survival first falls to a half, and when its bounds do.
    pub fn median_days(&self) -> Option<Estimate> {
        let falls =
            |of: fn(&Step) -> f64| self.steps.iter().find(|step| of(step) <= 0.5).map(|step| step.days);
        Some(Estimate {
            value: falls(|step| step.survival)?,
            low: falls(|step| step.low).unwrap_or(0.0),
            high: falls(|step| step.high),
        })
    }

    /// The days somebody of this age may expect of the next `within`: the area under the curve beyond the age, over what
    /// is left at it. Bounds by the curve's bounds, which is wider than need be.
    pub fn left_days(&self, age_days: f64, within: f64) -> Option<Estimate> {
        if self.deaths < DEATHS_MIN {
            return None;
        }
        let left = |of: fn(&Step) -> f64| {
            let at = |days: f64| self.steps.iter().rfind(|step| step.days <= days).map_or(1.0, of);
            let alive = at(age_days);
            // Older than all who died: nothing seen says when it ends.
            if alive <= 0.0 {
                return 0.0;
            }
            let inner =
                self.steps.iter().map(|step| step.days).filter(|d| *d > age_days && *d < age_days + within);
            let borders: Vec<f64> =
                std::iter::once(age_days).chain(inner).chain(std::iter::once(age_days + within)).collect();
            borders.windows(2).map(|pair| (pair[1] - pair[0]) * at(pair[0]) / alive).sum()
        };
        let (value, one, other) = (left(|step| step.survival), left(|step| step.low), left(|step| step.high));
        Some(Estimate { value, low: one.min(other).min(value), high: Some(one.max(other).max(value)) })
    }

    /// Whether somebody of this age dies within so many days.
    fn death_within(&self, age_days: f64, within: f64) -> f64 {
        let at =
            |days: f64| self.steps.iter().rfind(|step| step.days <= days).map_or(1.0, |step| step.survival);
        let alive = at(age_days);
        if alive <= 0.0 { 1.0 } else { 1.0 - at(age_days + within) / alive }
    }
}

impl Life {
    fn days(&self) -> f64 {
        self.until.since_millis(self.from) as f64 / DAY_MILLIS
    }
}

/// What a market may expect, of all lives seen, those going on among them up to now.
pub fn forecast(
    market: &MarketId,
    lives: &[Life],
    serving: &[(MirrorId, UnixMillis)],
    fresh: u32,
    now: UnixMillis,
) -> Forecast {
    let own: Vec<&Life> = lives.iter().filter(|life| life.market == *market).collect();
    let spans = |counts: &dyn Fn(EndCause) -> bool| -> Vec<(f64, bool)> {
        own.iter().map(|life| (life.days(), life.died_of.is_some_and(counts))).collect()
    };
    let curve = Curve::of(&spans(&|_| true));
    let by_cause = EndCause::ALL.iter().map(|cause| {
        let curve = Curve::of(&spans(&|died_of| died_of == *cause));
        (*cause, curve.deaths, curve.median_days())
    });
    let age = |since: &UnixMillis| now.since_millis(*since) as f64 / DAY_MILLIS;
    let left =
        serving.iter().map(|(mirror, since)| (mirror.clone(), curve.left_days(age(since), MONTH_DAYS)));
    let needed = (curve.deaths >= DEATHS_MIN).then(|| {
        let ages: Vec<f64> = serving.iter().map(|(_, since)| age(since)).collect();
        needed_in_a_month(&curve, &own, &ages)
    });
    Forecast {
        market: market.clone(),
        lives: curve.lives,
        deaths: curve.deaths,
        fresh,
        serving: serving.len() as u32,
        median_days: curve.median_days(),
        by_cause: by_cause.filter(|(_, deaths, _)| *deaths > 0).collect(),
        left_days: left.collect(),
        needed,
    }
}

/// Deaths to expect in a month: of those that serve by the curve, of their successors by the rate of deaths a day lived.
/// The interval is that of the number of deaths (Poisson, normal approximation) with the uncertainty of the rate.
fn needed_in_a_month(curve: &Curve, lives: &[&Life], ages: &[f64]) -> Estimate {
    let lived: f64 = lives.iter().map(|life| life.days()).sum();
    let deaths = f64::from(curve.deaths);
    let a_day = if lived > 0.0 { deaths / lived } else { 0.0 };
    let first: f64 = ages.iter().map(|age| curve.death_within(*age, MONTH_DAYS)).sum();
    // A place whose mirror dies has a successor for half of the month on average.
    let later = first * a_day * MONTH_DAYS / 2.0;
    let value = first + later;
    let variance = value + value * value / deaths;
    let margin = Z * variance.sqrt();
    Estimate { value, low: (value - margin).max(0.0), high: Some(value + margin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-4, "{found} is not {expected}");
    }

    /// Remission times under 6-MP (Freireich et al., 1963), the textbook's example; survival and standard errors as
    /// worked out by hand: S(6) = 18/21, S(7) = S(6) * 16/17, S(10) = S(7) * 14/15, S(13) = S(10) * 11/12, ...
    #[test]
    fn the_curve_is_that_of_the_textbook() {
        let lives: Vec<(f64, bool)> = [
            (6., true),
            (6., true),
            (6., true),
            (6., false),
            (7., true),
            (9., false),
            (10., true),
            (10., false),
            (11., false),
            (13., true),
            (16., true),
            (17., false),
            (19., false),
            (20., false),
            (22., true),
            (23., true),
            (25., false),
            (32., false),
            (32., false),
            (34., false),
            (35., false),
        ]
        .to_vec();
        let curve = Curve::of(&lives);
        assert_eq!((curve.lives, curve.deaths, curve.steps.len()), (21, 9, 7));
        let expected = [
            (6., 21, 3, 0.8571, 0.0764),
            (7., 17, 1, 0.8067, 0.0869),
            (10., 15, 1, 0.7529, 0.0963),
            (13., 12, 1, 0.6902, 0.1068),
            (16., 11, 1, 0.6275, 0.1141),
            (22., 7, 1, 0.5378, 0.1282),
            (23., 6, 1, 0.4482, 0.1346),
        ];
        for (step, (days, at_risk, deaths, survival, error)) in curve.steps.iter().zip(expected) {
            assert_eq!((step.days, step.at_risk, step.deaths), (days, at_risk, deaths));
            near(step.survival, survival);
            near((step.survival - step.low) / Z, error);
            near(step.high, (survival + Z * error).min(1.0));
        }
        let median = curve.median_days().unwrap();
        assert_eq!((median.value, median.low, median.high), (23., 13., None));
    }

    #[test]
    fn what_is_left_is_the_area_beyond_the_age() {
        let curve = Curve::of(&[(10., true), (20., true), (30., true), (40., true)]);
        // From birth, of 40 days: 10 * 1 + 10 * 0.75 + 10 * 0.5 + 10 * 0.25.
        near(curve.left_days(0., 40.).unwrap().value, 25.);
        // At 20 days half are left: (10 * 0.5 + 10 * 0.25) / 0.5.
        near(curve.left_days(20., 40.).unwrap().value, 15.);
        near(curve.left_days(20., 5.).unwrap().value, 5.);
        near(curve.death_within(20., 10.), 0.5);
        assert_eq!(
            Curve::of(&[(10., true), (20., false)]).left_days(0., 30.),
            None,
            "one death tells nothing"
        );
        assert_eq!(Curve::of(&[]).median_days(), None);
    }

    #[test]
    fn a_month_needs_as_many_domains_as_die_in_it() {
        let day = |days: u64| UnixMillis(days * 86_400_000);
        let market = MarketId::parse("kz").unwrap();
        let life = |n: u64, died_of| Life {
            market: market.clone(),
            mirror: MirrorId::parse(&format!("m{n}")).unwrap(),
            from: day(0),
            until: day(10),
            died_of,
        };
        let mut lives: Vec<Life> = (0..6).map(|n| life(n, Some(EndCause::Name))).collect();
        lives.push(life(6, Some(EndCause::Addresses)));
        lives.push(Life { market: MarketId::parse("ru").unwrap(), ..life(7, Some(EndCause::Name)) });
        let serving = [(MirrorId::parse("m8").unwrap(), day(10))];
        let found = forecast(&market, &lives, &serving, 2, day(10));
        assert_eq!((found.lives, found.deaths, found.fresh, found.serving), (7, 7, 2, 1));
        assert_eq!(found.median_days.unwrap().value, 10.);
        let causes: Vec<_> =
            found.by_cause.iter().map(|(cause, deaths, _)| (cause.as_str(), *deaths)).collect();
        assert_eq!(causes, [("name", 6), ("addresses", 1)]);
        // One dies for certain within the month, and its successors at a tenth a day over half of it.
        let needed = found.needed.unwrap();
        near(needed.value, 2.5);
        assert!(needed.low < 2.5 && needed.high.unwrap() > 2.5);
        near(found.left_days[0].1.unwrap().value, 10.);
        let none = forecast(&market, &lives[..2], &serving, 2, day(10));
        assert_eq!((none.needed, none.left_days[0].1), (None, None));
    }
}
