//! Whom to ask for a fresh look, now: the control when a record failed; at a first failure the carrier's other owners and
//! one owner on each other carrier of the market too. A wish is no decision: it is not journaled, and whoever is asked keeps to its own budget.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Fold;
use crate::judge::FIELD_ADDRESSES_MAX;
use crate::words::{AgentId, CarrierId, MarketId, MirrorId, Station, UnixMillis};

/// One agent is asked about one mirror at most once in this time: more would be the burst a censor polices. A control,
/// which nobody watches, is asked again where there are addresses it was not sent to.
pub(crate) const ASK_AGAIN_SECS: u64 = 30;
/// Wishes that wait to be taken: more than every agent of a market; the rest is dropped, the schedule asks them anyway.
const WISHES_MAX: usize = 4_096;

/// An agent that should measure a mirror at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub agent: AgentId,
    pub mirror: MirrorId,
    /// Addresses of the mirror's host that another agent got, at most [`FIELD_ADDRESSES_MAX`]; for controls only.
    pub addresses: Vec<IpAddr>,
    /// With a picture of the page: an operator's wish.
    pub picture: bool,
}

/// Wishes not yet taken, and when each was last made.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    open: Vec<Wish>,
    asked: BTreeMap<(MirrorId, AgentId), Asked>,
}

/// When an agent was first asked, and where it was sent since.
#[derive(Debug, Default)]
struct Asked {
    at: UnixMillis,
    addresses: Vec<IpAddr>,
}

impl Wishes {
    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.open.retain(|wish| keep(&wish.mirror));
        self.asked.retain(|(mirror, _), _| keep(mirror));
    }
}

impl Fold {
    /// The wishes made since the last call. Who does not carry them out may drop them.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes.open)
    }

    /// Asks every control, to go to these addresses too.
    pub(super) fn ask_controls(&mut self, mirror: &MirrorId, addresses: &[IpAddr]) {
        self.ask(mirror, addresses, |station, _| *station == Station::Control);
    }

    /// Asks about what one agent saw first: everyone else on its carrier, one owner on each other carrier of the market, and
    /// every control.
    pub(super) fn ask_around(&mut self, mirror: &MirrorId, carrier: &CarrierId, spoke: &AgentId) {
        let elsewhere = self.one_of_each_other_carrier(carrier);
        self.ask(mirror, &[], |station, agent| match station {
            Station::Control => true,
            Station::Field { carrier: own, .. } => {
                (own == carrier && agent != spoke) || elsewhere.contains(agent)
            }
        });
    }

    /// Asks the agents of a market, or those of some of its carriers.
    pub(super) fn ask_field(
        &mut self,
        market: &MarketId,
        mirror: &MirrorId,
        carriers: Option<&BTreeSet<CarrierId>>,
    ) {
        let Some(policy) = self.settings.policy(market) else { return };
        let voting = policy.carriers.clone();
        self.ask(mirror, &[], |station, _| match station {
            Station::Control => false,
            Station::Field { carrier, .. } => {
                voting.contains(carrier) && carriers.is_none_or(|carriers| carriers.contains(carrier))
            }
        });
    }

    /// Of each other carrier of the market that votes the agent heard of last.
    fn one_of_each_other_carrier(&self, carrier: &CarrierId) -> BTreeSet<AgentId> {
        let Some(policy) = self.settings.policy_of_carrier(carrier) else { return BTreeSet::new() };
        let others = policy.carriers.iter().filter(|other| *other != carrier);
        let latest = |other: &CarrierId| {
            let boxes = self.agents.iter().filter(|(_, state)| {
                let is_there = |own: &CarrierId| own == other;
                let on_carrier =
                    matches!(&state.enrolment.station, Station::Field { carrier, .. } if is_there(carrier));
                on_carrier && state.has_say() && state.elsewhere(self.settings.catalogue()).is_none()
            });
            let heard = boxes.filter_map(|(agent, state)| Some((state.last_record_at?, agent)));
            heard.max().map(|(_, agent)| agent.clone())
        };
        others.filter_map(latest).collect()
    }

    /// Who alone may visit a mirror, in the markets where it waits in the pool.
    fn visitors_by_market(&self, mirror: &MirrorId) -> BTreeMap<MarketId, BTreeSet<AgentId>> {
        let listed = self.list().and_then(|list| list.mirror(mirror));
        let markets = listed.into_iter().flat_map(|mirror| &mirror.markets);
        markets.filter_map(|market| Some((market.clone(), self.visitors(market, mirror)?))).collect()
    }

    fn ask(&mut self, mirror: &MirrorId, addresses: &[IpAddr], chosen: impl Fn(&Station, &AgentId) -> bool) {
        if self.is_stopped() {
            return;
        }
        let now = self.at;
        let visitors = self.visitors_by_market(mirror);
        for (agent, state) in &self.agents {
            let is_heard = state.has_say() && state.elsewhere(self.settings.catalogue()).is_none();
            let market = match &state.enrolment.station {
                Station::Field { carrier, .. } => {
                    self.settings.catalogue().carrier(carrier).map(|known| &known.market)
                }
                Station::Control => None,
            };
            let visitors = market.and_then(|market| visitors.get(market));
            let may_visit = visitors.is_none_or(|visitors| visitors.contains(agent));
            let wanted = is_heard && may_visit && chosen(&state.enrolment.station, agent);
            if !wanted || self.wishes.open.len() >= WISHES_MAX {
                continue;
            }
            let asked = self.wishes.asked.entry((mirror.clone(), agent.clone())).or_default();
            let is_first = asked.at == UnixMillis::default() || now >= asked.at.plus_secs(ASK_AGAIN_SECS);
            if is_first {
                *asked = Asked { at: now, addresses: Vec::new() };
            }
            let is_new = |address: &&IpAddr| !asked.addresses.contains(address);
            let room = FIELD_ADDRESSES_MAX - asked.addresses.len();
            let addresses: Vec<IpAddr> = addresses.iter().filter(is_new).take(room).copied().collect();
            if is_first || !addresses.is_empty() {
                asked.addresses.extend(&addresses);
                self.wishes.open.push(Wish {
                    agent: agent.clone(),
                    mirror: mirror.clone(),
                    addresses,
                    picture: false,
                });
            }
        }
    }
}
