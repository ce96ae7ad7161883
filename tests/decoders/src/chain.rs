//! What TLS and QUIC bring: certificates, requests for them, hellos.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use zerkalo_agent::probe::chain::Trust;
use zerkalo_agent::probe::client_hello::{ClientHello, Over};
use zerkalo_agent::probe::ech::EchOffer;
use zerkalo_agent::probe::quic_socket::{VERSIONS_MAX, versions};
use zerkalo_agent::probe::tls::shown_name;
use zerkalo_collector::authority::{Authority, Papers, Request};
use zerkalo_core::record::{Arm, ChainFault, Ech, ProbeRecord, Span, TlsHandshake, TlsOutcome};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use crate::names::nothing;
use crate::statements::{agent, survives};
use crate::{Read, refused};

const HOST: &str = "mirror.example";

fn trust() -> &'static Trust {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    TRUST.get_or_init(|| Trust::public().expect("the public roots"))
}

/// Certificates, each behind its length (u16, big-endian), as a server sends them: what a record keeps of them passes the
/// wire. Each is looked at as an agent's and as a file's too.
pub fn chain(bytes: &[u8]) -> Read {
    let (mut rest, mut ders) = (bytes, Vec::new());
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        ders.push(CertificateDer::from(behind[..len].to_vec()));
        rest = &behind[len..];
    }
    let Some((leaf, others)) = ders.split_first() else { return Read::Refused };
    let recorder = trust().recorder();
    let name = ServerName::try_from(HOST).expect("a name");
    let judged = Arc::clone(&recorder).verify_server_cert(leaf, others, &name, &[], UnixTime::now());
    assert!(judged.is_ok(), "the recorder refuses nothing");
    let (chain, fault) = recorder.seen().expect("a chain came");
    assert!(chain.len() == ders.len().min(8), "{} of {} kept", chain.len(), ders.len());
    assert!(chain.iter().map(|one| one.der.len()).sum::<usize>() <= 16 * 1024);
    assert!(chain.iter().all(|one| one.subject.len() <= 512 && one.issuer.len() <= 512));
    let is_readable = chain[0].spki_sha256 != Sha256::default();
    for (der, kept) in ders.iter().zip(&chain) {
        let _ = Papers::read(der);
        let of_file = crate::foreign::read_certificate(der);
        assert_eq!((of_file.sha256, of_file.spki_sha256), (kept.sha256, kept.spki_sha256));
    }
    let step = TlsHandshake {
        arm: Arm::Main,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 443)),
        sni: Some(HOST.to_owned()),
        span: Span::default(),
        hello_shape: String::new(),
        hello_len: 0,
        ja4: String::new(),
        ech: Ech::Absent,
        bytes_sent: 0,
        bytes_received: 0,
        outcome: TlsOutcome::Eof,
        transport: None,
        chain,
        chain_fault: Some(fault.clone()),
    };
    survives(&ProbeRecord { tls: vec![step], ..nothing() });
    assert!(is_readable || fault != ChainFault::Valid);
    if is_readable { Read::Whole } else { Read::Refused }
}

/// A file of roots.
pub fn roots(bytes: &[u8]) -> Read {
    match Trust::from_pem(bytes) {
        Ok(_) => Read::Whole,
        Err(error) => refused(&error, bytes),
    }
}

/// A certificate request; whatever it asks for, the certificate names the agent, its generation and the request's key.
pub fn csr(bytes: &[u8]) -> Read {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(bytes) else { return Read::Refused };
    let request = match Request::parse(text) {
        Ok(request) => request,
        Err(error) => return refused(&error, bytes),
    };
    let now = UnixMillis(1_800_000_000_000);
    let authority = AUTHORITY.get_or_init(|| Authority::create(now).expect("a new authority").0);
    let pem = match authority.agent_certificate(&agent(), 7, &request, now) {
        Ok(pem) => pem,
        Err(error) => return refused(&error, bytes),
    };
    use rustls::pki_types::pem::PemObject as _;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("our own certificate");
    let papers = Papers::read(&der).expect("our own certificate names an agent");
    assert_eq!((papers.agent, papers.generation, papers.key), (agent(), 7, request.key()));
    Read::Whole
}

/// A first flight, and a bare handshake message.
pub fn client_hello(bytes: &[u8]) -> Read {
    let read = [ClientHello::read(bytes), ClientHello::read_message(bytes)];
    for hello in read.iter().flatten() {
        for over in [Over::Tcp, Over::Quic] {
            let name = hello.ja4(over);
            // JA4: ten signs, two digests of twelve digits, two underscores.
            assert!(name.is_ascii() && name.len() == 36, "{name}");
        }
        let _ = hello.server_name();
    }
    if read.iter().any(Option::is_some) { Read::Whole } else { Read::Refused }
}

/// An ECHConfigList; where we can use it, the hello that offers it shows a name.
pub fn ech(bytes: &[u8]) -> Read {
    match EchOffer::real(bytes) {
        Ok(offer) => {
            let _ = shown_name(trust(), &offer, HOST);
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// A datagram that may negotiate versions.
pub fn quic_versions(bytes: &[u8]) -> Read {
    let offered = versions(bytes);
    assert!(offered.len() <= VERSIONS_MAX && 4 * offered.len() <= bytes.len());
    if offered.is_empty() { Read::Refused } else { Read::Whole }
}
