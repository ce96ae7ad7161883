//! DNS updates against a real name server: Debian's bind9, on loopback; and against what is none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::RecordType;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use zerkalo_collector::config::DnsConfig;
use zerkalo_collector::executor::dns::{Dns, DnsError, DnsKey, parse_name, parse_value, sort};
use zerkalo_collector::executor::{Errand, Notice, Outlook};
use zerkalo_core::words::MirrorId;

use crate::world::{PATIENCE, same_port};

/// Of the tests alone.
pub const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_SECRET: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// bind9, serving example.org to the key `zerkalo` and refused.example to nobody.
pub struct Named {
    _dir: TempDir,
    _child: Child,
    pub address: SocketAddr,
}

impl Named {
    /// `None`, loudly, where bind9 is not installed.
    pub async fn start() -> Option<Self> {
        let program = ["/usr/sbin/named", "/usr/bin/named"].map(PathBuf::from);
        let Some(program) = program.into_iter().find(|path| path.exists()) else {
            eprintln!(
                "!!! SKIPPED: named is missing, so DNS updates were NOT tested. Run tests/prepare as root."
            );
            return None;
        };
        loop {
            if let Some(named) = Self::start_once(&program).await {
                return Some(named);
            }
        }
    }

    /// `None` where somebody else got the port first.
    async fn start_once(program: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; whoever took it meanwhile is told by the server's own words.
        let address = same_port().await.1.local_addr().unwrap();
        let path = dir.path().display();
        let port = address.port();
        let conf = format!(
            r#"options {{
    directory "{path}"; pid-file "{path}/named.pid"; session-keyfile "{path}/session.key";
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; allow-query {{ any; }}; dnssec-validation no; allow-transfer {{ none; }};
}};
controls {{ }};
key "zerkalo" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
zone "example.org" {{ type primary; file "example.org.db"; allow-update {{ key zerkalo; }}; }};
zone "refused.example" {{ type primary; file "refused.example.db"; allow-update {{ none; }}; }};
"#
        );
        std::fs::write(dir.path().join("named.conf"), conf).unwrap();
        for zone in ["example.org", "refused.example"] {
            let text = format!(
                "$TTL 60\n@ SOA ns.{zone}. root.{zone}. 1 3600 600 86400 60\n@ NS ns.{zone}.\nns A 127.0.0.1\n\
                 alias CNAME ns.{zone}.\nbusy A 192.0.2.99\n"
            );
            std::fs::write(dir.path().join(format!("{zone}.db")), text).unwrap();
        }
        let mut child = Command::new(program)
            .args(["-g", "-4", "-n", "1", "-c"])
            .arg(dir.path().join("named.conf"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let running = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let is_running = line.ends_with(" running");
                said.push(line);
                if is_running {
                    return true;
                }
            }
            false
        };
        let running = tokio::time::timeout(PATIENCE, running).await.expect("named starts in time");
        assert!(running, "named ended: {said:#?}");
        if said.iter().any(|line| line.contains("interface ignored") || line.contains("address in use")) {
            return None;
        }
        // A full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { _dir: dir, _child: child, address })
    }

    /// What it answers to whoever asks.
    pub async fn answers(&self, name: &str, kind: RecordType) -> Vec<String> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut query = Message::query();
        query.add_query(hickory_proto::op::Query::query(parse_name(name).unwrap(), kind));
        socket.send_to(&query.to_vec().unwrap(), self.address).await.unwrap();
        let mut answer = [0; 4_096];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
        let answer = Message::from_vec(&answer[..len]).unwrap();
        let mut found: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        found.sort();
        found
    }
}

/// The key as a file holds it.
pub fn key_text(name: &str, secret: &str) -> String {
    format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n")
}

fn dns(server: SocketAddr, record: &str, kind: RecordType, values: &[(&str, &[&str])]) -> Dns {
    dns_with(server, record, kind, values, DnsKey::parse(&key_text("zerkalo", SECRET)).unwrap())
}

fn dns_with(
    server: SocketAddr,
    record: &str,
    kind: RecordType,
    values: &[(&str, &[&str])],
    key: DnsKey,
) -> Dns {
    let zone = record.split_once('.').unwrap().1;
    let values = values.iter().map(|(mirror, texts)| {
        let mut parsed: Vec<_> = texts.iter().map(|text| parse_value(kind, text).unwrap()).collect();
        sort(&mut parsed);
        (MirrorId::parse(mirror).unwrap(), parsed)
    });
    Dns::new(DnsConfig {
        server,
        zone: parse_name(zone).unwrap(),
        record: parse_name(record).unwrap(),
        kind,
        ttl_secs: 30,
        key,
        values: values.collect(),
    })
}

/// Has `mirror` put in place.
async fn rotate(dns: &Dns, mirror: &str) -> Result<String, DnsError> {
    let decision = json!({
        "id": "kz-000007", "number": 7, "at": 1, "market": "kz", "mirror": "m1", "url": "https://m1.example/",
        "action": "rotate", "effect": "act",
        "replacement": {"mirror": mirror, "url": format!("https://{mirror}.example/path")},
        "reasons": [], "carriers": [], "evidence": [], "rules_version": "", "policy_version": "",
        "journal_position": 1,
    });
    let notice = Notice::Decision(Box::new(serde_json::from_value(decision).unwrap()));
    let errand = Errand { id: "kz-000007", notice: &notice, logged: b"" };
    tokio::time::timeout(PATIENCE, dns.attempt(&errand)).await.expect("an end in time")
}

/// What another attempt may bring.
fn outlook(result: &Result<String, DnsError>) -> Outlook {
    result.as_ref().unwrap_err().outlook()
}

/// The error and what caused it.
fn said(result: Result<String, DnsError>) -> String {
    zerkalo_collector::config::chain(&result.unwrap_err())
}

#[tokio::test]
async fn a_name_is_pointed_at_the_replacement_and_a_second_time_changes_nothing() {
    let Some(named) = Named::start().await else { return };
    let values: &[(&str, &[&str])] = &[("m2", &["192.0.2.7"]), ("m3", &["192.0.2.9", "192.0.2.8"])];
    let go = dns(named.address, "go.example.org", RecordType::A, values);
    assert_eq!(rotate(&go, "m2").await.unwrap(), "go.example.org. A is 192.0.2.7 now; it was nothing");
    assert_eq!(rotate(&go, "m2").await.unwrap(), "go.example.org. A is 192.0.2.7 already");
    assert_eq!(
        rotate(&go, "m3").await.unwrap(),
        "go.example.org. A is 192.0.2.8, 192.0.2.9 now; it was 192.0.2.7"
    );
    assert_eq!(named.answers("go.example.org", RecordType::A).await, ["192.0.2.8", "192.0.2.9"]);
    let failed = rotate(&go, "m4").await;
    assert_eq!(outlook(&failed), Outlook::Hopeless);
    let error = said(failed);
    assert!(error.contains("mirror m4") && error.contains("m4.example cannot stand in a A"), "{error}");
    let six = dns(named.address, "go.example.org", RecordType::AAAA, &[("m2", &["2001:db8::7"])]);
    rotate(&six, "m2").await.unwrap();
    assert_eq!(named.answers("go.example.org", RecordType::AAAA).await, ["2001:db8::7"]);
    let alias = dns(named.address, "www.example.org", RecordType::CNAME, &[("m3", &["cdn.example"])]);
    rotate(&alias, "m2").await.unwrap();
    assert_eq!(named.answers("www.example.org", RecordType::CNAME).await, ["m2.example."]);
    rotate(&alias, "m3").await.unwrap();
    assert_eq!(named.answers("www.example.org", RecordType::CNAME).await, ["cdn.example."]);
}

#[tokio::test]
async fn a_name_that_cannot_hold_the_record_is_told_and_not_believed() {
    let Some(named) = Named::start().await else { return };
    let alias = dns(named.address, "alias.example.org", RecordType::A, &[("m2", &["192.0.2.7"])]);
    assert!(said(rotate(&alias, "m2").await).contains("alias.example.org. is a CNAME there"));
    // bind says yes to this and changes nothing.
    let busy = dns(named.address, "busy.example.org", RecordType::CNAME, &[]);
    let error = said(rotate(&busy, "m2").await);
    assert!(error.contains("took the update, yet busy.example.org. is nothing"), "{error}");
    assert_eq!(named.answers("busy.example.org", RecordType::A).await, ["192.0.2.99"]);
}

#[tokio::test]
async fn a_wrong_key_and_a_refusing_zone_are_told_apart() {
    let Some(named) = Named::start().await else { return };
    let values: &[(&str, &[&str])] = &[("m2", &["192.0.2.7"])];
    let with = |name: &str, secret: &str| {
        let key = DnsKey::parse(&key_text(name, secret)).unwrap();
        dns_with(named.address, "go.example.org", RecordType::A, values, key)
    };
    let error = said(rotate(&with("zerkalo", OTHER_SECRET), "m2").await);
    assert!(error.contains("refused the key") && error.contains("BADSIG"), "{error}");
    let failed = rotate(&with("stranger", SECRET), "m2").await;
    assert_eq!(outlook(&failed), Outlook::Refused);
    let error = said(failed);
    assert!(error.contains("refused the key") && error.contains("BADKEY"), "{error}");
    let refused = dns(named.address, "go.refused.example", RecordType::A, values);
    let failed = rotate(&refused, "m2").await;
    assert_eq!(outlook(&failed), Outlook::Refused);
    let error = said(failed);
    assert!(error.contains("Query Refused to the update of go.refused.example"), "{error}");
    assert!(error.contains("allow-update"), "{error}");
    let nowhere = dns(named.address, "go.elsewhere.example", RecordType::A, values);
    let error = said(rotate(&nowhere, "m2").await);
    assert!(error.contains("Query Refused when asked for go.elsewhere.example"), "{error}");
    assert!(named.answers("go.example.org", RecordType::A).await.is_empty(), "nothing was half done");
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_is_not_overwritten() {
    let Some(named) = Named::start().await else { return };
    let values: &[(&str, &[&str])] = &[("m2", &["192.0.2.7"]), ("m3", &["192.0.2.8"])];
    let other = Arc::new(dns(named.address, "go.example.org", RecordType::A, values));
    // Stands between, and lets the other act first whenever an update passes.
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let (server, acts) = (named.address, other.clone());
    tokio::spawn(async move {
        let onward = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut asked, mut answered) = ([0; 4_096], [0; 4_096]);
        loop {
            let (len, from) = between.recv_from(&mut asked).await.unwrap();
            let is_update = (asked[2] >> 3) & 0xf == 5;
            if is_update {
                rotate(&acts, "m3").await.unwrap();
            }
            onward.send_to(&asked[..len], server).await.unwrap();
            let len = onward.recv(&mut answered).await.unwrap();
            between.send_to(&answered[..len], from).await.unwrap();
        }
    });
    let late = dns(address, "go.example.org", RecordType::A, values);
    let failed = rotate(&late, "m2").await;
    assert_eq!(outlook(&failed), Outlook::Passing);
    let error = said(failed);
    assert!(error.contains("changed by somebody else") && error.contains("192.0.2.8 now"), "{error}");
    assert_eq!(named.answers("go.example.org", RecordType::A).await, ["192.0.2.8"]);
}

#[tokio::test]
async fn where_udp_brings_no_answer_tcp_does() {
    let Some(named) = Named::start().await else { return };
    // Takes the datagrams and says nothing.
    let (_hole, listener) = same_port().await;
    let address = listener.local_addr().unwrap();
    let server = named.address;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let go = dns(address, "go.example.org", RecordType::A, &[("m2", &["192.0.2.7"])]);
    assert_eq!(rotate(&go, "m2").await.unwrap(), "go.example.org. A is 192.0.2.7 now; it was nothing");
}

/// A server that answers every question, by both roads, with whatever `answer` makes of it.
async fn impostor(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> SocketAddr {
    let (socket, listener) = same_port().await;
    let address = listener.local_addr().unwrap();
    let by_tcp = answer.clone();
    tokio::spawn(async move {
        let mut asked = [0; 4_096];
        while let Ok((len, from)) = socket.recv_from(&mut asked).await {
            // Often enough to be a flood.
            for _ in 0..100 {
                let _ = socket.send_to(&answer(&asked[..len]), from).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let len = stream.read_u16().await.unwrap();
            let mut asked = vec![0; len.into()];
            stream.read_exact(&mut asked).await.unwrap();
            let answer = by_tcp(&asked);
            stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn garbage_and_unsigned_answers_prove_nothing() {
    let values: &[(&str, &[&str])] = &[("m2", &["192.0.2.7"])];
    let garbage = impostor(|_| b"\xff\xfe nonsense".to_vec()).await;
    let error = said(rotate(&dns(garbage, "go.example.org", RecordType::A, values), "m2").await);
    assert!(error.contains("is no DNS message"), "{error}");
    let forged = impostor(|asked| {
        let mut answer = Message::from_vec(asked).unwrap();
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.authoritative = true;
        answer.take_signature();
        answer.to_vec().unwrap()
    })
    .await;
    let error = said(rotate(&dns(forged, "go.example.org", RecordType::A, values), "m2").await);
    assert!(error.contains("without a signature"), "{error}");
    // The question's own signature, sent back.
    let mirrored = impostor(<[u8]>::to_vec).await;
    let error = said(rotate(&dns(mirrored, "go.example.org", RecordType::A, values), "m2").await);
    assert!(error.contains("without a signature"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_is_given_up_in_time() {
    let values: &[(&str, &[&str])] = &[("m2", &["192.0.2.7"])];
    let (hole, listener) = same_port().await;
    let address = listener.local_addr().unwrap();
    let error = said(rotate(&dns(address, "go.example.org", RecordType::A, values), "m2").await);
    assert!(error.contains("gave no answer within 3 s by UDP and 5 s by TCP"), "{error}");
    drop((listener, hole));
    // Nobody listens there by chance either.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let failed = rotate(&dns(nowhere, "go.example.org", RecordType::A, values), "m2").await;
    assert_eq!(outlook(&failed), Outlook::Passing);
    let error = said(failed);
    assert!(error.contains("cannot be reached by TCP") && error.contains("refused"), "{error}");
}
