//! DNS: the carrier's resolver lies about the mirror, or somebody between it and the subscriber does.

use zerkalo_core::verdict::Mechanism::{
    DnsInjectionBlockpage, DnsInjectionBogon, DnsInjectionOther, DnsNxdomain, DnsRefused, DnsServfail,
    DnsTimeout, TcpTimeout, TlsTimeout,
};
use zerkalo_core::verdict::Trigger::{Ip, Name, Sni};

use super::{Entry, named};
use crate::namespaces::addresses::{MIRROR, ORIGIN, PUBLIC_RESOLVER, SECOND};
use crate::namespaces::names::Lie;
use crate::namespaces::scenario::{DOWN, NAME_GONE, OK, Scenario, Visit, blocked};

pub(super) const ALL: &[Entry] = named![
    nxdomain,
    refused,
    servfail,
    silence,
    empty_answer,
    bogon,
    known_stub_address,
    unknown_stub_address,
    unknown_address_with_a_known_page,
    injection_with_the_true_answer_second,
    only_aaaa_is_false,
    only_the_second_address_is_false,
    another_own_address_dropped,
    udp_led_to_a_lying_resolver,
    udp_led_to_a_lying_resolver_and_the_address_dropped,
    udp_led_to_a_lying_resolver_and_other_roads_closed,
    udp_led_to_an_honest_resolver,
    udp_led_to_an_honest_resolver_beside_a_block_by_name,
];

/// The carrier's resolver says that the name does not exist (A1). The twin's name is unknown to everybody.
fn nxdomain() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Nxdomain), blocked(DnsNxdomain, Name))
        .twin(Visit::to("https://gone.lab.test/").lied_to(Lie::Nxdomain), NAME_GONE)
}

/// The carrier's resolver refuses the name (A1).
fn refused() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Refused), blocked(DnsRefused, Name))
}

/// The carrier's resolver fails on the name (A1).
fn servfail() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Servfail), blocked(DnsServfail, Name))
}

/// The carrier's resolver gives another address than the world's, as with nearby caches, and that one is dropped. Only who
/// goes there tells that it is the mirror's. In the twin it is not dropped.
fn another_own_address_dropped() -> Scenario {
    let visit = Visit::mirror().lied_to(Lie::OtherOwn).with_unstated_addresses().followed();
    let drop = format!("iptables-legacy -A FORWARD -d {SECOND} -j DROP");
    let expected = blocked(TcpTimeout, Ip).because("the control met the mirror at the very same address");
    Scenario::of(visit.clone().meets(drop), expected).twin(visit, OK)
}

/// The carrier's resolver says nothing about the name (A1).
fn silence() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Silence), blocked(DnsTimeout, Name))
}

/// The carrier's resolver knows the name and gives no address (A1).
fn empty_answer() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Empty), blocked(DnsInjectionOther, Name))
        .twin(Visit::to("https://alias.lab.test/"), DOWN)
}

/// The carrier's resolver answers a private address (A1).
fn bogon() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Bogon), blocked(DnsInjectionBogon, Name))
}

/// The carrier's resolver answers the address of a known stub (A1).
fn known_stub_address() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::KnownStub), blocked(DnsInjectionBlockpage, Name))
}

/// The carrier's resolver answers an address nobody knows (A1).
fn unknown_stub_address() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::UnknownStub), blocked(DnsInjectionOther, Name))
}

/// At the unknown address stands a page that every list knows (A1, A16).
fn unknown_address_with_a_known_page() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::TellingStub), blocked(DnsInjectionBlockpage, Name))
}

/// A false answer comes before the true one (A3).
fn injection_with_the_true_answer_second() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Race), blocked(DnsInjectionOther, Name))
}

/// The IPv6 address is false: visitors fall back to IPv4 and never notice.
fn only_aaaa_is_false() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::FalseAaaa), OK)
}

/// The second of two addresses is false: visitors stay with the first.
fn only_the_second_address_is_false() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::SecondFalse), OK)
}

/// Every question by UDP, to whomever, is led to a resolver that lies; every other road is open (A2).
fn udp_led_to_a_lying_resolver() -> Scenario {
    Scenario::of(Visit::mirror().meets(led_to(Lie::UnknownStub)), blocked(DnsInjectionOther, Name))
}

/// As before, and the mirror's address is dropped too: no visit shows that the address is false, only what the same
/// resolvers say by other roads (A2, A4).
fn udp_led_to_a_lying_resolver_and_the_address_dropped() -> Scenario {
    let visit = Visit::mirror()
        .with_unstated_addresses()
        .meets(led_to(Lie::UnknownStub))
        .meets(format!("iptables-legacy -A FORWARD -p tcp -d {ORIGIN} -j DROP"));
    Scenario::of(visit, blocked(DnsInjectionOther, Name))
}

/// As before, and nothing but UDP gets through to any resolver: an answer from where none runs gives the liar away (A2).
fn udp_led_to_a_lying_resolver_and_other_roads_closed() -> Scenario {
    let visit = Visit::mirror()
        .with_unstated_addresses()
        .meets(led_to(Lie::UnknownStub))
        .meets(format!("iptables-legacy -A FORWARD -i home -p tcp -d {PUBLIC_RESOLVER} -j DROP"))
        .meets("iptables-legacy -A INPUT -i home -p tcp --dport 53 -j DROP");
    Scenario::of(visit, blocked(DnsInjectionOther, Name))
}

/// Every question by UDP is led to the carrier's own resolver, which tells the truth: no block.
fn udp_led_to_an_honest_resolver() -> Scenario {
    Scenario::of(Visit::mirror().meets(led_to(Lie::None)), OK)
}

/// The same, where the name is blocked by other means: the answers of a proxy that tells the truth are no lies (A6).
fn udp_led_to_an_honest_resolver_beside_a_block_by_name() -> Scenario {
    let drop = format!(
        "iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j DROP"
    );
    Scenario::of(Visit::mirror().meets(led_to(Lie::None)).meets(drop), blocked(TlsTimeout, Sni))
}

fn led_to(lie: Lie) -> String {
    format!("iptables-legacy -t nat -A PREROUTING -i home -p udp --dport 53 -j DNAT --to {}", lie.resolver())
}
