//! What a cell's voices see at this moment, by their newest verdicts alone: for an early word to people, on which nothing
//! rests. What a carrier looks like is the latch's business.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cell, CellPolicy, Evidence, is_fresh};
use crate::judge::is_conclusive;
use crate::policy::SuspicionPolicy;
use crate::verdict::Outcome;
use crate::words::{OwnerId, UnixMillis, Vicinity};

/// The voices whose newest verdict is a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting<'a> {
    /// One owner of each, with its verdict: the latest.
    pub voices: Vec<(&'a OwnerId, &'a Evidence)>,
    /// Voices whose word is "blocked" already.
    pub flagged: u32,
    /// Voices heard of late, and how many of them it takes: those whose network tells nothing of the mirror are no reason to
    /// believe the rest the sooner.
    pub heard: u32,
    pub needed: u32,
}

impl Cell {
    /// Who sees a block at `now`.
    pub fn sighting(
        &self,
        now: UnixMillis,
        policy: &CellPolicy,
        suspicion: &SuspicionPolicy,
    ) -> Sighting<'_> {
        let tally = self.present.tally(now, policy);
        let mut heard: BTreeSet<Result<Vicinity, &OwnerId>> = BTreeSet::new();
        let mut voices: BTreeMap<Result<Vicinity, &OwnerId>, (bool, &OwnerId, &Evidence)> = BTreeMap::new();
        let fresh = self.present.owners.iter().filter(|(_, word)| is_fresh(word, now, policy));
        for (owner, word) in fresh {
            let last = &*word.last;
            heard.insert(last.vicinity.ok_or(owner));
            let sees_block = last.verdict.outcome == Outcome::Blocked && is_conclusive(&last.verdict.rule);
            let is_new = last.at.plus_secs(suspicion.age_max_secs(policy)) > now;
            let speaks = word.votes(now, policy) && !tally.is_apart(word, policy);
            let counts = speaks && word.score >= suspicion.score_min(policy).0;
            if !(sees_block && is_new && counts) {
                continue;
            }
            let voice = voices.entry(last.vicinity.ok_or(owner)).or_insert((false, owner, last));
            voice.0 |= word.is_flagged(policy);
            if last.at > voice.2.at {
                (voice.1, voice.2) = (owner, last);
            }
        }
        let heard = heard.len() as u32;
        Sighting {
            flagged: voices.values().filter(|(is_flagged, ..)| *is_flagged).count() as u32,
            voices: voices.into_values().map(|(_, owner, evidence)| (owner, evidence)).collect(),
            heard,
            needed: policy.needed(heard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{evidence, policy};
    use super::*;

    /// Owners a to d of one cell, each with verdicts a minute apart (`b` blocked, `o` well, `r` restricted); `change` is made to
    /// each blocked one.
    fn seen(
        said: &[(&str, &str)],
        later_secs: u64,
        change: impl Fn(&mut Evidence),
    ) -> (usize, u32, u32, u32) {
        let (mut cell, policy, suspicion) = (Cell::default(), policy(), SuspicionPolicy::default());
        let start = UnixMillis(1_800_000_000_000);
        let length = said.iter().map(|(_, letters)| letters.len()).max().unwrap_or_default();
        for minute in 0..length {
            let at = start.plus_secs(60 * minute as u64);
            for (owner, letters) in said {
                let outcome = match letters.as_bytes().get(minute) {
                    Some(b'b') => Outcome::Blocked,
                    Some(b'o') => Outcome::Ok,
                    Some(b'r') => Outcome::Restricted,
                    _ => continue,
                };
                let mut evidence = evidence(owner, at, outcome);
                if outcome == Outcome::Blocked {
                    change(&mut evidence);
                }
                cell.observe(&OwnerId::parse(owner).unwrap(), evidence, &policy);
            }
        }
        let now = start.plus_secs(60 * (length as u64 - 1) + later_secs);
        let found = cell.sighting(now, &policy, &suspicion);
        (found.voices.len(), found.flagged, found.heard, found.needed)
    }

    #[test]
    fn the_newest_verdict_counts_alone_and_while_it_is_new() {
        let check = |said: &[(&str, &str)], later_secs, expected| {
            assert_eq!(seen(said, later_secs, |_| {}), expected, "{said:?} {later_secs} s later");
        };
        check(&[("a", "ob"), ("b", "oo"), ("c", "bo"), ("d", "bb")], 0, (2, 1, 4, 3));
        check(&[("a", "ob"), ("b", "bb")], 59, (2, 1, 2, 2));
        check(&[("a", "ob"), ("b", "bb")], 60, (0, 0, 2, 2));
        // Those whose network says nothing of the mirror are heard all the same.
        check(&[("a", "bb"), ("b", "bb"), ("c", "or"), ("d", "or"), ("e", "or")], 0, (2, 2, 5, 3));
        // Wrong in every fifth visit of hours: once more is no news, three times in a row is.
        let noisy = "boooo".repeat(120);
        check(&[("a", &format!("{noisy}b"))], 0, (0, 0, 1, 2));
        check(&[("a", &format!("{noisy}bbb"))], 0, (1, 0, 1, 2));
    }

    #[test]
    fn what_a_bad_line_brings_as_well_is_not_said_aloud_and_neighbours_are_one() {
        let said = [("a", "ob"), ("b", "ob"), ("c", "bb")];
        let by_rule = |rule: &'static str| seen(&said, 0, |evidence| evidence.verdict.rule = rule.to_owned());
        assert_eq!(by_rule("tls.cut"), (3, 1, 3, 2));
        assert_eq!(by_rule("transfer.throttle.page"), (0, 0, 3, 2));
        assert_eq!(by_rule("http.other_page").0, 0);
        let street = seen(&said, 0, |evidence| evidence.vicinity = Some(Vicinity([7; 8])));
        assert_eq!(street, (1, 1, 1, 2));
    }
}
