//! `mirrors verify` over real sockets: a resolver and a site on loopback, and what proves a mirror to nobody.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use crate::write;

/// What the TXT records and the files hold: known once the program has said what it looks for.
type Text = Arc<OnceLock<String>>;

/// Answers on loopback: `txt.example` has the text in a TXT record, `file.example` an address, nobody else anything.
fn resolver(text: Text) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..len], &text), peer);
        }
    });
    address
}

/// Name and type of a question, and where it ends.
fn question(message: &[u8]) -> (String, u16, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while message[at] != 0 {
        let len = usize::from(message[at]);
        labels.push(String::from_utf8(message[at + 1..at + 1 + len].to_vec()).unwrap());
        at += 1 + len;
    }
    (labels.join("."), u16::from_be_bytes([message[at + 1], message[at + 2]]), at + 5)
}

fn answer(message: &[u8], text: &Text) -> Vec<u8> {
    let (name, kind, end) = question(message);
    let text = text.get().map_or("nothing yet", String::as_str);
    let data: Option<Vec<u8>> = match (name.to_lowercase().as_str(), kind) {
        ("_zerkalo.txt.example", 16) => {
            Some([&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat())
        }
        ("_zerkalo.other.example", 16) => Some(b"\x05other".to_vec()),
        ("file.example" | "other.example", 1) => Some(vec![127, 0, 0, 1]),
        _ => None,
    };
    let mut out = message[..2].to_vec();
    let no_such_name = if data.is_none() { 3 } else { 0 };
    out.extend([0x81, 0x80 | no_such_name, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    out.extend(&message[12..end]);
    if let Some(data) = data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0]);
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    out
}

/// A site over TLS with a certificate for both names; gives its port and the authority in PEM.
fn site(text: Text) -> (u16, String) {
    let names = ["file.example", "other.example"].map(str::to_owned);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::new(config.clone())).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut request = Vec::new();
            let mut byte = [0; 1];
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.extend(byte);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let is_asked = request.starts_with("GET /.well-known/zerkalo.txt ");
            let body =
                format!("somebody else's line\n{}\n", text.get().map_or("nothing yet", String::as_str));
            let answer = if request.contains("other.example") {
                "HTTP/1.1 302 Found\r\nlocation: https://file.example/\r\ncontent-length: 0\r\n\r\n"
                    .to_owned()
            } else if is_asked {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            } else {
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned()
            };
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, certificate.pem())
}

struct World {
    dir: TempDir,
    resolver: SocketAddr,
    port: u16,
    text: Text,
}

impl World {
    fn new() -> Self {
        let (dir, text) = (TempDir::new().unwrap(), Text::default());
        let (port, ca) = site(text.clone());
        write(&dir, "ca.pem", ca);
        let operator = format!(
            "url = \"https://h:1\"\nca_pem = \"-----BEGIN CERTIFICATE-----\"\napi_token = \"t\"\nsigning_key = \"{}\"\n",
            "07".repeat(32)
        );
        write(&dir, "operator.toml", operator);
        Self { resolver: resolver(text.clone()), dir, port, text }
    }

    fn verify(&self, host: &str, more: &[&str]) -> Output {
        let url = format!("https://{host}:{}/", self.port);
        Command::new(env!("CARGO_BIN_EXE_zerkalo"))
            .args(["--config", "operator.toml", "mirrors", "verify", &url])
            .args(more)
            .current_dir(self.dir.path())
            .env("ZERKALO_RESOLVER", self.resolver.to_string())
            .env("ZERKALO_VERIFY_CA", "ca.pem")
            .output()
            .unwrap()
    }

    fn proofs(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.dir.path().join("ownership.json"));
        text.map_or(serde_json::Value::Null, |text| serde_json::from_str(&text).unwrap())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_mirror_is_proved_by_a_txt_record_or_by_a_file_and_by_nothing_else() {
    let world = World::new();
    // Nobody has the text yet, and the program says which.
    let output = world.verify("nobody.example", &[]);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["ownership_unproved", "_zerkalo.HOST", "/.well-known/zerkalo.txt", "NOT PROVED"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let (_, rest) = message.split_once("put the text ").unwrap();
    world.text.set(rest.split_whitespace().next().unwrap().to_owned()).unwrap();
    assert_eq!(world.proofs(), serde_json::Value::Null);

    let output = world.verify("txt.example", &["-o", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(world.proofs()["txt.example"]["by"], "txt");
    // Loopback is refused, but where a test says otherwise.
    let refused = said(&world.verify("file.example", &[]));
    assert!(refused.contains("private or special range"), "{refused}");
    let output = world.verify("file.example", &["--allow-private"]);
    assert!(output.status.success(), "{}", said(&output));
    let proof = &world.proofs()["file.example"];
    assert_eq!(proof["by"], "file");
    assert!(proof["at"].as_u64().unwrap() > 1_600_000_000_000, "{proof}");
    // Another text in the record, and a redirect to a site that has it.
    let output = world.verify("other.example", &["--allow-private"]);
    let message = said(&output);
    assert!(!output.status.success() && message.contains("302"), "{message}");
    assert_eq!(world.proofs().as_object().unwrap().len(), 2);
}

#[test]
fn bad_means_are_named_with_their_remedy() {
    let world = World::new();
    std::fs::write(world.dir.path().join("ca.pem"), "no pem").unwrap();
    let message = said(&world.verify("file.example", &["--ca", "missing.pem"]));
    assert!(message.contains("missing.pem"), "{message}");
    let output = world.verify("file.example", &["--resolver", "dns.example"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!Path::new(&world.dir.path().join("ownership.json")).exists());
}
