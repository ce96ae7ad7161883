//! One probe of one URL, from the resolver to the last byte, written straight down: the main arm as a visitor's browser
//! would go, then the arms that tell one cause from another. Records facts; concludes nothing.

pub mod clock;
pub mod text;
pub mod resolvers;
pub mod dns;
pub mod dns_answer;
pub mod dns_tls;
pub mod dns_https;
pub mod dns_beside;
pub mod dns_matrix;
pub mod late;
pub mod gauge;
pub mod connect;
pub mod tap;
pub mod chain;
pub mod client_hello;
pub mod tls;
pub mod ech;
pub mod http;
pub mod quic_socket;
pub mod quic;
pub mod h3;
pub mod beside;
pub mod road;
pub mod arms;
pub mod hops;
pub mod field;
pub mod flow;
pub mod reference;
pub mod portal;
pub mod whoami;
pub mod network;
pub mod echo;
pub mod fit;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zerkalo_core::record::{Arm, Cause, ProbeRecord, TlsOutcome};
use zerkalo_core::target::TargetUrl;
use zerkalo_core::words::{MirrorId, UnixMillis};

use chain::Trust;
use clock::StepClock;
use connect::Ranges;
use flow::Flow;
use http::Reading;
use late::Patience;
use resolvers::Resolvers;
use road::Road;

/// Longest DNS exchange: what stub resolvers wait.
const DNS_CAP: Duration = Duration::from_secs(5);
/// How long further answers to an answered question are listened for: injected and true answers lie milliseconds apart,
/// distant resolvers included.
const LATE_CAP: Duration = Duration::from_secs(2);
/// Longest connection attempt: three SYNs.
const CONNECT_CAP: Duration = Duration::from_secs(8);
/// Longest handshake: several retransmissions of a dropped ClientHello.
const TLS_CAP: Duration = Duration::from_secs(8);
/// Longest connection, and longest handshake, of an arm that compares: what lets it pass answers in a round trip, or after
/// a retransmission or two.
const ARM_CAP: Duration = Duration::from_secs(4);
/// Longest exchange of one page.
const HTTP_CAP: Duration = Duration::from_secs(15);
/// Longest QUIC handshake: short, for h2 has answered already.
const QUIC_CAP: Duration = Duration::from_secs(5);
/// Longest reading of a large page or of the reference object: at 128 kbit/s, 96 KB.
const FLOW_CAP: Duration = Duration::from_secs(6);

/// How long each step may take, within the arm's deadline.
#[derive(Debug, Clone, Copy)]
pub struct StepCaps {
    pub dns: Duration,
    pub late: Duration,
    pub connect: Duration,
    pub tls: Duration,
    pub http: Duration,
    pub quic: Duration,
    pub flow: Duration,
}

impl Default for StepCaps {
    fn default() -> Self {
        Self {
            dns: DNS_CAP,
            late: LATE_CAP,
            connect: CONNECT_CAP,
            tls: TLS_CAP,
            http: HTTP_CAP,
            quic: QUIC_CAP,
            flow: FLOW_CAP,
        }
    }
}

/// How this host probes.
#[derive(Debug, Clone)]
pub struct ProbeSettings {
    pub resolvers: Resolvers,
    pub ranges: Ranges,
    pub trust: Trust,
    /// A name no censor looks for, shown where the mirror's own name failed.
    pub neutral_sni: String,
    /// The main arm's deadline; the other arms together get as much again.
    pub timeout: Duration,
    pub caps: StepCaps,
    /// How much of the mirror's page is read.
    pub reading: Reading,
}

/// What to probe, and why.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub mirror: Option<MirrorId>,
    pub url: TargetUrl,
    pub canary: Option<String>,
    pub list_version: u64,
    pub cause: Cause,
    /// Whether and when the neutral name may be shown: it has a handshake budget of its own.
    pub neutral: Neutral,
    /// How often the own name may be shown, the arms that do so among them: with room for one, a second look at a mirror that
    /// was ill a moment ago need not wait. What it leaves out is in the record of the first.
    pub own_handshakes_max: usize,
    /// Whether the own name may be shown once more, in other ways.
    pub own_arms: OwnArms,
    /// The operator's server that answers any name at an address no censor looks for, where there is one.
    pub control_address: Option<SocketAddr>,
    /// What is read beside the page itself.
    pub flow: Flow,
    /// Whether ECH may be offered: the public names of fronts have a budget of their own.
    pub ech: EchLook,
    /// Addresses another agent got for the mirror's host, for a control to try too; empty anywhere else.
    pub field_addresses: Vec<IpAddr>,
}

/// When the neutral name may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neutral {
    /// After the own name failed.
    Allowed,
    /// Before the own name: at an address that rested.
    First,
    /// Before the own name, and again after it failed.
    FirstAndAfter,
    /// Not at all. Its name was shown too often of late: a censor polices handshakes by name.
    Spent,
}

impl Neutral {
    /// Whether it may be shown before the own name.
    pub fn is_first(self) -> bool {
        matches!(self, Self::First | Self::FirstAndAfter)
    }

    /// Whether it may be shown after the own name failed.
    pub fn is_after(self) -> bool {
        matches!(self, Self::Allowed | Self::FirstAndAfter)
    }

    /// Handshakes with the neutral name, at most.
    pub fn handshakes_max(self) -> usize {
        usize::from(self.is_first()) + usize::from(self.is_after())
    }
}

/// Whether the arms that show the own name once more may run, where the probe's own budget has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnArms {
    Allowed {
        /// There is seldom room for all of them: a number that rises from probe to probe, and says which goes first.
        turn: usize,
    },
    /// The handshakes are better kept for the next look at the mirror.
    Kept,
}

/// Whether the mirror's own ECH may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchLook {
    Allowed,
    /// It was tried too often of late, here or at other mirrors: many stand behind one public name.
    Kept,
}

/// A record, and whether the visit went as a visitor would wish.
#[derive(Debug, Clone)]
pub struct Measured {
    pub record: ProbeRecord,
    /// The main arm brought the whole page, over a trusted chain, with the canary if one was asked for. Steers further
    /// measuring only; the judge never sees it.
    pub is_reached: bool,
}

/// Measures. Always ends: within thrice `settings.timeout`, three times the QUIC cap, the caps of a neutral name that goes
/// first, and the cap of late answers where the visit failed.
pub async fn measure(settings: &ProbeSettings, assignment: &Assignment, started_at: UnixMillis) -> Measured {
    let clock = StepClock::start(settings.timeout);
    let mut road = Road::new(settings, assignment, clock);
    let is_reached = road.main_arm().await;
    let visited = road.visited();
    let elsewhere = field::visits(settings, assignment, &visited, clock.renewed(settings.timeout));
    let rest = async {
        if !is_reached {
            road.renew(settings.timeout);
            road.comparing_arms().await;
        }
        road.flow_arms(is_reached).await;
        road.steps_beside(is_reached).await;
        road.hear_out(if is_reached { Patience::None } else { Patience::ToTheEnd }).await;
    };
    let (elsewhere, ()) = tokio::join!(elsewhere, rest);
    let mut facts = road.into_facts();
    facts.extend(elsewhere);
    let mut record = ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: assignment.mirror.clone(),
        url: assignment.url.clone(),
        list_version: assignment.list_version,
        cause: assignment.cause,
        started_at,
        duration_micros: clock.elapsed_micros(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        dns: facts.dns,
        tcp: facts.tcp,
        tls: facts.tls,
        http: facts.http,
        quic: facts.quic,
        references: Vec::new(),
    };
    echo::mask(&mut record);
    fit::fit(&mut record);
    Measured { record, is_reached }
}

/// Whether a handshake failed in a way that a censor's reading of the name explains.
pub(crate) fn is_name_suspect(arm: Arm, outcome: &TlsOutcome) -> bool {
    arm == Arm::Main
        && matches!(outcome, TlsOutcome::Timeout | TlsOutcome::Reset | TlsOutcome::Eof | TlsOutcome::Alert(_))
}
