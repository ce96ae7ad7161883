//! A small internet on loopback: a resolver, a CA, servers that behave as told. Ends with the test's runtime.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, CNAME, HTTPS, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::LazyConfigAcceptor;
use zerkalo_agent::budget::HANDSHAKES_MAX;
use zerkalo_agent::probe::chain::Trust;
use zerkalo_agent::probe::connect::Ranges;
use zerkalo_agent::probe::flow::Flow;
use zerkalo_agent::probe::http::Reading;
use zerkalo_agent::probe::resolvers::Resolvers;
use zerkalo_agent::probe::{
    Assignment, EchLook, Measured, Neutral, OwnArms, ProbeSettings, StepCaps, measure,
};
use zerkalo_core::record::{Cause, ProbeRecord};
use zerkalo_core::target::TargetUrl;
use zerkalo_core::words::UnixMillis;

/// The mirror's name in most tests.
pub const HOST: &str = "mirror.example";
/// The text only the real page holds.
pub const CANARY: &str = "canary-7f3a9c";
/// Long enough for any healthy step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// For steps that are to time out, beside others that must not, on a busy machine either.
pub const IMPATIENCE: Duration = Duration::from_secs(3);
/// How long second answers are listened for: on loopback they stand in the socket's buffer already.
const LATE: Duration = Duration::from_secs(1);
/// A port of datagrams at which nobody listens, and which no socket gets by chance.
pub const SILENT_PORT: u16 = 9;

/// An address of loopback.
pub fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What a resolver does with a question.
#[derive(Clone)]
pub enum Reply {
    Addresses(Vec<IpAddr>),
    Rcode(ResponseCode),
    Silence,
    /// Bytes under the question's id that are no DNS.
    Garbage,
    /// Datagrams with these answers, one right after the other, as where somebody on the way answers first; the first
    /// by TCP too.
    Race(Vec<Vec<IpAddr>>),
    /// A stray with another id, then the answer.
    Stray(Vec<IpAddr>),
    /// What UDP says, and what TCP says.
    ByTransport(Vec<IpAddr>, Vec<IpAddr>),
    /// Too long for a datagram: whole by TCP only.
    Truncated(Vec<IpAddr>),
    /// The addresses, and one HTTPS record with everything such records hold.
    Services(Vec<IpAddr>),
    /// The addresses, and one HTTPS record with this ECH configuration alone.
    Ech(Vec<IpAddr>, Vec<u8>),
    /// The addresses; questions of types it does not know are dropped.
    OldTypes(Vec<IpAddr>),
    /// The addresses, to who asks without EDNS.
    OldFashioned(Vec<IpAddr>),
}

/// Starts a resolver; names it does not know do not exist.
pub async fn resolver(replies: &[(&str, Reply)]) -> SocketAddr {
    let replies = replies_of(replies);
    let (udp, tcp) = same_port().await;
    let address = udp.local_addr().unwrap();
    let replies = Arc::new(replies);
    let by_tcp = replies.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer).await {
            for bytes in answers(&buffer[..len], &replies, true) {
                udp.send_to(&bytes, peer).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let len = stream.read_u16().await.unwrap();
            let mut question = vec![0; usize::from(len)];
            stream.read_exact(&mut question).await.unwrap();
            // Closed where there is nothing to say.
            let Some(bytes) = answers(&question, &by_tcp, false).into_iter().next() else { continue };
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

/// Replies by name.
pub type Replies = HashMap<String, Reply>;

/// Replies by name, as questions write it.
pub fn replies_of(replies: &[(&str, Reply)]) -> Replies {
    replies.iter().map(|(name, reply)| (format!("{name}."), reply.clone())).collect()
}

async fn same_port() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((loopback(1), 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

/// The messages a resolver sends back.
pub fn answers(question: &[u8], replies: &Replies, is_udp: bool) -> Vec<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let id = question.metadata.id;
    let query = question.queries[0].clone();
    let extended = |mut answer: Message| {
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1_400);
            answer.set_edns(edns);
        }
        answer.to_vec().unwrap()
    };
    let with = |id, addresses: &[IpAddr]| extended(answer(id, &query, addresses));
    let unknown = Reply::Rcode(ResponseCode::NXDomain);
    match replies.get(&query.name.to_ascii()).unwrap_or(&unknown) {
        Reply::Silence => vec![],
        Reply::Garbage => vec![[&id.to_be_bytes()[..], &[0xff; 40]].concat()],
        Reply::Rcode(rcode) => {
            let mut answer = answer(id, &query, &[]);
            answer.metadata.response_code = *rcode;
            vec![answer.to_vec().unwrap()]
        }
        Reply::Truncated(_) if is_udp => {
            let mut answer = answer(id, &query, &[]);
            answer.metadata.truncation = true;
            vec![answer.to_vec().unwrap()]
        }
        Reply::OldTypes(_) if query.query_type == RecordType::HTTPS => vec![],
        Reply::OldFashioned(_) if question.edns.is_some() => {
            let mut answer = Message::new(id, MessageType::Response, OpCode::Query);
            answer.metadata.response_code = ResponseCode::FormErr;
            vec![answer.to_vec().unwrap()]
        }
        Reply::Services(addresses) => vec![extended(with_services(answer(id, &query, addresses)))],
        Reply::Ech(addresses, config) => {
            let config = SvcParamValue::EchConfigList(EchConfigList(config.clone()));
            let params = vec![(SvcParamKey::EchConfigList, config)];
            vec![with_params(answer(id, &query, addresses), params).to_vec().unwrap()]
        }
        Reply::OldTypes(addresses) | Reply::OldFashioned(addresses) => vec![with(id, addresses)],
        Reply::Race(all) => all.iter().map(|addresses| with(id, addresses)).collect(),
        Reply::Stray(addresses) => vec![with(!id, &[]), with(id, addresses)],
        Reply::ByTransport(addresses, _) if is_udp => vec![with(id, addresses)],
        Reply::ByTransport(_, addresses) | Reply::Truncated(addresses) | Reply::Addresses(addresses) => {
            vec![with(id, addresses)]
        }
    }
}

fn answer(id: u16, query: &Query, addresses: &[IpAddr]) -> Message {
    let mut answer = Message::new(id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    if query.query_type == RecordType::A && !addresses.is_empty() {
        let alias = Name::from_ascii("front.example.").unwrap();
        answer.add_answer(Record::from_rdata(query.name.clone(), 60, RData::CNAME(CNAME(alias.clone()))));
        for address in addresses {
            let IpAddr::V4(v4) = address else { continue };
            answer.add_answer(Record::from_rdata(alias.clone(), 30, RData::A(A(*v4))));
        }
    }
    answer
}

/// The ECH configuration of the test's HTTPS record.
pub const ECH_CONFIG: [u8; 6] = [0, 4, 0xfe, 0x0d, 0, 0];

fn with_services(answer: Message) -> Message {
    let params = vec![
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".to_owned(), "h3".to_owned()]))),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A(Ipv4Addr::new(127, 0, 0, 2))]))),
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(ECH_CONFIG.to_vec()))),
    ];
    with_params(answer, params)
}

fn with_params(mut answer: Message, params: Vec<(SvcParamKey, SvcParamValue)>) -> Message {
    let query = answer.queries[0].clone();
    if query.query_type == RecordType::HTTPS {
        let service = HTTPS(SVCB::new(1, Name::root(), params));
        answer.add_answer(Record::from_rdata(query.name, 20, RData::HTTPS(service)));
    }
    answer
}

/// A CA of the test's own, trusted by the probe.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    /// A new CA.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test Root");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's certificate, chain and key for `names`.
    pub fn server(&self, names: &[&str]) -> Arc<rustls::ServerConfig> {
        self.server_in(names, (1975, 4096))
    }

    /// The same, valid from the first to the second year.
    pub fn server_in(&self, names: &[&str], years: (i32, i32)) -> Arc<rustls::ServerConfig> {
        let (leaf, key) = self.leaf(names, years);
        server_config(leaf, &key)
    }

    /// The same, by these versions of TLS alone.
    pub fn server_of(
        &self,
        names: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<rustls::ServerConfig> {
        let (leaf, key) = self.leaf(names, (1975, 4096));
        server_config_of(leaf, &key, versions)
    }

    fn leaf(&self, names: &[&str], (from, to): (i32, i32)) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        (self.sign(params, &key), key)
    }

    /// A certificate of one's own making.
    pub fn sign(&self, params: CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

/// A server that vouches for itself, as block pages do.
pub fn self_signed(names: &[&str]) -> (Arc<rustls::ServerConfig>, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let leaf = params.self_signed(&key).unwrap();
    (server_config(leaf.der().clone(), &key), leaf.der().clone())
}

/// A server of one certificate.
pub fn server_config(leaf: CertificateDer<'static>, key: &KeyPair) -> Arc<rustls::ServerConfig> {
    server_config_of(leaf, key, rustls::DEFAULT_VERSIONS)
}

fn server_config_of(
    leaf: CertificateDer<'static>,
    key: &KeyPair,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    Arc::new(config)
}

/// What a server does with a connection, by the name in the ClientHello.
#[derive(Clone)]
pub enum Front {
    /// Shakes hands, then serves pages.
    Serve(Arc<rustls::ServerConfig>, Pages),
    /// Reads the ClientHello and answers nothing.
    Swallow,
    /// Reads the ClientHello and resets.
    Reset,
    /// Resets where the ClientHello is larger than a segment, else serves.
    ResetLarge(Arc<rustls::ServerConfig>, Pages),
    /// Reads the ClientHello and closes.
    Close,
    /// Answers with bytes that are no TLS.
    Garbage,
    /// Sends so many bytes of its first flight, then nothing.
    Cut(Arc<rustls::ServerConfig>, usize),
}

/// What a server does with a request: bytes to send for a path, and what comes after them.
pub type Pages = Arc<dyn Fn(&str) -> (Vec<u8>, After) + Send + Sync>;

/// What follows the bytes of an answer.
#[derive(Clone, Copy)]
pub enum After {
    /// The next request.
    Continue,
    Close,
    Reset,
    Stall,
}

/// An ordinary page.
pub fn page(body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The mirror's real page.
pub fn real_page() -> Pages {
    let body = format!("<html><title>The mirror</title>{}{CANARY}</html>", "x".repeat(20_000));
    Arc::new(move |_| (page(body.as_bytes()), After::Continue))
}

/// The same answer to every request.
pub fn always(bytes: Vec<u8>, after: After) -> Pages {
    Arc::new(move |_| (bytes.clone(), after))
}

/// Serves TLS; `fronts` by name, the first for any other.
pub async fn tls_server(listener: TcpListener, fronts: Vec<(&'static str, Front)>) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fronts = fronts.clone();
            tokio::spawn(async move { drop(serve_tls(stream, &fronts).await) });
        }
    });
}

async fn serve_tls(stream: TcpStream, fronts: &[(&'static str, Front)]) -> std::io::Result<()> {
    let mut hello = [0; 16 * 1024];
    let len = stream.peek(&mut hello).await?;
    let text = String::from_utf8_lossy(&hello[..len]).into_owned();
    let front = fronts.iter().find(|(name, _)| text.contains(name)).unwrap_or(&fronts[0]);
    match &front.1 {
        Front::ResetLarge(..) if len > 1_300 => {
            let mut stream = stream;
            stream.read_exact(&mut hello[..len]).await?;
            stream.set_zero_linger()
        }
        Front::Serve(config, pages) | Front::ResetLarge(config, pages) => {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
            serve_pages(start.into_stream(config.clone()).await?, pages).await
        }
        Front::Swallow => {
            let mut stream = stream;
            while stream.read(&mut hello).await? > 0 {}
            Ok(())
        }
        Front::Reset => {
            let mut stream = stream;
            stream.read_exact(&mut hello[..len]).await?;
            stream.set_zero_linger()
        }
        Front::Close => {
            let mut stream = stream;
            stream.read_exact(&mut hello[..len]).await?;
            stream.shutdown().await
        }
        Front::Cut(config, len) => {
            let mut stream = stream;
            let mut server = rustls::ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
            let mut flight = Vec::new();
            while !server.wants_write() {
                let read = stream.read(&mut hello).await?;
                server.read_tls(&mut &hello[..read])?;
                server.process_new_packets().map_err(std::io::Error::other)?;
            }
            while server.wants_write() {
                server.write_tls(&mut flight)?;
            }
            stream.write_all(&flight[..flight.len().min(*len)]).await?;
            while stream.read(&mut hello).await? > 0 {}
            Ok(())
        }
        Front::Garbage => {
            let mut stream = stream;
            stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\nthis is no TLS\r\n").await?;
            while stream.read(&mut hello).await? > 0 {}
            Ok(())
        }
    }
}

/// Serves HTTP in the clear.
pub async fn http_server(pages: Pages) -> SocketAddr {
    let listener = TcpListener::bind((loopback(1), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let pages = pages.clone();
            tokio::spawn(async move { drop(serve_plain(stream, &pages).await) });
        }
    });
    address
}

async fn serve_plain(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    loop {
        let Some(path) = read_path(&mut stream).await? else { return Ok(()) };
        let (bytes, after) = pages(&path);
        stream.write_all(&bytes).await?;
        match after {
            After::Continue => {}
            After::Close => return stream.shutdown().await,
            After::Stall => std::future::pending().await,
            After::Reset => {
                // What was sent must arrive before the reset that discards it.
                tokio::task::yield_now().await;
                return stream.set_zero_linger();
            }
        }
    }
}

async fn serve_pages(mut stream: impl AsyncRead + AsyncWrite + Unpin, pages: &Pages) -> std::io::Result<()> {
    while let Some(path) = read_path(&mut stream).await? {
        let (bytes, after) = pages(&path);
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        match after {
            After::Continue => {}
            After::Stall => std::future::pending().await,
            After::Close | After::Reset => return stream.shutdown().await,
        }
    }
    Ok(())
}

async fn read_path(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    Ok(text.split(' ').nth(1).map(str::to_owned))
}

/// Listens on the same port of two addresses.
pub async fn two_listeners() -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind((loopback(2), 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind((loopback(3), port)).await {
            return [first, second];
        }
    }
}

/// A port that refuses connections for as long as the socket lives: nobody else can have it meanwhile.
pub fn closed_port(address: IpAddr) -> (TcpSocket, SocketAddr) {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind((address, 0).into()).unwrap();
    let closed = socket.local_addr().unwrap();
    (socket, closed)
}

/// A port that refuses at the first address, for as long as the socket lives, and serves at the second.
pub async fn closed_and_open() -> (TcpSocket, TcpListener) {
    loop {
        let (closed, at) = closed_port(loopback(2));
        if let Ok(open) = TcpListener::bind((loopback(3), at.port())).await {
            return (closed, open);
        }
    }
}

/// Settings that trust `authority` and ask these resolvers.
pub fn settings(authority: &Authority, system: SocketAddr, public: Option<SocketAddr>) -> ProbeSettings {
    ProbeSettings {
        resolvers: Resolvers::named(vec![system], public),
        ranges: Ranges::Any,
        trust: Trust::from_pem(authority.pem.as_bytes()).unwrap(),
        neutral_sni: "neutral.example".to_owned(),
        timeout: PATIENCE,
        caps: StepCaps {
            dns: PATIENCE,
            late: LATE,
            connect: PATIENCE,
            tls: PATIENCE,
            http: PATIENCE,
            quic: PATIENCE,
            flow: PATIENCE,
        },
        reading: Reading::Whole,
    }
}

/// Probes `url` for the canary.
pub async fn probe(settings: &ProbeSettings, url: &str) -> Measured {
    probe_as(settings, &assignment(url)).await
}

/// A manual probe of `url` for the canary, with all arms that need nothing of the operator's.
pub fn assignment(url: &str) -> Assignment {
    Assignment {
        mirror: None,
        url: TargetUrl::parse(url).unwrap(),
        canary: Some(CANARY.to_owned()),
        list_version: 3,
        cause: Cause::Manual,
        neutral: Neutral::Allowed,
        own_handshakes_max: HANDSHAKES_MAX,
        own_arms: OwnArms::Allowed { turn: 1 },
        control_address: None,
        flow: Flow::default(),
        ech: EchLook::Allowed,
        field_addresses: Vec::new(),
    }
}

/// Probes as told.
pub async fn probe_as(settings: &ProbeSettings, assignment: &Assignment) -> Measured {
    let measured = measure(settings, assignment, UnixMillis(1_800_000_000_000)).await;
    check_record(&measured.record);
    measured
}

/// What holds of every record: it survives the wire and is small enough to be admitted.
fn check_record(record: &ProbeRecord) {
    let body = zerkalo_proto::record::encode(record);
    assert!(body.len() <= zerkalo_core::evidence::BODY_LEN_MAX);
    assert_eq!(&zerkalo_proto::record::decode(&body).unwrap(), record);
    let json = zerkalo_proto::record::to_json(record);
    assert_eq!(&zerkalo_proto::record::from_json(&json).unwrap(), record);
    assert!(record.is_bounded());
}
