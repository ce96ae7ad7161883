//! Properties of the readers that the agent owns: whatever comes in, nothing panics, and what is kept is bounded.

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use zerkalo_agent::probe::late::{Heard, answers, heard};
use zerkalo_agent::probe::quic::advertised_port;
use zerkalo_core::page;
use zerkalo_core::record::EXCERPT_LEN_MAX;
use zerkalo_core::target::TargetUrl;

use super::packets::{A, CNAME, INTERNET, Packet, SAME_NAME};

fn question() -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii("mirror.example.").unwrap(), RecordType::A));
    message
}

/// Bytes that look like the beginning of a page more often than chance has it.
fn pages() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just(b"<title".to_vec()),
        Just(b">".to_vec()),
        Just(b"</title".to_vec()),
        Just(b"charset=windows-1251".to_vec()),
        Just("ё\u{9b}\u{202e}".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(words, 0..30).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn alt_svc_is_read_without_fear(text in "(h3|h2|=|\"|:|,|;| |[0-9]{1,6}|\\PC){0,40}") {
        if let Some(port) = advertised_port(&text) {
            let said = format!("h3=\":{port}\"");
            let padded = text.contains("h3=\":0") || text.contains("h3=\":+");
            prop_assert!(port != 0 && (padded || text.contains(&said)), "{text:?} gave {port}");
        }
    }

    #[test]
    fn a_page_becomes_bounded_text(body in pages(), kind in proptest::option::of("\\PC{0,40}")) {
        let kind = kind.as_deref();
        if let Some(title) = page::title(&body, kind) {
            prop_assert!(title.len() <= 256, "{}", title.len());
            prop_assert!(!title.chars().any(char::is_control), "{title:?}");
        }
        let excerpt = page::excerpt(&body, kind);
        prop_assert!(excerpt.len() <= EXCERPT_LEN_MAX);
        prop_assert!(!excerpt.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{excerpt:?}");
    }

    #[test]
    fn a_datagram_is_an_answer_only_to_its_question(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let query = question();
        if let Heard::Answer(message) = heard(&bytes, &query) {
            prop_assert!(answers(&message, &query));
        }
    }

    #[test]
    fn a_damaged_answer_is_read_without_fear(
        places in proptest::collection::vec((0usize..120, any::<u8>()), 0..12),
        cut_at in 0usize..160,
    ) {
        let query = question();
        let packet = Packet::to(&query.to_vec().unwrap());
        let packet = packet.record(SAME_NAME, CNAME, INTERNET, SAME_NAME);
        let mut bytes = packet.record(SAME_NAME, A, INTERNET, &[127, 0, 0, 1]).bytes();
        for (place, byte) in places {
            if let Some(slot) = bytes.get_mut(place) {
                *slot = byte;
            }
        }
        bytes.truncate(cut_at);
        if let Heard::Answer(message) = heard(&bytes, &query) {
            prop_assert_eq!(message.metadata.id, query.metadata.id);
        }
    }

    #[test]
    fn a_location_leads_to_http_or_nowhere(location in "((https?|ftp|file|javascript|//|/|:|@|\\[|\\]|%|#|[.0-9a-f])|\\PC){0,20}") {
        let here = TargetUrl::parse("https://mirror.example/a/b").unwrap();
        if let Ok(next) = here.join(&location) {
            prop_assert!(next.as_str().starts_with("http"), "{next}");
            prop_assert!(!next.host().is_empty() && next.port() != 0, "{next}");
            prop_assert!(!next.as_str().chars().any(char::is_control));
            prop_assert_eq!(TargetUrl::parse(next.as_str()).unwrap(), next);
        }
    }
}
