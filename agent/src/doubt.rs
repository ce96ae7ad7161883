//! Which addresses may be under punishment: what this box remembers of failed looks, so that the next look at such an
//! address can begin with the neutral name, once the address has rested. Pure; lost at a restart, which costs one rest.
//!
//! Some boxes answer every name at an address with silence for a minute or three once they saw one they look for. A neutral
//! name that fails right after the mirror's own therefore leaves open whether the name or the address is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use zerkalo_core::record::{Arm, ProbeRecord, Span, TlsOutcome};
use zerkalo_core::words::MirrorId;

/// How long an address must rest before a neutral name there proves something. Boxes were seen to punish for 60 to 180 s;
/// a longer rest would leave the mirror without a fresh record for more than the 180 s after which evidence is stale.
pub const REST: Duration = Duration::from_secs(150);
/// The same in intervals: a host that looks more often than once a minute chose to, and rests no longer than this.
const REST_INTERVALS_MAX: f64 = 2.5;
/// How long what a rested look showed is taken to hold: a rest costs turns.
const SETTLED_FOR: Duration = Duration::from_secs(30 * 60);
/// Between the first mirror's turn after a rest and those of others at the address, whose names would disturb it.
const OTHERS_AFTER: Duration = Duration::from_secs(10);
/// Addresses remembered: all of a large list's.
const ADDRESSES_MAX: usize = 1_024;

/// The addresses in doubt; instants are time since the agent's start.
#[derive(Debug)]
pub struct Doubts {
    rest: Duration,
    addresses: BTreeMap<IpAddr, Doubt>,
}

#[derive(Debug, Default)]
struct Doubt {
    /// When a name that failed there was last shown.
    shown_at: Duration,
    /// Until when no rest is worth its price.
    settled_until: Duration,
    /// Mirrors whose own name failed there, and the neutral one after it.
    mirrors: BTreeSet<MirrorId>,
}

impl Doubts {
    /// None yet; `interval` lies between two looks at a mirror.
    pub fn new(interval: Duration) -> Self {
        Self { rest: REST.min(interval.mul_f64(REST_INTERVALS_MAX)), addresses: BTreeMap::new() }
    }

    /// Notes a probe that ended at `now`. Returns the mirrors whose turn should wait for a rest, and until when.
    pub fn note(
        &mut self,
        mirror: &MirrorId,
        record: &ProbeRecord,
        now: Duration,
    ) -> Vec<(MirrorId, Duration)> {
        let failures = failures(record);
        for (address, doubt) in &mut self.addresses {
            if !failures.iter().any(|failure| failure.address == *address) {
                doubt.mirrors.remove(mirror);
            }
        }
        let ago = |span: Span| {
            let ended = span.start_micros.saturating_add(span.duration_micros);
            now.saturating_sub(Duration::from_micros(record.duration_micros.saturating_sub(ended)))
        };
        let rest = self.rest;
        let mut resting = Vec::new();
        for failure in failures {
            let doubt = self.addresses.entry(failure.address).or_default();
            doubt.shown_at = doubt.shown_at.max(ago(failure.span));
            if failure.is_clear {
                doubt.mirrors.remove(mirror);
            } else {
                doubt.mirrors.insert(mirror.clone());
            }
            if doubt.settled_until <= now {
                resting.extend(doubt.turns(rest));
            }
        }
        self.forget(now);
        resting
    }

    /// Whether the mirror's next probe should begin with the neutral name: an address of its was left in doubt, and
    /// rested. If so, that probe is taken for begun: the doubt counts as settled for a while.
    pub fn settle(&mut self, mirror: &MirrorId, now: Duration) -> bool {
        let rest = self.rest;
        let mut own: Vec<_> =
            self.addresses.values_mut().filter(|doubt| doubt.mirrors.contains(mirror)).collect();
        let is_due = own.iter().any(|doubt| doubt.settled_until <= now)
            && own.iter().all(|doubt| doubt.shown_at + rest <= now);
        if is_due {
            own.iter_mut().for_each(|doubt| doubt.settled_until = now + SETTLED_FOR);
        }
        is_due
    }

    /// Forgets mirrors that are on no list.
    pub fn retain(&mut self, is_listed: impl Fn(&MirrorId) -> bool) {
        self.addresses.values_mut().for_each(|doubt| doubt.mirrors.retain(|mirror| is_listed(mirror)));
    }

    fn forget(&mut self, now: Duration) {
        let rest = self.rest;
        self.addresses.retain(|_, doubt| {
            !doubt.mirrors.is_empty() || doubt.shown_at + rest > now || doubt.settled_until > now
        });
        while self.addresses.len() > ADDRESSES_MAX {
            let oldest = self.addresses.iter().min_by_key(|(_, doubt)| doubt.shown_at);
            let Some(address) = oldest.map(|(address, _)| *address) else { return };
            self.addresses.remove(&address);
        }
    }
}

impl Doubt {
    /// The first mirror in doubt goes when the address has rested, the others a little later.
    fn turns(&self, rest: Duration) -> impl Iterator<Item = (MirrorId, Duration)> {
        let rested = self.shown_at + rest;
        self.mirrors.iter().enumerate().map(move |(index, mirror)| match index {
            0 => (mirror.clone(), rested),
            _ => (mirror.clone(), rested + OTHERS_AFTER.min(rest)),
        })
    }
}

/// A handshake with the mirror's own name that met silence or refusal.
struct Failure {
    address: IpAddr,
    span: Span,
    /// Whether the neutral name was answered there in the same probe: then the name is what fails.
    is_clear: bool,
}

/// The last failure at each address.
fn failures(record: &ProbeRecord) -> Vec<Failure> {
    let host = record.url.host();
    let is_answered = |address: IpAddr| {
        let is_neutral = |arm| matches!(arm, Arm::NeutralSni | Arm::NeutralFirst);
        record.tls.iter().any(|step| {
            step.address.ip() == address
                && is_neutral(step.arm)
                && matches!(step.outcome, TlsOutcome::Completed { .. } | TlsOutcome::Alert(_))
        })
    };
    let mut found: Vec<Failure> = Vec::new();
    for step in record.tls.iter().filter(|step| step.sni.as_ref() == Some(&host)) {
        // The operator's own server is nobody's mirror; where ECH alone fails, the extension does.
        let is_own_visit =
            matches!(step.arm, Arm::Main | Arm::OtherResolver | Arm::OtherHello | Arm::FreshTuple);
        let is_cut = matches!(
            step.outcome,
            TlsOutcome::Timeout | TlsOutcome::Reset | TlsOutcome::Eof | TlsOutcome::Alert(_)
        );
        if is_cut && is_own_visit {
            let address = step.address.ip();
            found.retain(|failure| failure.address != address);
            found.push(Failure { address, span: step.span, is_clear: is_answered(address) });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{Cause, Ech, TlsHandshake};
    use zerkalo_core::target::TargetUrl;
    use zerkalo_core::words::UnixMillis;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn id(name: &str) -> MirrorId {
        MirrorId::parse(name).unwrap()
    }

    fn step(arm: Arm, sni: &str, address: &str, end_secs: u64, outcome: TlsOutcome) -> TlsHandshake {
        TlsHandshake {
            arm,
            address: address.parse().unwrap(),
            sni: Some(sni.to_owned()),
            span: Span { start_micros: 0, duration_micros: end_secs * 1_000_000 },
            hello_shape: String::new(),
            hello_len: 0,
            ja4: String::new(),
            ech: Ech::Absent,
            bytes_sent: 0,
            bytes_received: 0,
            outcome,
            transport: None,
            chain: vec![],
            chain_fault: None,
        }
    }

    /// A probe of 20 s with these handshakes.
    fn record(tls: Vec<TlsHandshake>) -> ProbeRecord {
        ProbeRecord {
            clock: None,
            mirror: None,
            url: TargetUrl::parse("https://mirror.example/").unwrap(),
            list_version: 1,
            cause: Cause::Scheduled,
            started_at: UnixMillis(0),
            duration_micros: 20_000_000,
            agent_version: String::new(),
            dns: vec![],
            tcp: vec![],
            tls,
            http: vec![],
            quic: vec![],
            references: vec![],
            network: None,
            hops: vec![],
            screenshot: None,
            uplink: None,
        }
    }

    const AT: &str = "192.0.2.1:443";

    fn own(outcome: TlsOutcome) -> TlsHandshake {
        step(Arm::Main, "mirror.example", AT, 8, outcome)
    }

    fn neutral(arm: Arm, outcome: TlsOutcome) -> TlsHandshake {
        step(arm, "neutral.example", AT, 16, outcome)
    }

    fn done() -> TlsOutcome {
        TlsOutcome::Completed { version: String::new(), cipher_suite: String::new(), alpn: None }
    }

    #[test]
    fn a_neutral_name_that_failed_after_the_own_one_is_shown_first_once_the_address_rested() {
        let mut doubts = Doubts::new(secs(60));
        let open = record(vec![own(TlsOutcome::Timeout), neutral(Arm::NeutralSni, TlsOutcome::Timeout)]);
        // The own name was over 12 s before the probe was.
        assert_eq!(doubts.note(&id("a"), &open, secs(100)), [(id("a"), secs(238))]);
        assert!(!doubts.settle(&id("a"), secs(237)));
        assert!(!doubts.settle(&id("b"), secs(500)), "of another mirror nothing is known");
        assert!(doubts.settle(&id("a"), secs(238)));
        // Settled for a while: no more rest, and the own name goes first again.
        assert_eq!(doubts.note(&id("a"), &open, secs(260)), []);
        assert!(!doubts.settle(&id("a"), secs(900)));
        assert_eq!(doubts.note(&id("a"), &open, secs(2_100)), [(id("a"), secs(2_238))]);
    }

    #[test]
    fn who_looks_often_rests_less() {
        let mut doubts = Doubts::new(secs(2));
        let open = record(vec![own(TlsOutcome::Timeout)]);
        assert_eq!(doubts.note(&id("a"), &open, secs(100)), [(id("a"), secs(93))]);
    }

    #[test]
    fn a_look_in_between_makes_the_address_rest_anew() {
        let mut doubts = Doubts::new(secs(60));
        let open = record(vec![own(TlsOutcome::Timeout)]);
        assert_eq!(doubts.note(&id("a"), &open, secs(100)), [(id("a"), secs(238))]);
        assert_eq!(doubts.note(&id("a"), &open, secs(200)), [(id("a"), secs(338))]);
        assert!(!doubts.settle(&id("a"), secs(300)));
        assert!(doubts.settle(&id("a"), secs(338)));
    }

    #[test]
    fn what_leaves_nothing_open_asks_for_no_rest() {
        let check = |tls: Vec<TlsHandshake>| {
            let mut doubts = Doubts::new(secs(60));
            let open = record(vec![own(TlsOutcome::Timeout)]);
            assert_eq!(doubts.note(&id("a"), &open, secs(100)).len(), 1);
            assert_eq!(doubts.note(&id("a"), &record(tls.clone()), secs(200)), [], "{tls:?}");
            assert!(!doubts.settle(&id("a"), secs(900)), "{tls:?}");
        };
        check(vec![own(TlsOutcome::Timeout), neutral(Arm::NeutralSni, done())]);
        check(vec![neutral(Arm::NeutralFirst, done()), own(TlsOutcome::Reset)]);
        check(vec![own(done())]);
        check(vec![own(TlsOutcome::Protocol("garbage".into()))]);
        check(vec![]);
        let mut doubts = Doubts::new(secs(60));
        let elsewhere = step(Arm::ControlAddress, "mirror.example", "192.0.2.9:443", 9, TlsOutcome::Reset);
        assert_eq!(doubts.note(&id("a"), &record(vec![own(done()), elsewhere]), secs(1)), []);
    }

    #[test]
    fn mirrors_at_one_address_rest_together_and_one_goes_first() {
        let mut doubts = Doubts::new(secs(60));
        let open = record(vec![own(TlsOutcome::Timeout)]);
        doubts.note(&id("a"), &open, secs(100));
        let turns = doubts.note(&id("b"), &open, secs(130));
        assert_eq!(turns, [(id("a"), secs(268)), (id("b"), secs(278))]);
        assert!(!doubts.settle(&id("a"), secs(250)), "b was shown there since");
        assert!(doubts.settle(&id("a"), secs(268)));
        assert!(!doubts.settle(&id("b"), secs(278)), "settled by a");
    }

    #[test]
    fn what_is_over_is_forgotten_and_the_memory_is_bounded() {
        let mut doubts = Doubts::new(secs(60));
        doubts.note(&id("a"), &record(vec![own(TlsOutcome::Timeout)]), secs(100));
        doubts.retain(|_| false);
        doubts.note(&id("b"), &record(vec![]), secs(900));
        assert!(doubts.addresses.is_empty(), "{doubts:?}");
        for number in 0..=ADDRESSES_MAX as u32 {
            let address = format!("{}:443", std::net::Ipv4Addr::from(number));
            let failed = step(Arm::Main, "mirror.example", &address, 8, TlsOutcome::Reset);
            doubts.note(&id(&format!("m{number}")), &record(vec![failed]), secs(1_000 + u64::from(number)));
        }
        assert_eq!(doubts.addresses.len(), ADDRESSES_MAX);
    }
}
