//! Rules on what browsers use beside HTTP over TCP: QUIC with HTTP/3, and ECH. A page that loads without them is impaired
//! where they are dropped: browsers that were told of them wait, or do not load it at all.

use super::facts::has_reached;
use super::rules::Found;
use super::{Case, Conclusion};
use crate::record::{
    Arm, HttpExchange, HttpOutcome, ProbeRecord, QuicHandshake, QuicOutcome, TlsHandshake, TlsOutcome,
};
use crate::verdict::{Mechanism, Outcome, Trigger};

/// Shorter silence in a page by HTTP/3 is a slow road; QUIC itself sends again several times within it.
const STALL_MICROS_MIN: u64 = 3_000_000;

/// A hello with the mirror's own ECH meets nothing but silence or an end, and the control's is read.
pub(super) fn ech_timeout(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let cut = offers(case.record).find(|tls| is_cut(tls))?;
    let is_read_there = offers(control).any(|tls| tls.sni == cut.sni && tls.bytes_received > 0);
    if offers(case.record).any(|tls| tls.bytes_received > 0)
        || !is_read_there
        || !has_reached(case.record, case.mirror)
    {
        return None;
    }
    let shown = cut.sni.as_deref().unwrap_or_default();
    let mut basis = vec![format!(
        "without ECH the page loads; a hello with the mirror's own ECH, under the name {shown}, ended with {:?} \
         and no byte back, the control's was read",
        cut.outcome
    )];
    basis.extend(fate_of_grease(case.record));
    impaired(Mechanism::EchTimeout, Trigger::Protocol, basis)
}

/// QUIC is silent, and answers the control.
pub(super) fn quic_timeout(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let silent = own(case.record).find(|quic| quic.outcome == QuicOutcome::Timeout)?;
    if !own(control).any(is_completed) || !has_reached(case.record, case.mirror) {
        return None;
    }
    let mut basis = vec!["QUIC is silent here and answers the control; the page loads over TCP".to_owned()];
    let mut neutrals = case.record.quic.iter().filter(|quic| quic.arm == Arm::NeutralSni);
    let trigger = match neutrals.find(|quic| quic.address == silent.address) {
        // What came back is an answer, whatever it said.
        Some(neutral) if neutral.datagrams_received > 0 => {
            basis.push("with a neutral name, from another port, the same address answers".to_owned());
            Trigger::Sni
        }
        Some(_) => {
            basis.push("with a neutral name, from another port, it is as silent: no QUIC passes".to_owned());
            Trigger::Protocol
        }
        None => Trigger::Unknown,
    };
    impaired(Mechanism::QuicTimeout, trigger, basis)
}

/// QUIC shakes hands, and its page never ends; the control's does.
pub(super) fn quic_stall(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let page = pages(case.record).find(|page| is_stalled(page))?;
    let is_whole = |page: &HttpExchange| page.outcome == HttpOutcome::Complete;
    if !pages(control).any(is_whole) || !has_reached(case.record, case.mirror) {
        return None;
    }
    let basis = format!(
        "by HTTP/3 the page stalls after {} bytes, where the control reads it to its end; over TCP it loads",
        page.body_len
    );
    impaired(Mechanism::QuicTimeout, Trigger::Unknown, vec![basis])
}

/// What a GREASE extension met beside the mirror's own name, in words.
pub(super) fn fate_of_grease(record: &ProbeRecord) -> Option<String> {
    let grease = record.tls.iter().find(|tls| tls.arm == Arm::EchGrease)?;
    Some(match (&grease.outcome, grease.bytes_received) {
        (TlsOutcome::Completed { .. }, _) => {
            "an extension that only looks like ECH passes beside the mirror's own name".to_owned()
        }
        (outcome, 0) => {
            format!(
                "an extension that only looks like ECH ended with {outcome:?} under the mirror's own name"
            )
        }
        _ => return None,
    })
}

fn impaired(mechanism: Mechanism, trigger: Trigger, basis: Vec<String>) -> Found {
    let (mechanism, trigger) = (Some(mechanism), Some(trigger));
    Some(Conclusion { outcome: Outcome::Impaired, mechanism, trigger, basis })
}

fn offers(record: &ProbeRecord) -> impl Iterator<Item = &TlsHandshake> {
    record.tls.iter().filter(|tls| tls.arm == Arm::EchReal)
}

/// QUIC handshakes with the mirror's own name.
fn own(record: &ProbeRecord) -> impl Iterator<Item = &QuicHandshake> {
    record.quic.iter().filter(|quic| quic.arm == Arm::Main)
}

fn pages(record: &ProbeRecord) -> impl Iterator<Item = &HttpExchange> {
    record.http.iter().filter(|page| page.arm == Arm::Http3)
}

fn is_cut(tls: &TlsHandshake) -> bool {
    tls.bytes_received == 0
        && tls.bytes_sent > 0
        && matches!(tls.outcome, TlsOutcome::Timeout | TlsOutcome::Reset | TlsOutcome::Eof)
}

fn is_completed(quic: &QuicHandshake) -> bool {
    matches!(quic.outcome, QuicOutcome::Completed { .. })
}

fn is_stalled(page: &HttpExchange) -> bool {
    let silence = page.span.duration_micros.saturating_sub(page.last_byte_micros.unwrap_or(0));
    page.outcome == HttpOutcome::Timeout && silence >= STALL_MICROS_MIN
}
