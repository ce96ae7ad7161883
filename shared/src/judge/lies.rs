//! Answers that contradict each other: the truth that came second to the same question, a resolver that is honest by every
//! road but UDP, an answer from where no resolver runs. All point at somebody on the way who answers in the resolver's name.

use std::net::{IpAddr, SocketAddr};

use super::Case;
use super::facts::true_addresses;
use crate::address::require_public;
use crate::networks::Announcer;
use crate::record::{
    DNS_RESEND_AFTER_MICROS, DnsExchange, DnsOtherAnswer, DnsOutcome, DnsTransport, QueryType, ResolverKind,
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
    let roads =
        [ResolverKind::System, ResolverKind::Public].into_iter().filter_map(|kind| forked(case, kind));
    let nobody = word_of_nobody(case).map(|word| word.to_string());
    late.into_iter().chain(roads.map(|road| road.to_string())).chain(nobody).collect()
}

/// Whether the record itself shows that one of `addresses`, or the lack of any, is somebody else's word: the truth came
/// second, the same resolver knows it by a road that is harder to forge, or somebody says the same where no resolver runs.
pub(super) fn is_exposed(case: &Case<'_>, addresses: &[IpAddr]) -> bool {
    let says_so = |lie: &[IpAddr]| lie.iter().any(|address| addresses.contains(address));
    race(case).is_some()
        || forked(case, ResolverKind::System).is_some()
        || forked(case, ResolverKind::Public).is_some_and(|road| says_so(&road.lies))
        || word_of_nobody(case).is_some_and(|word| word.truth.is_none() && says_so(&word.addresses))
}

/// A resolver that tells the truth by every road but UDP, which anybody on the way can answer.
pub(super) struct Forked {
    kind: ResolverKind,
    server: SocketAddr,
    lies: Vec<IpAddr>,
    truth: IpAddr,
    roads: Vec<&'static str>,
}

impl std::fmt::Display for Forked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = if self.kind == ResolverKind::System { "system's" } else { "public" };
        let lie = self.lies.first().map_or("no address".to_owned(), IpAddr::to_string);
        let (server, truth, roads) = (self.server, self.truth, self.roads.join(", "));
        write!(
            f,
            "the {who} resolver {server} gives {lie} over UDP and {truth} over {roads}: its UDP is answered on the way"
        )
    }
}

/// Whether that resolver's roads lead apart. One that knows nothing by UDP may be silent; one that lies is not itself.
pub(super) fn forked(case: &Case<'_>, kind: ResolverKind) -> Option<Forked> {
    let (_, control) = case.control?;
    let known = true_addresses(control, case.mirror);
    let by = |transport| own_exchanges(case, kind, transport).flat_map(addresses_of);
    let server = own_exchanges(case, kind, DnsTransport::Udp).next()?.server;
    let lies: Vec<IpAddr> = by(DnsTransport::Udp).collect();
    if lies.iter().any(|address| known.contains(address)) {
        return None;
    }
    let others = [(DnsTransport::Tcp, "TCP"), (DnsTransport::Dot, "TLS"), (DnsTransport::Doh, "HTTPS")];
    let truths: Vec<(IpAddr, &str)> = others
        .into_iter()
        .filter_map(|(road, word)| Some((by(road).find(|address| known.contains(address))?, word)))
        .collect();
    let (truth, _) = *truths.first()?;
    Some(Forked { kind, server, lies, truth, roads: truths.iter().map(|(_, word)| *word).collect() })
}

/// An answer from an address at which no resolver runs. One that holds the truth comes from a box that passes questions on:
/// no block, whatever one thinks of it.
pub(super) struct WordOfNobody {
    server: SocketAddr,
    addresses: Vec<IpAddr>,
    truth: Option<IpAddr>,
}

impl std::fmt::Display for WordOfNobody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let server = self.server;
        match (self.truth, self.addresses.first()) {
            (Some(truth), _) => {
                write!(
                    f,
                    "{server}, where no resolver runs, answers {truth}: a box on the way passes questions on"
                )
            }
            (None, lie) => {
                let lie = lie.map_or("without an address".to_owned(), IpAddr::to_string);
                write!(
                    f,
                    "{server}, where no resolver runs, answers {lie}: somebody on the way answers in any name"
                )
            }
        }
    }
}

pub(super) fn word_of_nobody(case: &Case<'_>) -> Option<WordOfNobody> {
    let (_, control) = case.control?;
    let known = true_addresses(control, case.mirror);
    let answered = |exchange: &&DnsExchange| matches!(exchange.outcome, DnsOutcome::Answer { .. });
    let exchange = own_exchanges(case, ResolverKind::Nobody, DnsTransport::Udp).find(answered)?;
    let addresses: Vec<IpAddr> = addresses_of(exchange).collect();
    let truth = addresses.iter().copied().find(|address| known.contains(address));
    Some(WordOfNobody { server: exchange.server, addresses, truth })
}

/// An address beside the mirror's own ones that is none of it: a lie about one family, or one of several addresses, which
/// visitors may not notice.
pub(super) fn false_among_true(case: &Case<'_>) -> Option<String> {
    let stated = case.mirror.map(|mirror| mirror.expected_addresses.as_slice()).unwrap_or_default();
    let known = match case.control {
        Some((_, control)) => true_addresses(control, case.mirror),
        None => stated.to_vec(),
    };
    let answers = case.record.resolved(ResolverKind::System);
    if !answers.iter().any(|address| known.contains(address)) {
        return None;
    }
    let is_false = |address: &&IpAddr| {
        let is_bogon =
            require_public(**address).is_err() && stated.iter().all(|own| require_public(*own).is_ok());
        !known.contains(address) && (is_bogon || !stated.is_empty())
    };
    let found = answers.iter().find(is_false)?;
    let range = require_public(*found).err().map_or(String::new(), |range| format!(" ({range})"));
    Some(format!(
        "beside the mirror's own addresses the resolver answers {found}{range}, which is not known as one"
    ))
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

fn own_exchanges<'a>(
    case: &Case<'a>,
    kind: ResolverKind,
    transport: DnsTransport,
) -> impl Iterator<Item = &'a DnsExchange> {
    let (host, exchanges) = (case.record.url.host(), case.record.dns.iter());
    exchanges.filter(move |exchange| {
        exchange.resolver == kind
            && exchange.transport == transport
            && exchange.name == host
            && exchange.query != QueryType::Https
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
