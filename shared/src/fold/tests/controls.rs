//! How the docket hears controls: whom a record waits for, and where controls are sent.

use super::*;
use crate::cell::{CellState, Evidence};
use crate::judge::tests::OWN;
use crate::record::{Arm, Cause, TcpConnect, TcpOutcome};
use crate::verdict::Outcome;

/// An address only the carrier's resolver gives.
const EDGE: &str = "9.9.9.10";

/// A story told entry by entry: a second control, and one agent at Kcell.
struct Story {
    journal: Journal,
    state: Fold,
    folded: usize,
}

impl Story {
    /// Both controls have spoken; nothing failed yet. The operator states no addresses of the mirror.
    fn new() -> Self {
        let mut journal = Journal::new();
        journal.enrol("control-2", "house", Station::Control);
        let list = MirrorList {
            mirrors: vec![crate::target::Mirror { expected_addresses: vec![], ..mirror() }],
            ..MirrorList::issued(2, journal.now)
        };
        journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
        let mut story = Self { journal, state: Fold::new(), folded: 0 };
        for control in ["control-1", "control-2"] {
            story.after(1, control, |record| *record = facts(Fine, record.ended_at()));
        }
        story
    }

    /// The agent's record arrives `secs` later.
    fn after(&mut self, secs: u64, agent: &str, change: impl FnOnce(&mut ProbeRecord)) {
        self.journal.now = self.journal.now.plus_secs(secs);
        let mut record = facts(Fine, self.journal.now);
        change(&mut record);
        self.journal.record(agent, record);
        self.fold();
    }

    fn tick(&mut self, secs: u64) {
        self.journal.now = self.journal.now.plus_secs(secs);
        self.journal.push(Event::Tick);
        self.fold();
    }

    fn fold(&mut self) {
        for entry in &self.journal.entries[self.folded..] {
            self.state.apply(entry);
        }
        self.folded = self.journal.entries.len();
    }

    /// What the agent's owner said last; `None` while its record waits.
    fn word(&self) -> Option<&Evidence> {
        let key = ("kz-kcell".parse().unwrap(), Access::Mobile);
        let (_, word) =
            self.state.cells.get(&mirror().id)?.get(&key)?.fresh(self.state.at, self.policy()).next()?;
        Some(&word.last)
    }

    fn policy(&self) -> &crate::policy::CellPolicy {
        &self.state.settings.policy(&"kz".parse().unwrap()).unwrap().cell
    }

    fn rule(&self) -> Option<&str> {
        self.word().map(|word| word.verdict.rule.as_str())
    }

    /// Who was asked since, and to go where.
    fn asked(&mut self) -> Vec<(String, Vec<String>)> {
        let wishes = self.state.take_wishes().into_iter();
        wishes
            .map(|wish| (wish.agent.to_string(), wish.addresses.iter().map(ToString::to_string).collect()))
            .collect()
    }
}

fn dropped(record: &mut ProbeRecord) {
    *record = facts(HelloDropped, record.ended_at());
}

/// Sent to an address that the control's resolver does not give, and unanswered there.
fn lost_at_the_edge(record: &mut ProbeRecord) {
    record.dns[0].outcome = answer(0, &[EDGE]);
    record.tcp[0].address.set_ip(EDGE.parse().unwrap());
    record.tcp[0].outcome = TcpOutcome::Timeout;
    record.tls.clear();
    record.http.clear();
}

/// A control that was asked, and went to the agent's address with that end.
fn visited(outcome: TcpOutcome) -> impl FnOnce(&mut ProbeRecord) {
    move |record| {
        record.cause = Cause::Requested;
        let mut step = TcpConnect { arm: Arm::FieldAddress, outcome, ..record.tcp[0].clone() };
        step.address.set_ip(EDGE.parse().unwrap());
        record.tcp.push(step);
    }
}

#[test]
fn two_fresh_controls_that_disagree_are_contradictory_whoever_speaks_first() {
    for (first, second) in [(Fine, HelloDropped), (HelloDropped, Fine)] {
        let mut story = Story::new();
        story.after(1, "kz-kcell-0", dropped);
        let see = |sees| move |record: &mut ProbeRecord| *record = facts(sees, record.ended_at());
        story.after(1, "control-1", see(first));
        assert_eq!(story.rule(), None, "the other control is at work and has not spoken");
        story.after(1, "control-2", see(second));
        assert_eq!(story.rule(), Some("control.contradictory"));
        let verdict = &story.word().unwrap().verdict;
        assert_eq!(verdict.outcome, Outcome::Insufficient);
        let named: Vec<_> = [verdict.control, verdict.dissent].into_iter().flatten().collect();
        assert_eq!(named.len(), 2);
        assert!(named.iter().all(|hash| verdict.basis.iter().any(|line| line.contains(&hash.to_string()))));
        let row = &story.state.matrix(story.state.at()).rows[0];
        let kcell = row.carriers.iter().find(|carrier| carrier.carrier.as_str() == "kz-kcell").unwrap();
        assert_eq!(kcell.state, CellState::Insufficient);
    }
}

#[test]
fn two_controls_that_agree_judge_at_once_and_a_silent_one_is_not_waited_for_long() {
    let mut story = Story::new();
    story.after(1, "kz-kcell-0", dropped);
    story.after(1, "control-1", |_| {});
    story.after(1, "control-2", |_| {});
    assert_eq!(story.rule(), Some("tls.cut"));
    story.after(20, "kz-kcell-0", dropped);
    story.after(1, "control-1", |_| {});
    let filed = story.state.at();
    assert!(story.word().unwrap().at < filed.minus_millis(1_000), "it waits for the other control");
    assert_eq!(story.state.next_deadline(), Some(filed.plus_secs(45)));
    story.tick(45);
    assert_eq!(story.word().unwrap().at, filed.minus_millis(1_000));
    // Three minutes of silence: it is gone, and the one that is left is enough.
    for _ in 0..3 {
        story.after(60, "control-1", |_| {});
    }
    story.after(1, "kz-kcell-0", dropped);
    story.after(1, "control-1", |_| {});
    assert_eq!(story.word().unwrap().at, story.state.at().minus_millis(1_000));
}

#[test]
fn a_restricted_network_waits_for_no_control() {
    let mut story = Story::new();
    story.after(1, "kz-kcell-0", |record| *record = facts(Whitelist, record.ended_at()));
    assert_eq!(story.rule(), Some("network.whitelist"));
    assert_eq!(story.word().unwrap().verdict.control, None);
    assert_eq!(story.asked(), [], "nobody need look");
}

#[test]
fn controls_are_sent_to_the_very_addresses_and_heard_about_them() {
    for (outcome, expected) in
        [(TcpOutcome::Timeout, "address.stale"), (TcpOutcome::Connected, "tcp.unconnected")]
    {
        let mut story = Story::new();
        story.after(1, "kz-kcell-0", lost_at_the_edge);
        let edge = vec![EDGE.to_owned()];
        assert_eq!(story.asked()[..2], [("control-1".into(), edge.clone()), ("control-2".into(), edge)]);
        // Its turn came, and it did not go there: who was asked still may.
        story.after(1, "control-1", |_| {});
        story.after(1, "control-2", |_| {});
        assert_eq!(story.rule(), None);
        story.after(1, "control-1", visited(outcome));
        assert_eq!(story.rule(), Some(expected));
    }
}

#[test]
fn a_control_that_was_asked_and_did_not_go_there_holds_nothing_up() {
    let mut story = Story::new();
    story.after(1, "kz-kcell-0", lost_at_the_edge);
    story.after(1, "control-1", |record| record.cause = Cause::Requested);
    story.after(1, "control-2", |record| record.cause = Cause::Requested);
    assert_eq!(story.rule(), Some("tcp.unconnected"));
}

#[test]
fn a_control_is_asked_again_at_once_where_there_is_a_new_address_and_field_agents_get_none() {
    let mut story = Story::new();
    story.after(1, "kz-kcell-0", dropped);
    let check = |asked: Vec<(String, Vec<String>)>, address: &str| {
        let (controls, field): (Vec<_>, Vec<_>) =
            asked.iter().partition(|(agent, _)| agent.starts_with("control"));
        assert_eq!(controls.len(), 2, "{asked:?}");
        assert!(controls.iter().all(|(_, addresses)| addresses == &[address]), "{asked:?}");
        assert!(field.iter().all(|(_, addresses)| addresses.is_empty()), "{asked:?}");
        field.iter().map(|(agent, _)| agent.clone()).collect::<Vec<_>>()
    };
    assert_eq!(check(story.asked(), OWN), ["kz-kcell-1", "kz-kcell-2"]);
    story.after(1, "kz-beeline-0", lost_at_the_edge);
    let field = check(story.asked(), EDGE);
    assert!(field.contains(&"kz-beeline-1".to_owned()), "{field:?}");
    // What they were asked for began before this visit failed, and proves nothing about it.
    story.after(1, "kz-beeline-1", lost_at_the_edge);
    check(story.asked(), EDGE);
    story.after(1, "control-1", visited(TcpOutcome::Connected));
    story.after(1, "control-2", visited(TcpOutcome::Connected));
    for (agent, addresses) in story.asked() {
        assert_eq!(addresses, Vec::<String>::new(), "{agent}");
    }
    // However many addresses the carriers' resolvers give, a control gets a few in that time.
    for n in 0..20 {
        story.after(0, "kz-beeline-0", |record| {
            lost_at_the_edge(record);
            record.dns[0].outcome = answer(0, &[EDGE, &format!("9.9.8.{n}")]);
        });
    }
    let asked = story.asked().into_iter().filter(|(agent, _)| agent == "control-1");
    let sent: std::collections::BTreeSet<String> = asked.flat_map(|(_, sent)| sent).collect();
    assert_eq!(sent.len(), crate::judge::FIELD_ADDRESSES_MAX - 1, "those that are new, and the edge again");
}

#[test]
fn a_control_is_asked_at_once_for_each_failure_that_its_last_look_says_nothing_about() {
    let mut story = Story::new();
    story.after(1, "kz-kcell-0", dropped);
    let controls = |story: &mut Story| {
        story.asked().into_iter().filter(|(agent, _)| agent.starts_with("control")).count()
    };
    assert_eq!(controls(&mut story), 2);
    // Failed beside the first: the look asked for began after both.
    let began_at = story.journal.now.minus_millis(200);
    story.after(0, "kz-beeline-0", dropped);
    assert_eq!(controls(&mut story), 0);
    story.after(1, "control-1", |_| {});
    story.after(0, "control-2", |_| {});
    assert_eq!(story.rule(), Some("tls.cut"));
    // Three seconds later, well within the time in which nobody else is asked twice.
    story.after(2, "kz-kcell-0", dropped);
    assert_eq!(controls(&mut story), 2);
    assert!(story.word().unwrap().at.since_millis(began_at) < 1_000, "it waits");
    story.after(1, "control-1", |_| {});
    story.after(0, "control-2", |_| {});
    assert_eq!(story.word().unwrap().at, story.state.at().minus_millis(1_000));
}

#[test]
fn the_ledger_of_interceptors_follows_from_the_journal() {
    let state = "C=KZ,O=ISCA,CN=Information Security Certification Authority";
    let intercepted = |record: &mut ProbeRecord| {
        record.tls[0].chain[0].issuer = state.to_owned();
        record.tls[0].chain[0].sha256 = crate::target::Sha256([7; 32]);
        record.tls[0].chain_fault = Some(crate::record::ChainFault::UnknownIssuer);
    };
    let mut story = Story::new();
    assert_eq!(story.state.ledger().sightings().count(), 0);
    story.after(1, "kz-kcell-0", intercepted);
    story.after(60, "kz-beeline-0", intercepted);
    let [seen] = &story.state.ledger().sightings().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((seen.issuer.as_str(), seen.networks.len(), seen.records), (state, 2, 2));
    assert_eq!(seen.last_seen.since_millis(seen.first_seen), 60_000);
    let again = fold(&story.journal.entries).0;
    assert_eq!(again.ledger(), story.state.ledger());
    // Who was revoked is not heard any more.
    story.journal.push(Event::Revoked(AgentId::parse("kz-kcell-0").unwrap()));
    story.after(60, "kz-kcell-0", intercepted);
    assert_eq!(again.ledger(), story.state.ledger());
}
