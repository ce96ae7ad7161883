//! DNS: the carrier's resolver lies about the mirror, or somebody between it and the subscriber does.

use zerkalo_core::verdict::Mechanism::{
    DnsInjectionBlockpage, DnsInjectionBogon, DnsInjectionOther, DnsNxdomain, DnsRefused, DnsServfail,
    DnsTimeout,
};
use zerkalo_core::verdict::Trigger::Name;

use super::{Entry, named};
use crate::namespaces::addresses::PUBLIC_RESOLVER;
use crate::namespaces::names::Lie;
use crate::namespaces::scenario::{DOWN, OK, Scenario, Visit, blocked};

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
    udp_led_to_a_lying_resolver,
    udp_led_to_an_honest_resolver,
];

/// The carrier's resolver says that the name does not exist (A1). The twin's name is unknown to everybody.
fn nxdomain() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Nxdomain), blocked(DnsNxdomain, Name))
        .twin(Visit::to("https://gone.lab.test/").lied_to(Lie::Nxdomain), DOWN)
}

/// The carrier's resolver refuses the name (A1).
fn refused() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Refused), blocked(DnsRefused, Name))
}

/// The carrier's resolver fails on the name (A1).
fn servfail() -> Scenario {
    Scenario::of(Visit::mirror().lied_to(Lie::Servfail), blocked(DnsServfail, Name))
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

/// Every question by UDP, to whomever, is led to a resolver that lies (A2).
fn udp_led_to_a_lying_resolver() -> Scenario {
    Scenario::of(Visit::mirror().meets(led_to(Lie::UnknownStub)), blocked(DnsInjectionOther, Name))
}

/// Every question by UDP is led to the carrier's own resolver, which tells the truth: no block.
fn udp_led_to_an_honest_resolver() -> Scenario {
    Scenario::of(Visit::mirror().meets(led_to(Lie::None)), OK)
}

fn led_to(lie: Lie) -> String {
    let lying = lie.resolver();
    format!(
        "iptables-legacy -t nat -A PREROUTING -i home -p udp --dport 53 -d {PUBLIC_RESOLVER} -j DNAT --to {lying}
         iptables-legacy -t nat -A PREROUTING -i home -p udp --dport 53 -d {} -j DNAT --to {lying}",
        Lie::None.resolver()
    )
}
