//! The table of rules. Each is a small question; the order carries the meaning.

use std::net::IpAddr;

use super::beside::{ech_timeout, quic_stall, quic_timeout};
use super::controls::{address_dead, address_stale, control_contradictory, very_same_address};
use super::cuts::{tcp_partial, tcp_unconnected, tls_cut};
use super::facts::{
    has_own_key, is_authentic, is_own_edge, is_unsearched, last_exchange, main_handshakes, own_answers,
    reached_by, reason_unreached, refused_chain, true_addresses,
};
use super::lies::{at_home, contradictions, false_among_true, forked, is_exposed, race};
use super::line::{captive_portal, host_interceptor, ipv6_unwell, offline, unpaid};
use super::network::{control_ill, control_unproven, network_unproven, shutdown, whitelist};
use super::stubs::{location, named, stub_address, stub_page, stub_redirect};
use super::transfer;
use super::{
    CONTROL_CONTRADICTORY, CONTROL_ILL, CONTROL_MISSING, CONTROL_UNPROVEN, Case, Conclusion, ELSEWHERE, Rule,
    TRANSFER_UNCOMPARED,
};
use crate::record::{
    Arm, Certificate, DnsOutcome, HttpExchange, HttpOutcome, ProbeRecord, ResolverKind, TlsHandshake,
    TlsOutcome,
};
use crate::verdict::{Mechanism, Outcome, Trigger};

pub(super) type Found = Option<Conclusion>;

const DESIGN: &str = "design: exact identity";
const DESIGN_ENOUGH: &str = "design: not enough evidence is an answer";
const OONI: &str = "OONI reports and code";
const NET4PEOPLE: &str = "net4people/bbs";

pub(super) const TABLE: &[Rule] = &[
    Rule {
        id: ELSEWHERE,
        source: "design: an agent speaks for the network it stands in",
        apply: elsewhere_unread,
    },
    Rule { id: TRANSFER_UNCOMPARED, source: "design: no control, no block", apply: transfer::uncompared },
    Rule { id: "transfer.freeze.large_page", source: NET4PEOPLE, apply: transfer::freeze_of_large_page },
    Rule { id: "transfer.throttle", source: "Xue et al., IMC 2021", apply: transfer::throttle },
    Rule { id: "transfer.cut", source: DESIGN, apply: transfer::cut_of_large_page },
    Rule { id: "ech.timeout", source: "RFC 9849; net4people/bbs", apply: ech_timeout },
    Rule { id: "quic.timeout", source: "RFC 9000; net4people/bbs", apply: quic_timeout },
    Rule { id: "quic.stall", source: "RFC 9114; net4people/bbs", apply: quic_stall },
    Rule { id: "origin.certificate", source: DESIGN, apply: origin_certificate },
    Rule { id: "tcp.partial", source: OONI, apply: tcp_partial },
    Rule { id: "identity.reached", source: DESIGN, apply: identity_reached },
    Rule { id: "network.offline", source: DESIGN_ENOUGH, apply: offline },
    Rule { id: "network.unpaid", source: "net4people/bbs: SIM quarantine, unpaid bills", apply: unpaid },
    Rule { id: "network.captive_portal", source: "OONI; RFC 8952", apply: captive_portal },
    Rule { id: "network.whitelist", source: NET4PEOPLE, apply: whitelist },
    Rule { id: "network.shutdown", source: OONI, apply: shutdown },
    Rule { id: "host.interceptor", source: "Censored Planet", apply: host_interceptor },
    Rule { id: "dns.stub_address", source: "OONI blocking fingerprints", apply: dns_stub_address },
    Rule { id: "http.stub_redirect", source: "OONI blocking fingerprints", apply: http_stub_redirect },
    Rule { id: "http.stub_page", source: "OONI blocking fingerprints", apply: http_stub_page },
    Rule { id: "tls.state_ca", source: "OONI 2024 on Kazakhstan; browsers' block lists", apply: state_ca },
    Rule { id: "canary.unsearched", source: DESIGN, apply: canary_unsearched },
    Rule { id: CONTROL_MISSING, source: "design: no control, no block", apply: control_missing },
    Rule { id: CONTROL_CONTRADICTORY, source: DESIGN_ENOUGH, apply: control_contradictory },
    Rule { id: CONTROL_ILL, source: "design: no control, no block", apply: control_ill },
    Rule { id: CONTROL_UNPROVEN, source: "design: no control, no block", apply: control_unproven },
    Rule { id: "control.no_name", source: "RFC 8020; design: no control, no block", apply: control_no_name },
    Rule { id: "control.failed", source: "design: no control, no block", apply: control_failed },
    Rule { id: "network.unproven", source: DESIGN_ENOUGH, apply: network_unproven },
    Rule { id: "dns.no_address", source: OONI, apply: dns_no_address },
    Rule { id: "dns.bogon", source: OONI, apply: dns_bogon },
    Rule { id: "dns.other_address", source: OONI, apply: dns_other_address },
    Rule {
        id: "address.dead",
        source: "design: the control at the agent's own address",
        apply: address_dead,
    },
    Rule { id: "address.stale", source: DESIGN_ENOUGH, apply: address_stale },
    Rule {
        id: "network.ipv6",
        source: "design: a line without IPv6 tells nothing of it",
        apply: ipv6_unwell,
    },
    Rule { id: "tcp.unconnected", source: OONI, apply: tcp_unconnected },
    Rule { id: "tls.cut", source: "OONI; Censored Planet", apply: tls_cut },
    Rule { id: "tls.other_key", source: OONI, apply: tls_other_key },
    Rule { id: "origin.refused", source: DESIGN, apply: origin_refused },
    Rule { id: "transfer.throttle.page", source: "Xue et al., IMC 2021", apply: transfer::throttled_page },
    Rule { id: "transfer.freeze", source: NET4PEOPLE, apply: transfer::freeze },
    Rule { id: "http.cut", source: OONI, apply: http_cut },
    Rule { id: "http.broken_redirect", source: OONI, apply: http_broken_redirect },
    Rule { id: "http.foreign_redirect", source: OONI, apply: http_foreign_redirect },
    Rule { id: "http.other_page", source: OONI, apply: http_other_page },
    Rule { id: "contradictory", source: DESIGN_ENOUGH, apply: contradictory },
];

/// Where the agent stands no record tells: the collector does, and [`super::elsewhere`] speaks before any record is read.
fn elsewhere_unread(_: &Case<'_>) -> Found {
    None
}

/// The mirror's own key, under a certificate that browsers refuse. Seen here alone it may be this agent's clock or roots.
fn origin_certificate(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let (own, fault) = refused_chain(case.record, case.mirror)?;
    let (same, _) = refused_chain(control, case.mirror).filter(|(same, _)| same == &own)?;
    let basis =
        format!("browsers refuse the mirror's own certificate ({fault:?}, key {same}), the control's too");
    Conclusion::of(Outcome::Down, vec![basis])
}

fn identity_reached(case: &Case<'_>) -> Found {
    let exchange = reached_by(case.record, case.mirror, Arm::Main)?;
    let how = match exchange.canary_found {
        Some(true) => "the page holds the canary",
        _ => "the page answered with success",
    };
    let key = if exchange.url.is_https() { " under the mirror's key" } else { "" };
    let mut basis = vec![format!("{how}{key}, from {}", exchange.address)];
    basis.extend(false_among_true(case));
    Conclusion::of(Outcome::Ok, basis)
}

fn dns_stub_address(case: &Case<'_>) -> Found {
    let (stub, found) = stub_address(case)?;
    let basis = format!("the resolver answers {stub}, a known stub address{}", named(&found));
    dns_blocked(case, Mechanism::DnsInjectionBlockpage, vec![basis])
}

fn http_stub_redirect(case: &Case<'_>) -> Found {
    let (url, found) = stub_redirect(case)?;
    let basis = format!("the visit leads to {url}, a known stub{}", named(&found));
    Conclusion::blocked(Mechanism::HttpRedirect, Trigger::Host, vec![basis])
}

fn http_stub_page(case: &Case<'_>) -> Found {
    let (exchange, found) = stub_page(case)?;
    let basis = format!("the page is a known stub{}", named(&found));
    let answered = exchange.address.ip();
    if exchange.url.host() == case.record.url.host()
        && foreign_addresses(case).is_some_and(|addresses| addresses.contains(&answered))
    {
        let led = format!("the resolver answers {answered}, where it stands");
        return dns_blocked(case, Mechanism::DnsInjectionBlockpage, vec![led, basis]);
    }
    if exchange.url.host() != case.record.url.host() {
        let led = format!("the visit leads to {}", exchange.url);
        return Conclusion::blocked(Mechanism::HttpRedirect, Trigger::Host, vec![led, basis]);
    }
    Conclusion::blocked(Mechanism::HttpBlockpage, Trigger::Host, vec![basis])
}

fn state_ca(case: &Case<'_>) -> Found {
    let intercepted = main_handshakes(case.record).filter(|tls| !has_own_key(tls, case.mirror));
    let (tls, found) =
        intercepted.filter_map(|tls| Some((tls, case.fingerprints.state_ca(&tls.chain)?))).next()?;
    // States have gone on with authorities long expired: that is no proof of the site's own fault.
    let is_expired = |certificate: &&Certificate| certificate.not_after < case.record.started_at;
    let expired = tls.chain.iter().filter(is_expired).map(|certificate| {
        let Certificate { subject, issuer, not_after, .. } = certificate;
        format!("the certificate of {subject:?}, issued by {issuer:?}, had expired on {not_after}")
    });
    let basis = std::iter::once(found).chain(expired).collect();
    Conclusion::blocked(Mechanism::TlsMitmStateCa, Trigger::Sni, basis)
}

/// The page came, under the mirror's key, and was not searched for the canary: measured before the mirror had one, or by
/// hand without it.
fn canary_unsearched(case: &Case<'_>) -> Found {
    let who = match case.control {
        _ if is_unsearched(case.record, case.mirror) => "the record",
        Some((_, control)) if is_unsearched(control, case.mirror) => "the control's record",
        _ => return None,
    };
    let basis = format!("{who} was measured without the canary: a page came, and nobody knows whose");
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

fn control_missing(case: &Case<'_>) -> Found {
    match case.control {
        Some(_) => None,
        None => Conclusion::of(
            Outcome::Insufficient,
            vec!["no control measured this mirror in the same minutes".into()],
        ),
    }
}

/// The name is gone at the control too: neither side's resolver knows it.
fn control_no_name(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    reason_unreached(control, case.mirror)?;
    let is_gone = |record: &ProbeRecord| {
        let says_so = |outcome: &DnsOutcome| matches!(outcome, DnsOutcome::Answer { rcode: 3, .. });
        record.resolved(ResolverKind::System).is_empty()
            && own_answers(record, ResolverKind::System).any(says_so)
    };
    let basis = vec!["the name does not exist (NXDOMAIN), at the control neither".to_owned()];
    let (outcome, mechanism) = (Outcome::Down, Some(Mechanism::DnsNxdomain));
    (is_gone(case.record) && is_gone(control)).then_some(Conclusion {
        outcome,
        mechanism,
        trigger: None,
        basis,
    })
}

fn control_failed(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let reason = reason_unreached(control, case.mirror)?;
    Conclusion::of(Outcome::Down, vec![format!("the control fails too: {reason}")])
}

fn dns_no_address(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    if case.record.url.literal_address().is_some()
        || !case.record.resolved(ResolverKind::System).is_empty()
        || own_answers(case.record, ResolverKind::System).next().is_none()
    {
        return None;
    }
    let rcode_is = |wanted: u16| {
        own_answers(case.record, ResolverKind::System)
            .any(|outcome| matches!(outcome, DnsOutcome::Answer { rcode, .. } if *rcode == wanted))
    };
    let silent =
        own_answers(case.record, ResolverKind::System).all(|outcome| *outcome == DnsOutcome::Timeout);
    let (mechanism, what) = if rcode_is(3) {
        (Mechanism::DnsNxdomain, "says the name does not exist (NXDOMAIN)")
    } else if rcode_is(5) {
        (Mechanism::DnsRefused, "refuses to answer (REFUSED)")
    } else if rcode_is(2) {
        (Mechanism::DnsServfail, "fails (SERVFAIL)")
    } else if silent {
        (Mechanism::DnsTimeout, "does not answer")
    } else if own_answers(case.record, ResolverKind::System).all(is_empty_answer)
        && !true_addresses(control, case.mirror).is_empty()
    {
        (Mechanism::DnsInjectionOther, "knows the name and gives no address")
    } else if race(case).is_some() || forked(case, ResolverKind::System).is_some() {
        (Mechanism::DnsInjectionOther, "seems to answer with garbage")
    } else {
        return None;
    };
    let basis = format!("the system's resolver {what}; the control reached the mirror");
    dns_blocked(case, mechanism, vec![basis])
}

/// A lie about the name, with every contradiction that shows who tells it.
fn dns_blocked(case: &Case<'_>, mechanism: Mechanism, mut basis: Vec<String>) -> Found {
    basis.extend(contradictions(case));
    Conclusion::blocked(mechanism, Trigger::Name, basis)
}

fn is_empty_answer(outcome: &DnsOutcome) -> bool {
    matches!(outcome, DnsOutcome::Answer { rcode: 0, addresses, .. } if addresses.is_empty())
}

/// The addresses of the system's resolver, if none of them is one the mirror is known under; or those of the question
/// that somebody else answered first, whatever the other question brought.
fn foreign_addresses(case: &Case<'_>) -> Option<Vec<std::net::IpAddr>> {
    let (_, control) = case.control?;
    let resolved = case.record.resolved(ResolverKind::System);
    // The resolver led to the mirror itself, if to an edge that nobody listed.
    if resolved.iter().any(|address| is_own_edge(case.record, case.mirror, *address)) {
        return None;
    }
    let known = true_addresses(control, case.mirror);
    let disjoint = !resolved.is_empty() && resolved.iter().all(|address| !known.contains(address));
    if disjoint {
        return Some(resolved);
    }
    race(case).map(|race| race.false_addresses.to_vec()).filter(|addresses| !addresses.is_empty())
}

fn dns_bogon(case: &Case<'_>) -> Found {
    let addresses = foreign_addresses(case)?;
    let ranges: Option<Vec<_>> =
        addresses.iter().map(|address| crate::address::require_public(*address).err()).collect();
    let basis = format!("the resolver answers {} ({})", addresses[0], ranges?[0]);
    dns_blocked(case, Mechanism::DnsInjectionBogon, vec![basis])
}

fn dns_other_address(case: &Case<'_>) -> Found {
    let addresses = foreign_addresses(case)?;
    let elsewhere = reached_by(case.record, case.mirror, Arm::OtherResolver);
    let stated = case.mirror.is_some_and(|mirror| !mirror.expected_addresses.is_empty());
    let at_home = at_home(case, &addresses);
    let proof = match (elsewhere, stated) {
        (Some(exchange), _) => Some(format!("another resolver's address {} works", exchange.address.ip())),
        (None, true) => Some("the operator states other addresses".to_owned()),
        // The contradiction itself is the proof.
        (None, false) if is_exposed(case, &addresses) => None,
        // A hoster's cache stands there too, but speaks for itself: where TLS was cut, another rule does.
        (None, false) if at_home.as_ref().is_some_and(|found| !is_cut_at(case.record, found.address)) => None,
        (None, false) => return None,
    };
    let told = format!("the resolver answers {}, not the mirror's", addresses[0]);
    let basis = [Some(told), proof, at_home.map(|found| found.to_string())];
    dns_blocked(case, Mechanism::DnsInjectionOther, basis.into_iter().flatten().collect())
}

/// Whether a handshake with that address was broken off.
fn is_cut_at(record: &ProbeRecord, address: IpAddr) -> bool {
    let is_cut = |tls: &TlsHandshake| {
        matches!(
            tls.outcome,
            TlsOutcome::Timeout | TlsOutcome::Reset | TlsOutcome::Eof | TlsOutcome::Alert(_)
        )
    };
    main_handshakes(record).any(|tls| tls.address.ip() == address && is_cut(tls))
}

fn tls_other_key(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let tls = main_handshakes(case.record)
        .find(|tls| !tls.chain.is_empty() && tls.sni.as_deref() == Some(&case.record.url.host()))?;
    if has_own_key(tls, case.mirror) {
        return None;
    }
    let leaf = tls.chain.first()?;
    let same = main_handshakes(control)
        .any(|other| other.chain.first().is_some_and(|own| own.spki_sha256 == leaf.spki_sha256));
    let mut basis = vec![format!("a key that is not the mirror's, vouched for by {:?}", leaf.issuer)];
    basis.extend(very_same_address(case, tls.address));
    (!same).then(|| Conclusion::blocked(Mechanism::TlsMitmOther, Trigger::Sni, basis)).flatten()
}

fn origin_refused(case: &Case<'_>) -> Found {
    let exchange = last_exchange(case.record, Arm::Main)?;
    let status = exchange.status?;
    let basis = match status {
        403 | 429 | 451 | 503 => format!("the origin itself answers {status} here, and serves the control"),
        200..=299 if exchange.outcome == HttpOutcome::Complete && exchange.canary_found == Some(false) => {
            "the origin itself shows another page here than to the control".to_owned()
        }
        _ => return None,
    };
    let authentic = exchange.url.is_https() && is_authentic(case.record, exchange, case.mirror);
    (authentic && is_where_the_control_goes(case, exchange))
        .then(|| Conclusion::of(Outcome::Refused, vec![basis]))
        .flatten()
}

/// A stub may have a certificate too: only hosts that the control is sent to are the origin's.
fn is_where_the_control_goes(case: &Case<'_>, exchange: &HttpExchange) -> bool {
    let host = exchange.url.host();
    host == case.record.url.host()
        || case.control.is_some_and(|(_, control)| control.http.iter().any(|other| other.url.host() == host))
}

fn http_cut(case: &Case<'_>) -> Found {
    let exchange = last_exchange(case.record, Arm::Main)?;
    let mechanism = match exchange.outcome {
        HttpOutcome::Timeout => Mechanism::HttpTimeout,
        HttpOutcome::Reset => Mechanism::HttpReset,
        HttpOutcome::Eof => Mechanism::HttpEof,
        _ => return None,
    };
    let basis = format!(
        "the request to {} ended with {:?} after {} bytes; the control's did not",
        exchange.address, exchange.outcome, exchange.body_len
    );
    let trigger = if exchange.url.is_https() { Trigger::Unknown } else { Trigger::Host };
    Conclusion::blocked(mechanism, trigger, vec![basis])
}

fn http_broken_redirect(case: &Case<'_>) -> Found {
    let exchange = last_exchange(case.record, Arm::Main).filter(|exchange| !exchange.url.is_https())?;
    let HttpOutcome::RedirectRefused(reason) = &exchange.outcome else { return None };
    let basis = format!("plain HTTP is redirected where no visitor can go ({reason}); the control was not");
    Conclusion::blocked(Mechanism::HttpRedirect, Trigger::Host, vec![basis])
}

fn http_foreign_redirect(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let plain = |exchange: &&HttpExchange| exchange.arm == Arm::Main && !exchange.url.is_https();
    let (exchange, target) =
        case.record.http.iter().filter(plain).find_map(|x| location(x).map(|target| (x, target)))?;
    let host = target.host();
    let usual = host == exchange.url.host() || control.http.iter().any(|other| other.url.host() == host);
    let basis = format!("plain HTTP is redirected to {target}, where the control was not sent");
    (!usual).then(|| Conclusion::blocked(Mechanism::HttpRedirect, Trigger::Host, vec![basis])).flatten()
}

fn http_other_page(case: &Case<'_>) -> Found {
    let exchange = last_exchange(case.record, Arm::Main)?;
    let replaced = exchange.outcome == HttpOutcome::Complete
        && exchange.canary_found == Some(false)
        && !exchange.url.is_https();
    let basis = "over plain HTTP another page comes, without the canary the control found".to_owned();
    replaced.then(|| Conclusion::blocked(Mechanism::HttpBlockpage, Trigger::Host, vec![basis])).flatten()
}

fn contradictory(case: &Case<'_>) -> Found {
    let reason = reason_unreached(case.record, case.mirror).unwrap_or_default();
    Conclusion::of(Outcome::Insufficient, vec![format!("no rule explains it: {reason}")])
}
