//! A collector process in a directory of its own, and the peers that talk to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Status, Streaming};
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedList, SignedRecord};
use zerkalo_core::journal::{Event, Found, JournalEntry, MAGIC, read_frame};
use zerkalo_core::record::{Arm, Cause, HttpExchange, HttpOutcome, ProbeRecord, Span};
use zerkalo_core::target::{Mirror, MirrorList, Sha256, TargetUrl};
use zerkalo_core::words::{AgentId, MarketId, MirrorId};
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{self, StreamRequest, StreamResponse};
use zerkalo_proto::evidence::{list_to_wire, record_to_wire};
use zerkalo_proto::operator_v1::operator_service_client::OperatorServiceClient;
use zerkalo_proto::operator_v1::{CreateTokenRequest, ListDecisionsRequest, PutMirrorListRequest};

pub use crate::asking::{Asking, Keys};

/// The collector's program.
pub const COLLECTOR: &str = env!("CARGO_BIN_EXE_zerkalo-collector");
/// How long anything here may take before the test is called failed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A page that only the mirrors of these tests hold.
const CANARY: &str = "canary-of-the-tests";

/// Bears the API token.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub type OperatorClient = OperatorServiceClient<InterceptedService<Channel, Token>>;

/// A directory made by `init`; it outlives the processes that serve it.
pub struct Site {
    _temp: TempDir,
    pub dir: PathBuf,
    pub ca_pem: String,
    pub api_token: String,
    pub signing_key: SecretKey,
}

impl Site {
    /// `init`, with ports of the system's choice and logs a program can read.
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("site");
        let zero = "127.0.0.1:0";
        let made = std::process::Command::new(COLLECTOR)
            .args(["init", "--agents-listen", zero, "--operators-listen", zero, "--metrics-listen", zero])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(dir.join("operator/operator.toml")).unwrap();
        let operator: toml::Table = text.parse().unwrap();
        let text = |key: &str| operator[key].as_str().unwrap().to_owned();
        let key: [u8; 32] = hex::decode(text("signing_key")).unwrap().try_into().unwrap();
        let (ca_pem, api_token) = (text("ca_pem"), text("api_token"));
        let site = Self { _temp: temp, dir, ca_pem, api_token, signing_key: SecretKey::from_bytes(&key) };
        site.configure("[log]\nformat = \"json\"\n");
        site
    }

    /// Appends to collector.toml.
    pub fn configure(&self, text: &str) {
        let path = self.dir.join("collector.toml");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{before}\n{text}")).unwrap();
    }

    /// Replaces the first place of a text in collector.toml.
    pub fn replace(&self, from: &str, to: &str) {
        let path = self.dir.join("collector.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    pub async fn serve(&self) -> Collector {
        let mut command = Command::new(COLLECTOR);
        command.arg("serve").arg(&self.dir);
        self.serve_by(command).await
    }

    /// Serves by a command of the test's own; waits until it says `ready`.
    pub async fn serve_by(&self, mut command: Command) -> Collector {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                said.push(line);
                if json["fields"]["message"] == "ready" {
                    return Some(json["fields"].clone());
                }
            }
            None
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await.expect("ready in time");
        let ready = ready.unwrap_or_else(|| panic!("the collector ended: {said:#?}"));
        let port = |key: &str| ready[key].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let (agents, operators, metrics) = (port("agents"), port("operators"), port("metrics"));
        let quic = ready["quic"].as_str().map_or(0, |_| port("quic"));
        let signal = ready["signal"].as_str().map_or(0, |_| port("signal"));
        let log = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                said.push(line);
            }
            said
        });
        Collector { child, log, agents, quic, operators, metrics, signal }
    }

    /// `serve` that must fail: what it says.
    pub async fn serve_fails(&self) -> String {
        let ended = Command::new(COLLECTOR).arg("serve").arg(&self.dir).output();
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends by itself").unwrap();
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8(ended.stderr).unwrap()
    }

    /// Everything in the journal, read as anybody could.
    pub fn journal(&self) -> Vec<JournalEntry> {
        read_journal(&self.dir.join("journal"))
    }

    /// The signed records admitted, in order.
    pub fn records(&self) -> Vec<SignedRecord> {
        let events = self.journal().into_iter().map(|entry| entry.event);
        events
            .filter_map(|event| match event {
                Event::Record { signed, .. } => Some(signed),
                _ => None,
            })
            .collect()
    }
}

pub fn read_journal(dir: &Path) -> Vec<JournalEntry> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "zkj"));
    paths.sort();
    let mut entries = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path).unwrap();
        let mut offset = MAGIC.len();
        loop {
            offset = match read_frame(&bytes, offset) {
                Found::Frame { payload, next } => {
                    entries.push(zerkalo_proto::journal::decode(payload).unwrap());
                    next
                }
                Found::Mark { next } => next,
                _ => break,
            };
        }
        assert_eq!(offset, bytes.len(), "the journal is whole");
    }
    entries
}

/// A collector process.
pub struct Collector {
    pub child: Child,
    log: tokio::task::JoinHandle<Vec<String>>,
    pub agents: u16,
    /// 0 where none is configured.
    pub quic: u16,
    pub operators: u16,
    pub metrics: u16,
    /// 0 where none is configured.
    pub signal: u16,
}

impl Collector {
    /// SIGTERM; it must end with success. Gives its log.
    pub async fn stop(mut self) -> Vec<String> {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it stops").unwrap();
        let log = self.log.await.unwrap();
        assert!(status.success(), "{status}: {log:#?}");
        log
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub async fn operator(&self, site: &Site) -> OperatorClient {
        self.operator_with(site, &site.api_token).await
    }

    pub async fn operator_with(&self, site: &Site, api_token: &str) -> OperatorClient {
        let channel = channel(self.operators, &site.ca_pem, None).await;
        OperatorServiceClient::with_interceptor(
            channel,
            Token(format!("Bearer {api_token}").parse().unwrap()),
        )
    }

    /// A token's secret for a carrier's mobile network; for a control without a carrier.
    pub async fn token(&self, site: &Site, owner: &str, carrier: &str) -> String {
        let request = CreateTokenRequest {
            owner: owner.to_owned(),
            carrier: carrier.to_owned(),
            access: if carrier.is_empty() { String::new() } else { "mobile".to_owned() },
            control: carrier.is_empty(),
            valid_secs: 0,
        };
        let text = self.operator(site).await.create_token(request).await.unwrap().into_inner().token;
        secret_of(&text)
    }

    /// Puts a list of http mirrors of both markets in force.
    pub async fn put_list(&self, site: &Site, version: u64, mirrors: &[&str]) {
        let list = Some(list_to_wire(&SignedList::sign(&list(version, mirrors), &site.signing_key)));
        self.operator(site).await.put_mirror_list(PutMirrorListRequest { list }).await.unwrap();
    }

    /// A connection of its own to prove things on.
    pub async fn enrollment(&self, site: &Site) -> Asking {
        self.enrollment_as(site, None).await
    }

    /// The same, with a certificate.
    pub async fn enrollment_as(&self, site: &Site, identity: Option<(&str, &str)>) -> Asking {
        Asking::open(self.agents, &site.ca_pem, identity).await
    }

    /// Enrols an agent all the way.
    pub async fn enrol(&self, site: &Site, owner: &str, carrier: &str) -> Agent {
        let secret = self.token(site, owner, carrier).await;
        let mut asking = self.enrollment(site).await;
        let (request, keys) = asking.enroll_request(&secret);
        let answer = asking.client.enroll(request).await.unwrap().into_inner();
        let id = AgentId::parse(&answer.agent).unwrap();
        let (certificate_pem, key_pem) = (answer.certificate_pem, keys.tls.serialize_pem());
        let identity = Identity::from_pem(&certificate_pem, &key_pem);
        Agent { id, key: keys.record, identity, certificate_pem, key_pem, last: ChainLink::start(1) }
    }

    /// The same, with its certificate and key as text.
    pub async fn enrol_with_pems(&self, site: &Site, owner: &str, carrier: &str) -> (Agent, String, String) {
        let agent = self.enrol(site, owner, carrier).await;
        let (certificate, key) = (agent.certificate_pem.clone(), agent.key_pem.clone());
        (agent, certificate, key)
    }

    pub async fn uplink(&self, site: &Site, identity: Option<&Identity>) -> UplinkServiceClient<Channel> {
        UplinkServiceClient::new(channel(self.agents, &site.ca_pem, identity).await)
    }

    /// Opens a stream and says Hello; gives the Welcome too.
    pub async fn connect(&self, site: &Site, agent: &Agent) -> (Link, agent_v1::Welcome) {
        let mut link = Link::open(self.uplink(site, Some(&agent.identity)).await).await.unwrap();
        let hello = agent_v1::Hello {
            agent_version: "test".to_owned(),
            list_version: u64::MAX,
            ..Default::default()
        };
        link.send(Up::Hello(hello)).await;
        match link.next().await {
            Some(Down::Welcome(welcome)) => (link, welcome),
            other => panic!("instead of a Welcome: {other:?}"),
        }
    }

    /// Three of four Kazakh carriers see the mirrors work: decisions to keep.
    pub async fn decide_to_keep(&self, site: &Site, mirrors: &[&str]) {
        let mut boxes = Vec::new();
        for carrier in ["kz-kazakhtelecom", "kz-beeline", "kz-kcell"] {
            let agent = self.enrol(site, carrier, carrier).await;
            let (link, _) = self.connect(site, &agent).await;
            boxes.push((agent, link));
        }
        // At once: what one says must not be stale when the next one speaks.
        for (agent, link) in &mut boxes {
            let records: Vec<_> = mirrors.iter().map(|mirror| agent.measure(mirror)).collect();
            link.send_records(&records).await;
        }
        for (_, link) in &mut boxes {
            link.acked(mirrors.len() as u64).await;
        }
        let line = "zerkalo_decisions_total{market=\"kz\",action=\"keep\"}";
        self.metric_becomes(line, mirrors.len() as u64).await;
    }

    /// The bytes of every decision logged.
    pub async fn decisions(&self, site: &Site) -> Vec<String> {
        let request = ListDecisionsRequest::default();
        let answer = self.operator(site).await.list_decisions(request).await.unwrap().into_inner();
        answer.decisions.into_iter().map(|decision| decision.json).collect()
    }

    /// The value of a line of /metrics; 0 while it has none.
    pub async fn metric(&self, line: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a line of /metrics has that value.
    pub async fn metric_becomes(&self, line: &str, value: u64) {
        let wait = async {
            while self.metric(line).await != value {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{line} is {} instead of {value}", self.metric(line).await);
    }
}

/// An enrolled agent, its chain as it believes it to be.
pub struct Agent {
    pub id: AgentId,
    pub key: SecretKey,
    pub identity: Identity,
    pub certificate_pem: String,
    pub key_pem: String,
    pub last: ChainLink,
}

impl Agent {
    /// Signs a body as the next statement.
    pub fn sign(&mut self, body: Vec<u8>) -> SignedRecord {
        let record = SignedRecord::sign(&self.id, self.last, body, &self.key);
        self.last = record.link();
        record
    }

    /// The next statement: the mirror works.
    pub fn measure(&mut self, mirror: &str) -> SignedRecord {
        self.sign(body(&facts(mirror)))
    }
}

/// An agent's end of a stream.
pub struct Link {
    up: mpsc::Sender<StreamRequest>,
    down: Streaming<StreamResponse>,
}

impl Link {
    pub async fn open(mut client: UplinkServiceClient<Channel>) -> Result<Self, Status> {
        let (up, outbound) = mpsc::channel(64);
        let down = client.stream(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(Self { up, down })
    }

    pub async fn send(&mut self, message: Up) {
        self.up.send(StreamRequest { message: Some(message) }).await.unwrap();
    }

    pub async fn send_records(&mut self, records: &[SignedRecord]) {
        let records = records.iter().map(record_to_wire).collect();
        self.send(Up::Records(agent_v1::RecordBatch { records })).await;
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Down> {
        self.next_or_status().await.unwrap()
    }

    pub async fn next_or_status(&mut self) -> Result<Option<Down>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.down.next()).await.expect("an answer in time");
        next.transpose().map(|response| response.and_then(|response| response.message))
    }

    /// What the collector ends the stream with, whatever it says before.
    pub async fn status(&mut self) -> Option<Status> {
        loop {
            match self.next_or_status().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    /// Waits for the Ack of everything up to `sequence`; wishes for fresh looks may come at any time.
    pub async fn acked(&mut self, sequence: u64) {
        loop {
            match self.next().await {
                Some(Down::Ack(ack)) if ack.sequence == sequence => return,
                Some(Down::Ack(ack)) if ack.sequence < sequence => {}
                Some(Down::ProbeNow(_)) => {}
                other => panic!("instead of the Ack of {sequence}: {other:?}"),
            }
        }
    }

    /// The same, whatever else the collector says in between: wishes for fresh looks above all.
    pub async fn acked_past_wishes(&mut self, sequence: u64) {
        loop {
            match self.next().await {
                Some(Down::Ack(ack)) if ack.sequence == sequence => return,
                Some(Down::Rejection(rejection)) => panic!("a record was refused: {rejection:?}"),
                None => panic!("the stream ended before the Ack of {sequence}"),
                Some(_) => {}
            }
        }
    }

    /// The next message must be a Rejection.
    pub async fn rejected(&mut self) -> agent_v1::Rejection {
        match self.next().await {
            Some(Down::Rejection(rejection)) => rejection,
            other => panic!("instead of a Rejection: {other:?}"),
        }
    }
}

/// Waits until nobody holds a store's lock that this process closed: sled's own threads end a moment later, and a child
/// that another test starts holds this process's locks until it has become its own program.
pub async fn released(store: &Path) {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(store.join("db")).unwrap().ino();
    let is_held = || std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(":{inode} 0 EOF"));
    let free = async {
        while is_held() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("the store is released");
}

/// The same port for datagrams and streams: one that is free for the first can be taken for the second.
pub async fn same_port() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

/// The secret inside a token's text.
pub fn secret_of(text: &str) -> String {
    use base64::Engine as _;
    let json = text.strip_prefix("zk1.").unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(json).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&json).unwrap();
    token["secret"].as_str().unwrap().to_owned()
}

pub async fn channel(port: u16, ca_pem: &str, identity: Option<&Identity>) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).domain_name("localhost");
    let tls = match identity {
        Some(identity) => tls.identity(identity.clone()),
        None => tls,
    };
    let endpoint = Channel::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().tcp_nodelay(true).connect().await.unwrap()
}

pub fn list(version: u64, mirrors: &[&str]) -> MirrorList {
    let mirror = |id: &&str| Mirror {
        large_page: None,
        id: MirrorId::parse(id).unwrap(),
        url: url(id),
        markets: ["ru", "kz"].map(|market| MarketId::parse(market).unwrap()).to_vec(),
        canary: Some(CANARY.to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    };
    let mirrors = mirrors.iter().map(mirror).collect();
    MirrorList { mirrors, ..MirrorList::issued(version, zerkalo_collector::clock::now()) }
}

fn url(mirror: &str) -> TargetUrl {
    TargetUrl::parse(&format!("http://{mirror}.example/")).unwrap()
}

/// Facts of a visit that found the mirror as itself.
pub fn facts(mirror: &str) -> ProbeRecord {
    ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: Some(MirrorId::parse(mirror).unwrap()),
        url: url(mirror),
        list_version: 1,
        cause: Cause::Scheduled,
        started_at: zerkalo_collector::clock::now(),
        duration_micros: 0,
        agent_version: "test".to_owned(),
        dns: vec![],
        tcp: vec![],
        tls: vec![],
        http: vec![HttpExchange {
            first_byte_micros: None,
            transport: None,
            arm: Arm::Main,
            url: url(mirror),
            address: "192.0.2.1:80".parse().unwrap(),
            protocol: "h1".to_owned(),
            span: Span::default(),
            last_byte_micros: Some(1),
            status: Some(200),
            headers: vec![],
            body_len: 10,
            body_sha256: Sha256::default(),
            title: None,
            canary_found: Some(true),
            excerpt: String::new(),
            outcome: HttpOutcome::Complete,
        }],
        quic: vec![],
        references: vec![],
    }
}

pub fn body(facts: &ProbeRecord) -> Vec<u8> {
    zerkalo_proto::record::encode(facts)
}
