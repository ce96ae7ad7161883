//! The subscriber's network as a whole: what befalls every site must burn no mirror.

use std::time::Duration;

use super::{Entry, named};
use crate::namespaces::addresses::{DOMESTIC, MIRROR};
use crate::namespaces::middlebox::Trick;
use crate::namespaces::scenario::{DOWN, OK, Place, RESTRICTED, Scenario, Visit};

pub(super) const ALL: &[Entry] =
    named![whitelist_mode, shutdown, captive_portal, unpaid_bill, route_lost_on_the_way,];

/// Only domestic hosts on a list work (A13); a mirror among them does.
fn whitelist_mode() -> Scenario {
    let only_domestic = format!("iptables-legacy -A FORWARD -i home ! -d {DOMESTIC} -j DROP");
    let visit = Visit::mirror().meets(only_domestic).gated();
    Scenario::of(visit.clone(), RESTRICTED)
        .twin(Visit { url: "https://domestic.lab.test/".to_owned(), ..visit }, OK)
}

/// Nothing works (A14). In the twin everything does, but the site.
fn shutdown() -> Scenario {
    Scenario::of(Visit::mirror().meets("iptables-legacy -A FORWARD -j DROP").gated(), RESTRICTED)
        .twin(Visit::to("https://dead.lab.test/").gated(), DOWN)
}

/// Every plain request is sent to a login page, and nothing else passes (A15).
fn captive_portal() -> Scenario {
    Scenario::of(Visit::mirror().meets(all_to(Trick::ToLogin)).gated(), RESTRICTED)
        .twin(Visit::mirror().gated(), OK)
}

/// Every plain request is sent to the carrier's page for who has not paid (A15).
fn unpaid_bill() -> Scenario {
    let visit = Visit::plain_mirror();
    Scenario::of(visit.clone().meets(all_to(Trick::ToUnpaid)), RESTRICTED).twin(visit, OK)
}

/// The subscriber's line dies while the page comes.
fn route_lost_on_the_way() -> Scenario {
    let visit = Visit::to(&format!("https://{MIRROR}/slow")).gated();
    let lost = "ip route del default; ip -6 route del default";
    Scenario::of(visit.clone().then(Duration::from_millis(1_000), Place::Subscriber, lost), RESTRICTED)
        .twin(visit, OK)
}

fn all_to(trick: Trick) -> String {
    format!(
        "iptables-legacy -t nat -A PREROUTING -i home -p tcp --dport 80 ! -d 198.51.100.99 -j REDIRECT --to-ports {}
         iptables-legacy -A FORWARD -i home -p tcp --dport 443 -j DROP",
        trick.port()
    )
}
