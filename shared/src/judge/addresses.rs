//! How many of a mirror's addresses a visit found blocked: a block of some addresses is a partial one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::is_own_edge;
use crate::cell::Count;
use crate::record::{Arm, ProbeRecord, TcpConnect, TcpOutcome};
use crate::target::Mirror;
use crate::verdict::{Mechanism, Outcome, Verdict};

/// Of the addresses a visit tried, those at which the mirror did not answer; `None` where the record does not tell: none was
/// tried, or what blocked it was no matter of addresses.
pub fn addresses_tried(record: &ProbeRecord, mirror: Option<&Mirror>, verdict: &Verdict) -> Option<Count> {
    let by_address = |mechanism: Mechanism| {
        let word = mechanism.as_str();
        word.starts_with("tcp.") || word.starts_with("tls.")
    };
    let tells = match verdict.outcome {
        Outcome::Ok | Outcome::Impaired => true,
        Outcome::Blocked => verdict.mechanism.is_some_and(by_address),
        _ => false,
    };
    let main =
        record.tcp.iter().filter(|tcp| tcp.arm == Arm::Main && tcp.address.port() == record.url.port());
    let answered = |address: &IpAddr| {
        let is_open = |tcp: &TcpConnect| {
            tcp.arm == Arm::Main && tcp.address.ip() == *address && tcp.outcome == TcpOutcome::Connected
        };
        let speaks = !record.url.is_https() || is_own_edge(record, mirror, *address);
        speaks && record.tcp.iter().any(is_open)
    };
    let tried: BTreeSet<IpAddr> = main
        .filter(|tcp| !matches!(tcp.outcome, TcpOutcome::Forbidden(_)))
        .map(|tcp| tcp.address.ip())
        .collect();
    let blocked = tried.iter().filter(|address| !answered(address)).count() as u32;
    (tells && !tried.is_empty()).then_some(Count { blocked, of: tried.len() as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::{cut, healthy, mirror};
    use crate::record::TlsOutcome;

    fn verdict(outcome: Outcome, mechanism: Option<Mechanism>) -> Verdict {
        let (rule, rules_version) = ("test".into(), "t".into());
        let basis = Vec::new();
        Verdict {
            outcome,
            mechanism,
            trigger: None,
            rule,
            rules_version,
            basis,
            control: None,
            dissent: None,
        }
    }

    #[test]
    fn addresses_that_the_mirror_did_not_answer_at_are_counted() {
        let count = |record: &ProbeRecord, outcome, mechanism| {
            let count = addresses_tried(record, Some(&mirror()), &verdict(outcome, mechanism));
            count.map(|count| (count.blocked, count.of))
        };
        let mut record = healthy();
        assert_eq!(count(&record, Outcome::Ok, None), Some((0, 1)));
        // The first address never answered, the second is the mirror.
        let mut dropped = record.tcp[0].clone();
        dropped.address = "93.184.216.99:443".parse().unwrap();
        dropped.outcome = TcpOutcome::Timeout;
        record.tcp.insert(0, dropped);
        assert_eq!(count(&record, Outcome::Ok, None), Some((1, 2)));
        let mut silent = healthy();
        cut(&mut silent, TlsOutcome::Timeout, None);
        assert_eq!(count(&silent, Outcome::Blocked, Some(Mechanism::TlsTimeout)), Some((1, 1)));
        // A forged answer says nothing about addresses, nor does a network in whitelist mode.
        assert_eq!(count(&silent, Outcome::Blocked, Some(Mechanism::DnsInjectionBogon)), None);
        assert_eq!(count(&silent, Outcome::Restricted, None), None);
    }
}
