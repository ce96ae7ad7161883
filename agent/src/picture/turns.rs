//! Who gets a picture, and when. Pure: time (since the agent's start) and the room in handshake budgets are arguments.
//!
//! A mirror gets one where the agent's own visit ended otherwise than the visit before, or where it was asked for; one at
//! a time, so many an hour, and only while its host name's budget has room for another handshake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use zerkalo_core::record::{Arm, Cause, ChainFault, ProbeRecord, TcpOutcome, TlsOutcome};
use zerkalo_core::target::{Sha256, TargetUrl};
use zerkalo_core::words::MirrorId;

use crate::budget::HANDSHAKES_MAX;

/// Pictures in an hour: a flapping mirror must not fill the host's line.
const PICTURES_AN_HOUR_MAX: usize = 12;
const HOUR: Duration = Duration::from_secs(3_600);
/// Pictures that wait for room.
const WAITING_MAX: usize = 8;
/// How long one waits: later it would show another state.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a picture that waits looks for room.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// Handshakes one picture may cost: one for the page, one for what Chromium opens beside it.
pub const PICTURE_HANDSHAKES_MAX: usize = HANDSHAKES_MAX - 1;
/// Mirrors asked for and not yet visited.
const ASKED_MAX: usize = 64;

/// What a picture is to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub list_version: u64,
    pub cause: Cause,
    /// Which the visit itself went to.
    pub address: SocketAddr,
    /// Key of the certificate the visit met, if this host trusts it.
    pub trusted_key: Option<Sha256>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Take it, with so many handshakes.
    Take(Subject, usize),
    /// Say why there is none.
    Fail(Subject, &'static str),
}

/// The state of all mirrors.
#[derive(Debug, Default)]
pub struct Turns {
    reached: BTreeMap<MirrorId, bool>,
    asked: BTreeSet<MirrorId>,
    waiting: VecDeque<(Subject, Duration)>,
    failed: VecDeque<(Subject, &'static str)>,
    taken: VecDeque<Duration>,
}

impl Turns {
    /// Notes that somebody wants a picture with the next visit.
    pub fn ask(&mut self, mirror: MirrorId) {
        if self.asked.len() < ASKED_MAX {
            self.asked.insert(mirror);
        }
    }

    /// Notes how a visit ended.
    pub fn ended(&mut self, record: &ProbeRecord, is_reached: bool, now: Duration) {
        let Some(mirror) = record.mirror.clone() else { return };
        let before = self.reached.insert(mirror.clone(), is_reached);
        let is_asked = self.asked.remove(&mirror);
        let has_changed = before.is_some_and(|before| before != is_reached);
        let is_waiting = self.waiting.iter().any(|(subject, _)| subject.mirror == mirror);
        if !(is_asked || has_changed) || is_waiting {
            return;
        }
        match subject_of(record, &mirror) {
            Some((subject, Sight::Page)) if self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back((subject, now));
            }
            Some((subject, Sight::Page)) => self.fail(subject, "too many other pictures wait"),
            // The record of the visit says all there is to see.
            Some((subject, Sight::Nothing)) if is_asked => {
                self.fail(subject, "the visit ended before there was anything to see");
            }
            _ => {}
        }
    }

    /// Forgets mirrors that are listed no more.
    pub fn retain(&mut self, is_listed: impl Fn(&MirrorId) -> bool) {
        self.reached.retain(|mirror, _| is_listed(mirror));
        self.asked.retain(|mirror| is_listed(mirror));
        self.waiting.retain(|(subject, _)| is_listed(&subject.mirror));
        self.failed.retain(|(subject, _)| is_listed(&subject.mirror));
    }

    /// What to do at `now`; `has_room` tells whether a host name's budget has room for so many handshakes.
    pub fn next(&mut self, now: Duration, has_room: impl Fn(&str, usize) -> bool) -> Option<Turn> {
        if let Some((subject, why)) = self.failed.pop_front() {
            return Some(Turn::Fail(subject, why));
        }
        while self.taken.front().is_some_and(|taken| *taken + HOUR <= now) {
            self.taken.pop_front();
        }
        if let Some(late) = self.waiting.iter().position(|(_, since)| *since + PATIENCE <= now) {
            let (subject, _) = self.waiting.remove(late)?;
            return Some(Turn::Fail(subject, "the handshake budget had no room in time"));
        }
        if self.taken.len() >= PICTURES_AN_HOUR_MAX {
            let (subject, _) = self.waiting.pop_front()?;
            return Some(Turn::Fail(subject, "enough pictures were taken in this hour"));
        }
        let room = |subject: &Subject| {
            (1..=PICTURE_HANDSHAKES_MAX).rev().find(|count| has_room(&subject.url.host(), *count))
        };
        let (index, handshakes) = self
            .waiting
            .iter()
            .enumerate()
            .find_map(|(index, (subject, _))| Some((index, room(subject)?)))?;
        let (subject, _) = self.waiting.remove(index)?;
        self.taken.push_back(now);
        Some(Turn::Take(subject, handshakes))
    }

    /// When to look again, if nothing else happens.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let is_waiting = !self.waiting.is_empty() || !self.failed.is_empty();
        is_waiting.then_some(now + ROOM_WAIT)
    }

    fn fail(&mut self, subject: Subject, why: &'static str) {
        if self.failed.len() < WAITING_MAX {
            self.failed.push_back((subject, why));
        }
    }
}

/// Whether a browser would see more than an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Page,
    Nothing,
}

/// What a visit was of: where the mirror answered in the main arm, else where it was looked for last.
fn subject_of(record: &ProbeRecord, mirror: &MirrorId) -> Option<(Subject, Sight)> {
    let is_main = |arm: Arm| arm == Arm::Main;
    let host = record.url.host();
    let handshake = record.tls.iter().rev().find(|step| {
        is_main(step.arm)
            && step.sni.as_ref().is_none_or(|sni| *sni == host)
            && matches!(step.outcome, TlsOutcome::Completed { .. })
    });
    let answered = record.http.iter().rev().find(|step| is_main(step.arm) && step.url == record.url);
    let connected =
        record.tcp.iter().rev().find(|step| {
            is_main(step.arm) && step.outcome == TcpOutcome::Connected && !record.url.is_https()
        });
    let seen = answered
        .map(|step| step.address)
        .or(handshake.map(|step| step.address))
        .or(connected.map(|step| step.address));
    let tried = record.tcp.iter().rev().find(|step| is_main(step.arm)).map(|step| step.address);
    let sight = if seen.is_some() { Sight::Page } else { Sight::Nothing };
    let address = seen.or(tried)?;
    let trusted = handshake
        .filter(|step| step.address == address && step.chain_fault == Some(ChainFault::Valid))
        .and_then(|step| step.chain.first());
    let subject = Subject {
        mirror: mirror.clone(),
        url: record.url.clone(),
        list_version: record.list_version,
        cause: record.cause,
        address,
        trusted_key: trusted.map(|leaf| leaf.spki_sha256),
    };
    Some((subject, sight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{Span, TcpConnect};
    use zerkalo_core::words::UnixMillis;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A plain visit that got as far as a connection, or not.
    fn visit(name: &str, outcome: TcpOutcome) -> ProbeRecord {
        ProbeRecord {
            clock: None,
            mirror: Some(MirrorId::parse(name).unwrap()),
            url: TargetUrl::parse(&format!("http://{name}.example/")).unwrap(),
            list_version: 3,
            cause: Cause::Scheduled,
            started_at: UnixMillis(0),
            duration_micros: 0,
            agent_version: String::new(),
            dns: vec![],
            tcp: vec![TcpConnect {
                arm: Arm::Main,
                address: "192.0.2.1:80".parse().unwrap(),
                span: Span::default(),
                outcome,
                transport: None,
            }],
            tls: vec![],
            http: vec![],
            quic: vec![],
            references: vec![],
            network: None,
            hops: vec![],
            screenshot: None,
            uplink: None,
        }
    }

    /// Mirror and handshakes of a picture to take, or why there is none.
    fn next(turns: &mut Turns, now: u64, room: usize) -> Option<Result<(String, usize), &'static str>> {
        turns.next(secs(now), |_, count| count <= room).map(|turn| match turn {
            Turn::Take(subject, count) => Ok((subject.mirror.to_string(), count)),
            Turn::Fail(_, why) => Err(why),
        })
    }

    fn open(name: &str) -> ProbeRecord {
        visit(name, TcpOutcome::Connected)
    }

    #[test]
    fn a_picture_follows_a_changed_outcome_or_a_wish_and_nothing_else() {
        let mut turns = Turns::default();
        for (is_reached, is_due) in
            [(true, false), (true, false), (false, true), (false, false), (true, true), (true, false)]
        {
            turns.ended(&open("m"), is_reached, secs(1));
            assert_eq!(next(&mut turns, 1, 3).is_some(), is_due, "{is_reached}");
        }
        turns.ask(MirrorId::parse("m").unwrap());
        assert_eq!(next(&mut turns, 2, 3), None);
        turns.ended(&open("other"), true, secs(2));
        assert_eq!(next(&mut turns, 2, 3), None);
        turns.ended(&open("m"), true, secs(2));
        assert_eq!(next(&mut turns, 2, 3), Some(Ok(("m".to_owned(), PICTURE_HANDSHAKES_MAX))));
        turns.ended(&open("m"), true, secs(3));
        assert_eq!(next(&mut turns, 3, 3), None);
    }

    #[test]
    fn where_there_is_nothing_to_see_only_a_wish_is_answered() {
        let mut turns = Turns::default();
        turns.ended(&open("m"), true, secs(0));
        turns.ended(&visit("m", TcpOutcome::Timeout), false, secs(1));
        assert_eq!(next(&mut turns, 1, 3), None);
        turns.ask(MirrorId::parse("m").unwrap());
        turns.ended(&visit("m", TcpOutcome::Timeout), false, secs(2));
        assert!(next(&mut turns, 2, 3).unwrap().unwrap_err().contains("anything to see"));
    }

    #[test]
    fn a_picture_waits_for_the_handshake_budget_but_not_for_ever() {
        let mut turns = Turns::default();
        for name in ["m", "n"] {
            turns.ask(MirrorId::parse(name).unwrap());
            turns.ended(&open(name), true, secs(0));
        }
        assert_eq!((next(&mut turns, 0, 0), turns.wake(secs(0))), (None, Some(ROOM_WAIT)));
        assert_eq!(next(&mut turns, 60, 1), Some(Ok(("m".to_owned(), 1))));
        assert!(next(&mut turns, 120, 0).unwrap().unwrap_err().contains("no room"));
        assert_eq!((next(&mut turns, 121, 3), turns.wake(secs(121))), (None, None));
    }

    #[test]
    fn a_flapping_mirror_gets_so_many_an_hour() {
        let mut turns = Turns::default();
        let mut taken = 0;
        for second in 0..3_600 {
            turns.ended(&open("m"), second % 2 == 0, secs(second));
            taken += usize::from(matches!(next(&mut turns, second, 3), Some(Ok(_))));
        }
        assert_eq!(taken, PICTURES_AN_HOUR_MAX);
        turns.ended(&open("m"), true, secs(4_000));
        assert!(matches!(next(&mut turns, 4_000, 3), Some(Ok(_))));
    }
}
