//! Questions the rules ask of a record. Answers are facts, never conclusions.

use std::net::IpAddr;

use super::controls::own_addresses;
use crate::record::{
    Arm, Certificate, ChainFault, DnsOutcome, HttpExchange, HttpOutcome, ProbeRecord, QueryType,
    ResolverKind, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};
use crate::target::{Mirror, Sha256};

/// "Network is unreachable" on Linux.
const ENETUNREACH: i32 = 101;

/// Whether the probe saw the mirror as itself, on its main arm.
pub fn has_reached(record: &ProbeRecord, mirror: Option<&Mirror>) -> bool {
    reached_by(record, mirror, Arm::Main).is_some()
}

/// Why a record does not count as reached, in words; `None` if it does.
pub fn reason_unreached(record: &ProbeRecord, mirror: Option<&Mirror>) -> Option<String> {
    if has_reached(record, mirror) {
        return None;
    }
    let Some(exchange) = last_exchange(record, Arm::Main) else {
        let tls = record.tls.iter().rfind(|handshake| handshake.arm == Arm::Main);
        let tcp = record.tcp.iter().rfind(|connect| connect.arm == Arm::Main);
        return Some(match (tls, tcp) {
            (Some(tls), _) => format!("TLS ended with {:?}", tls.outcome),
            (None, Some(tcp)) => format!("TCP ended with {:?}", tcp.outcome),
            (None, None) => "no address was found".to_owned(),
        });
    };
    Some(match (&exchange.outcome, exchange.canary_found) {
        (HttpOutcome::Complete, Some(false)) => {
            format!("the page (status {:?}) lacks the canary", exchange.status.unwrap_or_default())
        }
        (HttpOutcome::Complete, _) if !is_authentic(record, exchange, mirror) => {
            "the certificate is not the mirror's".to_owned()
        }
        (HttpOutcome::Complete, _) => format!("status {}", exchange.status.unwrap_or_default()),
        (outcome, _) => format!("HTTP ended with {outcome:?}"),
    })
}

/// The exchange that showed the mirror as itself on that arm.
pub(super) fn reached_by<'a>(
    record: &'a ProbeRecord,
    mirror: Option<&Mirror>,
    arm: Arm,
) -> Option<&'a HttpExchange> {
    let exchange = last_exchange(record, arm)?;
    let own_page = match exchange.canary_found {
        Some(found) => found,
        None => {
            mirror.is_none_or(|mirror| mirror.canary.is_none())
                && exchange.status.is_some_and(|status| (200..300).contains(&status))
        }
    };
    let whole = exchange.outcome == HttpOutcome::Complete;
    (whole && own_page && is_authentic(record, exchange, mirror)).then_some(exchange)
}

/// Whether the mirror's page came whole and was not searched for the canary it should hold. An empty page needs no search.
pub(super) fn is_unsearched(record: &ProbeRecord, mirror: Option<&Mirror>) -> bool {
    mirror.is_some_and(|mirror| mirror.canary.is_some())
        && last_exchange(record, Arm::Main).is_some_and(|exchange| {
            exchange.canary_found.is_none()
                && exchange.body_len > 0
                && exchange.outcome == HttpOutcome::Complete
                && exchange.status.is_some_and(|status| (200..300).contains(&status))
                && is_authentic(record, exchange, mirror)
        })
}

/// The last exchange of an arm: the end of its redirects.
pub(super) fn last_exchange(record: &ProbeRecord, arm: Arm) -> Option<&HttpExchange> {
    record.http.iter().rfind(|exchange| exchange.arm == arm)
}

/// Whether an exchange ran under the mirror's key: a pinned one, or any a browser accepts where none is pinned.
/// Plain HTTP has no key: there only the canary speaks.
pub(crate) fn is_authentic(record: &ProbeRecord, exchange: &HttpExchange, mirror: Option<&Mirror>) -> bool {
    if !exchange.url.is_https() {
        return exchange.canary_found == Some(true) || !record.url.is_https();
    }
    record.tls.iter().rfind(|tls| carried(tls, exchange)).is_some_and(|tls| has_own_key(tls, mirror))
}

fn carried(tls: &TlsHandshake, exchange: &HttpExchange) -> bool {
    tls.arm == exchange.arm
        && tls.address == exchange.address
        && tls.sni.as_ref().is_none_or(|sni| *sni == exchange.url.host())
        && matches!(tls.outcome, TlsOutcome::Completed { .. })
}

/// Whether a handshake showed the mirror's key.
pub(super) fn has_own_key(tls: &TlsHandshake, mirror: Option<&Mirror>) -> bool {
    is_own_key(&tls.chain, tls.chain_fault.as_ref(), mirror)
}

/// Whether a chain is of the mirror's key: a pinned one, or any a browser accepts where none is pinned.
pub(crate) fn is_own_key(chain: &[Certificate], fault: Option<&ChainFault>, mirror: Option<&Mirror>) -> bool {
    match mirror.map(|mirror| mirror.key_pins.as_slice()) {
        None | Some([]) => fault == Some(&ChainFault::Valid),
        Some(pins) => chain.first().is_some_and(|leaf| pins.contains(&leaf.spki_sha256)),
    }
}

/// Whether the mirror itself answered at that address: its name was asked for there, and its key shown.
pub(super) fn is_own_edge(record: &ProbeRecord, mirror: Option<&Mirror>, address: IpAddr) -> bool {
    let host = record.url.host();
    main_handshakes(record).any(|tls| {
        tls.address.ip() == address
            && tls.sni.as_ref() == Some(&host)
            && matches!(tls.outcome, TlsOutcome::Completed { .. })
            && has_own_key(tls, mirror)
    })
}

/// The handshakes of the main arm with the mirror's own name.
pub(super) fn main_handshakes(record: &ProbeRecord) -> impl Iterator<Item = &TlsHandshake> {
    record.tls.iter().filter(|tls| tls.arm == Arm::Main)
}

/// The connection attempts of the main arm's last leg: after the last redirect, where there was one.
pub(super) fn last_leg_connects(record: &ProbeRecord) -> impl Iterator<Item = &TcpConnect> {
    let start = last_leg_start_micros(record);
    record.tcp.iter().filter(move |tcp| tcp.arm == Arm::Main && tcp.span.start_micros >= start)
}

/// The handshakes of the main arm's last leg.
pub(super) fn last_leg_handshakes(record: &ProbeRecord) -> impl Iterator<Item = &TlsHandshake> {
    let start = last_leg_start_micros(record);
    main_handshakes(record).filter(move |tls| tls.span.start_micros >= start)
}

/// When the last answer sent the visitor on; 0 if none did.
pub(super) fn last_leg_start_micros(record: &ProbeRecord) -> u64 {
    let is_redirect = |exchange: &&HttpExchange| {
        exchange.outcome == HttpOutcome::Complete
            && exchange.status.is_some_and(|status| (300..400).contains(&status))
    };
    last_exchange(record, Arm::Main)
        .filter(is_redirect)
        .map_or(0, |exchange| exchange.span.start_micros + exchange.span.duration_micros)
}

/// The mirror's own key where it was shown under a chain that browsers refuse, and why they do.
pub(super) fn refused_chain(record: &ProbeRecord, mirror: Option<&Mirror>) -> Option<(Sha256, ChainFault)> {
    let exchange = reached_by(record, mirror, Arm::Main)?;
    let tls = record.tls.iter().rfind(|tls| carried(tls, exchange))?;
    let fault = tls.chain_fault.clone().filter(|fault| *fault != ChainFault::Valid)?;
    Some((tls.chain.first()?.spki_sha256, fault))
}

/// Answers about addresses of the mirror's own host from one kind of resolver.
pub(super) fn own_answers(record: &ProbeRecord, kind: ResolverKind) -> impl Iterator<Item = &DnsOutcome> {
    let host = record.url.host();
    record
        .dns
        .iter()
        .filter(move |exchange| {
            exchange.resolver == kind
                && exchange.name == host
                && exchange.query != QueryType::Https
                && exchange.is_for_visitors()
        })
        .map(|exchange| &exchange.outcome)
}

/// Addresses the mirror is known under: stated by the operator, given to the control, or found by the control to be the
/// mirror's.
pub(super) fn true_addresses(control: &ProbeRecord, mirror: Option<&Mirror>) -> Vec<IpAddr> {
    let mut addresses = mirror.map(|mirror| mirror.expected_addresses.clone()).unwrap_or_default();
    addresses.extend(control.resolved(ResolverKind::System));
    addresses.extend(control.resolved(ResolverKind::Public));
    addresses.extend(own_addresses(control, mirror));
    addresses
}

/// Whether anything shows that the network works: a reference reached, a connection, a resolver's word. A resolver at
/// home may answer from memory, and can say without a line to the world that it failed or refuses.
pub(super) fn is_alive(record: &ProbeRecord) -> bool {
    let is_word = |outcome: &DnsOutcome| matches!(outcome, DnsOutcome::Answer { rcode: 0 | 3, .. });
    record.references.iter().any(|check| check.reached)
        || is_connected(record)
        || is_answered_by(record, ResolverKind::Public)
        || (record.dns.iter().any(|exchange| is_word(&exchange.outcome)) && !has_no_route(record))
}

/// Whether any connection came about, on any arm.
pub(super) fn is_connected(record: &ProbeRecord) -> bool {
    record.tcp.iter().any(|tcp| tcp.outcome == TcpOutcome::Connected)
}

/// Whether a resolver of that kind answered anything.
pub(super) fn is_answered_by(record: &ProbeRecord, kind: ResolverKind) -> bool {
    let answered = |outcome: &DnsOutcome| matches!(outcome, DnsOutcome::Answer { .. });
    record.dns.iter().any(|exchange| exchange.resolver == kind && answered(&exchange.outcome))
}

/// Handshakes in which somebody spoke TLS to the agent: where all that is foreign is swallowed, TCP may still connect.
pub(super) fn heard(record: &ProbeRecord) -> impl Iterator<Item = &TlsHandshake> {
    let spoke = |tls: &&TlsHandshake| {
        tls.bytes_received > 0 || matches!(tls.outcome, TlsOutcome::Completed { .. } | TlsOutcome::Alert(_))
    };
    record.tls.iter().filter(spoke)
}

/// Whether every connection attempt met "network unreachable": the host has no way out for such addresses.
fn has_no_route(record: &ProbeRecord) -> bool {
    !record.tcp.is_empty() && record.tcp.iter().all(|tcp| tcp.outcome == TcpOutcome::Unreachable(ENETUNREACH))
}
