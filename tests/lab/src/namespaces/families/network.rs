//! The subscriber's network as a whole: what befalls every site must burn no mirror.

use std::time::Duration;

use super::{Entry, named};
use crate::namespaces::addresses::{DOMESTIC, MIRROR, ORIGIN, ORIGIN_V6};
use crate::namespaces::certificates::Forger;
use crate::namespaces::middlebox::Trick;
use crate::namespaces::scenario::{DOWN, INSUFFICIENT, OK, Place, RESTRICTED, Scenario, Visit, blocked};
use zerkalo_core::verdict::Mechanism::{HttpBlockpage, TcpTimeout, TlsMitmOther};
use zerkalo_core::verdict::Trigger::{Host, Ip, Sni};

pub(super) const ALL: &[Entry] = named![
    whitelist_mode,
    shutdown,
    captive_portal,
    captive_portal_in_the_page_s_place,
    unpaid_bill,
    unpaid_bill_before_https,
    route_lost_on_the_way,
    offline,
    ipv6_broken,
    ipv6_absent,
    interceptor_on_the_host,
];

/// Nothing passes by IPv6.
const NO_IPV6: &str = "ip6tables-legacy -A FORWARD -j DROP";

/// Only domestic hosts on a list work (A13); a mirror among them does.
fn whitelist_mode() -> Scenario {
    let only_domestic = format!("iptables-legacy -A FORWARD -i home ! -d {DOMESTIC} -j DROP; {NO_IPV6}");
    let visit = Visit::mirror().meets(only_domestic).gated();
    Scenario::of(visit.clone(), RESTRICTED)
        .twin(Visit { url: "https://domestic.lab.test/".to_owned(), ..visit }, OK)
}

/// Nothing works (A14). In the twin everything does, but the site.
fn shutdown() -> Scenario {
    let nothing = format!("iptables-legacy -A FORWARD -j DROP; {NO_IPV6}");
    Scenario::of(Visit::mirror().meets(nothing).gated(), RESTRICTED)
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

/// The same, in another's place: a page that sends there by itself. In the twin only the mirror's page is replaced.
fn captive_portal_in_the_page_s_place() -> Scenario {
    let visit = Visit::plain_mirror().gated();
    Scenario::of(visit.clone().meets(all_to(Trick::LoginPage)), RESTRICTED)
        .twin(visit.led_to(Trick::LoginPage, 80), blocked(HttpBlockpage, Host))
}

/// As `unpaid_bill`, for a mirror that is never asked in the clear: the references meet the page. In the twin only the
/// mirror's own address is dropped.
fn unpaid_bill_before_https() -> Scenario {
    let visit = Visit::mirror().gated();
    let dropped = format!("iptables-legacy -A FORWARD -d {ORIGIN} -j DROP");
    Scenario::of(visit.clone().meets(all_to(Trick::ToUnpaid)), RESTRICTED)
        .twin(visit.meets(dropped), blocked(TcpTimeout, Ip))
}

/// The subscriber's line dies while the page comes.
fn route_lost_on_the_way() -> Scenario {
    let visit = Visit::to(&format!("https://{MIRROR}/slow")).within_secs(12).gated();
    let lost = "ip route del default; ip -6 route del default";
    Scenario::of(visit.clone().then(Duration::from_millis(1_000), Place::Subscriber, lost), RESTRICTED)
        .twin(visit, OK)
}

/// The host has no way out at all.
fn offline() -> Scenario {
    let lost = "ip route del default; ip -6 route del default";
    let visit = Visit::mirror().gated();
    Scenario::of(visit.clone().meets_at(Place::Subscriber, lost), RESTRICTED).twin(visit, OK)
}

/// A mirror with IPv6 alone, on a line whose IPv6 leads nowhere. In the twin it leads everywhere but there.
fn ipv6_broken() -> Scenario {
    let visit = Visit::to("https://six.lab.test/").gated();
    let dropped = format!("ip6tables-legacy -A FORWARD -d {ORIGIN_V6} -j DROP");
    Scenario::of(visit.clone().meets(NO_IPV6), INSUFFICIENT)
        .twin(visit.meets(dropped), blocked(TcpTimeout, Ip))
}

/// The same on a line without IPv6. In the twin the mirror has IPv4 too.
fn ipv6_absent() -> Scenario {
    let without = |url: &str| Visit::to(url).meets_at(Place::Subscriber, "ip -6 route del default").gated();
    Scenario::of(without("https://six.lab.test/"), INSUFFICIENT).twin(without("https://dual.lab.test/"), OK)
}

/// Software that nobody knows breaks all TLS open on the subscriber's own computer (A19). In the twin somebody does so
/// on the way, for the mirror alone.
fn interceptor_on_the_host() -> Scenario {
    let forger = Trick::Forge(Forger::Unknown);
    let all = format!(
        "iptables-legacy -t nat -A PREROUTING -i home -p tcp --dport 443 -j REDIRECT --to-ports {}; {NO_IPV6}",
        forger.port()
    );
    Scenario::of(Visit::mirror().meets(all).gated(), INSUFFICIENT)
        .twin(Visit::mirror().led_to(forger, 443).gated(), blocked(TlsMitmOther, Sni))
}

fn all_to(trick: Trick) -> String {
    format!(
        "iptables-legacy -t nat -A PREROUTING -i home -p tcp --dport 80 ! -d 198.51.100.99 -j REDIRECT --to-ports {}
         iptables-legacy -A FORWARD -i home -p tcp --dport 443 -j DROP
         {NO_IPV6}",
        trick.port()
    )
}
