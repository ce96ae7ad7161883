//! Names and what resolves them: tokens, URLs, DNS answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use hickory_proto::op::Message;
use zerkalo_agent::channel::Address;
use zerkalo_agent::probe::clock::StepClock;
use zerkalo_agent::probe::dns_answer::{Answer, Extension, other_answer, query};
use zerkalo_agent::probe::late::{Heard, answers, heard};
use zerkalo_agent::token::Token;
use zerkalo_core::record::{
    Cause, DNS_SERVICES_MAX, DnsExchange, DnsOutcome, DnsTransport, ECH_CONFIG_LEN_MAX, ProbeRecord,
    QueryType, ResolverKind, Span,
};
use zerkalo_core::target::TargetUrl;
use zerkalo_core::words::UnixMillis;

use crate::statements::survives;
use crate::{Read, refused};

/// A token's text.
pub fn token(bytes: &[u8]) -> Read {
    let Ok(text) = std::str::from_utf8(bytes) else { return Read::Refused };
    match Token::parse(text) {
        Ok(token) => {
            token.urls.iter().for_each(|url| address(url));
            if let Some(bound) = &token.bound {
                assert!(!bound.owner.as_str().is_empty());
            }
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// Where a collector may answer.
pub fn address(text: &str) {
    match Address::parse(text) {
        Ok(address) => {
            let again = Address::parse(&address.to_string());
            assert_eq!(again.unwrap_or_else(|error| panic!("{address}: {error}")), address);
        }
        Err(error) => drop(refused(&error, text.as_bytes())),
    }
}

/// A URL on the first line; where its server sends the visitor on the others.
pub fn url(bytes: &[u8]) -> Read {
    let Ok(text) = std::str::from_utf8(bytes) else { return Read::Refused };
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    address(first);
    let mut here = match TargetUrl::parse(first) {
        Ok(url) => url,
        Err(error) => return refused(&error, bytes),
    };
    is_sound(&here);
    for location in lines {
        match here.join(location) {
            Ok(next) => here = next,
            Err(error) => drop(refused(&error, bytes)),
        }
        is_sound(&here);
    }
    Read::Whole
}

fn is_sound(url: &TargetUrl) {
    assert!(url.as_str().starts_with("http"), "{url}");
    assert!(!url.host().is_empty() && url.port() != 0, "{url}");
    assert!(!url.as_str().chars().any(char::is_control), "{url}");
    assert_eq!(TargetUrl::parse(url.as_str()).expect("its own text"), *url);
    assert!(url.path_and_query().starts_with('/') && !url.authority().contains('@'), "{url}");
    // An address in whatever writing is one to `require_public` too.
    if let Some(literal) = url.literal_address() {
        assert_eq!(url.require_public().is_ok(), zerkalo_core::address::require_public(literal).is_ok());
    }
}

/// A datagram, or a message of a stream, as an answer to one of our questions.
pub fn dns(bytes: &[u8]) -> Read {
    static QUESTIONS: OnceLock<Vec<(QueryType, Message)>> = OnceLock::new();
    let questions = QUESTIONS.get_or_init(|| {
        let kinds = [QueryType::A, QueryType::Aaaa, QueryType::Https];
        let made = kinds.map(|kind| (kind, query("mirror.example", kind, Extension::Edns)));
        made.into_iter().map(|(kind, made)| (kind, made.expect("a question").0)).collect()
    });
    let mut read = Read::Refused;
    for (kind, question) in questions {
        // Whoever forges an answer knows the question's id, or guessed it.
        let mut datagram = bytes.to_vec();
        if let Some(id) = datagram.get_mut(..2) {
            id.copy_from_slice(&question.metadata.id.to_be_bytes());
        }
        match heard(&datagram, question) {
            Heard::Answer(message) => {
                assert!(answers(&message, question));
                keeps(*kind, question, &message);
                read = Read::Whole;
            }
            Heard::Stray(message) => keeps(*kind, question, &message),
            Heard::Unreadable(why) => drop(refused(&why, bytes)),
            Heard::Noise => {}
        }
    }
    read
}

/// What is kept of a message is bounded, and passes the wire.
fn keeps(kind: QueryType, question: &Message, message: &Message) {
    let Answer { outcome, detail } = Answer::read(message);
    let DnsOutcome::Answer { addresses, cnames, .. } = &outcome else { panic!("an answer is one") };
    assert!(addresses.len() <= 32 && cnames.len() <= 16 && detail.services.len() <= DNS_SERVICES_MAX);
    assert!(cnames.iter().all(|name| name.len() <= 4 * 255));
    for service in &detail.services {
        assert!(service.ech_config.len() <= ECH_CONFIG_LEN_MAX && service.hints.len() <= 8);
        assert!(service.alpn.len() <= 8 && service.alpn.iter().all(|protocol| protocol.len() <= 32));
        if !service.ech_config.is_empty() {
            crate::chain::ech(&service.ech_config);
        }
    }
    let clock = StepClock::start(Duration::from_secs(1));
    let exchange = DnsExchange {
        detail,
        resolver: ResolverKind::System,
        server: SocketAddr::from((Ipv4Addr::LOCALHOST, 53)),
        transport: DnsTransport::Udp,
        name: "mirror.example".to_owned(),
        query: kind,
        span: Span::default(),
        outcome,
        others: vec![other_answer(message, question, clock)],
    };
    survives(&ProbeRecord { dns: vec![exchange], ..nothing() });
}

/// A record of a probe that did nothing.
pub fn nothing() -> ProbeRecord {
    ProbeRecord {
        mirror: None,
        url: TargetUrl::parse("https://mirror.example/").expect("a URL"),
        list_version: 1,
        cause: Cause::Manual,
        started_at: UnixMillis(1_800_000_000_000),
        duration_micros: 1,
        agent_version: String::new(),
        dns: Vec::new(),
        tcp: Vec::new(),
        tls: Vec::new(),
        http: Vec::new(),
        quic: Vec::new(),
        references: Vec::new(),
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        clock: None,
    }
}
