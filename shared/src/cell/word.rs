//! An owner's word in a cell: a clipped sum of log-likelihood ratios over its verdicts (CUSUM; E. S. Page, "Continuous
//! inspection schemes", 1954), against the noise of its own last seven days.

use std::sync::Arc;

use super::{CellPolicy, Evidence};
use crate::verdict::Outcome;
use crate::words::UnixMillis;

/// Days of history that an owner's noise is learned from, today among them.
const NOISE_DAYS: usize = 7;
const DAY_MILLIS: u64 = 86_400_000;

/// What a verdict says about the mirror; `None` of the others: they carry no evidence either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Blocked,
    Clear,
}

impl Told {
    pub(super) fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Blocked => Some(Self::Blocked),
            Outcome::Ok | Outcome::Impaired | Outcome::Refused => Some(Self::Clear),
            Outcome::Down | Outcome::Restricted | Outcome::Insufficient => None,
        }
    }
}

/// An owner's word: the latest evidence, and what its verdicts amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerWord {
    pub last: Arc<Evidence>,
    /// The latest blocked verdict.
    pub last_blocked: Option<Arc<Evidence>>,
    /// In thousandths of a nat, from 0 to the policy's `score_max`.
    pub score: i64,
    /// When it last said something about the mirror.
    told_at: Option<UnixMillis>,
    /// Since when its word is "blocked".
    flagged_since: Option<UnixMillis>,
    excursion: Excursion,
    noise: Noise,
    ratios: Ratios,
    /// When a clear verdict of this owner last counted in the reversed test.
    pub(super) cleared_at: Option<UnixMillis>,
}

/// The time during which a score is above zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Excursion {
    since: Option<UnixMillis>,
    blocked: u32,
    /// The cell was red meanwhile: what the owner saw was no noise.
    is_real: bool,
}

impl OwnerWord {
    pub(super) fn new(first: Arc<Evidence>, policy: &CellPolicy) -> Self {
        Self {
            last: first,
            last_blocked: None,
            score: 0,
            told_at: None,
            flagged_since: None,
            excursion: Excursion::default(),
            noise: Noise::default(),
            ratios: Ratios::of(Noise::default().p0_millionths(0, policy), policy),
            cleared_at: None,
        }
    }

    /// Takes one verdict in; says what it told, and what it adds to the reversed score.
    pub(super) fn hear(
        &mut self,
        evidence: Arc<Evidence>,
        is_cell_red: bool,
        policy: &CellPolicy,
    ) -> Option<(Told, i64)> {
        let at = evidence.at;
        let told = Told::of(evidence.verdict.outcome);
        if told == Some(Told::Blocked) {
            self.last_blocked = Some(Arc::clone(&evidence));
        }
        self.last = evidence;
        let told = told?;
        // What an owner said before a silence is no part of what it says behind it.
        if self.told_until(policy).is_some_and(|until| at >= until) {
            (self.score, self.flagged_since, self.excursion) = (0, None, Excursion::default());
        }
        self.told_at = Some(at);
        if self.noise.turn(at.0 / DAY_MILLIS) {
            self.weigh(policy);
        }
        self.noise.count_verdict(is_cell_red);
        let ratio = match told {
            Told::Blocked => self.ratios.blocked,
            Told::Clear => self.ratios.clear,
        };
        self.score = (self.score + ratio).clamp(0, policy.score_max.0);
        match told {
            Told::Blocked => {
                self.excursion.since = self.excursion.since.or(Some(at));
                self.excursion.blocked = self.excursion.blocked.saturating_add(1);
                // What nobody shares for so long is noise, though it has not come back yet.
                if self.is_alone(policy) {
                    self.weigh(policy);
                }
            }
            Told::Clear if self.score == 0 => self.end_excursion(policy),
            Told::Clear => {}
        }
        self.flagged_since = if self.is_flagged(policy) { self.flagged_since.or(Some(at)) } else { None };
        Some((told, -ratio))
    }

    /// An excursion that came back without the cell going red was noise.
    fn end_excursion(&mut self, policy: &CellPolicy) {
        let excursion = std::mem::take(&mut self.excursion);
        if excursion.blocked > 0 && !excursion.is_real {
            self.noise.count_noise(excursion.blocked);
            self.weigh(policy);
        }
    }

    /// Works out what one more verdict weighs.
    fn weigh(&mut self, policy: &CellPolicy) {
        let unshared = if self.is_alone(policy) { self.excursion.blocked } else { 0 };
        self.ratios = Ratios::of(self.noise.p0_millionths(unshared, policy), policy);
    }

    /// Counts clear verdicts that change no score.
    pub(super) fn pass_over(&mut self, verdicts: u32) {
        let today = self.noise.today();
        today.verdicts = today.verdicts.saturating_add(verdicts);
    }

    /// What the owner sees was no noise: the cell is red.
    pub(super) fn confirm(&mut self, policy: &CellPolicy) {
        let was_noise = self.is_alone(policy);
        self.excursion.is_real = self.excursion.blocked > 0;
        if was_noise {
            self.weigh(policy);
        }
    }

    /// The cell is red no more: who goes on seeing a block begins a story of its own.
    pub(super) fn part(&mut self, at: UnixMillis) {
        if self.excursion.is_real {
            self.excursion = Excursion { since: Some(at), ..Excursion::default() };
        }
    }

    /// Whether it has seen a block for long, by its own verdicts, and the cell was never red meanwhile.
    pub(super) fn is_alone(&self, policy: &CellPolicy) -> bool {
        let millis = policy.apart_after_secs.saturating_mul(1_000);
        let lasts = |since: UnixMillis| self.told_at.is_some_and(|at| at.since_millis(since) >= millis);
        millis > 0 && !self.excursion.is_real && self.excursion.since.is_some_and(lasts)
    }

    /// Whether its word has been "blocked" for as long as a bare majority must stand, and a visit that late still failed.
    pub(super) fn has_stood(&self, policy: &CellPolicy) -> bool {
        let lasts = |(since, last): (UnixMillis, &Arc<Evidence>)| {
            last.at >= since.plus_secs(policy.bare_majority_secs)
        };
        self.flagged_since.zip(self.last_blocked.as_ref()).is_some_and(lasts)
    }

    /// Whether the owner's word is "blocked".
    pub fn is_flagged(&self, policy: &CellPolicy) -> bool {
        self.score >= policy.flag_score.0
    }

    /// Whether the owner speaks for the mirror at `now`: it told something within `stale_after_secs`, and its network has
    /// not fallen silent since.
    pub fn votes(&self, now: UnixMillis, policy: &CellPolicy) -> bool {
        !self.is_silenced() && self.told_until(policy).is_some_and(|until| until > now)
    }

    /// Whether it is heard at `now`, and only of its network's state, or of a site that is down.
    pub(super) fn is_mute(&self, now: UnixMillis, policy: &CellPolicy) -> bool {
        self.is_silenced() && self.heard_until(policy) > now
    }

    fn is_silenced(&self) -> bool {
        matches!(self.last.verdict.outcome, Outcome::Down | Outcome::Restricted)
    }

    /// Whether it was ever heard about the mirror itself.
    pub(super) fn has_told(&self) -> bool {
        self.told_at.is_some()
    }

    /// When the last telling verdict becomes too old.
    pub(super) fn told_until(&self, policy: &CellPolicy) -> Option<UnixMillis> {
        Some(self.told_at?.plus_secs(policy.stale_after_secs))
    }

    /// When the last verdict of any kind becomes too old.
    pub(super) fn heard_until(&self, policy: &CellPolicy) -> UnixMillis {
        self.last.at.plus_secs(policy.stale_after_secs)
    }
}

/// What one verdict weighs, in thousandths of a nat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ratios {
    blocked: i64,
    clear: i64,
}

impl Ratios {
    fn of(p0_millionths: u64, policy: &CellPolicy) -> Self {
        let (p0, p1) = (p0_millionths as f64 / 1e6, policy.p1.0 as f64 / 1e3);
        // Of `libm`, not of the platform: its bits are the same everywhere. Rounded, it is whole from here on.
        let thousandths = |odds: f64| libm::round(libm::log(odds) * 1_000.0) as i64;
        Self { blocked: thousandths(p1 / p0), clear: thousandths((1.0 - p1) / (1.0 - p0)) }
    }
}

/// Blocked verdicts that were noise, of all verdicts, by day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Noise {
    /// Today, in days since 1970.
    day: u64,
    days: [Day; NOISE_DAYS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Day {
    noise: u32,
    verdicts: u32,
}

impl Noise {
    /// Turns to a day, forgetting those too old; whether any day has passed.
    fn turn(&mut self, day: u64) -> bool {
        if day <= self.day {
            return false;
        }
        for passed in (self.day + 1..=day).rev().take(NOISE_DAYS) {
            self.days[(passed % NOISE_DAYS as u64) as usize] = Day::default();
        }
        self.day = day;
        true
    }

    fn today(&mut self) -> &mut Day {
        &mut self.days[(self.day % NOISE_DAYS as u64) as usize]
    }

    /// While the cell is red nothing can be learned about noise.
    fn count_verdict(&mut self, is_cell_red: bool) {
        if !is_cell_red {
            let today = self.today();
            today.verdicts = today.verdicts.saturating_add(1);
        }
    }

    fn count_noise(&mut self, blocked: u32) {
        let today = self.today();
        today.noise = today.noise.saturating_add(blocked);
    }

    /// The chance of a blocked verdict about a free mirror, in millionths; `unshared` blocked verdicts are noise too.
    fn p0_millionths(&self, unshared: u32, policy: &CellPolicy) -> u64 {
        let sum = |part: fn(&Day) -> u32| self.days.iter().map(|day| u64::from(part(day))).sum::<u64>();
        let verdicts = sum(|day| day.verdicts).max(policy.p0_verdicts_min.into()).max(1);
        let learned =
            (sum(|day| day.noise) + u64::from(unshared)) * policy.p0_factor.0 as u64 * 1_000 / verdicts;
        learned.clamp(policy.p0_min.0 as u64 * 1_000, policy.p0_max.0 as u64 * 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{evidence, policy};
    use super::*;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn word_after(outcomes: &str, start: UnixMillis, mut word: Option<OwnerWord>) -> OwnerWord {
        let policy = policy();
        for (n, letter) in outcomes.chars().enumerate() {
            let outcome = if letter == 'b' { Outcome::Blocked } else { Outcome::Ok };
            let evidence = Arc::new(evidence("a", start.plus_secs(60 * n as u64), outcome));
            let word = word.get_or_insert_with(|| OwnerWord::new(Arc::clone(&evidence), &policy));
            word.hear(evidence, false, &policy);
        }
        word.unwrap()
    }

    #[test]
    fn scores_are_those_of_the_paper() {
        let check = |outcomes: &str, score| {
            assert_eq!(word_after(outcomes, START, None).score, score, "{outcomes}");
        };
        // ln 30 = 3.401; ln (0.4 / 0.98) = -0.896.
        check("b", 3_401);
        check("bb", 6_802);
        check("bbb", 7_500);
        check("bo", 2_505);
        check("bbo", 5_906);
        check("oooob", 3_401);
        check("boooo", 0);
    }

    #[test]
    fn two_blocked_visits_flag_a_quiet_owner_and_not_a_noisy_one() {
        assert!(word_after("bb", START, None).is_flagged(&policy()));
        // Every tenth visit of a day fails, and the carrier never turns.
        let noisy = word_after(&"booooooooo".repeat(144), START, None);
        let next = START.plus_secs(60 * 1440);
        assert!(noisy.ratios.blocked < 1_400, "{:?}", noisy.ratios);
        assert!(!word_after("bb", next, Some(noisy.clone())).is_flagged(&policy()));
        assert!(word_after("bbbb", next, Some(noisy)).is_flagged(&policy()));
    }

    #[test]
    fn noise_is_forgotten_after_seven_days() {
        let noisy = word_after(&"booooooooo".repeat(144), START, None);
        let later = word_after("bb", START.plus_secs(9 * 86_400), Some(noisy));
        assert_eq!(later.score, 6_802);
    }

    #[test]
    fn noise_is_learned_but_never_up_to_p1() {
        let noisy = word_after(&"boooo".repeat(2_000), START, None);
        assert_eq!(noisy.noise.p0_millionths(0, &policy()), 300_000);
        assert!(noisy.ratios.blocked > 600, "{:?}", noisy.ratios);
    }

    #[test]
    fn a_block_that_turned_the_cell_is_no_noise() {
        let policy = policy();
        let mut word = word_after("bb", START, None);
        word.confirm(&policy);
        let word = word_after(&"o".repeat(20), START.plus_secs(120), Some(word));
        assert_eq!(word.score, 0);
        assert_eq!(word.noise.p0_millionths(0, &policy), 20_000);
        let noise = word_after(&format!("bb{}", "o".repeat(20)), START, None);
        assert_eq!(noise.noise.days.iter().map(|day| day.noise).sum::<u32>(), 2);
    }
}
