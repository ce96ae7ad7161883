//! A control's record as what OONI's test helper would have said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::export::{attempt, dns_failure, failed_request, http_failure, main_attempts, tls_failure};
use super::format::{Control, ControlDns, ControlFetch, ControlTcp, ControlTls, TcpAttempt};
use super::scrub::strike_out;
use crate::record::{Arm, ProbeRecord, ResolverKind};

pub(super) fn control_keys(control: &ProbeRecord, known: &BTreeSet<IpAddr>) -> Control {
    let mut addresses = control.resolved(ResolverKind::System);
    addresses.extend(control.resolved(ResolverKind::Public));
    let unique: BTreeSet<IpAddr> = addresses.into_iter().collect();
    let shaken = control.tls.iter().filter(|tls| tls.arm == Arm::Main);
    let tls_handshake: BTreeMap<String, ControlTls> = shaken
        .map(|tls| {
            let failure = tls_failure(tls).map(str::to_owned);
            let server_name = tls.sni.clone().unwrap_or_default();
            (tls.address.to_string(), ControlTls { status: failure.is_none(), failure, server_name })
        })
        .collect();
    let connects = main_attempts(control).map(|tcp| {
        let TcpAttempt { status, .. } = attempt(tcp);
        (tcp.address.to_string(), ControlTcp { failure: status.failure, status: status.success })
    });
    Control {
        dns: ControlDns {
            failure: unique.is_empty().then(|| dns_failure(control)).flatten(),
            addrs: unique.iter().map(IpAddr::to_string).collect(),
        },
        http_request: fetch(control, known),
        tcp_connect: connects.collect(),
        tls_handshake,
    }
}

/// The control's page. OONI's helper verifies certificates: a page under a refused one is a failed fetch.
fn fetch(control: &ProbeRecord, known: &BTreeSet<IpAddr>) -> ControlFetch {
    let refused = control.tls.iter().rfind(|tls| tls.arm == Arm::Main).and_then(tls_failure);
    let last = control.http.iter().rfind(|exchange| exchange.arm == Arm::Main);
    let failure = match last {
        Some(exchange) => refused.or(http_failure(&exchange.outcome)).map(str::to_owned),
        None => failed_request(control).failure,
    };
    match last.filter(|_| failure.is_none()) {
        None => ControlFetch { body_length: -1, status_code: -1, failure, ..ControlFetch::default() },
        Some(exchange) => ControlFetch {
            body_length: i64::try_from(exchange.body_len).unwrap_or(-1),
            failure: None,
            headers: exchange
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(strike_out(value, known))))
                .collect(),
            status_code: exchange.status.map_or(-1, i64::from),
            title: exchange.title.as_deref().map(|title| strike_out(title, known)),
            x_canary_found: exchange.canary_found,
        },
    }
}
