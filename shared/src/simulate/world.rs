//! What is true while nobody looks: spells of bad luck, and what a censor does. Tells what a visit would meet.

use super::chance::{Chance, NEVER_MILLIS};
use super::noise::{Noise, Spell};
use super::scenario::Scenario;
use crate::words::UnixMillis;

/// What a visit meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    Ok,
    /// The visit fails, and a control's would not.
    Blocked,
    /// The network's state forbids it.
    Restricted,
}

/// Spells of one kind in one place, one after another. Asked about rising instants only.
#[derive(Debug)]
pub(super) struct Spells {
    spell: Option<Spell>,
    chance: Chance,
    from: u64,
    until: u64,
}

impl Spells {
    pub(super) fn new(spell: Option<&Spell>, chance: Chance, start: UnixMillis) -> Self {
        let mut spells = Self { spell: spell.cloned(), chance, from: start.0, until: start.0 };
        spells.draw_next();
        spells
    }

    fn draw_next(&mut self) {
        match &self.spell {
            Some(spell) => {
                self.from =
                    self.until.saturating_add(self.chance.gap_millis(spell.every_hours * 3_600_000.0));
                self.until = self.from.saturating_add(spell.secs * 1_000);
            }
            None => (self.from, self.until) = (NEVER_MILLIS * 2, NEVER_MILLIS * 2),
        }
    }

    /// The share of visits that fail, while there is a spell.
    pub(super) fn share_at(&mut self, at: UnixMillis) -> Option<f64> {
        while self.until <= at.0 {
            self.draw_next();
        }
        (self.from <= at.0).then(|| self.spell.as_ref().map_or(0.0, |spell| spell.blocked))
    }

    /// When the next one begins; `at` while there is one.
    pub(super) fn next_after(&mut self, at: UnixMillis) -> UnixMillis {
        while self.until <= at.0 {
            self.draw_next();
        }
        UnixMillis(self.from.max(at.0))
    }
}

/// Everything that may befall the visits of one market's agents.
#[derive(Debug)]
pub(super) struct World {
    bursts: Vec<Spells>,
    outages: Vec<Spells>,
    restrictions: Vec<Spells>,
    market: Spells,
    control: Spells,
    control_fails: f64,
    false_blocked: f64,
    scenario: Scenario,
    onset: UnixMillis,
    whole: f64,
    partial: f64,
    restricted_mistaken: f64,
    pub(super) owners: u32,
}

impl World {
    pub(super) fn new(
        noise: &Noise,
        (carriers, owners): (u32, u32),
        chance_of: impl Fn(u64) -> Chance,
        start: UnixMillis,
        (scenario, onset): (Scenario, UnixMillis),
    ) -> Self {
        let spells = |part: u64, spell: &Option<Spell>| Spells::new(spell.as_ref(), chance_of(part), start);
        let row = |first: u64, count: u32, spell: &Option<Spell>| -> Vec<Spells> {
            (0..u64::from(count)).map(|index| spells(first + index, spell)).collect()
        };
        Self {
            bursts: row(10_000, carriers * owners, &noise.burst),
            outages: row(20_000, carriers, &noise.carrier_outage),
            restrictions: row(30_000, carriers, &noise.restriction),
            market: spells(40_000, &noise.market_outage),
            control: spells(40_001, &noise.control.outage),
            control_fails: noise.control.fails,
            false_blocked: noise.verdict.false_blocked,
            scenario,
            onset,
            whole: noise.block.whole,
            partial: noise.block.partial,
            restricted_mistaken: noise.restriction.as_ref().map_or(0.0, |spell| spell.blocked),
            owners,
        }
    }

    /// What a visit of this agent that begins at `at` meets; `is_odd`: the draw of its own noise was made, and lost.
    pub(super) fn meet(
        &mut self,
        agent: usize,
        at: UnixMillis,
        is_odd: Option<bool>,
        chance: &mut Chance,
    ) -> Met {
        let (carrier, owner) = (agent / self.owners as usize, agent % self.owners as usize);
        if self.scenario.lies(carrier as u32, owner as u32, self.owners) && at >= self.onset {
            let claims_block = self.scenario.claims_block(at.since_millis(self.onset));
            return if claims_block { Met::Blocked } else { Met::Ok };
        }
        let passing = |chance: &mut Chance, mistaken: f64| match chance.flips(mistaken) {
            true => Met::Blocked,
            false => Met::Restricted,
        };
        if self.scenario.restricts() && at >= self.onset {
            return passing(chance, self.restricted_mistaken);
        }
        if let Some(mistaken) = self.restrictions[carrier].share_at(at) {
            return passing(chance, mistaken);
        }
        let own_noise = is_odd.unwrap_or_else(|| chance.flips(self.false_blocked));
        let censored = self.scenario.blocked_share(
            carrier as u32,
            at.since_millis(self.onset),
            self.whole,
            self.partial,
        );
        let shares = [
            if at >= self.onset { censored } else { None },
            self.market.share_at(at),
            self.outages[carrier].share_at(at),
            self.bursts[agent].share_at(at),
        ];
        // Every cause draws for itself: two half-blocks block three quarters.
        let is_blocked =
            shares.into_iter().flatten().fold(own_noise, |blocked, share| chance.flips(share) || blocked);
        if is_blocked { Met::Blocked } else { Met::Ok }
    }

    /// Whether a control's visit that begins at `at` works.
    pub(super) fn control_works(&mut self, at: UnixMillis, chance: &mut Chance) -> bool {
        let fails = chance.flips(self.control_fails);
        let ill = self.control.share_at(at).is_some_and(|share| chance.flips(share));
        !fails && !ill
    }

    /// Until when nothing but its own noise can spoil this agent's visits.
    pub(super) fn calm_until(&mut self, agent: usize, at: UnixMillis) -> UnixMillis {
        let carrier = agent / self.owners as usize;
        let spells = self.bursts[agent]
            .next_after(at)
            .min(self.outages[carrier].next_after(at))
            .min(self.restrictions[carrier].next_after(at))
            .min(self.market.next_after(at));
        match self.scenario {
            Scenario::Quiet => spells,
            _ => spells.min(self.onset.max(at)),
        }
    }

    /// How many of an agent's visits in a row work before its own noise spoils one.
    pub(super) fn good_turns(&self, chance: &mut Chance) -> u64 {
        chance.failures_before_success(self.false_blocked)
    }
}
