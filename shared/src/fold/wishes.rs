//! Whom to ask for a fresh look, now: the control when a record failed; at a first failure the carrier's other owners and
//! one owner on each other carrier of the market too. A wish is no decision: it is not journaled, and whoever is asked keeps to its own budget.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Fold;
use crate::judge::FIELD_ADDRESSES_MAX;
use crate::words::{AgentId, CarrierId, MarketId, MirrorId, Station, UnixMillis};

/// One agent is asked about one mirror at most once in this time: more would be the burst a censor polices. A control,
/// which nobody watches, is asked again where there are addresses it was not sent to, and where what it was asked for may
/// have begun before a failure did: then it proves nothing about that. It looks at a mirror once at a time.
pub(crate) const ASK_AGAIN_SECS: u64 = 30;
/// Wishes that wait to be taken: more than every agent of a market; the rest is dropped, the schedule asks them anyway.
const WISHES_MAX: usize = 4_096;

/// No address that anybody must go to, and no failure that an earlier look says nothing about.
const NOTHING_NEW: (&[IpAddr], UnixMillis) = (&[], UnixMillis(0));

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

/// When an agent was first asked, and last, and where it was sent since.
#[derive(Debug, Default)]
struct Asked {
    at: UnixMillis,
    last: UnixMillis,
    addresses: Vec<IpAddr>,
}

impl Asked {
    /// Where it is to go, if it is to be asked again.
    fn again(&mut self, now: UnixMillis, since: UnixMillis, addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let is_first = self.at == UnixMillis::default() || now >= self.at.plus_secs(ASK_AGAIN_SECS);
        // What it was asked for then tells nothing of this failure, wherever it went.
        let is_too_early = self.last <= since;
        if is_first {
            *self = Self { at: now, ..Self::default() };
        }
        let (known, new): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.iter().partition(|address| self.addresses.contains(address));
        let new: Vec<IpAddr> = new.into_iter().take(FIELD_ADDRESSES_MAX - self.addresses.len()).collect();
        if !(is_first || is_too_early || !new.is_empty()) {
            return None;
        }
        self.last = now;
        self.addresses.extend(&new);
        Some(known.into_iter().filter(|_| is_too_early).chain(new).collect())
    }
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

    /// Asks every control for a look that begins after `since`, and goes to these addresses too.
    pub(super) fn ask_controls(&mut self, mirror: &MirrorId, addresses: &[IpAddr], since: UnixMillis) {
        self.ask(mirror, (addresses, since), |station, _| *station == Station::Control);
    }

    /// Asks about what one agent saw first: everyone else on its carrier, one owner on each other carrier of the market, and
    /// every control.
    pub(super) fn ask_around(&mut self, mirror: &MirrorId, carrier: &CarrierId, spoke: &AgentId) {
        let elsewhere = self.one_of_each_other_carrier(carrier);
        self.ask(mirror, NOTHING_NEW, |station, agent| match station {
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
        self.ask(mirror, NOTHING_NEW, |station, _| match station {
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

    /// Asks those chosen; `news`: addresses they may not have gone to, and since when a look is one that counts.
    fn ask(
        &mut self,
        mirror: &MirrorId,
        news: (&[IpAddr], UnixMillis),
        chosen: impl Fn(&Station, &AgentId) -> bool,
    ) {
        if self.is_stopped() {
            return;
        }
        let ((addresses, since), now) = (news, self.at);
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
            if let Some(addresses) = asked.again(now, since, addresses) {
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
