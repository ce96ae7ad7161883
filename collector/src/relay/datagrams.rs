//! The relay's half for QUIC: each agent's address gets a socket of its own towards the collector, as behind NAT.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::{Id, JoinSet};

/// Largest datagram.
const DATAGRAM_LEN_MAX: usize = 65_535;
/// An agent of whom nothing came back for so long has left; longer than QUIC's own patience.
const IDLE_MAX: Duration = Duration::from_secs(200);
/// Pause where the socket fails.
const FAILED_PAUSE: Duration = Duration::from_millis(200);

/// One agent: its socket, and the task that hands back what comes there.
struct Flow {
    upstream: Arc<UdpSocket>,
    task: Id,
}

/// Passes datagrams for ever, of at most `flows_max` agents at once.
pub async fn pass(socket: UdpSocket, to: &str, flows_max: usize) -> Infallible {
    let socket = Arc::new(socket);
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let (mut tasks, mut refused) = (JoinSet::new(), 0_u64);
    let mut datagram = vec![0; DATAGRAM_LEN_MAX];
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next_with_id() => {
                let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                flows.retain(|_, flow| flow.task != task);
            }
            received = socket.recv_from(&mut datagram) => {
                let Ok((len, peer)) = received else {
                    // An ICMP echo of what we sent, most likely.
                    tokio::time::sleep(FAILED_PAUSE).await;
                    continue;
                };
                if !flows.contains_key(&peer) {
                    if flows.len() >= flows_max {
                        refused += 1;
                        tracing::warn!(
                            code = "relay_full",
                            refused,
                            limit = flows_max,
                            "an agent by QUIC is refused: allow more with --connections, or run another relay"
                        );
                        continue;
                    }
                    match open(to).await {
                        Ok(upstream) => {
                            let upstream = Arc::new(upstream);
                            let task = tasks.spawn(hand_back(upstream.clone(), socket.clone(), peer)).id();
                            flows.insert(peer, Flow { upstream, task });
                        }
                        Err(error) => {
                            tracing::warn!(%error, "no socket for an agent by QUIC");
                            continue;
                        }
                    }
                }
                if let Some(flow) = flows.get(&peer) {
                    // What is lost is sent again by the ends.
                    let _ = flow.upstream.send(&datagram[..len]).await;
                }
            }
        }
    }
}

async fn open(to: &str) -> io::Result<UdpSocket> {
    let found = tokio::net::lookup_host(to).await?.next();
    let address = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let upstream = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    upstream.connect(address).await?;
    Ok(upstream)
}

/// Until nothing comes any more.
async fn hand_back(upstream: Arc<UdpSocket>, socket: Arc<UdpSocket>, peer: SocketAddr) {
    let mut datagram = vec![0; DATAGRAM_LEN_MAX];
    while let Ok(received) = tokio::time::timeout(IDLE_MAX, upstream.recv(&mut datagram)).await {
        match received {
            Ok(len) => drop(socket.send_to(&datagram[..len], peer).await),
            // The collector's port is closed for now.
            Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
        }
    }
}
