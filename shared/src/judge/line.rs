//! Rules on the agent's own line and box: no way out, a portal in front of everything, a bill unpaid, IPv6 that does not
//! work, software on the host that breaks TLS open. All of it is no block, and none of it may hide one.

use super::facts::{has_own_key, heard, last_leg_connects, main_handshakes};
use super::rules::Found;
use super::stubs::urls_seen;
use super::{Case, Conclusion};
use crate::record::{
    Arm, ChainFault, Ipv6Health, NetworkCheck, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome, issuer_words,
};
use crate::target::{ReferenceSide, TargetUrl};
use crate::verdict::Outcome;

/// The host itself knew no way out, right after the visit. What answered a later arm was there after the visit failed.
pub(super) fn offline(case: &Case<'_>) -> Found {
    let is_offline = case.record.network.as_ref().is_some_and(|network| network.is_offline);
    let refuted = heard(case.record).any(|tls| tls.arm != Arm::Main);
    let basis = "the agent's host knows no way out to the world: its own line is down".to_owned();
    (is_offline && !refuted).then(|| Conclusion::of(Outcome::Restricted, vec![basis])).flatten()
}

/// The carrier's own page for who has not paid.
pub(super) fn unpaid(case: &Case<'_>) -> Found {
    let known = |url: &TargetUrl| case.fingerprints.unpaid_url(url).map(str::to_owned);
    let basis = sent_to(case, known)
        .map(|(url, page)| format!("{url} is a carrier's page for who has not paid ({page})"))?;
    Conclusion::of(Outcome::Restricted, vec![basis])
}

/// A page in front of everything: one that is known, or one that the references met too.
pub(super) fn captive_portal(case: &Case<'_>) -> Found {
    let known = |url: &TargetUrl| case.fingerprints.captive_url(url).map(str::to_owned);
    let basis = match (sent_to(case, known), portal(case)) {
        (Some((url, page)), _) => format!("{url} is a carrier's captive page ({page})"),
        (None, Some(host)) => {
            format!("a plain reference was answered by {host}: a portal stands before everything")
        }
        (None, None) => return None,
    };
    Conclusion::of(Outcome::Restricted, vec![basis])
}

/// Software on the host vouches for the mirror: one that is known by name, or one that vouches for the references too. A
/// state's authority is the state's, whatever else it signs.
pub(super) fn host_interceptor(case: &Case<'_>) -> Found {
    let named = main_handshakes(case.record).find_map(|tls| case.fingerprints.host_interceptor(&tls.chain));
    let basis = match named {
        Some(named) => format!("{named} on the agent's own host breaks TLS open"),
        None => {
            let signer = case.record.network.as_ref()?.host_interference.as_ref()?;
            let is_its = |tls: &TlsHandshake| {
                !has_own_key(tls, case.mirror)
                    && case.fingerprints.state_ca(&tls.chain).is_none()
                    && tls.chain.first().is_some_and(|leaf| issuer_words(&leaf.issuer) == *signer)
            };
            main_handshakes(case.record).find(|tls| is_its(tls))?;
            format!(
                "{signer} vouches for the mirror and for every reference: something on the agent's own host breaks TLS open"
            )
        }
    };
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

/// Only IPv6 was tried, on a line whose IPv6 does not work.
pub(super) fn ipv6_unwell(case: &Case<'_>) -> Found {
    let mut attempts = last_leg_connects(case.record).peekable();
    attempts.peek()?;
    let health = attempts.all(|tcp| !tells(case, tcp)).then_some(ipv6_of(case))?;
    let basis = format!(
        "only IPv6 addresses were tried, and IPv6 is {} on the agent's own line",
        if health == Ipv6Health::Absent { "absent" } else { "broken" }
    );
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

/// Whether a connection attempt says anything of the way to the mirror.
pub(super) fn tells(case: &Case<'_>, tcp: &TcpConnect) -> bool {
    let is_unwell = matches!(ipv6_of(case), Ipv6Health::Absent | Ipv6Health::Broken);
    !(is_unwell && tcp.address.is_ipv6() && tcp.outcome != TcpOutcome::Connected)
}

fn ipv6_of(case: &Case<'_>) -> Ipv6Health {
    case.record.network.as_ref().map(|network| network.ipv6).unwrap_or_default()
}

/// A URL that `known` knows, where the visit or, behind a portal, a reference was sent.
fn sent_to(case: &Case<'_>, known: impl Fn(&TargetUrl) -> Option<String>) -> Option<(TargetUrl, String)> {
    let of_portal = portal(case).and_then(|host| TargetUrl::parse(&format!("http://{host}/")).ok());
    urls_seen(case).chain(of_portal).find_map(|url| known(&url).map(|page| (url, page)))
}

/// The host of a portal in front of the agent's line. Not one where the control's look ended too: then the reference
/// itself sends there; nor one that let something abroad through, unless the visit was sent there as well.
fn portal<'a>(case: &Case<'a>) -> Option<&'a str> {
    let host_of = |network: &'a Option<NetworkCheck>| network.as_ref()?.captive_host.as_deref();
    let host = host_of(&case.record.network)?;
    if case.control.is_some_and(|(_, control)| host_of(&control.network) == Some(host)) {
        return None;
    }
    let is_shared = urls_seen(case).any(|url| url.host() == host);
    let reaches_abroad =
        case.record.references.iter().any(|check| check.side == ReferenceSide::Foreign && check.reached)
            || case.record.tls.iter().any(is_trusted_comparison);
    (is_shared || !reaches_abroad).then_some(host)
}

fn is_trusted_comparison(tls: &TlsHandshake) -> bool {
    tls.arm != Arm::Main
        && matches!(tls.outcome, TlsOutcome::Completed { .. })
        && tls.chain_fault == Some(ChainFault::Valid)
}
