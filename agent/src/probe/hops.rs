//! Where on the way the hello is answered: the mirror's name sent with a small TTL, rising, until somebody answers; then
//! a neutral name as far, which dies there if the answer came from a box before the mirror. No raw socket: the TTL of the
//! connected socket falls before the hello is written. By hand only, for it shows the name again and again.
//!
//! A box that swallows hellos in silence is not found so, nor one that still punishes the address for the visit.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use zerkalo_core::record::{Arm, HopProbe, ProbeRecord, TlsHandshake, TlsOutcome};

use super::clock::StepClock;
use super::tls::{self, Hello, HelloShape};
use super::{ProbeSettings, connect, is_name_suspect};

/// Boxes stand near the subscriber, or at the country's border: seldom further.
pub const HOPS_MAX: u8 = 16;
/// Between two hellos with one name: three in a minute provoke no box that polices handshakes.
pub const PAUSE_DEFAULT_SECS: u64 = 20;
/// What answers does so in a round trip.
const HOP_CAP: Duration = Duration::from_secs(2);

/// Walks to the address where the mirror's name failed, else to the one that served it; to none over plain HTTP. The steps'
/// times continue those of the record, which ended now.
pub async fn walk(settings: &ProbeSettings, record: &ProbeRecord, pause: Duration) -> Vec<HopProbe> {
    let host = record.url.host();
    let own = || record.tls.iter().filter(|step| step.arm == Arm::Main && step.sni.as_ref() == Some(&host));
    let suspect = own().find(|step| is_name_suspect(step.arm, &step.outcome));
    let Some(address) = suspect.or_else(|| own().next()).map(|step| step.address) else { return Vec::new() };
    let began = Instant::now();
    let mut probes = Vec::new();
    for ttl in 1..=HOPS_MAX {
        sleep_until(began + pause * u32::from(ttl)).await;
        let probe = hop(settings, record, (began, address), &host, ttl).await;
        let is_answered = !matches!(probe.outcome, TlsOutcome::Timeout | TlsOutcome::Failed(_));
        probes.push(probe);
        if is_answered {
            probes.push(hop(settings, record, (began, address), &settings.neutral_sni, ttl).await);
            break;
        }
    }
    probes
}

async fn hop(
    settings: &ProbeSettings,
    record: &ProbeRecord,
    (began, address): (Instant, SocketAddr),
    host: &str,
    ttl: u8,
) -> HopProbe {
    let offset = Duration::from_micros(record.duration_micros);
    let since = Instant::now();
    let clock = StepClock::start(HOP_CAP * 2);
    let (connected, stream) = connect::connect(Arm::Main, address, settings.ranges, HOP_CAP, clock).await;
    let outcome = match stream {
        None => TlsOutcome::Failed(format!("TCP ended with {:?}", connected.outcome)),
        Some(stream) => match Leash::on(&stream, ttl) {
            Err(error) => TlsOutcome::Failed(error.to_string()),
            Ok(leash) => {
                let hello = Hello { arm: Arm::Main, address, host, shape: HelloShape::PostQuantum };
                let (step, connection): (TlsHandshake, _) =
                    tls::handshake(hello, stream, &settings.trust, HOP_CAP, clock).await;
                drop((connection, leash));
                step.outcome
            }
        },
    };
    let mut span = clock.span(since);
    span.start_micros = super::clock::micros(offset + since.duration_since(began));
    HopProbe { address, sni: host.to_owned(), ttl, span, outcome }
}

/// A second handle on the connection's socket, whose packets go `ttl` hops. In the end the TTL rises again and the
/// connection is reset: else the kernel would go on to send the hello, now all the way.
struct Leash {
    socket: Socket,
    usual: u32,
}

impl Leash {
    fn on(stream: &TcpStream, ttl: u8) -> std::io::Result<Self> {
        let descriptor: OwnedFd = std::os::fd::AsFd::as_fd(stream).try_clone_to_owned()?;
        let socket = Socket::from(descriptor);
        let usual = hops_of(&socket)?;
        set_hops(&socket, ttl.into())?;
        Ok(Self { socket, usual })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // A connection that is gone already needs none of it.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        let _ = set_hops(&self.socket, self.usual);
    }
}

fn hops_of(socket: &Socket) -> std::io::Result<u32> {
    match is_ipv6(socket)? {
        true => socket.unicast_hops_v6(),
        false => socket.ttl_v4(),
    }
}

fn set_hops(socket: &Socket, hops: u32) -> std::io::Result<()> {
    match is_ipv6(socket)? {
        true => socket.set_unicast_hops_v6(hops),
        false => socket.set_ttl_v4(hops),
    }
}

fn is_ipv6(socket: &Socket) -> std::io::Result<bool> {
    Ok(socket.local_addr()?.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream as Blocking};

    #[tokio::test]
    async fn a_leash_shortens_the_way_and_lets_go_by_a_reset() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let ours = Blocking::connect(listener.local_addr().unwrap()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            let watch = Socket::from(ours.try_clone().unwrap());
            let usual = hops_of(&watch).unwrap();
            let stream = TcpStream::from_std(ours).unwrap();
            let leash = Leash::on(&stream, 3).unwrap();
            assert_eq!(hops_of(&watch).unwrap(), 3);
            drop((stream, leash));
            assert_eq!(hops_of(&watch).unwrap(), usual);
            drop(watch);
            let error = std::io::Read::read(&mut peer, &mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{any}");
        }
    }
}
