//! Answers that contradict each other: the truth that came second to the same question, a resolver that is honest over
//! TCP alone. Both point at somebody on the way who answers in the resolver's name.

use std::net::IpAddr;

use super::Case;
use super::facts::true_addresses;
use crate::networks::Announcer;
use crate::record::{
    DNS_RESEND_AFTER_MICROS, DnsExchange, DnsOtherAnswer, DnsOutcome, DnsTransport, ResolverKind,
};

/// A question of the system's resolver to which somebody else answered first.
pub(super) struct Race<'a> {
    /// The addresses of the answer that won; none where it held an error or garbage.
    pub false_addresses: &'a [IpAddr],
    truth: IpAddr,
    /// How far the truth came behind.
    behind_micros: u64,
}

/// The race a false answer won, if the truth was heard after it. Where the question was sent twice a second answer is
/// only natural, and proves nothing.
pub(super) fn race<'a>(case: &Case<'a>) -> Option<Race<'a>> {
    let (_, control) = case.control?;
    let known = true_addresses(control, case.mirror);
    own_exchanges(case, ResolverKind::System, DnsTransport::Udp)
        .filter(|exchange| exchange.span.duration_micros < DNS_RESEND_AFTER_MICROS)
        .find_map(|exchange| {
            let false_addresses = match &exchange.outcome {
                DnsOutcome::Answer { addresses, .. } => addresses.as_slice(),
                DnsOutcome::Failed(_) => &[],
                DnsOutcome::Timeout => return None,
            };
            let taken_micros = exchange.span.start_micros + exchange.span.duration_micros;
            let truth_of = |other: &DnsOtherAnswer| {
                let is_second = other.matches_question && other.arrived_micros >= taken_micros;
                other.addresses.iter().copied().find(|address| is_second && known.contains(address))
            };
            let is_honest = false_addresses.iter().any(|address| known.contains(address));
            let (truth, arrived_micros) = exchange
                .others
                .iter()
                .find_map(|other| truth_of(other).map(|truth| (truth, other.arrived_micros)))
                .filter(|_| !is_honest)?;
            Some(Race { false_addresses, truth, behind_micros: arrived_micros - taken_micros })
        })
}

/// What contradicts the answers a verdict speaks of, in words.
pub(super) fn contradictions(case: &Case<'_>) -> Vec<String> {
    let late = race(case).map(|race| {
        format!(
            "the true address {} came {} us after the answer taken, to the same question: somebody answers first",
            race.truth, race.behind_micros
        )
    });
    late.into_iter().chain(honest_by_tcp_alone(case)).collect()
}

/// An answer inside the asking carrier's own network, where no address that the control got, or the operator stated, is.
/// Stubs stand there; but so do the caches of some hosters, so that it proves nothing by itself.
pub(super) struct AtHome<'a> {
    pub address: IpAddr,
    pub announcer: Announcer<'a>,
    carrier: &'a str,
}

impl std::fmt::Display for AtHome<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, announcer, carrier } = self;
        write!(f, "{address} lies in {carrier}'s own network, {announcer}; the mirror's addresses do not")
    }
}

/// The first of `addresses` that lies at home.
pub(super) fn at_home<'a>(case: &Case<'a>, addresses: &[IpAddr]) -> Option<AtHome<'a>> {
    let (home, (_, control)) = (case.home?, case.control?);
    let announced = |address: IpAddr| {
        let announcer = home.networks.announcer(address)?;
        home.carrier.asns.contains(&announcer.asn).then_some(announcer)
    };
    if true_addresses(control, case.mirror).into_iter().any(|address| announced(address).is_some()) {
        return None;
    }
    addresses.iter().find_map(|address| {
        let announcer = announced(*address)?;
        Some(AtHome { address: *address, announcer, carrier: &home.carrier.name })
    })
}

/// The public resolver told the truth over TCP and something else over UDP.
fn honest_by_tcp_alone(case: &Case<'_>) -> Option<String> {
    let (_, control) = case.control?;
    let known = true_addresses(control, case.mirror);
    let by = |transport| own_exchanges(case, ResolverKind::Public, transport).flat_map(addresses_of);
    let server = own_exchanges(case, ResolverKind::Public, DnsTransport::Udp).next()?.server;
    if by(DnsTransport::Udp).any(|address| known.contains(&address)) {
        return None;
    }
    let truth = by(DnsTransport::Tcp).find(|address| known.contains(address))?;
    let lie = by(DnsTransport::Udp).next().map_or("no address".to_owned(), |address| address.to_string());
    Some(format!(
        "the public resolver {server} gives {lie} over UDP and {truth} over TCP: its UDP is answered on the way"
    ))
}

fn own_exchanges<'a>(
    case: &Case<'a>,
    kind: ResolverKind,
    transport: DnsTransport,
) -> impl Iterator<Item = &'a DnsExchange> {
    let (host, exchanges) = (case.record.url.host(), case.record.dns.iter());
    exchanges.filter(move |exchange| {
        exchange.resolver == kind && exchange.transport == transport && exchange.name == host
    })
}

fn addresses_of(exchange: &DnsExchange) -> impl Iterator<Item = IpAddr> {
    let addresses = match &exchange.outcome {
        DnsOutcome::Answer { addresses, .. } => addresses.as_slice(),
        DnsOutcome::Timeout | DnsOutcome::Failed(_) => &[],
    };
    addresses.iter().copied()
}

#[cfg(test)]
mod tests;
