//! The operator's reference hosts: whether each answers as itself, and what else one visit to it tells of the agent's own
//! network. What all of them tell together is `network.rs`'s business, when to ask the schedule's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use tokio::net::TcpStream;
use zerkalo_core::record::{
    Arm, Certificate, ChainFault, DnsOutcome, ReferenceCheck, ResolverKind, TcpOutcome,
};
use zerkalo_core::target::{Reference, TargetUrl};
use zerkalo_core::words::UnixMillis;

use super::clock::StepClock;
use super::connect::Ranges;
use super::echo::Known;
use super::http::{Ask, HttpConnection, Reading, header};
use super::text::cut;
use super::tls::{self, Hello, HelloShape};
use super::{ProbeSettings, connect, dns, portal};

/// References checked of one market; the list may name more.
pub const REFERENCES_MAX: usize = 8;
/// Longest check of one reference, all steps together.
const CHECK_CAP: Duration = Duration::from_secs(8);
/// Bytes kept of the reason why one was not reached.
const FAILURE_LEN_MAX: usize = 256;
/// Addresses tried of one reference.
const ADDRESSES_MAX: usize = 2;
/// Longest knock by IPv6: two SYNs. A line whose IPv6 is broken waits so long once a cycle.
const IPV6_CAP: Duration = Duration::from_secs(2);
/// Longest wait for a `Date`.
const DATE_CAP: Duration = Duration::from_secs(2);
/// What `Date` is cut to.
const DATE_GRAIN_MILLIS: u64 = 1_000;

/// What a reference host told: whether it is reached, and more.
#[derive(Debug, Clone)]
pub struct Sighting {
    pub check: ReferenceCheck,
    /// Of an https reference, where a chain came.
    pub chain: Option<(Vec<Certificate>, ChainFault)>,
    /// The host a plain reference was sent to, or in whose place another page stood.
    pub portal_host: Option<String>,
    /// This host's clock minus the reference's `Date`, in ms; the latter's grain is a second.
    pub clock_ahead_millis: Option<i64>,
    /// An address of the reference's by IPv6, and whether anything there answered a connection.
    pub ipv6: Option<(SocketAddr, bool)>,
}

/// Looks at all, at once: they are different hosts.
pub async fn look_at_all(
    settings: &ProbeSettings,
    references: &[Reference],
    checked_at: UnixMillis,
) -> Vec<Sighting> {
    let looks = references.iter().take(REFERENCES_MAX).map(|reference| look(settings, reference, checked_at));
    futures::future::join_all(looks).await
}

async fn look(settings: &ProbeSettings, reference: &Reference, checked_at: UnixMillis) -> Sighting {
    let mut visit = Visit {
        settings,
        url: &reference.url,
        checked_at,
        clock: StepClock::start(CHECK_CAP.min(settings.timeout)),
        chain: None,
        portal_host: None,
        clock_ahead_millis: None,
    };
    let resolved = resolve(settings, visit.url, visit.clock).await;
    let v6 = resolved.iter().flatten().copied().find(IpAddr::is_ipv6);
    let v6 = v6.map(|address| SocketAddr::new(address, visit.url.port()));
    let (ranges, clock) = (settings.ranges, visit.clock);
    let (reached, ipv6) = tokio::join!(visit.reach(resolved), async {
        match v6 {
            Some(address) => Some((address, answers(address, ranges, clock).await)),
            None => None,
        }
    });
    let failure = reached.err().map(|mut failure| {
        cut(&mut failure, FAILURE_LEN_MAX);
        failure
    });
    let Visit { chain, portal_host, clock_ahead_millis, .. } = visit;
    let check = ReferenceCheck {
        side: reference.side,
        url: reference.url.clone(),
        checked_at,
        reached: failure.is_none(),
        failure,
    };
    Sighting { check, chain, portal_host, clock_ahead_millis, ipv6 }
}

/// Whether a connection to `address` meets anybody: who refuses is somebody too.
async fn answers(address: SocketAddr, ranges: Ranges, clock: StepClock) -> bool {
    let (step, _) = connect::connect(Arm::Main, address, ranges, IPV6_CAP, clock).await;
    matches!(step.outcome, TcpOutcome::Connected | TcpOutcome::Refused | TcpOutcome::Reset)
}

async fn resolve(settings: &ProbeSettings, url: &TargetUrl, clock: StepClock) -> Result<Vec<IpAddr>, String> {
    if let Some(address) = url.literal_address() {
        return Ok(vec![address]);
    }
    let host = url.host();
    let mut failure = "no resolver to ask".to_owned();
    for server in &settings.resolvers.system {
        let questions = dns::questions(ResolverKind::System, *server, &host).to_vec();
        let mut found = Vec::new();
        for asked in dns::ask_all(questions, settings.caps, clock).await {
            match asked.exchange.outcome {
                DnsOutcome::Answer { addresses, .. } if !addresses.is_empty() => found.extend(addresses),
                DnsOutcome::Answer { rcode, .. } => failure = format!("DNS: no address (rcode {rcode})"),
                DnsOutcome::Timeout => failure = "DNS: timeout".to_owned(),
                DnsOutcome::Failed(reason) => failure = format!("DNS: {reason}"),
            }
        }
        if !found.is_empty() {
            found.sort_by_key(IpAddr::is_ipv6);
            found.dedup();
            return Ok(found);
        }
    }
    Err(failure)
}

/// One reference under way.
struct Visit<'a> {
    settings: &'a ProbeSettings,
    url: &'a TargetUrl,
    checked_at: UnixMillis,
    clock: StepClock,
    chain: Option<(Vec<Certificate>, ChainFault)>,
    portal_host: Option<String>,
    clock_ahead_millis: Option<i64>,
}

impl Visit<'_> {
    async fn reach(&mut self, resolved: Result<Vec<IpAddr>, String>) -> Result<(), String> {
        let mut failure = "no address to try".to_owned();
        for address in resolved?.into_iter().take(ADDRESSES_MAX) {
            match self.reach_at(SocketAddr::new(address, self.url.port())).await {
                Ok(()) => return Ok(()),
                Err(reason) => failure = reason,
            }
        }
        Err(failure)
    }

    async fn reach_at(&mut self, address: SocketAddr) -> Result<(), String> {
        let (ranges, cap) = (self.settings.ranges, self.settings.caps.connect);
        let (step, stream) = connect::connect(Arm::Main, address, ranges, cap, self.clock).await;
        match (stream, step.outcome) {
            (Some(stream), _) if self.url.is_https() => self.speak_tls(stream, address).await,
            (Some(stream), _) => self.speak_plain(stream, address).await,
            (None, TcpOutcome::Forbidden(range)) => Err(format!("TCP: special range ({range})")),
            (None, outcome) => Err(format!("TCP: {outcome:?}")),
        }
    }

    async fn speak_tls(&mut self, stream: TcpStream, address: SocketAddr) -> Result<(), String> {
        let (caps, host) = (self.settings.caps, self.url.host());
        let hello = Hello { arm: Arm::Main, address, host: &host, shape: HelloShape::PostQuantum };
        let (step, connection) =
            tls::handshake(hello, stream, &self.settings.trust, caps.tls, self.clock).await;
        let fault = step.chain_fault.clone();
        self.chain = fault.clone().map(|fault| (step.chain.clone(), fault));
        // A clock far off makes a good chain look out of its time.
        let is_own = matches!(fault, Some(ChainFault::Valid | ChainFault::Expired | ChainFault::NotYetValid));
        if let Some(connection) = connection.filter(|_| is_own) {
            self.ask_date(connection, address).await;
        }
        match fault {
            _ if tls::is_trusted(&step) => Ok(()),
            Some(fault) if fault != ChainFault::Valid => Err(format!("TLS: chain {fault:?}")),
            _ => Err(format!("TLS: {:?}", step.outcome)),
        }
    }

    /// Whatever comes of it, the reference is reached.
    async fn ask_date(&mut self, connection: tls::TlsConnection, address: SocketAddr) {
        let ask = Ask { arm: Arm::Main, url: self.url, canary: None, reading: Reading::Sparing };
        let Ok(mut connection) = HttpConnection::over_tls(connection, address, ask, self.clock).await else {
            return;
        };
        if let Some(head) = connection.head(self.url, DATE_CAP, self.clock).await {
            let took_micros = head.span.duration_micros;
            self.read_date(&head.headers, head.span.start_micros, took_micros);
        }
    }

    async fn speak_plain(&mut self, stream: TcpStream, address: SocketAddr) -> Result<(), String> {
        let ask = Ask { arm: Arm::Main, url: self.url, canary: None, reading: Reading::Sparing };
        let step = match HttpConnection::over_tcp(stream, address, ask.clone(), self.clock).await {
            Ok(mut connection) => connection.exchange(ask, self.settings.caps.http, self.clock).await,
            Err(step) => *step,
        };
        if step.status.is_none() {
            return Err(format!("HTTP: {:?}", step.outcome));
        }
        self.portal_host = portal::host_of(self.url, &step);
        if self.portal_host.is_none() {
            let took_micros = step.first_byte_micros.or(step.last_byte_micros).unwrap_or_default();
            self.read_date(&step.headers, step.span.start_micros, took_micros);
            return Ok(());
        }
        let location = header(&step.headers, "location").and_then(|location| self.url.join(location).ok());
        match (&self.portal_host, location) {
            (_, Some(next)) if next.host() != self.url.host() => {
                let known = Known::of_redirect(address.ip(), &next);
                Err(known.mask_text(&format!("HTTP: sent to {next}"), FAILURE_LEN_MAX))
            }
            (Some(host), _) if *host != self.url.host() => Err(format!("HTTP: sent to {host}")),
            _ => Err("HTTP: another page in its place".to_owned()),
        }
    }

    /// The server wrote its date about halfway between question and answer, and cut it to the second.
    fn read_date(&mut self, headers: &[(String, String)], asked_micros: u64, took_micros: u64) {
        let date = header(headers, "date").and_then(|date| httpdate::parse_http_date(date).ok());
        let Some(theirs) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) else { return };
        let ours = self.checked_at.0.saturating_add((asked_micros + took_micros / 2) / 1000);
        let theirs =
            u64::try_from(theirs.as_millis()).unwrap_or(u64::MAX).saturating_add(DATE_GRAIN_MILLIS / 2);
        self.clock_ahead_millis = i64::try_from(i128::from(ours) - i128::from(theirs)).ok();
    }
}
