//! The road of one probe: which address is tried next, which redirect is followed. The steps themselves are in their own
//! files, the arms that compare in theirs; here they are put in order, and their facts kept.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zerkalo_core::record::{
    Arm, DNS_OTHERS_MAX, DnsExchange, DnsOutcome, HttpExchange, HttpOutcome, QuicHandshake, REDIRECTS_MAX,
    ResolverKind, TcpConnect, TcpOutcome, TlsHandshake,
};
use zerkalo_core::target::{TargetError, TargetUrl};

use super::clock::StepClock;
use super::connect::Ranges;
use super::dns::Asked;
use super::http::{Ask, HttpConnection};
use super::late::{Listener, Patience};
use super::resolvers::SYSTEM_MAX;
use super::text::cut;
use super::tls::{self, Hello, HelloShape};
use super::{Assignment, ProbeSettings, connect, dns, dns_beside};

/// Addresses tried of one resolver's answer, one after the other.
pub(super) const ADDRESSES_MAX: usize = 4;
/// Addresses tried for a redirect's host.
const REDIRECT_ADDRESSES_MAX: usize = 2;
/// Bytes kept of the reason why a redirect was not followed.
const REASON_LEN_MAX: usize = 512;
/// Handshakes that show the mirror's own name in the visits of one probe, redirects apart: with at most three in a minute
/// (the schedule sees to it) a censor that polices handshakes does not start to. The arms after them may use the third. An
/// assignment may allow fewer.
pub const OWN_NAME_HANDSHAKES_MAX: usize = 2;

/// What the steps brought.
#[derive(Debug, Default)]
pub struct Facts {
    pub dns: Vec<DnsExchange>,
    pub tcp: Vec<TcpConnect>,
    pub tls: Vec<TlsHandshake>,
    pub http: Vec<HttpExchange>,
    pub quic: Vec<QuicHandshake>,
}

impl Facts {
    /// Puts what other steps brought behind.
    pub fn extend(&mut self, other: Self) {
        self.dns.extend(other.dns);
        self.tcp.extend(other.tcp);
        self.tls.extend(other.tls);
        self.http.extend(other.http);
        self.quic.extend(other.quic);
    }
}

/// How a visit to one address ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// An answer came to its end, wanted or not.
    Answered { is_wanted: bool },
    /// None came: the next address may do better.
    Failed,
}

/// A probe under way.
pub struct Road<'a> {
    pub(super) settings: &'a ProbeSettings,
    pub(super) assignment: &'a Assignment,
    pub(super) clock: StepClock,
    pub(super) facts: Facts,
    listeners: Vec<Listener>,
    /// The visit's connection, where its page is not all that is to be read.
    pub(super) kept: Option<HttpConnection>,
}

impl<'a> Road<'a> {
    /// Before the first step.
    pub fn new(settings: &'a ProbeSettings, assignment: &'a Assignment, clock: StepClock) -> Self {
        Self { settings, assignment, clock, facts: Facts::default(), listeners: Vec::new(), kept: None }
    }

    /// Sets the deadline for the arms that follow.
    pub fn renew(&mut self, timeout: Duration) {
        self.clock = self.clock.renewed(timeout);
    }

    /// The addresses tried so far at the mirror's own port.
    pub fn visited(&self) -> Vec<IpAddr> {
        let own = self.facts.tcp.iter().filter(|step| step.address.port() == self.assignment.url.port());
        own.map(|step| step.address.ip()).collect()
    }

    /// The facts, at the end.
    pub fn into_facts(self) -> Facts {
        self.facts
    }

    /// As a visitor's browser goes. Whether the visit brought what a visitor wants.
    pub async fn main_arm(&mut self) -> bool {
        if let Some(address) = self.assignment.url.literal_address() {
            self.neutral_first(&[address]).await;
            return self.try_addresses(Arm::Main, &[address]).await;
        }
        let host = self.assignment.url.host();
        // No visitor waits for the public resolver: its silence must not use up the visit's time.
        let services = dns_beside::services(&self.settings.resolvers, &host, self.settings.caps, self.clock);
        let public = dns::ask_all(self.public_questions(), self.settings.caps, self.clock);
        let (mut asked, is_wanted) = tokio::join!(public, self.visit_as_resolved(&host));
        asked.extend(services.end(if is_wanted { Patience::None } else { Patience::ToTheEnd }).await);
        let answers = self.keep_listeners(asked);
        self.insert_beside(&host, answers);
        is_wanted
    }

    /// Notes the answers that came beside those taken.
    pub async fn hear_out(&mut self, patience: Patience) {
        for listener in std::mem::take(&mut self.listeners) {
            if let Some(index) = self.facts.dns.iter().position(|exchange| listener.is_of(exchange)) {
                let others = &mut self.facts.dns[index].others;
                others.extend(listener.hear(patience).await);
                others.truncate(DNS_OTHERS_MAX);
            }
        }
    }

    /// Whether the mirror's own name was shown as often as the visits of one probe may.
    pub(super) fn is_name_spent(&self) -> bool {
        self.own_handshakes() >= OWN_NAME_HANDSHAKES_MAX.min(self.assignment.own_handshakes_max)
    }

    /// Whether an arm may show the mirror's own name once more.
    pub(super) fn has_own_handshakes_left(&self) -> bool {
        self.own_handshakes() < self.assignment.own_handshakes_max
    }

    /// How often the mirror's own name was shown.
    pub(super) fn own_handshakes(&self) -> usize {
        let host = self.assignment.url.host();
        self.facts.tls.iter().filter(|step| step.sni.as_ref() == Some(&host)).count()
    }

    /// Goes where the system's resolvers say.
    async fn visit_as_resolved(&mut self, host: &str) -> bool {
        self.ask_system(host).await;
        let addresses = self.answered(ResolverKind::System, host);
        self.neutral_first(&addresses).await;
        let others = self.each_address(&addresses);
        let (connected, is_wanted) = tokio::join!(others, self.try_addresses(Arm::Main, &addresses));
        self.facts.tcp.extend(connected);
        is_wanted
    }

    /// Asks the system's resolvers: the second only where the first gave no answer, as stub resolvers do.
    pub(super) async fn ask_system(&mut self, host: &str) {
        for server in self.settings.resolvers.system.iter().take(SYSTEM_MAX) {
            let questions = dns::questions(ResolverKind::System, *server, host).to_vec();
            let asked = dns::ask_all(questions, self.settings.caps, self.clock).await;
            let answers = self.keep_listeners(asked);
            let is_answered = answers.iter().any(|step| matches!(step.outcome, DnsOutcome::Answer { .. }));
            self.facts.dns.extend(answers);
            if is_answered {
                break;
            }
        }
    }

    /// Both address questions about the mirror for the public resolver, where there is one and a name to ask for.
    pub(super) fn public_questions(&self) -> Vec<dns::Question> {
        let url = &self.assignment.url;
        match (self.settings.resolvers.public, url.literal_address()) {
            (Some(server), None) => dns::questions(ResolverKind::Public, server, &url.host()).to_vec(),
            _ => Vec::new(),
        }
    }

    fn keep_listeners(&mut self, asked: Vec<Asked>) -> Vec<DnsExchange> {
        let (exchanges, listeners): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|asked| (asked.exchange, asked.listener)).unzip();
        self.listeners.extend(listeners.into_iter().flatten());
        exchanges
    }

    /// Puts answers beside the other ones for the mirror, before those for redirects.
    pub(super) fn insert_beside(&mut self, host: &str, answers: Vec<DnsExchange>) {
        let place = self.facts.dns.iter().take_while(|step| step.name == host).count();
        self.facts.dns.splice(place..place, answers);
    }

    /// Distinct addresses a resolver gave for `host`, IPv4 first.
    pub(super) fn answered(&self, kind: ResolverKind, host: &str) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for step in self.facts.dns.iter().filter(|step| step.resolver == kind && step.name == host) {
            for address in addresses_of(&step.outcome) {
                if !found.contains(address) {
                    found.push(*address);
                }
            }
        }
        found.sort_by_key(IpAddr::is_ipv6);
        found
    }

    pub(super) async fn try_addresses(&mut self, arm: Arm, addresses: &[IpAddr]) -> bool {
        for address in addresses.iter().take(ADDRESSES_MAX) {
            if self.clock.is_over() {
                break;
            }
            if let Visit::Answered { is_wanted } = self.visit(arm, *address).await {
                return is_wanted;
            }
        }
        false
    }

    /// Goes from one address through all redirects to the last answer.
    async fn visit(&mut self, arm: Arm, address: IpAddr) -> Visit {
        let mut url = self.assignment.url.clone();
        if self.is_name_spent() {
            return Visit::Failed;
        }
        let Some(mut connection) = self.open(arm, &url, address).await else { return Visit::Failed };
        for hop in 0..=REDIRECTS_MAX {
            let (canary, reading) = (self.assignment.canary.as_deref(), self.settings.reading);
            let ask = Ask { arm, url: &url, canary, reading };
            let step = connection.exchange(ask, self.settings.caps.http, self.clock).await;
            let (is_complete, next) =
                (step.outcome == HttpOutcome::Complete, redirect(&step, connection.location()));
            let is_wanted = step.canary_found.unwrap_or(self.assignment.canary.is_none());
            self.facts.http.push(step);
            if !is_complete {
                return Visit::Failed;
            }
            let next = match next {
                None => {
                    let is_next = arm == Arm::Main && self.assignment.flow.large_page.is_some();
                    self.kept = is_next.then_some(connection);
                    return Visit::Answered { is_wanted: is_wanted && self.is_trusted(arm) };
                }
                Some(Err(reason)) => return self.refuse_redirect(reason),
                Some(Ok(_)) if hop == REDIRECTS_MAX => {
                    return self.refuse_redirect(format!("more than {REDIRECTS_MAX} redirects"));
                }
                Some(Ok(next)) => next,
            };
            connection = match self.follow(arm, connection, &next).await {
                Ok(Some(connection)) => connection,
                Ok(None) => return Visit::Failed,
                Err(reason) => return self.refuse_redirect(reason),
            };
            url = next;
        }
        Visit::Failed
    }

    /// The connection for the next hop: the same where it serves, else a new one. `Err` says why it may not be made.
    async fn follow(
        &mut self,
        arm: Arm,
        mut connection: HttpConnection,
        next: &TargetUrl,
    ) -> Result<Option<HttpConnection>, String> {
        let before = connection.address().ip();
        let is_same_host = self.facts.http.last().is_some_and(|step| step.url.host() == next.host());
        if connection.can_ask(next, self.clock.until(self.settings.caps.connect)).await {
            return Ok(Some(connection));
        }
        drop(connection);
        let addresses = match next.literal_address() {
            Some(address) => vec![address],
            None if is_same_host => vec![before],
            None => {
                let host = next.host();
                if !self.facts.dns.iter().any(|step| step.name == host) {
                    self.ask_system(&host).await;
                }
                self.answered(ResolverKind::System, &host)
            }
        };
        for address in addresses.iter().take(REDIRECT_ADDRESSES_MAX) {
            if let Some(connection) = self.open(arm, next, *address).await {
                return Ok(Some(connection));
            }
        }
        match forbidden_landing(next, &addresses, self.settings.ranges) {
            Some(reason) => Err(reason),
            None => Ok(None),
        }
    }

    /// Notes on the last answer that its redirect was not followed.
    fn refuse_redirect(&mut self, reason: String) -> Visit {
        if let Some(step) = self.facts.http.last_mut() {
            step.outcome = HttpOutcome::RedirectRefused(reason);
        }
        Visit::Answered { is_wanted: false }
    }

    /// Connects and, for https, shakes hands.
    pub(super) async fn open(
        &mut self,
        arm: Arm,
        url: &TargetUrl,
        address: IpAddr,
    ) -> Option<HttpConnection> {
        let address = SocketAddr::new(address, url.port());
        let stream = self.connect(arm, address).await?;
        let ask = Ask { arm, url, canary: None, reading: self.settings.reading };
        let started = if url.is_https() {
            let host = url.host();
            let hello = Hello { arm, address, host: &host, shape: HelloShape::PostQuantum };
            let caps = self.settings.caps;
            let (step, connection) =
                tls::handshake(hello, stream, &self.settings.trust, caps.tls, self.clock).await;
            self.facts.tls.push(step);
            HttpConnection::over_tls(connection?, address, ask, self.clock).await
        } else {
            HttpConnection::over_tcp(stream, address, ask, self.clock).await
        };
        started.map_err(|step| self.facts.http.push(*step)).ok()
    }

    async fn connect(&mut self, arm: Arm, address: SocketAddr) -> Option<tokio::net::TcpStream> {
        self.connect_within(arm, address, self.settings.caps.connect).await
    }

    pub(super) async fn connect_within(
        &mut self,
        arm: Arm,
        address: SocketAddr,
        cap: Duration,
    ) -> Option<tokio::net::TcpStream> {
        let ranges = self.settings.ranges;
        let (step, stream) = connect::connect(arm, address, ranges, cap, self.clock).await;
        let is_connected = step.outcome == TcpOutcome::Connected;
        self.facts.tcp.push(step);
        stream.filter(|_| is_connected)
    }

    /// Whether every handshake of the arm that got through showed a chain a browser accepts.
    fn is_trusted(&self, arm: Arm) -> bool {
        self.facts.tls.iter().rfind(|step| step.arm == arm).is_none_or(tls::is_trusted)
    }
}

pub(super) fn addresses_of(outcome: &DnsOutcome) -> &[IpAddr] {
    match outcome {
        DnsOutcome::Answer { addresses, .. } => addresses,
        DnsOutcome::Timeout | DnsOutcome::Failed(_) => &[],
    }
}

/// Why a redirect may not be followed, where every address it leads to is forbidden.
fn forbidden_landing(next: &TargetUrl, addresses: &[IpAddr], ranges: Ranges) -> Option<String> {
    let forbidden = |address: &IpAddr| connect::forbidden(SocketAddr::new(*address, next.port()), ranges);
    let range = addresses.first().and_then(forbidden)?;
    let is_refused = addresses.iter().all(|address| forbidden(address).is_some());
    is_refused.then(|| format!("{} leads into a special range ({range})", next.host()))
}

/// Where an answer sends the visitor, if it does; `location` is its whole header.
fn redirect(step: &HttpExchange, location: Option<&str>) -> Option<Result<TargetUrl, String>> {
    let location = match step.status {
        Some(301 | 302 | 303 | 307 | 308) => location?,
        _ => return None,
    };
    let refused = |error: TargetError| {
        let mut reason = error.to_string();
        cut(&mut reason, REASON_LEN_MAX);
        reason
    };
    Some(step.url.join(location).map_err(refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_into_special_ranges_alone_is_refused() {
        let check = |addresses: &[&str], ranges, is_refused| {
            let next = TargetUrl::parse("https://landing.example/").unwrap();
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let reason = forbidden_landing(&next, &addresses, ranges);
            assert_eq!(reason.is_some(), is_refused, "{addresses:?} {reason:?}");
        };
        check(&["127.0.0.1"], Ranges::PublicOnly, true);
        check(&["10.0.0.1", "::ffff:192.168.0.1"], Ranges::PublicOnly, true);
        check(&["10.0.0.1", "9.9.9.9"], Ranges::PublicOnly, false);
        check(&["127.0.0.1"], Ranges::Any, false);
        check(&[], Ranges::PublicOnly, false);
    }
}
