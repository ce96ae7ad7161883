//! A small DNS server over UDP and TCP: a carrier's own resolver, which can be made to lie, or an honest one.
//!
//! It knows the lab's names only, answers A and an empty AAAA, and never asks anyone else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::interference::Interference;

/// Largest datagram read, in bytes: queries with EDNS stay far below.
const DATAGRAM_LEN_MAX: usize = 4_096;
/// Seconds a TCP client may stay.
const TCP_STAY_MAX: Duration = Duration::from_secs(10);
/// Seconds an answer may be kept: probes must see a switch at once.
const TTL_SECS: u32 = 1;
/// Further ports tried where one is free over UDP alone.
const PORT_TRIES_MAX: u32 = 32;

/// What a resolver knows and whom it obeys.
#[derive(Debug)]
pub struct Zone {
    /// Lower-case names without the last dot.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// The names the censor listed.
    pub listed: Vec<String>,
    /// Whether the server is outside the carrier: then it tells the truth, but whitelist mode cuts it off.
    pub foreign: bool,
}

/// A running resolver; stops when dropped.
#[derive(Debug)]
pub struct Resolver {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Binds `address` over UDP and TCP and answers from now on.
    pub async fn start(
        address: SocketAddr,
        zone: Zone,
        censor: watch::Receiver<Interference>,
    ) -> io::Result<Self> {
        let (udp, tcp) = bind_both(address).await?;
        let address = udp.local_addr()?;
        let zone = Arc::new(zone);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&zone), censor.clone()));
        tasks.spawn(serve_tcp(tcp, zone, censor));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The same port over UDP and TCP. Where the system is to choose the port (port 0), one that is free for the first
/// can be taken for the second: then another is tried.
async fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut patience = PORT_TRIES_MAX;
    loop {
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && patience > 0 => {
                patience -= 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Zone>, censor: watch::Receiver<Interference>) {
    let mut datagram = vec![0; DATAGRAM_LEN_MAX];
    loop {
        // An error here is the ICMP echo of an earlier answer: the next query may be fine.
        let Ok((len, peer)) = socket.recv_from(&mut datagram).await else { continue };
        let trick = *censor.borrow();
        if let Some(answer) = answer(&datagram[..len], &zone, trick) {
            let _gone = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>, censor: watch::Receiver<Interference>) {
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (zone, censor) = (Arc::clone(&zone), censor.clone());
        clients.spawn(async move {
            let _late_or_gone =
                tokio::time::timeout(TCP_STAY_MAX, serve_client(stream, &zone, &censor)).await;
        });
    }
}

/// Length-prefixed messages (RFC 1035, 4.2.2), until the client leaves.
async fn serve_client(
    mut stream: TcpStream,
    zone: &Zone,
    censor: &watch::Receiver<Interference>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let trick = *censor.borrow();
        match answer(&query, zone, trick) {
            Some(answer) => {
                let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
                stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).await?;
            }
            None => std::future::pending().await,
        }
    }
}

/// The answer to a query, or `None` for silence.
fn answer(query: &[u8], zone: &Zone, trick: Interference) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let listed = !zone.foreign && zone.listed.contains(&name);
    let (code, address) = match trick {
        Interference::WhitelistOnly if zone.foreign => return None,
        Interference::DnsSilence if listed => return None,
        Interference::Nxdomain if listed => (ResponseCode::NXDomain, None),
        Interference::PoisonDns { address } if listed => (ResponseCode::NoError, Some(address)),
        _ => match zone.addresses.get(&name) {
            Some(address) => (ResponseCode::NoError, Some(*address)),
            None => (ResponseCode::NXDomain, None),
        },
    };
    reply(&query, question, code, address).to_vec().ok()
}

fn reply(query: &Message, question: Query, code: ResponseCode, address: Option<Ipv4Addr>) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.response_code = code;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if let Some(address) = address.filter(|_| question.query_type() == RecordType::A) {
        reply.add_answer(Record::from_rdata(question.name().clone(), TTL_SECS, RData::A(A(address))));
    }
    reply.add_query(question);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;

    const STUB: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
    const TRUTH: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 10);

    fn zone(foreign: bool) -> Zone {
        let names = ["m1.lab.test", "free.lab.test"];
        Zone {
            addresses: names.iter().map(|name| ((*name).to_owned(), TRUTH)).collect(),
            listed: vec!["m1.lab.test".to_owned()],
            foreign,
        }
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    /// Code and address of the answer as the wire has it.
    fn read(bytes: &[u8]) -> (ResponseCode, Option<Ipv4Addr>) {
        let message = Message::from_vec(bytes).unwrap();
        let address = message.answers.first().and_then(|record| match record.data {
            RData::A(A(address)) => Some(address),
            _ => None,
        });
        (message.metadata.response_code, address)
    }

    #[test]
    fn each_trick_strikes_the_listed_name_alone() {
        let check = |name: &str, trick, expected: Option<(ResponseCode, Option<Ipv4Addr>)>| {
            let found = answer(&question(name, RecordType::A), &zone(false), trick);
            assert_eq!(found.map(|bytes| read(&bytes)), expected, "{name} {trick:?}");
        };
        let truth = Some((ResponseCode::NoError, Some(TRUTH)));
        check("m1.lab.test.", Interference::Pass, truth);
        check(
            "M1.Lab.Test.",
            Interference::PoisonDns { address: STUB },
            Some((ResponseCode::NoError, Some(STUB))),
        );
        check("m1.lab.test.", Interference::Nxdomain, Some((ResponseCode::NXDomain, None)));
        check("m1.lab.test.", Interference::DnsSilence, None);
        check("m1.lab.test.", Interference::DropClientHello, truth);
        check("m1.lab.test.", Interference::WhitelistOnly, truth);
        check("free.lab.test.", Interference::PoisonDns { address: STUB }, truth);
        check("free.lab.test.", Interference::DnsSilence, truth);
        check("unknown.test.", Interference::Pass, Some((ResponseCode::NXDomain, None)));
        let aaaa = answer(&question("m1.lab.test.", RecordType::AAAA), &zone(false), Interference::Pass);
        assert_eq!(read(&aaaa.unwrap()), (ResponseCode::NoError, None));
    }

    #[test]
    fn a_foreign_resolver_tells_the_truth_until_whitelist_mode_cuts_it_off() {
        let ask = |trick| answer(&question("m1.lab.test.", RecordType::A), &zone(true), trick);
        assert_eq!(
            read(&ask(Interference::PoisonDns { address: STUB }).unwrap()),
            (ResponseCode::NoError, Some(TRUTH))
        );
        assert_eq!(ask(Interference::WhitelistOnly), None);
    }

    #[tokio::test]
    async fn udp_and_tcp_give_the_same_answer() {
        let (_switch, censor) = watch::channel(Interference::Pass);
        let resolver = Resolver::start("127.0.0.1:0".parse().unwrap(), zone(false), censor).await.unwrap();
        let query = question("m1.lab.test.", RecordType::A);

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query, resolver.address()).await.unwrap();
        let mut datagram = [0; 512];
        let len = socket.recv(&mut datagram).await.unwrap();

        let mut stream = TcpStream::connect(resolver.address()).await.unwrap();
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(read(&datagram[..len]), (ResponseCode::NoError, Some(TRUTH)));
        assert_eq!(datagram[..len], answer[..]);
    }
}
