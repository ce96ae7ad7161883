//! The TCP step. Special ranges are refused here, at the last moment before a packet would leave, whatever gave the
//! address: list, DNS answer or redirect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use zerkalo_core::address;
use zerkalo_core::record::{Arm, TcpConnect, TcpOutcome, Transport};

use super::clock::StepClock;
use super::gauge::Gauge;

/// Where probes may go: a setting of the host, which nothing remote can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// Addresses of the public internet.
    PublicOnly,
    /// Private and special ranges too: laboratories.
    Any,
}

/// Connects to `address`.
pub async fn connect(
    arm: Arm,
    address: SocketAddr,
    ranges: Ranges,
    cap: Duration,
    clock: StepClock,
) -> (TcpConnect, Option<TcpStream>) {
    let since = Instant::now();
    let (outcome, transport, stream) = match forbidden(address, ranges) {
        Some(range) => (TcpOutcome::Forbidden(range.to_owned()), None, None),
        None => dial(address, clock.until(cap)).await,
    };
    (TcpConnect { arm, address, span: clock.span(since), outcome, transport }, stream)
}

async fn dial(address: SocketAddr, until: Instant) -> (TcpOutcome, Option<Transport>, Option<TcpStream>) {
    let socket = match if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() } {
        Ok(socket) => socket,
        Err(error) => return (outcome_of(&error, address), None, None),
    };
    let gauge = Gauge::on(&socket);
    let (outcome, stream) = match timeout_at(until, socket.connect(address)).await {
        Err(_) => (TcpOutcome::Timeout, None),
        Ok(Err(error)) => (outcome_of(&error, address), None),
        Ok(Ok(stream)) => match stream.set_nodelay(true) {
            Ok(()) => (TcpOutcome::Connected, Some(stream)),
            // The kernel says EINVAL where the peer reset the connection in between.
            Err(_) => (TcpOutcome::Reset, None),
        },
    };
    (outcome, gauge.and_then(|gauge| gauge.read()), stream)
}

/// The special range that forbids `address`, if one does.
pub fn forbidden(address: SocketAddr, ranges: Ranges) -> Option<&'static str> {
    match ranges {
        Ranges::Any => None,
        Ranges::PublicOnly => address::require_public(address.ip()).err(),
    }
}

fn outcome_of(error: &io::Error, address: SocketAddr) -> TcpOutcome {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => TcpOutcome::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted => TcpOutcome::Reset,
        Kind::TimedOut => TcpOutcome::Timeout,
        Kind::NetworkUnreachable if address.is_ipv6() && !has_ipv6_route(address) => {
            TcpOutcome::Failed("this host has no IPv6 route".to_owned())
        }
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            TcpOutcome::Unreachable(error.raw_os_error().unwrap_or_default())
        }
        _ => TcpOutcome::Failed(error.to_string()),
    }
}

/// Whether the host itself knows a way: connecting a UDP socket only looks up the route, no packet leaves.
fn has_ipv6_route(address: SocketAddr) -> bool {
    source_towards(address).is_some()
}

/// The host's own address on the way to `address`, if it knows a way. Never for a record.
pub fn source_towards(address: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
