//! Points a DNS name at the mirror that takes another's place: RFC 2136 UPDATE, signed with TSIG (RFC 8945).
//!
//! It looks first and changes only what it saw (the prerequisite of the update), so that acting twice is harmless and
//! a change made by somebody else in between is not overwritten unseen. It looks again afterwards: a server that says
//! yes may still have dropped the records, beside a CNAME for one. Every answer must bear the server's signature.

mod exchange;
mod key;

use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use zerkalo_core::market::Replacement;
use zerkalo_core::words::MirrorId;

use super::{Errand, Notice, Outlook};
use crate::clock;
use crate::config::DnsConfig;
use exchange::Line;

pub use exchange::ExchangeError;
pub use key::{DnsKey, KeyError};

/// One name at one server.
pub struct Dns {
    config: DnsConfig,
    line: Line,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the notice puts no mirror in another's place")]
    NoReplacement,
    #[error(
        "nothing is configured for mirror {mirror} under values, and its host {host} cannot stand in a {kind} record"
    )]
    NoValue { mirror: MirrorId, host: String, kind: RecordType },
    #[error("the server cannot be asked for {name}")]
    Look {
        name: String,
        #[source]
        source: Box<ExchangeError>,
    },
    #[error("the server did not take the update of {name}")]
    Update {
        name: String,
        #[source]
        source: Box<ExchangeError>,
    },
    #[error("the server answered {code} when asked for {name}{hint}")]
    LookRefused { name: String, code: ResponseCode, hint: &'static str },
    #[error("the server answered {code} to the update of {name}{hint}")]
    UpdateRefused { name: String, code: ResponseCode, hint: &'static str },
    #[error("the server is not the one that answers for zone {zone}; name its primary")]
    NotAuthoritative { zone: String },
    #[error(
        "{name} is a CNAME there and so can hold no {kind} record; configure type = \"CNAME\", or remove it"
    )]
    CnameThere { name: String, kind: RecordType },
    #[error("{name} was changed by somebody else at the same time; it is {found} now")]
    Raced { name: String, found: String },
    #[error(
        "the server took the update, yet {name} is {found}; a CNAME beside other records is dropped silently"
    )]
    NotTaken { name: String, found: String },
}

impl DnsError {
    /// What another attempt may bring.
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::NoReplacement | Self::NoValue { .. } => Outlook::Hopeless,
            Self::Look { source, .. } | Self::Update { source, .. } => source.outlook(),
            Self::LookRefused { code, .. } | Self::UpdateRefused { code, .. } => outlook_of(*code),
            Self::NotAuthoritative { .. } | Self::CnameThere { .. } | Self::NotTaken { .. } => {
                Outlook::Refused
            }
            Self::Raced { .. } => Outlook::Passing,
        }
    }
}

/// What another question may bring after an answer with this code.
fn outlook_of(code: ResponseCode) -> Outlook {
    use ResponseCode::{FormErr, NotAuth, NotImp, NotZone, Refused};
    if matches!(code, FormErr | NotImp | Refused | NotAuth | NotZone) {
        Outlook::Refused
    } else {
        Outlook::Passing
    }
}

impl Dns {
    /// Nothing is asked yet.
    pub fn new(config: DnsConfig) -> Self {
        let line = Line::new(config.server, config.key.signer());
        Self { config, line }
    }

    /// Looks, changes what is to be changed, and looks again; says what was done.
    pub async fn attempt(&self, errand: &Errand<'_>) -> Result<String, DnsError> {
        let replacement = match errand.notice {
            Notice::Decision(decision) => decision.replacement.as_ref(),
            Notice::Alert(_) => None,
        };
        let wanted = self.wanted(replacement.ok_or(DnsError::NoReplacement)?)?;
        let before = self.look().await?;
        let (name, kind) = (&self.config.record, self.config.kind);
        if before == wanted {
            return Ok(format!("{name} {kind} is {} already", shown(&wanted)));
        }
        let is_raced = self.update(&before, &wanted).await?;
        let after = self.look().await?;
        if after == wanted {
            return Ok(format!("{name} {kind} is {} now; it was {}", shown(&wanted), shown(&before)));
        }
        let (name, found) = (name.to_string(), shown(&after));
        Err(if is_raced { DnsError::Raced { name, found } } else { DnsError::NotTaken { name, found } })
    }

    /// The records that the mirror asks for, in order.
    fn wanted(&self, replacement: &Replacement) -> Result<Vec<RData>, DnsError> {
        if let Some(values) = self.config.values.get(&replacement.mirror) {
            return Ok(values.clone());
        }
        let host = replacement.url.host();
        let found = match (self.config.kind, host.parse::<IpAddr>()) {
            (RecordType::CNAME, Err(_)) => parse_value(RecordType::CNAME, &host),
            (kind, Ok(address)) => parse_value(kind, &address.to_string()),
            (_, Err(_)) => None,
        };
        let kind = self.config.kind;
        found.map(|data| vec![data]).ok_or(DnsError::NoValue {
            mirror: replacement.mirror.clone(),
            host,
            kind,
        })
    }

    /// The records the server holds, in order.
    async fn look(&self) -> Result<Vec<RData>, DnsError> {
        let (name, kind) = (&self.config.record, self.config.kind);
        let mut message = Message::query();
        message.metadata.id = u16::from_be_bytes(clock::random());
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(name.clone(), kind));
        let answer = self.line.exchange(message).await;
        let answer =
            answer.map_err(|source| DnsError::Look { name: name.to_string(), source: source.into() })?;
        let code = answer.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(DnsError::LookRefused { name: name.to_string(), code, hint: hint(code) });
        }
        if !answer.authoritative {
            return Err(DnsError::NotAuthoritative { zone: self.config.zone.to_string() });
        }
        let own = || answer.answers.iter().filter(|record| record.name == *name);
        if kind != RecordType::CNAME && own().any(|record| record.record_type() == RecordType::CNAME) {
            return Err(DnsError::CnameThere { name: name.to_string(), kind });
        }
        let mut found: Vec<_> =
            own().filter(|record| record.record_type() == kind).map(|record| record.data.clone()).collect();
        sort(&mut found);
        Ok(found)
    }

    /// Replaces what was seen by what is wanted; whether something else stands there by now.
    async fn update(&self, before: &[RData], wanted: &[RData]) -> Result<bool, DnsError> {
        let name = &self.config.record;
        let answer = self.line.exchange(self.update_message(before, wanted)).await;
        let answer =
            answer.map_err(|source| DnsError::Update { name: name.to_string(), source: source.into() })?;
        match answer.response_code {
            ResponseCode::NoError => Ok(false),
            ResponseCode::YXRRSet
            | ResponseCode::NXRRSet
            | ResponseCode::YXDomain
            | ResponseCode::NXDomain => Ok(true),
            code => Err(DnsError::UpdateRefused { name: name.to_string(), code, hint: hint(code) }),
        }
    }

    fn update_message(&self, before: &[RData], wanted: &[RData]) -> Message {
        let (name, kind) = (&self.config.record, self.config.kind);
        let mut zone = Query::query(self.config.zone.clone(), RecordType::SOA);
        zone.set_query_class(DNSClass::IN);
        let mut message = Message::query();
        message.metadata.id = u16::from_be_bytes(clock::random());
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(zone);
        let empty = |class| {
            let mut record = Record::from_rdata(name.clone(), 0, RData::Update0(kind));
            record.dns_class = class;
            record
        };
        if before.is_empty() {
            // Such records must not exist.
            message.add_pre_requisite(empty(DNSClass::NONE));
        }
        // Exactly these must.
        before
            .iter()
            .for_each(|data| message.add_pre_requisite(Record::from_rdata(name.clone(), 0, data.clone())));
        // All of them go.
        message.add_update(empty(DNSClass::ANY));
        let ttl = self.config.ttl_secs;
        wanted
            .iter()
            .for_each(|data| message.add_update(Record::from_rdata(name.clone(), ttl, data.clone())));
        message
    }
}

/// A value as the configuration writes it.
pub fn parse_value(kind: RecordType, text: &str) -> Option<RData> {
    match kind {
        RecordType::A => text.parse().ok().map(|address| RData::A(A(address))),
        RecordType::AAAA => text.parse().ok().map(|address| RData::AAAA(AAAA(address))),
        RecordType::CNAME => parse_name(text).map(|name| RData::CNAME(CNAME(name))),
        _ => None,
    }
}

/// A host name, with or without the dot behind it.
pub fn parse_name(text: &str) -> Option<Name> {
    if text.is_empty() || text == "." || text.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut name = Name::from_ascii(text).ok()?.to_lowercase();
    name.set_fqdn(true);
    // The root has more spellings than the dot.
    (!name.is_root()).then_some(name)
}

/// Sets are compared in order; so are those of the configuration.
pub fn sort(values: &mut Vec<RData>) {
    values.sort_by_cached_key(ToString::to_string);
    values.dedup();
}

fn shown(values: &[RData]) -> String {
    if values.is_empty() {
        return "nothing".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What the operator can do about an answer.
fn hint(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::Refused => "; allow the key there (allow-update or update-policy)",
        ResponseCode::NotAuth | ResponseCode::NotZone => "; does this server serve the zone, as its primary?",
        ResponseCode::ServFail => "; its own log says why (a zone file it cannot write?)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_names_or_addresses_of_their_kind_and_nothing_else() {
        let check = |kind, text: &str, expected: Option<&str>| {
            assert_eq!(parse_value(kind, text).map(|data| data.to_string()).as_deref(), expected, "{text}");
        };
        check(RecordType::A, "192.0.2.7", Some("192.0.2.7"));
        check(RecordType::A, "2001:db8::7", None);
        check(RecordType::AAAA, "2001:db8::7", Some("2001:db8::7"));
        check(RecordType::AAAA, "192.0.2.7", None);
        check(RecordType::CNAME, "M2.example", Some("m2.example."));
        check(RecordType::CNAME, "m2.example.", Some("m2.example."));
        check(RecordType::CNAME, "192.0.2.7", None);
        check(RecordType::CNAME, ".", None);
        check(RecordType::TXT, "x", None);
    }

    #[test]
    fn sets_are_equal_whatever_their_order() {
        let set = |texts: &[&str]| {
            let mut set: Vec<_> = texts.iter().filter_map(|text| parse_value(RecordType::A, text)).collect();
            sort(&mut set);
            set
        };
        assert_eq!(set(&["192.0.2.7", "192.0.2.10"]), set(&["192.0.2.10", "192.0.2.7", "192.0.2.7"]));
        assert_eq!(shown(&[]), "nothing");
    }

    #[test]
    fn a_plain_no_is_told_from_a_server_in_trouble() {
        for code in
            [ResponseCode::Refused, ResponseCode::NotAuth, ResponseCode::NotZone, ResponseCode::FormErr]
        {
            assert_eq!(outlook_of(code), Outlook::Refused, "{code}");
        }
        for code in [ResponseCode::ServFail, ResponseCode::YXRRSet] {
            assert_eq!(outlook_of(code), Outlook::Passing, "{code}");
        }
        let raced = DnsError::Raced { name: String::new(), found: String::new() };
        assert_eq!(raced.outlook(), Outlook::Passing);
        assert_eq!(DnsError::NoReplacement.outlook(), Outlook::Hopeless);
    }
}
