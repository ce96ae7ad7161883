//! What two markets' states together advise about one mirror. Each decides apart; this adds a line.
//!
//! Source: the operators' playbook, a table of Russia and Kazakhstan. Russia rarely falls first: a mirror that is blocked
//! there everywhere is dead.

use super::reasons::{Key, line};
use super::{CarrierInput, Line};
use crate::cell::CellState;
use crate::policy::Policy;
use crate::words::{CarrierId, MarketId};

/// The markets of the table.
const RU: &str = "ru";
const KZ: &str = "kz";

/// How much of a market is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Nowhere,
    /// On its leader alone.
    Leader,
    InPart,
    Everywhere,
}

/// One market's word.
#[derive(Debug, Clone)]
pub(crate) struct MarketWord {
    market: MarketId,
    blocked: Blocked,
    leader: Option<String>,
}

impl MarketWord {
    pub(crate) fn of(policy: &Policy, carriers: &[CarrierInput]) -> Self {
        let is_heard = |carrier: &&CarrierInput| {
            !matches!(carrier.view.state, CellState::Stale | CellState::Insufficient)
        };
        let heard = carriers.iter().filter(is_heard).count();
        let red: Vec<&CarrierInput> = carriers.iter().filter(|carrier| carrier.is(CellState::Red)).collect();
        let leads = |id: &CarrierId| policy.leaders.contains(id);
        let blocked = match red.as_slice() {
            [] => Blocked::Nowhere,
            all if all.len() == heard && heard * 2 > carriers.len() => Blocked::Everywhere,
            [one] if leads(&one.view.carrier) => Blocked::Leader,
            _ => Blocked::InPart,
        };
        let leader = red.first().map(|carrier| carrier.view.name.clone());
        Self { market: policy.market.clone(), blocked, leader }
    }
}

/// The table's line, whichever market asks.
pub(crate) fn advice(words: &[MarketWord]) -> Option<Line> {
    let of = |market: &str| words.iter().find(|word| word.market.as_str() == market);
    let (ru, kz) = (of(RU)?, of(KZ)?);
    let open_and_blocked = |key, open: &MarketWord, blocked: &MarketWord| {
        let carrier = blocked.leader.clone().unwrap_or_default();
        line(
            key,
            &[
                ("open", open.market.as_str().into()),
                ("blocked", blocked.market.as_str().into()),
                ("carrier", carrier.as_str().into()),
            ],
        )
    };
    let both = |key, blocked: &MarketWord, falling: &MarketWord| {
        line(key, &[("blocked", blocked.market.as_str().into()), ("falling", falling.market.as_str().into())])
    };
    use Blocked::{Everywhere, InPart, Leader, Nowhere};
    match (ru.blocked, kz.blocked) {
        (Nowhere, Everywhere) => Some(open_and_blocked(Key::AdvicePause, ru, kz)),
        (Everywhere, Nowhere) => Some(open_and_blocked(Key::AdvicePause, kz, ru)),
        (Nowhere, Leader) => Some(open_and_blocked(Key::AdvicePrepare, ru, kz)),
        (Leader | InPart, Everywhere) => Some(both(Key::AdviceFalling, kz, ru)),
        (Everywhere, Leader | InPart | Everywhere) => Some(both(Key::AdviceDead, ru, kz)),
        (Nowhere, Nowhere | InPart) | (Leader | InPart, Nowhere | Leader | InPart) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::cell::CarrierView;
    use crate::policy::BUILT_IN;

    fn word(market: usize, states: &str) -> MarketWord {
        let policy = Policy::parse(BUILT_IN[market], &Catalogue::built_in()).unwrap();
        let carriers: Vec<_> = policy
            .carriers
            .iter()
            .zip(states.chars())
            .map(|(id, letter)| {
                let state = match letter {
                    'R' => CellState::Red,
                    'g' => CellState::Green,
                    _ => CellState::Stale,
                };
                CarrierInput::of_view(CarrierView {
                    carrier: id.clone(),
                    name: id.to_string(),
                    state,
                    cells: vec![],
                    shutdown_suspected_since: None,
                })
            })
            .collect();
        MarketWord::of(&policy, &carriers)
    }

    #[test]
    fn the_playbook_s_table_is_followed() {
        let check = |ru: &str, kz: &str, part: Option<&str>| {
            let found = advice(&[word(0, ru), word(1, kz)]);
            let found = found.map(|line| line.en);
            match part {
                Some(part) => {
                    assert!(found.as_deref().is_some_and(|text| text.contains(part)), "{ru} {kz}: {found:?}")
                }
                None => assert_eq!(found, None, "{ru} {kz}"),
            }
        };
        check("gggg", "gggg", None);
        check("gggg", "RRRR", Some("rotate kz, keep ru"));
        check("gggg", "Rggg", Some("only kz-kazakhtelecom is blocked: prepare a mirror for kz"));
        check("gggg", "gRgg", None);
        check("Rggg", "RRRR", Some("ru is starting to fall: rotate both"));
        check("RRRR", "gRgg", Some("dead, rotate both"));
        check("RRRR", "RRRR", Some("dead, rotate both"));
        check("RRRR", "gggg", Some("rotate ru, keep kz"));
        // Two of four that are silent do not make "everywhere".
        check("gggg", "RR--", None);
        assert_eq!(advice(&[word(1, "RRRR")]), None);
    }
}
