//! The first word to people: before any carrier is red, once an event, and nothing else moves.

use super::*;
use crate::market::{Alert, AlertKind};
use std::collections::BTreeSet;

/// A story told record by record.
struct Story {
    journal: Journal,
    state: Fold,
    folded: usize,
    alerts: Vec<Alert>,
    actions: Vec<Action>,
}

impl Story {
    /// Everybody is well.
    fn calm() -> Self {
        let mut journal = Journal::new();
        (0..3).for_each(|_| journal.round([Fine; 4], Fine));
        let mut story =
            Self { journal, state: Fold::new(), folded: 0, alerts: Vec::new(), actions: Vec::new() };
        story.fold();
        story
    }

    /// These agents see that, a second apart, and the control speaks after each.
    fn see(&mut self, sees: Sees, agents: &[&str]) {
        for agent in agents {
            self.journal.now = self.journal.now.plus_secs(1);
            self.journal.record(agent, facts(sees, self.journal.now));
            self.journal.now = self.journal.now.plus_secs(1);
            self.journal.record("control-1", facts(Fine, self.journal.now));
        }
        self.fold();
    }

    fn round(&mut self, sees: [Sees; 4]) {
        self.journal.round(sees, Fine);
        self.fold();
    }

    fn fold(&mut self) {
        for entry in &self.journal.entries[self.folded..] {
            let outcome = self.state.apply(entry);
            self.alerts.extend(outcome.alerts);
            self.actions.extend(outcome.decisions.iter().map(|decision| decision.action));
        }
        self.folded = self.journal.entries.len();
    }

    fn told(&self) -> usize {
        self.alerts.iter().filter(|alert| alert.kind == AlertKind::BlockSuspected).count()
    }
}

const FIVE: [&str; 5] =
    ["kz-kcell-0", "kz-kcell-1", "kz-beeline-0", "kz-tele2-altel-1", "kz-kazakhtelecom-2"];

#[test]
fn enough_owners_over_several_carriers_are_told_of_at_once_and_nothing_is_decided() {
    let mut story = Story::calm();
    story.see(Nxdomain, &FIVE);
    assert_eq!(story.told(), 0, "five are too few");
    story.see(Nxdomain, &["kz-beeline-1"]);
    let [alert] = &story.alerts[..] else { panic!("{:?}", story.alerts) };
    assert_eq!((alert.kind, alert.mirror.as_ref()), (AlertKind::BlockSuspected, Some(&mirror().id)));
    assert_eq!((alert.market.as_str(), alert.id.as_str()), ("kz", "kz-alert-000001"));
    assert_eq!(alert.carriers.len(), 4, "{:?}", alert.carriers);
    assert_eq!(alert.evidence.len(), 6);
    let owners: BTreeSet<_> = alert.evidence.iter().map(|item| &item.owner).collect();
    assert_eq!(owners.len(), 6);
    let [first, .., kcell, _] = &alert.texts.en[..] else { panic!("{:?}", alert.texts) };
    assert!(first.starts_with("m1 may be blocked in kz"), "{first}");
    assert_eq!(kcell, "Kcell is suspect: 2 of 3 mobile owners see it blocked by dns.nxdomain");
    assert!(alert.texts.ru[0].contains("возможно, зеркало m1") && alert.texts.kk[0].contains("m1 айнасы"));
    let json = alert.to_json();
    assert_eq!(serde_json::from_str::<Alert>(&json).unwrap().to_json(), json);
    // No decision but that it works, and no carrier is red.
    assert_eq!(story.actions, [Action::Keep]);
    let row = &story.state.matrix(story.state.at()).rows[0];
    assert!(row.carriers.iter().all(|one| one.state != crate::cell::CellState::Red), "{row:?}");
}

#[test]
fn a_carrier_s_majority_is_told_of_before_it_is_red() {
    let mut story = Story::calm();
    // Two of three owners are the majority here; both must have said so twice, and then the carrier is red at once: so the
    // policy of this test asks one for it.
    let policy = crate::policy::BUILT_IN[1].replace("flagged_min = 2", "flagged_min = 1");
    let settings =
        SettingsText { policies: vec![crate::policy::BUILT_IN[0].to_owned(), policy], ..default_settings() };
    story.journal.push(Event::Settings(settings));
    story.see(HelloDropped, &["kz-kcell-0", "kz-kcell-1"]);
    assert_eq!(story.told(), 0, "neither said so twice");
    story.see(HelloDropped, &["kz-kcell-0"]);
    assert_eq!((story.told(), &story.actions[..]), (1, &[Action::Keep][..]));
    assert_eq!(story.alerts[0].carriers, ["kz-kcell".parse().unwrap()]);
    assert!(story.alerts[0].texts.en[1].contains("tls.timeout"), "{:?}", story.alerts[0].texts);
    // The decision follows; nobody is told of the same block again.
    (0..2).for_each(|_| story.see(HelloDropped, &["kz-kcell-0", "kz-kcell-1", "kz-kcell-2"]));
    assert_eq!(story.actions, [Action::Keep, Action::Prepare]);
    (0..5).for_each(|_| story.round([HelloDropped; 4]));
    assert_eq!(story.told(), 1);
}

#[test]
fn what_a_decision_has_told_is_not_told_again_and_the_next_event_is() {
    let mut story = Story::calm();
    let all: Vec<String> = (0..OWNERS).map(|owner| format!("kz-kcell-{owner}")).collect();
    let kcell: Vec<&str> = all.iter().map(String::as_str).collect();
    (0..3).for_each(|_| story.see(HelloDropped, &kcell));
    assert!(story.actions.contains(&Action::Prepare), "{:?}", story.actions);
    let told = story.told();
    story.see(Nxdomain, &FIVE);
    story.see(Nxdomain, &["kz-beeline-1", "kz-kazakhtelecom-0"]);
    assert_eq!(story.told(), told, "prepare stands, and says it");

    let mut story = Story::calm();
    let six = [&FIVE[..], &["kz-beeline-1"]].concat();
    story.see(Nxdomain, &six);
    (0..4).for_each(|_| story.see(Fine, &six));
    story.see(Nxdomain, &six);
    assert_eq!(story.told(), 1, "a minute later it is the same event");
    (0..5).for_each(|_| story.round([Fine; 4]));
    story.see(Nxdomain, &six);
    assert_eq!(story.told(), 2);
    assert_eq!(story.actions, [Action::Keep]);
}

#[test]
fn one_person_on_every_carrier_is_one_voice_and_a_noisy_one_none() {
    let mut story = Story::calm();
    for carrier in CARRIERS {
        for n in 0..3 {
            let station = Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
            story.journal.enrol(&format!("box-{carrier}-{n}"), "one-person", station);
        }
    }
    let boxes: Vec<String> =
        CARRIERS.iter().flat_map(|carrier| (0..3).map(move |n| format!("box-{carrier}-{n}"))).collect();
    story.see(Nxdomain, &boxes.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(story.told(), 0, "{:?}", story.alerts);
    // Five more owners make six.
    story.see(Nxdomain, &FIVE);
    assert_eq!(story.told(), 1);
}
