//! Messages of the services: whatever protobuf lets through is turned into types of the core, or refused.

use std::collections::BTreeMap;

use prost::Message;
use zerkalo_agent::uplink::inbox::Inbox;
use zerkalo_agent::wish::Wish;
use zerkalo_collector::uplink::{Parts, Took};
use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::words::AgentId;
use zerkalo_proto::evidence::{list_from_wire, list_to_wire, record_from_wire, record_to_wire};
use zerkalo_proto::order::{order_from_wire, order_to_wire};
use zerkalo_proto::{agent_v1, journal_v1, operator_v1};

use crate::{Read, refused};

/// What an agent sends.
pub fn requests(bytes: &[u8]) -> Read {
    use agent_v1::stream_request::Message as Up;
    let enrolment = agent_v1::EnrollRequest::decode(bytes);
    if let Ok(request) = &enrolment {
        let _ = zerkalo_core::evidence::PublicKey::from_bytes(&request.record_key);
        let _ = zerkalo_collector::authority::Request::parse(&request.certificate_request_pem);
    }
    let request = match agent_v1::StreamRequest::decode(bytes) {
        Ok(request) => request,
        Err(error) if enrolment.is_err() => return refused(&error, bytes),
        Err(_) => return Read::Whole,
    };
    match request.message {
        Some(Up::Records(batch)) => {
            for record in batch.records {
                match record_from_wire(record) {
                    Ok(signed) => {
                        let again = record_from_wire(record_to_wire(&signed));
                        assert_eq!(again.expect("what was read is written"), signed);
                    }
                    Err(error) => return refused(&error, bytes),
                }
            }
            Read::Whole
        }
        Some(Up::Part(part)) => {
            let _ = Parts::default().take(&agent(0), &part);
            Read::Whole
        }
        Some(_) => Read::Whole,
        None => Read::Refused,
    }
}

/// What a collector sends.
pub fn responses(bytes: &[u8]) -> Read {
    use agent_v1::stream_response::Message as Down;
    let response = match agent_v1::StreamResponse::decode(bytes) {
        Ok(response) => response,
        Err(error) => return refused(&error, bytes),
    };
    match response.message {
        Some(Down::List(list)) => match list_from_wire(list) {
            Ok(list) => {
                assert_eq!(list_from_wire(list_to_wire(&list)).expect("what was read is written"), list);
                Read::Whole
            }
            Err(error) => refused(&error, bytes),
        },
        Some(Down::ListPart(part)) => {
            let _ = Inbox::default().take(&part);
            Read::Whole
        }
        Some(Down::ProbeNow(wish)) => match Wish::parse(&wish) {
            Ok(wish) => {
                assert!(wish.addresses.len() <= zerkalo_core::judge::FIELD_ADDRESSES_MAX);
                Read::Whole
            }
            Err(error) => refused(&error, bytes),
        },
        Some(Down::Welcome(welcome)) => {
            for url in &welcome.collector_urls {
                crate::names::address(url);
            }
            Read::Whole
        }
        Some(_) => Read::Whole,
        None => Read::Refused,
    }
}

/// What an operator sends, and what the command line is told of forecasts.
pub fn orders(bytes: &[u8]) -> Read {
    if let Ok(forecast) = operator_v1::MarketForecast::decode(bytes)
        && let Err(error) = zerkalo_proto::operator::forecast_from_wire(&forecast)
    {
        refused(&error, bytes);
    }
    let ordered = match journal_v1::Ordered::decode(bytes) {
        Ok(ordered) => ordered,
        Err(error) => return refused(&error, bytes),
    };
    match order_from_wire(ordered) {
        Ok(order) => {
            assert_eq!(order_from_wire(order_to_wire(&order)).expect("what was read is written"), order);
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

fn agent(number: u64) -> AgentId {
    AgentId::parse(&format!("kz-kcell-{number:08x}")).expect("a name")
}

/// Parts of records, each behind its length, of three agents in turn by their epoch.
pub fn record_parts(bytes: &[u8]) -> Read {
    let (mut rest, parts) = (bytes, Parts::default());
    let mut lens: BTreeMap<AgentId, usize> = BTreeMap::new();
    let mut read = Read::Refused;
    while !rest.is_empty() {
        let Ok(part) = agent_v1::RecordPart::decode_length_delimited(&mut rest) else { break };
        let agent = agent(part.epoch % 3);
        match parts.take(&agent, &part) {
            Took::Whole(record) => {
                assert_eq!(record.len(), part.total_len as usize);
                assert_eq!(parts.held(&agent), None);
                read = Read::Whole;
            }
            Took::Held(held) => {
                assert_eq!((held.epoch, held.sequence), (part.epoch, part.sequence));
                assert!(held.held_len < part.total_len || part.total_len == 0 || held.held_len > 0);
                lens.insert(agent, held.held_len as usize);
            }
            Took::TooLong => assert!(part.total_len as usize > BODY_LEN_MAX),
        }
        assert!(lens.values().all(|len| *len <= 2 * BODY_LEN_MAX), "more is held than any record has");
    }
    read
}

/// Parts of lists, each behind its length.
pub fn list_parts(bytes: &[u8]) -> Read {
    let (mut rest, inbox) = (bytes, Inbox::default());
    let mut read = Read::Refused;
    while !rest.is_empty() {
        let Ok(part) = agent_v1::ListPart::decode_length_delimited(&mut rest) else { break };
        if let Some(list) = inbox.take(&part) {
            assert_eq!(list.len(), part.total_len as usize);
            assert_eq!(inbox.held(), (0, 0));
            read = Read::Whole;
        }
    }
    read
}
