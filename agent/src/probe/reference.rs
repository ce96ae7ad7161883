//! The network gate: whether the operator's reference hosts answer as themselves, so that a state of the agent's own
//! network is not taken for a block. When to check is the schedule's business.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zerkalo_core::record::{Arm, ChainFault, DnsOutcome, ReferenceCheck, ResolverKind, TcpOutcome};
use zerkalo_core::target::{Reference, TargetUrl};
use zerkalo_core::words::UnixMillis;

use super::clock::StepClock;
use super::echo::Known;
use super::http::{Ask, HttpConnection, header};
use super::text::cut;
use super::tls::{self, Hello, HelloShape};
use super::{ProbeSettings, connect, dns};

/// References checked of one market; the list may name more.
pub const REFERENCES_MAX: usize = 8;
/// Longest check of one reference, all steps together.
const CHECK_CAP: Duration = Duration::from_secs(8);
/// Bytes kept of the reason why one was not reached.
const FAILURE_LEN_MAX: usize = 256;
/// Addresses tried of one reference.
const ADDRESSES_MAX: usize = 2;

/// Checks all, at once: they are different hosts.
pub async fn check_all(
    settings: &ProbeSettings,
    references: &[Reference],
    checked_at: UnixMillis,
) -> Vec<ReferenceCheck> {
    let checks = references.iter().take(REFERENCES_MAX).map(|reference| async move {
        let failure = reach(settings, &reference.url).await.err().map(|mut failure| {
            cut(&mut failure, FAILURE_LEN_MAX);
            failure
        });
        ReferenceCheck {
            side: reference.side,
            url: reference.url.clone(),
            checked_at,
            reached: failure.is_none(),
            failure,
        }
    });
    futures::future::join_all(checks).await
}

async fn reach(settings: &ProbeSettings, url: &TargetUrl) -> Result<(), String> {
    let clock = StepClock::start(CHECK_CAP.min(settings.timeout));
    let addresses = resolve(settings, url, clock).await?;
    let mut failure = "no address to try".to_owned();
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match reach_at(settings, url, SocketAddr::new(address, url.port()), clock).await {
            Ok(()) => return Ok(()),
            Err(reason) => failure = reason,
        }
    }
    Err(failure)
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

async fn reach_at(
    settings: &ProbeSettings,
    url: &TargetUrl,
    address: SocketAddr,
    clock: StepClock,
) -> Result<(), String> {
    let caps = settings.caps;
    let (step, stream) = connect::connect(Arm::Main, address, settings.ranges, caps.connect, clock).await;
    let Some(stream) = stream else {
        return Err(match step.outcome {
            TcpOutcome::Forbidden(range) => format!("TCP: special range ({range})"),
            outcome => format!("TCP: {outcome:?}"),
        });
    };
    if url.is_https() {
        let host = url.host();
        let hello = Hello { arm: Arm::Main, address, host: &host, shape: HelloShape::PostQuantum };
        let (step, _) = tls::handshake(hello, stream, &settings.trust, caps.tls, clock).await;
        return match step.chain_fault {
            _ if tls::is_trusted(&step) => Ok(()),
            Some(fault) if fault != ChainFault::Valid => Err(format!("TLS: chain {fault:?}")),
            _ => Err(format!("TLS: {:?}", step.outcome)),
        };
    }
    let ask = Ask { arm: Arm::Main, url, canary: None };
    let step = match HttpConnection::over_tcp(stream, address, ask.clone(), clock).await {
        Ok(mut connection) => connection.exchange(ask, caps.http, clock).await,
        Err(step) => *step,
    };
    // Captive portals answer in everybody's name, and send away.
    let location = header(&step.headers, "location").and_then(|location| url.join(location).ok());
    match (step.status, location) {
        (None, _) => Err(format!("HTTP: {:?}", step.outcome)),
        (Some(300..=399), Some(next)) if next.host() != url.host() => {
            let known = Known::of_redirect(address.ip(), &next);
            Err(known.mask_text(&format!("HTTP: sent to {next}"), FAILURE_LEN_MAX))
        }
        (Some(_), _) => Ok(()),
    }
}
