//! Certificates, requests, ECH configurations, hellos.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::Seed;

/// A key that signs the same bytes the same way each time: Ed25519, in PKCS#8.
fn key(number: u8) -> KeyPair {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let der = [&head[..], &[number; 32]].concat();
    KeyPair::try_from(der).expect("a key")
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::CountryName, "KZ");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2036, 1, 1);
    params
}

pub fn seeds() -> Vec<Seed> {
    let mut root = params("ISCA", &[]);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&key(1)).expect("a root");
    let issuer = Issuer::new(root, key(1));
    let leaf = params("mirror.example", &["mirror.example"]).signed_by(&key(2), &issuer).expect("a leaf");
    let mut of_agent = params("a1.agent.zerkalo", &["a1.agent.zerkalo"]);
    of_agent.distinguished_name.push(DnType::OrganizationalUnitName, "generation 7");
    let of_agent = of_agent.signed_by(&key(3), &issuer).expect("an agent's");
    let request = params("a1.agent.zerkalo", &["a1.agent.zerkalo"]).serialize_request(&key(3));
    let request = request.and_then(|request| request.pem()).expect("a request");
    let chain = |ders: &[&[u8]]| -> Vec<u8> {
        ders.iter().flat_map(|der| [&(der.len() as u16).to_be_bytes()[..], der].concat()).collect()
    };
    vec![
        ("chain", "server", chain(&[leaf.der(), root_certificate.der()])),
        ("chain", "agent", chain(&[of_agent.der()])),
        ("roots", "two", format!("{}{}", root_certificate.pem(), leaf.pem()).into_bytes()),
        ("csr", "agent", request.clone().into_bytes()),
        ("ech", "one", ech(&[0xfe0d])),
        ("ech", "unknown_first", ech(&[0xfe0a, 0xfe0d])),
        ("client_hello", "flight", hello(true)),
        ("client_hello", "message", hello(false)),
        ("quic_versions", "two", b"\xc0\0\0\0\0\x02ab\x03xyz\0\0\0\x01\x6b\x33\x43\xcf".to_vec()),
        ("token", "field", token(&root_certificate.pem())),
    ]
}

fn token(ca_pem: &str) -> Vec<u8> {
    let key = crate::statements::key().public().to_hex();
    let json = serde_json::json!({
        "ca_pem": ca_pem,
        "operator_key": key,
        "operator_keys": {"keys": [key], "threshold": 1},
        "secret": "the same each time",
        "urls": ["https://collector.example:8443", "quic://192.0.2.7:8445"],
        "owner": "anna",
        "market": "kz",
        "station": {"kind": "field", "carrier": "kz-kcell", "access": "mobile"},
        "expires_at_millis": 1_900_000_000_000_u64,
    });
    format!("zk1.{}", URL_SAFE_NO_PAD.encode(json.to_string())).into_bytes()
}

fn with_len(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

/// An ECHConfigList (RFC 9849, 4) with a configuration of each version.
fn ech(versions: &[u16]) -> Vec<u8> {
    let contents = [
        &[7, 0, 0x20][..],
        &with_len(&[9; 32]),
        &with_len(&[0, 1, 0, 1]),
        &[64, 13],
        b"front.example",
        &[0, 0],
    ]
    .concat();
    let configs: Vec<u8> = versions
        .iter()
        .flat_map(|version| [&version.to_be_bytes()[..], &with_len(&contents)].concat())
        .collect();
    with_len(&configs)
}

/// A ClientHello, in a record or bare.
fn hello(in_record: bool) -> Vec<u8> {
    let numbers =
        |numbers: &[u16]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_be_bytes()).collect() };
    let name = with_len(&[&[0][..], &with_len(b"mirror.example")].concat());
    let extensions = [
        (0u16, name),
        (16, with_len(b"\x02h2\x08http/1.1")),
        (13, with_len(&numbers(&[0x0403, 0x0804]))),
        (43, [&[4][..], &numbers(&[0x0304, 0x0303])].concat()),
        (0x8a8a, vec![0]),
    ];
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &with_len(content)].concat())
        .collect();
    let ciphers = with_len(&numbers(&[0x2a2a, 0x1301, 0x1302]));
    let body = [&[3, 3][..], &[7; 32], &[0], &ciphers, &[1, 0], &with_len(&extensions)].concat();
    let message = [&[1, 0][..], &with_len(&body)].concat();
    if in_record { [&[22, 3, 1][..], &with_len(&message)].concat() } else { message }
}
