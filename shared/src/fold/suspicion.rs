//! The early word: people hear of a block that enough voices see, before any carrier is red for it. It goes out once an
//! event, as an alert; no decision and no executor that changes anything knows of it.

use std::collections::BTreeMap;

use super::doubt::tells_of_block;
use super::markets::PlaceKey;
use super::{EVIDENCE_MAX, Fold, Outcome};
use crate::cell::Sighting;
use crate::market::{Alert, AlertKind, Arg, EvidenceItem, Key, Line, line};
use crate::words::{Access, CarrierId};

/// What one cell sees, and where it is.
type Seen<'a> = (&'a CarrierId, Access, Sighting<'a>);

impl Fold {
    /// Tells people of a block of a mirror that serves, where enough voices see it and no decision has told them.
    pub(super) fn suspect(&mut self, key: &PlaceKey, outcome: &mut Outcome) {
        if !self.markets.places.get(key).is_some_and(|place| place.state.serves()) {
            self.markets.suspicions.remove(key);
            return;
        }
        let Some(policy) = self.settings.policy(&key.0) else { return };
        let seen = self.sightings(key);
        let by_carrier: Vec<Vec<Sighting<'_>>> = policy
            .carriers
            .iter()
            .map(|id| {
                seen.iter().filter(|(of, ..)| *of == id).map(|(.., sighting)| sighting.clone()).collect()
            })
            .collect();
        let is_told = tells_of_block(self.markets.mirror(&key.0, &key.1).and_then(|state| state.action()));
        let mut suspicion = self.markets.suspicions.get(key).copied().unwrap_or_default();
        let is_news = suspicion.take(&by_carrier, is_told, self.at, (&policy.suspicion, &policy.cell));
        let evidence = if is_news { evidence(&seen) } else { Vec::new() };
        let lines = if is_news { self.early_word(key, &seen) } else { Vec::new() };
        self.markets.suspicions.insert(key.clone(), suspicion);
        if is_news {
            let mut carriers: Vec<CarrierId> = Vec::new();
            for item in &evidence {
                if !carriers.contains(&item.carrier) {
                    carriers.push(item.carrier.clone());
                }
            }
            let alert = self.alert(AlertKind::BlockSuspected, &key.0, Some(&key.1), carriers, lines);
            outcome.alerts.push(Alert { evidence, ..alert });
        }
    }

    /// What each cell of a carrier that votes sees, in the policy's order.
    fn sightings(&self, key: &PlaceKey) -> Vec<Seen<'_>> {
        let Some(policy) = self.settings.policy(&key.0) else { return Vec::new() };
        let mut seen = Vec::new();
        for id in &policy.carriers {
            for ((carrier, access), cell) in self.cells_of(&key.1).filter(|((carrier, _), _)| carrier == id) {
                seen.push((carrier, *access, cell.sighting(self.at, &policy.cell, &policy.suspicion)));
            }
        }
        seen
    }

    fn early_word(&self, key: &PlaceKey, seen: &[Seen<'_>]) -> Vec<Line> {
        let args = [("market", Arg::from(key.0.as_str())), ("mirror", Arg::from(key.1.as_str()))];
        let name = |id: &CarrierId| {
            let known = self.settings.catalogue().carrier(id);
            Arg::from(known.map_or(id.as_str(), |carrier| &carrier.name))
        };
        let of_carrier = |(carrier, access, sighting): &Seen<'_>| {
            let cell = line(
                Key::CellBlockedBy,
                &[
                    ("flagged", Arg::from(sighting.voices.len() as u32)),
                    ("owners", sighting.heard.into()),
                    ("access", Arg::Term(Key::of_access(*access))),
                    ("mechanisms", Arg::from(mechanisms(sighting).as_str())),
                ],
            );
            let state = ("state", Arg::Term(Key::StateSuspect));
            line(Key::Carrier, &[("carrier", name(carrier)), state, ("cells", Arg::List(vec![cell]))])
        };
        let blocked = seen.iter().filter(|(.., sighting)| !sighting.voices.is_empty());
        std::iter::once(line(Key::AlertBlockSuspected, &args)).chain(blocked.map(of_carrier)).collect()
    }
}

/// How the voices say it is blocked, the most frequent first.
fn mechanisms(sighting: &Sighting<'_>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for mechanism in sighting.voices.iter().filter_map(|(_, evidence)| evidence.verdict.mechanism) {
        *counts.entry(mechanism.as_str()).or_default() += 1;
    }
    let mut counts: Vec<(&str, u32)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(", ")
}

fn evidence(seen: &[Seen<'_>]) -> Vec<EvidenceItem> {
    let of_cell = |(carrier, access, sighting): &Seen<'_>| -> Vec<EvidenceItem> {
        let item = |(owner, evidence): &(&crate::words::OwnerId, &crate::cell::Evidence)| EvidenceItem {
            record: evidence.record,
            agent: evidence.agent.clone(),
            owner: (*owner).clone(),
            carrier: (*carrier).clone(),
            access: *access,
            at: evidence.at,
            verdict: evidence.verdict.clone(),
        };
        sighting.voices.iter().map(item).collect()
    };
    seen.iter().flat_map(of_cell).take(EVIDENCE_MAX).collect()
}
