//! The scenarios: what the censor does, and what must come of it. Data only; `play` carries it out.

use std::net::Ipv4Addr;

use crate::interference::Interference;
use crate::interference::Interference::{DropClientHello, Pass, WhitelistOnly};

/// Where poisoned answers lead: an address of the lab where nobody listens.
const STUB: Ipv4Addr = Ipv4Addr::new(127, 66, 66, 66);
const POISON: Interference = Interference::PoisonDns { address: STUB };

/// A play in acts.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// One line for the reader.
    pub story: &'static str,
    pub acts: Vec<Act>,
    pub expect: Expectations,
}

/// Something happens, and a state follows.
#[derive(Debug, Clone)]
pub struct Act {
    /// With a live audience: not before this many seconds after the start.
    pub at_secs: u64,
    pub moves: Vec<Move>,
    /// The act ends when this holds.
    pub until: Until,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// A carrier's censor changes its ways.
    Censor(&'static str, Interference),
    /// The operator's own server goes down.
    OriginDown,
}

/// A state to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Every agent is connected, and every carrier is green for every mirror.
    AllGreen,
    /// The market decided so about the mirror under attack.
    Decided { market: &'static str, action: &'static str },
    /// The market put this standby in the place of the mirror under attack.
    Replaced { market: &'static str, by: &'static str },
    /// These carriers are in this state, for the mirror under attack.
    Carriers { carriers: &'static [&'static str], state: &'static str },
    /// Every agent of these carriers (empty: of all) delivered this many more records.
    MoreRecords { carriers: &'static [&'static str], count: u64 },
    /// All of these.
    All(Vec<Until>),
}

/// What must have come of it, for the mirror under attack.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// Actions of a market, in this order; others may come between.
    pub decided: Vec<(&'static str, &'static [&'static str])>,
    /// Actions a market must never take.
    pub never: Vec<(&'static str, &'static [&'static str])>,
    /// How a carrier must end: its state and what its mechanisms begin with.
    pub carriers: Vec<(&'static str, &'static str, &'static str)>,
    /// Actions the mirror nobody attacks may see.
    pub bystander: &'static [&'static str],
    /// Market and standby: what must have taken the place of the mirror under attack. Nothing else may have.
    pub replaced: Option<(&'static str, &'static str)>,
}

const RU: &[&str] = &["ru-mts", "ru-rostelecom", "ru-beeline", "ru-megafon"];
const RU_MOBILE: &[&str] = &["ru-mts", "ru-beeline", "ru-megafon"];
const KZ: &[&str] = &["kz-kazakhtelecom", "kz-beeline", "kz-kcell", "kz-tele2-altel"];
/// Anything but leaving the mirror alone.
const HARM: &[&str] = &["prepare", "pause", "rotate", "fix_origin"];
/// What costs visitors or a domain.
const BURN: &[&str] = &["pause", "rotate"];

/// All scenarios, the demo's own first.
pub fn all() -> Vec<Scenario> {
    vec![early_warning(), kz_only(), ru_2_of_4(), whitelist_mode(), origin_down(), flap(), all_clear()]
}

/// The scenario of that name.
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

fn early_warning() -> Scenario {
    Scenario {
        name: "early-warning",
        story: "Kazakhtelecom blocks first, Beeline KZ and Kcell follow; Russia sees nothing",
        acts: vec![
            green(),
            Act {
                at_secs: 15,
                moves: vec![Move::Censor("kz-kazakhtelecom", POISON)],
                until: decided("kz", "prepare"),
            },
            Act {
                at_secs: 25,
                moves: vec![
                    Move::Censor("kz-beeline", DropClientHello),
                    Move::Censor("kz-kcell", DropClientHello),
                ],
                until: Until::All(vec![
                    decided("kz", "rotate"),
                    replaced("kz", "spare-kz"),
                    Until::Carriers {
                        carriers: &["kz-kazakhtelecom", "kz-beeline", "kz-kcell"],
                        state: "red",
                    },
                ]),
            },
        ],
        expect: Expectations {
            decided: vec![("ru", &["keep"]), ("kz", &["keep", "prepare", "pause", "rotate"])],
            never: vec![("ru", HARM), ("kz", &["fix_origin"])],
            carriers: vec![
                ("kz-kazakhtelecom", "red", "dns.injection"),
                ("kz-beeline", "red", "tls.timeout"),
                ("kz-kcell", "red", "tls.timeout"),
                ("kz-tele2-altel", "green", ""),
                ("ru-mts", "green", ""),
                ("ru-rostelecom", "green", ""),
            ],
            bystander: &["keep"],
            replaced: Some(("kz", "spare-kz")),
        },
    }
}

fn kz_only() -> Scenario {
    Scenario {
        name: "kz-only",
        story: "all of Kazakhstan drops the ClientHello at once; Russia sees nothing",
        acts: vec![
            green(),
            Act {
                at_secs: 10,
                moves: on(KZ, DropClientHello),
                until: Until::All(vec![
                    decided("kz", "rotate"),
                    replaced("kz", "spare-kz"),
                    Until::Carriers { carriers: KZ, state: "red" },
                ]),
            },
        ],
        expect: Expectations {
            decided: vec![("ru", &["keep"]), ("kz", &["keep", "pause", "rotate"])],
            never: vec![("ru", HARM), ("kz", &["fix_origin"])],
            carriers: KZ.iter().map(|carrier| (*carrier, "red", "tls.timeout")).collect(),
            bystander: &["keep"],
            replaced: Some(("kz", "spare-kz")),
        },
    }
}

fn ru_2_of_4() -> Scenario {
    Scenario {
        name: "ru-2-of-4",
        story: "MTS and Rostelecom block; two of four Russian carriers are enough, Kazakhstan is another pool",
        acts: vec![
            green(),
            Act {
                at_secs: 10,
                moves: vec![
                    Move::Censor("ru-mts", Interference::ResetOnClientHello),
                    Move::Censor("ru-rostelecom", DropClientHello),
                ],
                until: Until::All(vec![
                    decided("ru", "rotate"),
                    replaced("ru", "spare-ru"),
                    Until::Carriers { carriers: &["ru-mts", "ru-rostelecom"], state: "red" },
                ]),
            },
        ],
        expect: Expectations {
            decided: vec![("kz", &["keep"]), ("ru", &["keep", "pause", "rotate"])],
            never: vec![("kz", HARM), ("ru", &["fix_origin"])],
            carriers: vec![
                ("ru-mts", "red", "tls.reset"),
                ("ru-rostelecom", "red", "tls.timeout"),
                ("ru-beeline", "green", ""),
                ("ru-megafon", "green", ""),
            ],
            bystander: &["keep"],
            replaced: Some(("ru", "spare-ru")),
        },
    }
}

fn whitelist_mode() -> Scenario {
    Scenario {
        name: "whitelist-mode",
        story: "Russia's mobile networks go whitelist-only: a state of the network, so no mirror is burned",
        acts: vec![
            green(),
            Act {
                at_secs: 10,
                moves: on(RU_MOBILE, WhitelistOnly),
                until: Until::All(vec![
                    Until::Carriers { carriers: RU_MOBILE, state: "restricted" },
                    Until::MoreRecords { carriers: RU_MOBILE, count: 2 },
                ]),
            },
        ],
        expect: Expectations {
            decided: vec![("kz", &["keep"]), ("ru", &["keep"])],
            never: vec![("kz", HARM), ("ru", HARM)],
            carriers: vec![
                ("ru-mts", "restricted", ""),
                ("ru-beeline", "restricted", ""),
                ("ru-megafon", "restricted", ""),
                ("ru-rostelecom", "green", ""),
            ],
            bystander: &["keep", "hold"],
            replaced: None,
        },
    }
}

fn origin_down() -> Scenario {
    Scenario {
        name: "origin-down",
        story: "the operator's own server fails: the control fails too, so it is no block",
        acts: vec![
            green(),
            Act {
                at_secs: 10,
                moves: vec![Move::OriginDown],
                until: Until::All(vec![
                    decided("ru", "fix_origin"),
                    decided("kz", "fix_origin"),
                    Until::MoreRecords { carriers: &[], count: 4 },
                ]),
            },
        ],
        expect: Expectations {
            decided: vec![("ru", &["keep", "fix_origin"]), ("kz", &["keep", "fix_origin"])],
            never: vec![("ru", &["prepare", "pause", "rotate"]), ("kz", &["prepare", "pause", "rotate"])],
            carriers: RU.iter().chain(KZ).map(|carrier| (*carrier, "down", "")).collect(),
            bystander: &["keep"],
            replaced: None,
        },
    }
}

/// Blocks and passes in turn, each for two records of every owner: long enough to flag, too short to hold.
fn flap() -> Scenario {
    const FLAPPING: &[&str] = &["kz-kazakhtelecom"];
    let turn = |(index, trick): (u64, Interference)| Act {
        at_secs: 10 + 4 * index,
        moves: vec![Move::Censor("kz-kazakhtelecom", trick)],
        until: Until::MoreRecords { carriers: FLAPPING, count: 2 },
    };
    let tricks = [DropClientHello, Pass, DropClientHello, Pass, DropClientHello, Pass];
    Scenario {
        name: "flap",
        story: "Kazakhtelecom blocks and passes in turn: one carrier, never held long enough to rotate",
        acts: std::iter::once(green()).chain((0..).zip(tricks).map(turn)).collect(),
        expect: Expectations {
            decided: vec![("ru", &["keep"]), ("kz", &["keep"])],
            never: vec![("ru", HARM), ("kz", BURN)],
            carriers: vec![("kz-beeline", "green", ""), ("kz-kcell", "green", "")],
            bystander: &["keep"],
            replaced: None,
        },
    }
}

fn all_clear() -> Scenario {
    Scenario {
        name: "all-clear",
        story: "nobody blocks anything: every mirror is kept, and nothing else is said",
        acts: vec![
            green(),
            Act { at_secs: 10, moves: vec![], until: Until::MoreRecords { carriers: &[], count: 5 } },
        ],
        expect: Expectations {
            decided: vec![("ru", &["keep"]), ("kz", &["keep"])],
            never: vec![("ru", HARM), ("kz", HARM)],
            carriers: RU.iter().chain(KZ).map(|carrier| (*carrier, "green", "")).collect(),
            bystander: &["keep"],
            replaced: None,
        },
    }
}

fn green() -> Act {
    Act { at_secs: 0, moves: vec![], until: Until::AllGreen }
}

fn decided(market: &'static str, action: &'static str) -> Until {
    Until::Decided { market, action }
}

fn replaced(market: &'static str, by: &'static str) -> Until {
    Until::Replaced { market, by }
}

fn on(carriers: &[&'static str], trick: Interference) -> Vec<Move> {
    carriers.iter().map(|carrier| Move::Censor(carrier, trick)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internet::{PLACES, STANDBYS};
    use zerkalo_core::market::Action;

    #[test]
    fn scenarios_name_real_carriers_markets_and_actions() {
        let known_carrier = |name: &str| PLACES.iter().any(|place| place.carrier == name);
        let known_action = |name: &&str| Action::ALL.iter().any(|action| action.as_str() == *name);
        for scenario in all() {
            assert!(named(scenario.name).is_some());
            for act in &scenario.acts {
                for step in &act.moves {
                    assert!(!matches!(step, Move::Censor(name, _) if !known_carrier(name)), "{step:?}");
                }
            }
            let expect = &scenario.expect;
            assert!(expect.carriers.iter().all(|(carrier, ..)| known_carrier(carrier)), "{}", scenario.name);
            for (market, actions) in expect.decided.iter().chain(&expect.never) {
                assert!(["ru", "kz"].contains(market) && actions.iter().all(known_action));
            }
            assert!(expect.bystander.iter().all(known_action));
            let rotates = expect.decided.iter().any(|(_, actions)| actions.contains(&"rotate"));
            assert_eq!(rotates, expect.replaced.is_some(), "{}", scenario.name);
            assert!(expect.replaced.is_none_or(|replaced| STANDBYS.contains(&replaced)));
        }
    }
}
