//! Where on the way a box sits: read off hellos sent with a small TTL. The answer to a hello that cannot have reached the
//! mirror is not the mirror's.

use std::fmt;

use crate::record::{HopProbe, TlsOutcome};

/// Who answered a hello with a small TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweringHop<'a> {
    /// The smallest TTL at which the name was answered.
    pub hop: u8,
    /// The way to the mirror has at least so many hops: the largest TTL at which any hello died unanswered, and one.
    pub path_min: u8,
    pub outcome: &'a TlsOutcome,
}

impl AnsweringHop<'_> {
    /// Whether the answer comes from before the mirror.
    pub fn is_on_the_way(self) -> bool {
        self.hop < self.path_min
    }
}

impl fmt::Display for AnsweringHop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hop, path_min, outcome } = self;
        write!(f, "the answer to the name ({outcome:?}) comes from hop {hop} of at least {path_min}")?;
        match self.is_on_the_way() {
            true => f.write_str(": from a box on the way"),
            false => f.write_str(": from the mirror's own place, or next to it"),
        }
    }
}

/// Which hop answers `name`; `None` where none does, or nobody asked.
pub fn answering_hop<'a>(probes: &'a [HopProbe], name: &str) -> Option<AnsweringHop<'a>> {
    let mut answered: Vec<_> =
        probes.iter().filter(|probe| probe.sni == name && is_answer(&probe.outcome)).collect();
    answered.sort_by_key(|probe| probe.ttl);
    let first = answered.first()?;
    // Another name's fate tells the length of the way as well; another address has another way.
    let died = probes.iter().filter(|probe| probe.address == first.address && !is_answer(&probe.outcome));
    let died_at_most = died.map(|probe| probe.ttl).max().unwrap_or_default();
    let path_min = died_at_most.saturating_add(1).max(first.ttl);
    Some(AnsweringHop { hop: first.ttl, path_min, outcome: &first.outcome })
}

/// Whether somebody answered in the mirror's name. What ends with an error of the host's own was told by a router on the
/// way that the hello died there.
fn is_answer(outcome: &TlsOutcome) -> bool {
    match outcome {
        TlsOutcome::Completed { .. }
        | TlsOutcome::Reset
        | TlsOutcome::Eof
        | TlsOutcome::Alert(_)
        | TlsOutcome::Protocol(_) => true,
        TlsOutcome::Timeout | TlsOutcome::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Span;

    const OWN: &str = "mirror.example";
    const NEUTRAL: &str = "neutral.example";

    fn probe(sni: &str, ttl: u8, outcome: TlsOutcome) -> HopProbe {
        HopProbe {
            address: "192.0.2.1:443".parse().unwrap(),
            sni: sni.to_owned(),
            ttl,
            span: Span::default(),
            outcome,
        }
    }

    fn done() -> TlsOutcome {
        TlsOutcome::Completed { version: String::new(), cipher_suite: String::new(), alpn: None }
    }

    #[test]
    fn the_smallest_answered_ttl_is_the_hop_and_the_dead_ones_tell_the_way() {
        let check = |probes: &[(&str, u8, TlsOutcome)], expected: Option<(u8, u8, bool)>| {
            let probes: Vec<_> = probes.iter().cloned().map(|(sni, ttl, end)| probe(sni, ttl, end)).collect();
            let found = answering_hop(&probes, OWN);
            assert_eq!(found.map(|f| (f.hop, f.path_min, f.is_on_the_way())), expected, "{probes:?}");
        };
        let (silence, reset) = (TlsOutcome::Timeout, TlsOutcome::Reset);
        check(&[], None);
        check(&[(OWN, 1, silence.clone()), (OWN, 2, silence.clone())], None);
        // The neutral name reaches further than the hop that answers the own one: a box on the way.
        check(
            &[(OWN, 1, silence.clone()), (OWN, 2, reset.clone()), (NEUTRAL, 2, silence.clone())],
            Some((2, 3, true)),
        );
        check(
            &[(OWN, 1, reset.clone()), (NEUTRAL, 1, silence.clone()), (NEUTRAL, 2, done())],
            Some((1, 2, true)),
        );
        // Both are answered from the same distance.
        check(
            &[(OWN, 1, silence.clone()), (OWN, 2, reset.clone()), (NEUTRAL, 2, done())],
            Some((2, 2, false)),
        );
        check(
            &[(OWN, 1, TlsOutcome::Failed("no route to host".into())), (OWN, 2, done())],
            Some((2, 2, false)),
        );
        // A reset that got lost once.
        check(&[(OWN, 3, reset.clone()), (OWN, 2, reset), (NEUTRAL, 5, silence)], Some((2, 6, true)));
    }

    #[test]
    fn another_address_has_another_way() {
        let mut far = probe(NEUTRAL, 9, TlsOutcome::Timeout);
        far.address = "192.0.2.2:443".parse().unwrap();
        let probes = [probe(OWN, 2, TlsOutcome::Reset), far];
        assert_eq!(answering_hop(&probes, OWN).map(|found| found.path_min), Some(2));
    }

    #[test]
    fn it_is_told_in_words() {
        let probes = [probe(OWN, 1, TlsOutcome::Reset), probe(NEUTRAL, 1, TlsOutcome::Timeout)];
        let told = answering_hop(&probes, OWN).unwrap().to_string();
        assert_eq!(
            told,
            "the answer to the name (Reset) comes from hop 1 of at least 2: from a box on the way"
        );
    }
}
