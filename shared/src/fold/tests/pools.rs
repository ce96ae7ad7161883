//! Stories of pools and people: standbys, freezes, approvals, overrides, through the whole fold.

use super::*;
use crate::market::{Alert, AlertKind, Effect, Order, OrderKind, PoolState};
use crate::policy::BUILT_IN;
use crate::target::{Mirror, Sha256};
use crate::words::{MarketId, MirrorId};

/// A journal that is folded as it is written: the mirror `m1` serves, standbys wait beside it.
struct Story {
    journal: Journal,
    state: Fold,
    fed: usize,
    version: u64,
    decisions: Vec<Decision>,
    alerts: Vec<Alert>,
}

fn kz() -> MarketId {
    MarketId::parse("kz").unwrap()
}

fn id(name: &str) -> MirrorId {
    MirrorId::parse(name).unwrap()
}

impl Story {
    /// With a Kazakh policy changed from the shipped one.
    fn with_policy(change: impl Fn(&str) -> String) -> Self {
        let mut story = Self {
            journal: Journal::new(),
            state: Fold::new(),
            fed: 0,
            version: 1,
            decisions: vec![],
            alerts: vec![],
        };
        let mut settings = default_settings();
        settings.policies[1] = change(BUILT_IN[1]);
        check_settings(&settings).unwrap();
        story.journal.push(Event::Settings(settings));
        story
    }

    fn list(&mut self, standbys: &[&str]) {
        let of = |name: &str, standby| Mirror { id: id(name), standby, markets: vec![kz()], ..mirror() };
        let mut mirrors = vec![of("m1", false)];
        mirrors.extend(standbys.iter().map(|name| of(name, true)));
        self.version += 1;
        let (version, issued_at) = (self.version, self.journal.now);
        let list = MirrorList { mirrors, ..MirrorList::issued(version, issued_at) };
        self.journal
            .push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
        self.feed();
    }

    fn feed(&mut self) {
        for entry in &self.journal.entries[self.fed..] {
            let outcome = self.state.apply(entry);
            self.decisions.extend(outcome.decisions);
            self.alerts.extend(outcome.alerts);
        }
        self.fed = self.journal.entries.len();
    }

    /// One interval in which all agents measure these mirrors.
    fn round(&mut self, mirrors: &[(&str, [Sees; 4])]) {
        let name = |record: ProbeRecord, name: &str| ProbeRecord { mirror: Some(id(name)), ..record };
        for owner in 0..OWNERS {
            for (carrier, agent) in CARRIERS.iter().enumerate() {
                self.journal.now = self.journal.now.plus_secs(INTERVAL_SECS / 15);
                for (mirror, sees) in mirrors {
                    let record = name(facts(sees[carrier], self.journal.now), mirror);
                    self.journal.record(&format!("{agent}-{owner}"), record);
                }
            }
            self.journal.now = self.journal.now.plus_secs(INTERVAL_SECS / 15);
            for (mirror, _) in mirrors {
                self.journal.record("control-1", name(facts(Fine, self.journal.now), mirror));
            }
        }
        self.feed();
    }

    fn rounds(&mut self, count: usize, mirrors: &[(&str, [Sees; 4])]) {
        (0..count).for_each(|_| self.round(mirrors));
    }

    fn order(&mut self, author: &str, kind: OrderKind) -> Result<(), &'static str> {
        let order = Order { author: author.into(), reason: "as agreed".into(), kind };
        self.state.check_order(&order).map_err(|error| error.code())?;
        self.journal.push(Event::Ordered(order));
        self.feed();
        Ok(())
    }

    fn tick_after(&mut self, secs: u64) {
        self.journal.now = self.journal.now.plus_secs(secs);
        self.journal.push(Event::Tick);
        self.feed();
    }

    fn place(&self, mirror: &str) -> PoolState {
        self.state.pool(&kz()).into_iter().find(|entry| entry.mirror == id(mirror)).unwrap().state
    }

    fn active(&self) -> Option<String> {
        self.state.active_mirror(&kz(), None).map(|active| active.mirror.to_string())
    }

    fn of(&self, mirror: &str) -> Vec<String> {
        let own = self.decisions.iter().filter(|decision| decision.mirror == id(mirror));
        own.map(|decision| format!("{} {}", decision.action, decision.effect)).collect()
    }

    fn told(&self, kind: AlertKind) -> usize {
        self.alerts.iter().filter(|alert| alert.kind == kind).count()
    }

    fn last(&self, action: Action) -> &Decision {
        self.decisions.iter().rfind(|decision| decision.action == action).unwrap()
    }

    /// The journal again, from its first entry, gives the same bytes.
    fn is_replayed(&self) {
        let again = fold(&self.journal.entries).1;
        let bytes = |all: &[Decision]| all.iter().map(Decision::to_json).collect::<Vec<_>>();
        assert_eq!(bytes(&again), bytes(&self.decisions));
    }
}

const GONE: [Sees; 4] = [Nxdomain, Nxdomain, Nxdomain, Fine];
const GOOD: [Sees; 4] = [Fine; 4];

fn as_shipped(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_rotation_takes_the_first_standby_that_works_everywhere_and_burns_the_old_mirror() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1", "s2"]);
    // s1 does not work on one carrier: it is passed over.
    let blocked_at_kcell = [Fine, Fine, HelloDropped, Fine];
    story.rounds(3, &[("m1", GOOD), ("s1", blocked_at_kcell), ("s2", GOOD)]);
    assert_eq!((story.active().as_deref(), story.place("s2")), (Some("m1"), PoolState::Fresh));
    story.rounds(12, &[("m1", GONE), ("s1", blocked_at_kcell), ("s2", GOOD)]);
    let rotate = story.last(Action::Rotate).clone();
    assert_eq!(rotate.replacement.as_ref().map(|one| one.mirror.as_str()), Some("s2"));
    assert_eq!(rotate.cause.as_ref().map(|cause| cause.mechanism.as_str()), Some("dns.nxdomain"));
    assert!(rotate.possible_at <= rotate.at && rotate.input_sha256 != Sha256::default());
    assert!(rotate.texts.ru.len() == rotate.reasons.len() && rotate.texts.kk.len() == rotate.reasons.len());
    assert_eq!((story.place("m1"), story.place("s2")), (PoolState::Burned, PoolState::Live));
    assert_eq!(story.place("s1"), PoolState::Fresh);
    assert_eq!(story.active().as_deref(), Some("s2"));
    assert_eq!(story.of("m1"), ["keep act", "pause act", "rotate act"]);
    assert_eq!(story.of("s2"), ["keep act", "keep act"], "as a standby, then as the one that serves");
    assert_eq!(story.told(AlertKind::PoolLow), 1, "one standby is left");
    let lives = story.state.lives();
    assert_eq!(lives.len(), 2);
    assert_eq!(lives[0].died_of.map(|cause| cause.as_str()), Some("name"));
    story.is_replayed();
}

#[test]
fn an_empty_pool_is_told_once_and_the_rotation_follows_when_a_standby_turns_up() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&[]);
    story.rounds(3, &[("m1", GOOD)]);
    story.rounds(14, &[("m1", GONE)]);
    assert_eq!(story.of("m1"), ["keep act", "pause act", "rotate act"]);
    assert_eq!((story.told(AlertKind::PoolEmpty), story.place("m1")), (1, PoolState::Suspect));
    let empty = story.alerts.iter().find(|alert| alert.kind == AlertKind::PoolEmpty).unwrap();
    assert!(
        empty.texts.en[1].contains("too few mirrors were lost to a block to forecast the need: 0 of 1"),
        "{empty:?}"
    );
    assert_eq!((empty.texts.ru.len(), empty.texts.kk.len()), (2, 2));
    let waiting = story.last(Action::Rotate).id.clone();
    assert_eq!(story.last(Action::Rotate).replacement, None);
    story.list(&["s1"]);
    story.rounds(2, &[("m1", GONE), ("s1", GOOD)]);
    let rotate = story.last(Action::Rotate);
    assert_eq!(rotate.carries_out.as_deref(), Some(waiting.as_str()));
    assert_eq!(rotate.replacement.as_ref().map(|one| one.mirror.as_str()), Some("s1"));
    assert_eq!((story.place("m1"), story.place("s1")), (PoolState::Burned, PoolState::Live));
    story.is_replayed();
}

#[test]
fn a_frozen_market_decides_and_does_nothing_until_it_is_thawed() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.order("anna", OrderKind::Freeze { market: kz() }).unwrap();
    assert_eq!(story.order("anna", OrderKind::Freeze { market: kz() }), Err("already_frozen"));
    story.rounds(12, &[("m1", GONE), ("s1", GOOD)]);
    assert_eq!(story.of("m1")[1..], ["pause frozen", "rotate frozen"]);
    assert_eq!((story.place("m1"), story.place("s1")), (PoolState::Suspect, PoolState::Fresh));
    assert!(story.last(Action::Rotate).reasons.iter().any(|reason| reason.contains("frozen by anna")));
    story.order("anna", OrderKind::Thaw { market: kz() }).unwrap();
    assert_eq!(story.of("m1").last().map(String::as_str), Some("rotate act"));
    assert_eq!(story.place("s1"), PoolState::Live);
    story.is_replayed();
}

#[test]
fn a_dry_run_tells_everything_and_moves_nothing() {
    let mut story = Story::with_policy(|text| text.replace("dry_run = false", "dry_run = true"));
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.rounds(12, &[("m1", GONE), ("s1", GOOD)]);
    assert_eq!(story.of("m1"), ["keep dry_run", "pause dry_run", "rotate dry_run"]);
    assert_eq!(story.place("s1"), PoolState::Fresh);
}

#[test]
fn two_people_are_two_people() {
    let mut story = Story::with_policy(|text| text.replace("\"automatic\"", "\"two\""));
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.rounds(12, &[("m1", GONE), ("s1", GOOD)]);
    assert_eq!(story.of("m1").last().map(String::as_str), Some("rotate awaiting_approval"));
    assert_eq!(story.told(AlertKind::ApprovalNeeded), 1);
    let decision = story.last(Action::Rotate).id.clone();
    let approve = || OrderKind::Approve { decision: decision.clone() };
    story.order("anna", approve()).unwrap();
    assert_eq!(story.order("anna", approve()), Err("same_author"));
    assert_eq!(story.place("s1"), PoolState::Fresh);
    story.order("boris", approve()).unwrap();
    let rotate = story.last(Action::Rotate);
    assert_eq!((rotate.effect, rotate.carries_out.as_ref()), (Effect::Act, Some(&decision)));
    assert!(rotate.reasons.iter().any(|reason| reason == "approved by anna, boris"));
    assert_eq!(story.order("clara", approve()), Err("nothing_waits"));
    story.is_replayed();
}

#[test]
fn what_is_declined_is_dropped() {
    let mut story = Story::with_policy(|text| text.replace("\"automatic\"", "\"one\""));
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.rounds(12, &[("m1", GONE), ("s1", GOOD)]);
    let decision = story.last(Action::Rotate).id.clone();
    story.order("anna", OrderKind::Decline { decision: decision.clone() }).unwrap();
    assert_eq!(story.order("boris", OrderKind::Approve { decision }), Err("nothing_waits"));
    story.rounds(3, &[("m1", GONE), ("s1", GOOD)]);
    assert_eq!(story.of("m1").last().map(String::as_str), Some("rotate awaiting_approval"));
    assert_eq!(story.place("s1"), PoolState::Fresh);
}

#[test]
fn in_quiet_hours_a_rotation_waits_for_their_end_and_a_pause_does_not() {
    // The story begins at 08:00 UTC.
    let quiet = "[quiet_hours]\nfrom = \"12:30\"\nuntil = \"13:40\"\nutc_offset = \"+05:00\"\n\n[standby]";
    let mut story = Story::with_policy(|text| text.replace("[standby]", quiet));
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.rounds(12, &[("m1", GONE), ("s1", GOOD)]);
    assert_eq!(story.of("m1")[1..], ["pause act", "rotate awaiting_approval"]);
    let said = &story.last(Action::Rotate).reasons;
    assert!(said.iter().any(|reason| reason.contains("until 2027-01-15T08:40:00.000Z")), "{said:?}");
    while story.journal.now < UnixMillis(1_800_000_000_000).plus_secs(40 * 60) {
        story.round(&[("m1", GONE), ("s1", GOOD)]);
    }
    assert_eq!(story.of("m1").last().map(String::as_str), Some("rotate act"));
    assert!(story.last(Action::Rotate).reasons.iter().any(|reason| reason.contains("waited for is over")));
    story.is_replayed();
}

#[test]
fn a_second_rotation_waits_for_the_cool_down() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1", "s2"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD), ("s2", GOOD)]);
    story.rounds(10, &[("m1", GONE), ("s1", GOOD), ("s2", GOOD)]);
    let first = story.last(Action::Rotate).at;
    story.rounds(10, &[("m1", GONE), ("s1", GONE), ("s2", GOOD)]);
    assert_eq!(story.of("s1").last().map(String::as_str), Some("rotate awaiting_approval"));
    story.rounds(8, &[("m1", GONE), ("s1", GONE), ("s2", GOOD)]);
    let second = story.last(Action::Rotate);
    assert_eq!((second.mirror.as_str(), second.effect), ("s1", Effect::Act));
    assert!(second.at >= first.plus_secs(900));
    assert_eq!(story.active().as_deref(), Some("s2"));
}

#[test]
fn a_rotation_of_everything_needs_a_second_person() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD)]);
    story.order("anna", OrderKind::RotateAll { market: kz() }).unwrap();
    assert_eq!(story.of("m1"), ["keep act", "rotate awaiting_approval"]);
    let decision = story.last(Action::Rotate).id.clone();
    assert_eq!(story.order("anna", OrderKind::Approve { decision: decision.clone() }), Err("same_author"));
    story.rounds(40, &[("m1", GOOD), ("s1", GOOD)]);
    assert_eq!(story.place("m1"), PoolState::Suspect, "it waits, however well the mirror does");
    story.order("boris", OrderKind::Approve { decision }).unwrap();
    assert_eq!((story.place("m1"), story.active().as_deref()), (PoolState::Burned, Some("s1")));
    assert_eq!(story.state.lives()[0].died_of, None, "nothing was measured to have killed it");
    story.is_replayed();
}

#[test]
fn an_override_holds_until_it_ends() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&[]);
    story.rounds(3, &[("m1", GOOD)]);
    let until = Some(story.journal.now.plus_secs(1_200));
    let order = |action, until| OrderKind::Override { market: kz(), mirror: id("m1"), action, until };
    assert_eq!(story.order("anna", order(Action::Keep, Some(UnixMillis(5)))), Err("past"));
    assert_eq!(story.order("anna", order(Action::DomainLost, None)), Err("not_overridable"));
    story.order("anna", order(Action::Keep, until)).unwrap();
    story.rounds(10, &[("m1", GONE)]);
    assert_eq!(story.of("m1"), ["keep act"], "whatever is measured");
    story.rounds(12, &[("m1", GONE)]);
    assert_eq!(story.of("m1")[1], "pause act", "{:?}", story.of("m1"));
    let release = || OrderKind::Release { market: kz(), mirror: id("m1") };
    assert_eq!(story.order("anna", release()), Err("no_override"));
    story.order("anna", order(Action::Hold, None)).unwrap();
    assert_eq!(story.of("m1").last().map(String::as_str), Some("hold act"));
    story.order("anna", release()).unwrap();
    assert_eq!(story.of("m1").last().map(String::as_str), Some("pause act"));
    story.is_replayed();
}

#[test]
fn a_burned_mirror_that_works_again_is_offered_and_never_put_back_by_itself() {
    let mut story = Story::with_policy(|text| {
        text.replace("unblock_dwell_secs = 21600", "unblock_dwell_secs = 1800").replace("low = 1", "low = 0")
    });
    story.list(&["s1", "s2"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD), ("s2", GOOD)]);
    story.rounds(12, &[("m1", GONE), ("s1", GOOD), ("s2", GOOD)]);
    assert_eq!(story.place("m1"), PoolState::Burned);
    story.rounds(60, &[("m1", GOOD), ("s1", GOOD), ("s2", GOOD)]);
    assert_eq!((story.told(AlertKind::Unblocked), story.place("m1")), (1, PoolState::Burned));
    let back = OrderKind::SetState { market: kz(), mirror: id("m1"), state: PoolState::Fresh };
    story.order("anna", back).unwrap();
    assert_eq!(story.place("m1"), PoolState::Fresh);
    story.is_replayed();
}

#[test]
fn a_standby_that_is_blocked_before_it_serves_is_retired() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1", "s2"]);
    story.rounds(3, &[("m1", GOOD), ("s1", GOOD), ("s2", GOOD)]);
    story.rounds(12, &[("m1", GOOD), ("s1", GONE), ("s2", GOOD)]);
    assert_eq!(story.of("s1"), ["keep act", "retire act"]);
    assert_eq!(story.place("s1"), PoolState::Burned);
    assert_eq!(story.of("m1"), ["keep act"]);
}

#[test]
fn orders_that_cannot_be_obeyed_have_stable_codes() {
    let mut story = Story::with_policy(as_shipped);
    story.list(&["s1"]);
    let (market, mirror) = (kz(), id("m1"));
    let nowhere = MarketId::parse("xx").unwrap();
    let mut check = |kind, code| assert_eq!(story.order("anna", kind), Err(code));
    check(OrderKind::Freeze { market: nowhere.clone() }, "unknown_market");
    check(OrderKind::Thaw { market: market.clone() }, "not_frozen");
    check(OrderKind::Release { market: market.clone(), mirror: mirror.clone() }, "no_override");
    check(OrderKind::Release { market: market.clone(), mirror: id("m9") }, "unknown_mirror");
    check(OrderKind::Approve { decision: "kz-000001".into() }, "nothing_waits");
    check(OrderKind::RotateAll { market: MarketId::parse("ru").unwrap() }, "nothing_live");
    let action = Action::Pause;
    check(OrderKind::Override { market, mirror: id("s1"), action, until: None }, "not_serving");
    assert_eq!(story.order(" ", OrderKind::Freeze { market: kz() }), Err("bad_order_text"));
    story.tick_after(1);
}
