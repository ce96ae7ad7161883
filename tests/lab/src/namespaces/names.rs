//! DNS servers of the second floor: the world's honest one, and a carrier's for each way to lie. They lie about the
//! mirror alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::addresses::{
    BOGON, BOGON_V6, COLLECTOR, ECH_PUBLIC_NAME, KNOWN_STUB, MIRROR, ORIGIN, SECOND, TELLING_STUB, Truth,
    UNKNOWN_STUB, WITH_ECH, truth,
};

/// Largest datagram read.
const DATAGRAM_LEN_MAX: usize = 4_096;
/// Seconds an answer may be kept.
const TTL_SECS: u32 = 1;

/// What a resolver does to the mirror's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    Nxdomain,
    Refused,
    Servfail,
    Silence,
    /// NOERROR without an address.
    Empty,
    /// An address of a private range.
    Bogon,
    /// The address of a known stub.
    KnownStub,
    /// An address nobody knows, with a page that says nothing known.
    UnknownStub,
    /// An address nobody knows, with a known stub's page.
    TellingStub,
    /// The true IPv4 address and a false IPv6 one.
    FalseAaaa,
    /// The true address first, a false one second.
    SecondFalse,
    /// Another true address of the mirror, as nearby caches have them.
    OtherOwn,
    /// A false answer, then the true one: an injection that won its race.
    Race,
}

impl Lie {
    /// Every way to lie.
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::Nxdomain,
        Self::Refused,
        Self::Servfail,
        Self::Silence,
        Self::Empty,
        Self::Bogon,
        Self::KnownStub,
        Self::UnknownStub,
        Self::TellingStub,
        Self::FalseAaaa,
        Self::SecondFalse,
        Self::OtherOwn,
        Self::Race,
    ];

    /// The carrier's resolver that lies so.
    pub fn resolver(self) -> Ipv4Addr {
        // The cast keeps the order of the declaration.
        Ipv4Addr::new(198, 18, 0, 60 + self as u8)
    }
}

/// Starts a resolver on `address`, port 53, over UDP and TCP.
pub async fn start(address: IpAddr, lie: Lie, tasks: &mut JoinSet<()>) -> io::Result<()> {
    let address = SocketAddr::new(address, 53);
    let (udp, tcp) = (UdpSocket::bind(address).await?, TcpListener::bind(address).await?);
    tasks.spawn(async move {
        let mut datagram = vec![0; DATAGRAM_LEN_MAX];
        loop {
            // An error here is the ICMP echo of an earlier answer.
            let Ok((len, peer)) = udp.recv_from(&mut datagram).await else { continue };
            for answer in answers(&datagram[..len], lie) {
                let _gone = udp.send_to(&answer, peer).await;
            }
        }
    });
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            if let Ok((stream, _)) = tcp.accept().await {
                let _ = stream.set_nodelay(true);
                clients.spawn(async move { drop(serve_client(stream, lie).await) });
            }
        }
    });
    Ok(())
}

/// Starts the honest resolver over TLS (RFC 7858) on `address`, port 853.
pub async fn start_tls(
    address: IpAddr,
    config: Arc<rustls::ServerConfig>,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    let tcp = TcpListener::bind(SocketAddr::new(address, 853)).await?;
    let acceptor = TlsAcceptor::from(config);
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            if let Ok((stream, _)) = tcp.accept().await {
                let shaking = acceptor.accept(stream);
                clients.spawn(async move {
                    if let Ok(stream) = shaking.await {
                        drop(serve_client(stream, Lie::None).await);
                    }
                });
            }
        }
    });
    Ok(())
}

/// What the honest resolver says over HTTPS (RFC 8484).
pub fn answer_honestly(query: &[u8]) -> Option<Vec<u8>> {
    answers(query, Lie::None).into_iter().next()
}

/// Length-prefixed messages (RFC 1035, 4.2.2), until the client leaves.
async fn serve_client(mut stream: impl AsyncRead + AsyncWrite + Unpin, lie: Lie) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        for answer in answers(&query, lie) {
            let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).await?;
            stream.flush().await?;
        }
    }
}

/// The datagrams sent back, in order.
fn answers(query: &[u8], lie: Lie) -> Vec<Vec<u8>> {
    let Ok(query) = Message::from_vec(query) else { return Vec::new() };
    let Some(question) = query.queries.first().cloned() else { return Vec::new() };
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let is_told = if name == MIRROR || name == COLLECTOR { false_replies(lie) } else { Vec::new() };
    let mut replies: Vec<Reply> = is_told;
    let is_silent = name == MIRROR && lie == Lie::Silence;
    if !is_silent && (replies.is_empty() || lie == Lie::Race) {
        replies.push(true_reply(&name));
    }
    replies.iter().filter_map(|reply| message(&query, &question, reply).to_vec().ok()).collect()
}

/// A response, before the question picks its records.
struct Reply {
    code: ResponseCode,
    alias: Option<&'static str>,
    addresses: Vec<IpAddr>,
    /// The HTTPS record, where there is one: liars forget it.
    service: Option<SVCB>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, alias: None, addresses: Vec::new(), service: None }
    }

    fn addresses(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, ..Self::code(ResponseCode::NoError) }
    }
}

fn false_replies(lie: Lie) -> Vec<Reply> {
    let origin = || ORIGIN.parse().ok();
    let reply = match lie {
        Lie::None | Lie::Silence => return Vec::new(),
        Lie::Nxdomain => Reply::code(ResponseCode::NXDomain),
        Lie::Refused => Reply::code(ResponseCode::Refused),
        Lie::Servfail => Reply::code(ResponseCode::ServFail),
        Lie::Empty => Reply::code(ResponseCode::NoError),
        Lie::Bogon => Reply::addresses(vec![BOGON.into()]),
        Lie::Race | Lie::UnknownStub => Reply::addresses(vec![UNKNOWN_STUB.into()]),
        Lie::KnownStub => Reply::addresses(vec![KNOWN_STUB.into()]),
        Lie::TellingStub => Reply::addresses(vec![TELLING_STUB.into()]),
        Lie::FalseAaaa => Reply::addresses(origin().into_iter().chain([BOGON_V6.into()]).collect()),
        Lie::OtherOwn => Reply::addresses(SECOND.parse().into_iter().collect()),
        Lie::SecondFalse => Reply::addresses(origin().into_iter().chain([BOGON.into()]).collect()),
    };
    vec![reply]
}

fn true_reply(name: &str) -> Reply {
    match truth(name) {
        Some(Truth::Addresses(_)) => {
            let service = if name == WITH_ECH { web_with_ech() } else { web() };
            Reply { service: Some(service), ..Reply::addresses(super::addresses::addresses(name)) }
        }
        Some(Truth::AliasOnly(alias)) => Reply { alias: Some(alias), ..Reply::code(ResponseCode::NoError) },
        None => Reply::code(ResponseCode::NXDomain),
    }
}

/// What every site of the lab says of itself: HTTP/2, no more.
fn web() -> SVCB {
    let alpn = SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]));
    SVCB::new(1, Name::root(), vec![(SvcParamKey::Alpn, alpn)])
}

/// The same with ECH, of which the origin knows nothing: it rejects what it is offered, and a censor sees an offer all the
/// same.
fn web_with_ech() -> SVCB {
    let mut service = web();
    service.svc_params.push((SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(ech_config_list())));
    service
}

/// One configuration (RFC 9849, 4): X25519, HKDF-SHA256, AES-128-GCM. The key is the curve's base point: nobody decrypts.
fn ech_config_list() -> EchConfigList {
    let with_len = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut key = [0; 32];
    key[0] = 9;
    let name = ECH_PUBLIC_NAME.as_bytes();
    let suites = with_len(&[0, 1, 0, 1]);
    let contents =
        [&[7, 0, 0x20][..], &with_len(&key), &suites, &[0, name.len() as u8], name, &[0, 0]].concat();
    EchConfigList(with_len(&[&[0xfe, 0x0d][..], &with_len(&contents)].concat()))
}

fn message(query: &Message, question: &Query, reply: &Reply) -> Message {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.response_code = reply.code;
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    let mut add = |data| {
        message.add_answer(Record::from_rdata(question.name().clone(), TTL_SECS, data));
    };
    if let Some(alias) = reply.alias.and_then(|alias| Name::from_ascii(alias).ok()) {
        add(RData::CNAME(CNAME(alias)));
    }
    if let Some(service) = reply.service.clone().filter(|_| question.query_type() == RecordType::HTTPS) {
        add(RData::HTTPS(HTTPS(service)));
    }
    for address in &reply.addresses {
        match (address, question.query_type()) {
            (IpAddr::V4(v4), RecordType::A) => add(RData::A(A(*v4))),
            (IpAddr::V6(v6), RecordType::AAAA) => add(RData::AAAA(AAAA(*v6))),
            _ => {}
        }
    }
    message.add_query(question.clone());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordType, lie: Lie) -> Vec<(ResponseCode, usize)> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let read = |bytes: &Vec<u8>| {
            let answer = Message::from_vec(bytes).unwrap();
            (answer.metadata.response_code, answer.answers.len())
        };
        answers(&message.to_vec().unwrap(), lie).iter().map(read).collect()
    }

    #[test]
    fn each_lie_is_told_of_the_mirror_alone() {
        let check = |lie, expected: &[(ResponseCode, usize)]| {
            assert_eq!(ask(MIRROR, RecordType::A, lie), expected, "{lie:?}");
            let other = ask("neighbour.lab.test", RecordType::A, lie);
            assert_eq!(other, [(ResponseCode::NoError, 1)], "{lie:?}");
        };
        check(Lie::None, &[(ResponseCode::NoError, 1)]);
        check(Lie::Nxdomain, &[(ResponseCode::NXDomain, 0)]);
        check(Lie::Silence, &[]);
        check(Lie::Empty, &[(ResponseCode::NoError, 0)]);
        check(Lie::SecondFalse, &[(ResponseCode::NoError, 2)]);
        check(Lie::Race, &[(ResponseCode::NoError, 1), (ResponseCode::NoError, 1)]);
        assert_eq!(ask(MIRROR, RecordType::AAAA, Lie::FalseAaaa), [(ResponseCode::NoError, 1)]);
        assert_eq!(ask("alias.lab.test", RecordType::A, Lie::None), [(ResponseCode::NoError, 1)]);
        assert_eq!(ask(MIRROR, RecordType::HTTPS, Lie::None), [(ResponseCode::NoError, 1)]);
        assert_eq!(ask(MIRROR, RecordType::HTTPS, Lie::UnknownStub), [(ResponseCode::NoError, 0)]);
        assert_eq!(ask("nowhere.lab.test", RecordType::A, Lie::None), [(ResponseCode::NXDomain, 0)]);
    }
}
