//! The arm of a control: the mirror asked for at the very addresses another agent got, by its own name, at the port of the
//! signed list, beside the control's own visit. Who may be sent there is the caller's business; where no packet may go is
//! `connect`'s.

use std::net::{IpAddr, SocketAddr};

use zerkalo_core::judge::FIELD_ADDRESSES_MAX;
use zerkalo_core::record::{Arm, HttpExchange, TlsHandshake};

use super::clock::StepClock;
use super::http::{Ask, HttpConnection, Reading};
use super::road::Facts;
use super::tls::{self, Hello, HelloShape};
use super::{Assignment, ProbeSettings, connect};

/// Visits the addresses of the assignment that were not `visited` before, all at once: nobody watches a control. Each
/// visit is a connection, a handshake and one request; no redirect is followed.
pub async fn visits(
    settings: &ProbeSettings,
    assignment: &Assignment,
    visited: &[IpAddr],
    clock: StepClock,
) -> Facts {
    let mut left: Vec<IpAddr> = Vec::new();
    for address in &assignment.field_addresses {
        if !visited.contains(address) && !left.contains(address) {
            left.push(*address);
        }
    }
    left.truncate(FIELD_ADDRESSES_MAX);
    let visits = left.into_iter().map(|address| visit(settings, assignment, address, clock));
    let mut all = Facts::default();
    for facts in futures::future::join_all(visits).await {
        all.extend(facts);
    }
    all
}

async fn visit(settings: &ProbeSettings, assignment: &Assignment, ip: IpAddr, clock: StepClock) -> Facts {
    let (arm, caps, url) = (Arm::FieldAddress, settings.caps, &assignment.url);
    let mut facts = Facts::default();
    let address = SocketAddr::new(ip, url.port());
    let (step, stream) = connect::connect(arm, address, settings.ranges, caps.connect, clock).await;
    facts.tcp.push(step);
    let Some(stream) = stream else { return facts };
    let ask = Ask { arm, url, canary: assignment.canary.as_deref(), reading: Reading::Sparing };
    let started = if url.is_https() {
        let host = url.host();
        let hello = Hello { arm, address, host: &host, shape: HelloShape::PostQuantum };
        let (step, connection) = tls::handshake(hello, stream, &settings.trust, caps.tls, clock).await;
        facts.tls.push(slim_handshake(step));
        let Some(connection) = connection else { return facts };
        HttpConnection::over_tls(connection, address, ask.clone(), clock).await
    } else {
        HttpConnection::over_tcp(stream, address, ask.clone(), clock).await
    };
    let step = match started {
        Ok(mut connection) => connection.exchange(ask, caps.http, clock).await,
        Err(step) => *step,
    };
    facts.http.push(slim_exchange(step));
    facts
}

/// Eight whole chains would crowd the control's own visit out of its record; what they are worth, names and digests tell.
fn slim_handshake(mut step: TlsHandshake) -> TlsHandshake {
    step.chain.iter_mut().for_each(|certificate| certificate.der.clear());
    step
}

/// See [`slim_handshake`].
fn slim_exchange(mut step: HttpExchange) -> HttpExchange {
    step.excerpt.clear();
    step.headers.retain(|(name, _)| name == "location");
    step
}
