//! What controls say of the mirror, of each other, and of the very addresses the agent got.
//!
//! An address where the control met the mirror's own key is the mirror's, whoever gave it. One where the control meets
//! nobody, as the agent did, is dead for everybody: no block. Nothing is concluded from an address no control tried.

use std::net::{IpAddr, SocketAddr};

use super::facts::{
    has_own_key, has_reached, is_alive, is_authentic, is_unsearched, last_exchange, last_leg_start_micros,
    reason_unreached, true_addresses,
};
use super::network::is_ill;
use super::rules::Found;
use super::{Case, Conclusion};
use crate::address::require_public;
use crate::record::{
    Arm, HttpExchange, HttpOutcome, Ipv6Health, ProbeRecord, ResolverKind, TcpOutcome, TlsHandshake,
    TlsOutcome,
};
use crate::target::{Mirror, Sha256};
use crate::verdict::Outcome;

/// Addresses a control is asked to try beside its own.
pub const FIELD_ADDRESSES_MAX: usize = 8;

/// What a control's word is worth; the order is that in which controls are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It saw the mirror as itself.
    Reached,
    /// It did not, though its own network works.
    Failed,
    /// Nothing shows that its network works, or the page was not searched for the canary.
    Mute,
}

/// What a control's record is worth.
pub fn standing(control: &ProbeRecord, mirror: Option<&Mirror>) -> Standing {
    if has_reached(control, mirror) {
        Standing::Reached
    } else if is_ill(control, mirror) || !is_alive(control) || is_unsearched(control, mirror) {
        Standing::Mute
    } else {
        Standing::Failed
    }
}

/// The addresses of the mirror's own host that a record resolved or tried, those tried first; capped by
/// [`FIELD_ADDRESSES_MAX`]. Special ranges only where the agent, whose host must allow them, really tried them.
pub fn field_addresses(record: &ProbeRecord) -> Vec<IpAddr> {
    let resolved = resolved_at_all(record);
    let tried = record
        .tcp
        .iter()
        .filter(|tcp| tcp.address.port() == record.url.port() && resolved.contains(&tcp.address.ip()))
        .filter(|tcp| !matches!(tcp.outcome, TcpOutcome::Forbidden(_)))
        .map(|tcp| tcp.address.ip());
    let public = resolved.iter().copied().filter(|address| require_public(*address).is_ok());
    let mut found = Vec::new();
    for address in tried.chain(public) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found.truncate(FIELD_ADDRESSES_MAX);
    found
}

/// The addresses of a record that a control has not tried.
pub fn unvisited(record: &ProbeRecord, control: &ProbeRecord) -> Vec<IpAddr> {
    let mut addresses = field_addresses(record);
    addresses.retain(|address| !control.tcp.iter().any(|tcp| tcp.address.ip() == *address));
    addresses
}

/// What stands at an address, as far as one record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The mirror, under its key.
    Own,
    /// Somebody else, with that key where there was one.
    Stranger(Option<Sha256>),
    /// Nobody that can be spoken to.
    Dead,
}

/// Two controls whose networks work and who saw different things. Whom the origin itself turned away contradicts nobody.
pub(super) fn control_contradictory(case: &Case<'_>) -> Found {
    let (reached, failed) = contradiction(case)?;
    let reason = reason_unreached(failed.1, case.mirror).unwrap_or_default();
    Conclusion::of(
        Outcome::Insufficient,
        vec![
            format!("control record {} of the same minutes reached the mirror", reached.0),
            format!("control record {} did not ({reason}), and its network works", failed.0),
        ],
    )
}

/// The record of the contradiction that the verdict does not name as its control.
pub(super) fn dissent(case: &Case<'_>) -> Option<Sha256> {
    let (reached, failed) = contradiction(case)?;
    let (control, _) = case.control?;
    Some(if reached.0 == control { failed.0 } else { reached.0 })
}

/// Every address the visit tried is dead for the control too, or a stranger's for both: the site's own fault where the
/// address is known to be the mirror's, else a stale answer or a false one, which nobody can tell apart.
pub(super) fn address_dead(case: &Case<'_>) -> Found {
    let (addresses, known) = dead_addresses(case)?;
    let all_known = addresses.iter().all(|address| known.contains(address));
    let basis = format!("the control fares no better at {}: dead for everybody", listed(&addresses));
    all_known.then(|| Conclusion::of(Outcome::Down, vec![basis])).flatten()
}

/// See [`address_dead`].
pub(super) fn address_stale(case: &Case<'_>) -> Found {
    let (addresses, _) = dead_addresses(case)?;
    let basis = format!(
        "the mirror does not answer at {}, which the agent's resolver gives and the control's does not, and not to \
         the control either: a stale answer or a false one",
        listed(&addresses)
    );
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

/// What the control met at the very address, where that makes a block there certain.
pub(super) fn very_same_address(case: &Case<'_>, address: SocketAddr) -> Option<String> {
    let (_, control) = case.control?;
    if address.port() != case.record.url.port() {
        return None;
    }
    match fate(control, case.mirror, address.ip())? {
        Fate::Own => Some(format!("the control met the mirror at the very same address, {}", address.ip())),
        Fate::Stranger(_) | Fate::Dead => None,
    }
}

/// Addresses at which the control, sent there on purpose, met the mirror itself.
pub(super) fn own_addresses<'a>(
    control: &'a ProbeRecord,
    mirror: Option<&'a Mirror>,
) -> impl Iterator<Item = IpAddr> + 'a {
    let visited = control.tcp.iter().filter(|tcp| tcp.arm == Arm::FieldAddress).map(|tcp| tcp.address.ip());
    visited.filter(move |address| fate(control, mirror, *address) == Some(Fate::Own))
}

type Word<'a> = (Sha256, &'a ProbeRecord);

fn contradiction<'a>(case: &Case<'a>) -> Option<(Word<'a>, Word<'a>)> {
    let words = || case.control.into_iter().chain(case.others.iter().copied());
    let is_refused = |control: &ProbeRecord| {
        last_exchange(control, Arm::Main).is_some_and(|exchange| {
            matches!(exchange.status, Some(403 | 429 | 451 | 503))
                && exchange.url.is_https()
                && is_authentic(control, exchange, case.mirror)
        })
    };
    let reached = words().find(|(_, control)| standing(control, case.mirror) == Standing::Reached)?;
    let failed = words()
        .find(|(_, control)| standing(control, case.mirror) == Standing::Failed && !is_refused(control))?;
    Some((reached, failed))
}

/// The addresses the visit tried, if none of them is the mirror to the agent or to the control, and both met the same
/// there; with those the mirror is known under.
fn dead_addresses(case: &Case<'_>) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
    let (_, control) = case.control?;
    let host = case.record.url.host();
    let is_own_step = |address: &SocketAddr| address.port() == case.record.url.port();
    // Behind a redirect other hosts are tried.
    if last_leg_start_micros(case.record) > 0 {
        return None;
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for tcp in case.record.tcp.iter().filter(|tcp| tcp.arm == Arm::Main && is_own_step(&tcp.address)) {
        if !addresses.contains(&tcp.address.ip()) {
            addresses.push(tcp.address.ip());
        }
    }
    let resolved = case.record.resolved(ResolverKind::System);
    let is_of_host =
        |address: &IpAddr| resolved.contains(address) || case.record.url.literal_address() == Some(*address);
    let same_for_both = |address: &IpAddr| {
        let here = fate(case.record, case.mirror, *address);
        match (here, fate(control, case.mirror, *address)) {
            (Some(Fate::Dead), Some(Fate::Dead)) => is_family_alive(control, *address),
            (Some(Fate::Dead), Some(Fate::Stranger(_))) => true,
            (Some(Fate::Stranger(Some(here))), Some(Fate::Stranger(Some(there)))) => here == there,
            _ => false,
        }
    };
    let is_dead = !addresses.is_empty()
        && addresses.iter().all(|address| is_of_host(address) && same_for_both(address));
    let mut known = true_addresses(control, case.mirror);
    known.extend(host.parse::<IpAddr>());
    is_dead.then_some((addresses, known))
}

/// What a record met at that address under the mirror's own name and at its port; `None` if it did not really try.
fn fate(record: &ProbeRecord, mirror: Option<&Mirror>, address: IpAddr) -> Option<Fate> {
    let here = SocketAddr::new(address, record.url.port());
    let host = record.url.host();
    if record.url.is_https() {
        let mut own_name = record.tls.iter().filter(|tls| {
            tls.address == here && shows_own_name(tls.arm) && tls.sni.as_ref().is_none_or(|sni| *sni == host)
        });
        let completed = |tls: &&TlsHandshake| matches!(tls.outcome, TlsOutcome::Completed { .. });
        if own_name.clone().any(|tls| completed(&tls) && has_own_key(tls, mirror)) {
            return Some(Fate::Own);
        }
        if let Some(stranger) = own_name.clone().find(completed) {
            return Some(Fate::Stranger(stranger.chain.first().map(|leaf| leaf.spki_sha256)));
        }
        if own_name.any(|tls| !matches!(tls.outcome, TlsOutcome::Failed(_))) {
            return Some(Fate::Dead);
        }
    } else {
        let mut own_name = record
            .http
            .iter()
            .filter(|step| step.address == here && shows_own_name(step.arm) && step.url == record.url);
        if own_name.clone().any(|step| is_own_answer(record, step)) {
            return Some(Fate::Own);
        }
        match own_name.next().map(|step| &step.outcome) {
            Some(HttpOutcome::Timeout | HttpOutcome::Reset | HttpOutcome::Eof) => return Some(Fate::Dead),
            Some(_) => return Some(Fate::Stranger(None)),
            None => {}
        }
    }
    let connects = || record.tcp.iter().filter(|tcp| tcp.address == here && shows_own_name(tcp.arm));
    let is_failure = |outcome: &TcpOutcome| {
        use TcpOutcome::{Refused, Reset, Timeout, Unreachable};
        matches!(outcome, Timeout | Refused | Reset | Unreachable(_))
    };
    let is_dead = connects().next().is_some() && connects().all(|tcp| is_failure(&tcp.outcome));
    is_dead.then_some(Fate::Dead)
}

/// Over plain HTTP: the canary, or the same redirect as at the address this record's own resolver gave.
fn is_own_answer(record: &ProbeRecord, step: &HttpExchange) -> bool {
    let location = |step: &HttpExchange| {
        step.headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.clone())
    };
    let redirect = step.status.filter(|status| (300..400).contains(status));
    step.canary_found == Some(true)
        || record.http.iter().any(|main| {
            main.arm == Arm::Main
                && main.url == step.url
                && main.status == redirect
                && redirect.is_some()
                && location(main) == location(step)
        })
}

/// Arms that say the mirror's own name in an ordinary hello.
fn shows_own_name(arm: Arm) -> bool {
    matches!(arm, Arm::Main | Arm::OtherResolver | Arm::FieldAddress)
}

/// Whether the control's network carries the address's family: without IPv6 every IPv6 address looks dead.
fn is_family_alive(control: &ProbeRecord, address: IpAddr) -> bool {
    address.is_ipv4()
        || control.network.as_ref().is_some_and(|network| network.ipv6 == Ipv6Health::Works)
        || control.tcp.iter().any(|tcp| tcp.address.is_ipv6() && tcp.outcome == TcpOutcome::Connected)
}

/// What any resolver gave for the URL's own host.
fn resolved_at_all(record: &ProbeRecord) -> Vec<IpAddr> {
    let mut found = record.resolved(ResolverKind::System);
    found.extend(record.resolved(ResolverKind::Public));
    found
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
