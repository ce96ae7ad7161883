//! How agents come: counted by transport and by what ended the stream before, and said where somebody broke TLS open on the
//! way. And what is made of a list for a connection that must stay short.

use zerkalo_core::record::Certificate;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{ListPart, Passage};
use zerkalo_proto::evidence::{list_to_bytes, list_to_wire};

use super::Ways;
use crate::engine::ListInForce;
use crate::metrics::{Metrics, PassageLabels};

/// What carries streams; the first for what nobody knows.
const TRANSPORTS: [&str; 3] = ["other", "tcp", "quic"];
/// How the stream before ended; the first for what nobody knows.
const ENDS: [&str; 8] =
    ["other", "first", "closed", "recycled", "timeout", "frozen", "intercepted", "broken"];
/// Interceptions one agent is believed at once.
const INTERCEPTIONS_MAX: usize = 8;
/// Longest issuer logged, in characters: the agent's word of what a stranger wrote.
const ISSUER_LEN_MAX: usize = 200;
/// Of a short connection, bytes that handshake, welcome and acks take.
const TAKEN_BYTES: u32 = 7_000;
/// Fewer bytes of a list are not worth a connection.
const LIST_PART_MIN: u32 = 1_000;
/// Longest list sent whole in the midst of a short connection.
const LIST_WHOLE_MAX: usize = 1_000;

/// Notes how a stream came about. Bytes below which it must stay, if the agent asks for it.
pub fn note(passage: Option<&Passage>, agent: &AgentId, ways: &Ways, metrics: &Metrics) -> Option<u32> {
    let passage = passage?;
    let labels = PassageLabels {
        transport: known(&TRANSPORTS, &passage.transport),
        after: known(&ENDS, &passage.after),
    };
    metrics.streams.get_or_create(&labels).inc();
    if passage.after != "recycled" {
        tracing::info!(
            %agent, transport = labels.transport, after = labels.after, down_millis = passage.down_millis,
            bytes_max = passage.bytes_max, "came to the uplink"
        );
    }
    for issuer in passage.intercepted_by.iter().take(INTERCEPTIONS_MAX) {
        let issuer: String =
            issuer.chars().filter(|letter| !letter.is_control()).take(ISSUER_LEN_MAX).collect();
        let state = ways.fingerprints.state_ca(&[shown_by(&issuer)]);
        let by = if state.is_some() { "state_ca" } else { "other" };
        crate::metrics::count(&metrics.uplink_interceptions, by);
        tracing::warn!(
            %agent, issuer, by,
            "somebody on this agent's way to the collector breaks TLS open; it refused, and came by another way"
        );
    }
    (passage.bytes_max > 0).then_some(passage.bytes_max)
}

/// The list as this connection can take it: whole, or the part behind what the agent holds of it. In the midst of a short
/// connection, where `held` is not known, only word that there is one: the agent comes anew for it.
pub fn list_message(list: &ListInForce, bytes_max: Option<u32>, held: Option<(u64, u32)>) -> Down {
    let whole = || Down::List(list_to_wire(&list.signed));
    let Some(bytes_max) = bytes_max else { return whole() };
    let bytes = list_to_bytes(&list.signed);
    let room = match held {
        Some(_) => bytes_max.saturating_sub(TAKEN_BYTES).max(LIST_PART_MIN) as usize,
        None => LIST_WHOLE_MAX,
    };
    if bytes.len() <= room {
        return whole();
    }
    let begun = held.filter(|(version, _)| *version == list.version).map_or(0, |(_, len)| len as usize);
    let begun = begun.min(bytes.len());
    let end = if held.is_some() { (begun + room).min(bytes.len()) } else { begun };
    Down::ListPart(ListPart {
        version: list.version,
        offset: u32::try_from(begun).unwrap_or(u32::MAX),
        total_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        content: bytes[begun..end].to_vec(),
    })
}

fn known(words: &[&'static str], word: &str) -> &'static str {
    words.iter().find(|known| **known == word).copied().unwrap_or(words[0])
}

/// A certificate of which nothing is known but who vouches for it.
fn shown_by(issuer: &str) -> Certificate {
    Certificate {
        sha256: Sha256([0; 32]),
        spki_sha256: Sha256([0; 32]),
        subject: String::new(),
        issuer: issuer.to_owned(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::SignedList;
    use zerkalo_core::fingerprint::Fingerprints;
    use zerkalo_proto::evidence::list_from_bytes;

    #[test]
    fn a_state_authority_on_the_way_is_told_from_others_and_labels_stay_few() {
        let fingerprints = Fingerprints::built_in();
        let ways = Ways { fingerprints, ..Ways::default() };
        let (metrics, _) = Metrics::new();
        let agent = AgentId::parse("kz-kcell-00000001").unwrap();
        let isca = "C=KZ, O=ISCA, CN=Information Security Certification Authority";
        let passage = Passage {
            transport: "quic".to_owned(),
            after: "frozen".to_owned(),
            intercepted_by: [isca, "CN=Secure Gateway"].map(str::to_owned).to_vec(),
            bytes_max: 12_000,
            ..Passage::default()
        };
        assert_eq!(note(Some(&passage), &agent, &ways, &metrics), Some(12_000));
        let nonsense = Passage { transport: "pigeon".to_owned(), ..Passage::default() };
        assert_eq!(note(Some(&nonsense), &agent, &ways, &metrics), None);
        assert_eq!(note(None, &agent, &ways, &metrics), None);
        let streams =
            |transport, after| metrics.streams.get_or_create(&PassageLabels { transport, after }).get();
        assert_eq!((streams("quic", "frozen"), streams("other", "other")), (1, 1));
        let intercepted =
            |code| metrics.uplink_interceptions.get_or_create(&crate::metrics::Code { code }).get();
        assert_eq!((intercepted("state_ca"), intercepted("other")), (1, 1));
    }

    #[test]
    fn a_long_list_comes_whole_over_short_connections() {
        let signed = SignedList { bytes: vec![b'x'; 12_345], signature: [7; 64], cosignatures: vec![] };
        let list = ListInForce { version: 4, signed: signed.clone(), key_changes: vec![] };
        assert!(matches!(list_message(&list, None, Some((0, 0))), Down::List(_)));
        let mut held = Vec::new();
        for _ in 0..20 {
            let len = u32::try_from(held.len()).unwrap();
            let Down::ListPart(part) = list_message(&list, Some(12_000), Some((4, len))) else {
                panic!("whole")
            };
            assert!(part.content.len() <= 5_000 && part.offset == len);
            held.extend(part.content);
            if held.len() == part.total_len as usize {
                break;
            }
        }
        assert_eq!(list_from_bytes(&held).unwrap(), signed);
        // Of another version nothing is held; in the midst only word of it goes out.
        let Down::ListPart(part) = list_message(&list, Some(12_000), Some((3, 99))) else { panic!("whole") };
        assert_eq!(part.offset, 0);
        let Down::ListPart(part) = list_message(&list, Some(12_000), None) else { panic!("whole") };
        assert!(part.content.is_empty() && part.total_len > 0);
    }
}
