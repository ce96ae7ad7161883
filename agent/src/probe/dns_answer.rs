//! Reads a DNS message: the questions we send, and what an answer holds. Asks nobody, weighs nothing.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::HTTPS;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use zerkalo_core::record::{
    DNS_SERVICES_MAX, DnsDetail, DnsOtherAnswer, DnsOutcome, ECH_CONFIG_LEN_MAX, HttpsService, QueryType,
};

use super::clock::StepClock;
use super::late::answers;
use super::text::cut;

/// The payload we announce: what passes the internet in one piece (DNS flag day 2020), as stub resolvers have it.
const EDNS_PAYLOAD_LEN: u16 = 1_232;
/// Addresses kept of one answer: hostile answers carry thousands.
const ADDRESSES_MAX: usize = 32;
/// Aliases kept of one answer.
const CNAMES_MAX: usize = 16;
/// Protocols kept of one HTTPS record, and bytes of one's name.
const ALPN_MAX: usize = 8;
/// See [`ALPN_MAX`].
const ALPN_LEN_MAX: usize = 32;
/// Hints kept of one HTTPS record.
const HINTS_MAX: usize = 8;

/// Whether a question carries EDNS. Old servers answer FORMERR to it; stub resolvers ask again without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    Edns,
    None,
}

/// How a question ended, and what else the answer held.
#[derive(Debug, Clone)]
pub struct Answer {
    pub outcome: DnsOutcome,
    pub detail: DnsDetail,
}

impl Answer {
    /// What an answer says.
    pub fn read(message: &Message) -> Self {
        let (rcode, addresses, cnames, ttl_min_secs) = content(message);
        let outcome = DnsOutcome::Answer { rcode, addresses, cnames, ttl_min_secs };
        let metadata = &message.metadata;
        let detail = DnsDetail {
            message_id: metadata.id,
            edns_payload_len: message.edns.as_ref().map(Edns::max_payload),
            is_authoritative: metadata.authoritative,
            is_recursion_available: metadata.recursion_available,
            is_authenticated: metadata.authentic_data,
            services: services(message),
        };
        Self { outcome, detail }
    }

    /// No answer in time.
    pub fn timeout() -> Self {
        Self { outcome: DnsOutcome::Timeout, detail: DnsDetail::default() }
    }

    /// No answer, or none that can be read.
    pub fn failed(why: String) -> Self {
        Self { outcome: DnsOutcome::Failed(why), detail: DnsDetail::default() }
    }
}

/// A question as a message, and as the bytes of it.
pub fn query(name: &str, query: QueryType, extension: Extension) -> Result<(Message, Vec<u8>), String> {
    let mut name = Name::from_ascii(name).map_err(|error| format!("no DNS name: {error}"))?;
    name.set_fqdn(true);
    let record_type = match query {
        QueryType::A => RecordType::A,
        QueryType::Aaaa => RecordType::AAAA,
        QueryType::Https => RecordType::HTTPS,
    };
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    if extension == Extension::Edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_PAYLOAD_LEN);
        message.set_edns(edns);
    }
    let bytes = encode(&message)?;
    Ok((message, bytes))
}

/// The bytes of a question.
pub fn encode(message: &Message) -> Result<Vec<u8>, String> {
    message.to_vec().map_err(|error| format!("the question cannot be encoded: {error}"))
}

/// An answer beside the one taken, that came just now.
pub fn other_answer(message: &Message, query: &Message, clock: StepClock) -> DnsOtherAnswer {
    let (rcode, addresses, _, ttl_min_secs) = content(message);
    let arrived_micros = clock.elapsed_micros();
    let matches_question = answers(message, query);
    DnsOtherAnswer { arrived_micros, matches_question, rcode, addresses, ttl_min_secs }
}

/// Response code, addresses, aliases and lowest TTL.
fn content(message: &Message) -> (u16, Vec<IpAddr>, Vec<String>, u32) {
    let (mut addresses, mut cnames, mut ttl_min_secs) = (Vec::new(), Vec::new(), None::<u32>);
    // Records of other classes are nobody's addresses: stub resolvers pass over them.
    for record in message.answers.iter().filter(|record| record.dns_class == DNSClass::IN) {
        match &record.data {
            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0)),
            RData::CNAME(cname) => cnames.push(text_of(&cname.0)),
            RData::HTTPS(_) => {}
            _ => continue,
        }
        ttl_min_secs = Some(ttl_min_secs.map_or(record.ttl, |least| least.min(record.ttl)));
    }
    addresses.truncate(ADDRESSES_MAX);
    cnames.truncate(CNAMES_MAX);
    (u16::from(message.metadata.response_code), addresses, cnames, ttl_min_secs.unwrap_or(0))
}

fn services(message: &Message) -> Vec<HttpsService> {
    let records = message.answers.iter().filter_map(|record| match &record.data {
        RData::HTTPS(https) => Some(service(https)),
        _ => None,
    });
    records.take(DNS_SERVICES_MAX).collect()
}

fn service(https: &HTTPS) -> HttpsService {
    let mut service = HttpsService {
        priority: https.svc_priority,
        target: text_of(&https.target_name),
        ..HttpsService::default()
    };
    for (_, value) in &https.svc_params {
        match value {
            SvcParamValue::Alpn(alpn) => service.alpn.extend(alpn.0.iter().take(ALPN_MAX).cloned()),
            SvcParamValue::Ipv4Hint(hint) => service.hints.extend(hint.0.iter().map(|a| IpAddr::V4(a.0))),
            SvcParamValue::Ipv6Hint(hint) => service.hints.extend(hint.0.iter().map(|a| IpAddr::V6(a.0))),
            // Cut short it would be no configuration.
            SvcParamValue::EchConfigList(list) if list.0.len() <= ECH_CONFIG_LEN_MAX => {
                service.ech_config.clone_from(&list.0);
            }
            _ => {}
        }
    }
    service.alpn.truncate(ALPN_MAX);
    service.alpn.iter_mut().for_each(|protocol| cut(protocol, ALPN_LEN_MAX));
    service.hints.truncate(HINTS_MAX);
    service
}

/// A name without its last dot; the root is empty.
fn text_of(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
