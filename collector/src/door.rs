//! The door: who comes in, how many of them, and what becomes of those beyond.
//!
//! A handshake under way, a box without a certificate, an agent and one that is told that there is no place for it each
//! take a place in a bounded line (`door/line.rs`); together they leave descriptors for everything else
//! (`door/limits.rs`). Handshakes run on threads of their own (`door/handshake.rs`), so that a flood of them takes a share
//! of the machine and no more. What agents say once they are in is the business of `uplink.rs` and `enrollment.rs`.

mod chatter;
mod handshake;
mod held;
mod limits;
mod line;
mod side;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Code as Grpc, Request, Status};
use zerkalo_core::address::unwrap_embedded;
use zerkalo_core::words::AgentId;
use zerkalo_proto::code::status;

use crate::metrics::{Metrics, count};
use crate::session::Session;
use chatter::Chatter;
use line::{Line, Taken, WhenFull};

pub use handshake::{Handshakes, Wire, accept};
pub use held::Held;
pub use limits::{CONNECTIONS_MAX, Limits};
pub use side::{ScrapersDoor, side_door};

/// Handshakes under way, and connections without a certificate, from one /24 or /48: behind a carrier's NAT stand many.
const FROM_ONE_SOURCE_MAX: usize = 128;
/// Connections of one agent: one, and those that died without knowing. A newer one ends the oldest.
const OF_ONE_AGENT_MAX: usize = 4;
/// Stable code: as many are in as may be.
pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";

/// Why a connection did not come to be, or ended early, as counted.
pub const CODES: [&str; 6] = [
    TOO_MANY_CONNECTIONS,
    // A handshake or a stranger that another took the place of.
    "gave_way",
    "handshake_timeout",
    "handshake_failed",
    "no_descriptor",
    "too_many_operators",
];

/// Who is in.
#[derive(Debug)]
pub struct Door {
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Through these come many agents that nobody can tell apart by address.
    relays: Vec<IpAddr>,
    lines: Mutex<Lines>,
    chatter: Chatter,
}

#[derive(Debug)]
struct Lines {
    handshakes: Line<IpAddr>,
    strangers: Line<IpAddr>,
    agents: Line<AgentId>,
    refused: Line<()>,
    operators: Line<()>,
    scrapers: Line<()>,
}

/// In which line somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Handshake,
    Stranger,
    Agent,
    Refused,
    Operator,
    Scraper,
}

/// A place in a line; given back when dropped.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    kind: Kind,
    number: u64,
}

/// A place, and what ends when another takes it.
pub type Standing = (Place, oneshot::Receiver<()>);

impl Door {
    /// Nobody is in yet.
    pub fn new(limits: Limits, relays: Vec<IpAddr>, metrics: Arc<Metrics>) -> Arc<Self> {
        let lines = Lines {
            handshakes: Line::new(limits.handshakes, FROM_ONE_SOURCE_MAX),
            strangers: Line::new(limits.strangers, FROM_ONE_SOURCE_MAX),
            agents: Line::new(limits.agents, OF_ONE_AGENT_MAX),
            refused: Line::new(limits.refusals, limits.refusals),
            operators: Line::new(limits.operators, limits.operators),
            scrapers: Line::new(limits.scrapers, limits.scrapers),
        };
        Arc::new(Self { limits, metrics, relays, lines: Mutex::new(lines), chatter: Chatter::default() })
    }

    /// Somebody connected.
    fn shake(self: &Arc<Self>, peer: IpAddr) -> Option<Standing> {
        let source = self.source(peer);
        self.enter(Kind::Handshake, |lines| lines.handshakes.enter(source, WhenFull::OustOldest))
    }

    /// Somebody without a certificate in force came in.
    fn admit_stranger(self: &Arc<Self>, peer: IpAddr) -> Option<Standing> {
        let source = self.source(peer);
        self.enter(Kind::Stranger, |lines| lines.strangers.enter(source, WhenFull::OustOldest))
    }

    /// An agent came in; `None`: there is no place.
    fn admit_agent(self: &Arc<Self>, agent: AgentId) -> Option<Standing> {
        // A newer connection in place of one's own is no news.
        let (number, ousted) = {
            let taken = self.lock().agents.enter(Some(agent), WhenFull::TurnAway)?;
            (taken.number, taken.ousted)
        };
        Some((Place { door: self.clone(), kind: Kind::Agent, number }, ousted))
    }

    /// Somebody is to be told that there is no place.
    fn refuse(self: &Arc<Self>) -> Option<Standing> {
        self.turned_away(TOO_MANY_CONNECTIONS);
        self.enter(Kind::Refused, |lines| lines.refused.enter(None, WhenFull::TurnAway))
    }

    /// Somebody came to a door of the house's own: the oldest goes if it is full.
    fn admit_aside(self: &Arc<Self>, kind: Kind) -> Option<Standing> {
        self.enter(kind, |lines| match kind {
            Kind::Operator => lines.operators.enter(None, WhenFull::OustOldest),
            _ => lines.scrapers.enter(None, WhenFull::OustOldest),
        })
    }

    fn enter(
        self: &Arc<Self>,
        kind: Kind,
        enter: impl FnOnce(&mut Lines) -> Option<Taken>,
    ) -> Option<Standing> {
        let Taken { number, ousted, is_ousting } = enter(&mut self.lock())?;
        if is_ousting {
            self.turned_away(match kind {
                Kind::Operator | Kind::Scraper => "too_many_operators",
                _ => "gave_way",
            });
        }
        Some((Place { door: self.clone(), kind, number }, ousted))
    }

    /// Counts who did not come in, or had to go; says so now and then.
    fn turned_away(&self, code: &'static str) {
        count(&self.metrics.connections_refused, code);
        let Some(times) = self.chatter.note(Instant::now()) else { return };
        let lines = self.lock();
        let (agents, handshakes) = (lines.agents.len(), lines.handshakes.len());
        drop(lines);
        tracing::warn!(
            code,
            times,
            agents,
            handshakes,
            agents_max = self.limits.agents,
            handshakes_max = self.limits.handshakes,
            "connections are refused or had to give way, and those inside go on; if these are your agents, raise \
             agents.connections_max and the limit on open files (LimitNOFILE), if not, it is a flood"
        );
    }

    /// Whom an address is counted with; `None`: with nobody.
    fn source(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = unwrap_embedded(peer);
        if self.relays.contains(&peer) {
            return None;
        }
        match peer {
            // There stands a proxy or a NAT of one's own.
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => None,
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => None,
            IpAddr::V4(v4) => Some(IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() >> 8 << 8))),
            IpAddr::V6(v6) => Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.door.lock();
        match self.kind {
            Kind::Handshake => lines.handshakes.leave(self.number),
            Kind::Stranger => lines.strangers.leave(self.number),
            Kind::Agent => lines.agents.leave(self.number),
            Kind::Refused => lines.refused.leave(self.number),
            Kind::Operator => lines.operators.leave(self.number),
            Kind::Scraper => lines.scrapers.leave(self.number),
        }
    }
}

/// Tells a connection without a place so, whatever it calls.
pub fn turn_away(request: Request<()>) -> Result<Request<()>, Status> {
    if request.extensions().get::<Session>().is_some_and(|session| session.is_refused) {
        let detail = "this collector has as many agents connected as it may; agents try again by themselves. Its operator \
                      raises agents.connections_max and the limit on open files (LimitNOFILE)";
        return Err(status(Grpc::ResourceExhausted, TOO_MANY_CONNECTIONS, detail));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(relays: &[&str]) -> Arc<Door> {
        let relays = relays.iter().map(|relay| relay.parse().unwrap()).collect();
        Door::new(Limits::divide(4_096, None), relays, Metrics::new().0)
    }

    #[test]
    fn a_source_is_a_network_and_a_proxy_none() {
        let door = door(&["192.0.2.30"]);
        let check = |address: &str, expected: Option<&str>| {
            let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(door.source(address.parse().unwrap()), expected, "{address}");
        };
        check("203.0.113.7", Some("203.0.113.0"));
        check("::ffff:203.0.113.7", Some("203.0.113.0"));
        check("2001:db8:1:2::3", Some("2001:db8:1::"));
        for proxy in ["127.0.0.1", "10.1.2.3", "fd00::1", "::1", "192.0.2.30"] {
            check(proxy, None);
        }
    }

    #[test]
    fn one_network_cannot_take_the_places_of_others() {
        let door = door(&[]);
        let come = |last: u8| door.shake(IpAddr::from([203, 0, 113, last])).unwrap();
        let other = door.shake(IpAddr::from([198, 51, 100, 1])).unwrap();
        let mut crowd: Vec<_> = (0..200).map(come).collect();
        assert_eq!(door.lock().handshakes.len(), FROM_ONE_SOURCE_MAX + 1);
        let ousted = crowd.iter_mut().filter_map(|(_, ousted)| ousted.try_recv().err());
        let ousted = ousted.filter(|error| *error == oneshot::error::TryRecvError::Closed).count();
        assert_eq!(ousted, 200 - FROM_ONE_SOURCE_MAX);
        drop(crowd);
        assert_eq!(door.lock().handshakes.len(), 1);
        drop(other);
    }

    #[test]
    fn an_agent_ousts_only_itself_and_beyond_the_limit_nobody_comes_in() {
        let limits = Limits { agents: 2 * OF_ONE_AGENT_MAX, ..Limits::divide(4_096, None) };
        let door = Door::new(limits, Vec::new(), Metrics::new().0);
        let agent = |name: &str| AgentId::parse(name).unwrap();
        let one: Vec<_> = (0..OF_ONE_AGENT_MAX).map(|_| door.admit_agent(agent("a-1")).unwrap()).collect();
        let other: Vec<_> = (0..OF_ONE_AGENT_MAX).map(|_| door.admit_agent(agent("a-2")).unwrap()).collect();
        assert!(door.admit_agent(agent("a-3")).is_none());
        let newer = door.admit_agent(agent("a-1")).unwrap();
        drop((one, other, newer));
        assert!(door.admit_agent(agent("a-3")).is_some());
    }
}
