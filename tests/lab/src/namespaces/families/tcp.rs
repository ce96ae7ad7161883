//! TCP: the censor acts on the mirror's address, whatever is said over it.

use zerkalo_core::verdict::Mechanism::{TcpRefused, TcpReset, TcpTimeout, TcpUnreachable, TlsReset};
use zerkalo_core::verdict::Trigger::{Ip, Unknown};

use super::{Entry, named};
use crate::namespaces::addresses::{MIRROR, NEIGHBOUR_ADDRESS, ORIGIN, ORIGIN_V6, SECOND, SECOND_V6};
use crate::namespaces::scenario::{DOWN, OK, Scenario, Visit, blocked, impaired};

pub(super) const ALL: &[Entry] = named![
    syn_dropped,
    syn_answered_by_a_reset,
    syn_answered_by_port_unreachable,
    syn_answered_by_host_unreachable,
    reset_as_soon_as_connected,
    reset_once_connected,
    reset_once_connected_at_an_address_that_rested,
    only_port_443_dropped,
    all_ports_dropped,
    first_of_two_addresses_dropped,
    first_of_two_addresses_refused,
    second_of_two_addresses_dropped,
    both_addresses_dropped,
    ipv6_alone_dropped,
    one_of_two_ipv6_addresses_dropped,
    ipv6_mirror_dropped,
];

/// The mirror's address is a black hole (A4). The twin's address is held by nobody.
fn syn_dropped() -> Scenario {
    Scenario::of(Visit::mirror().meets(drop_all(ORIGIN)), blocked(TcpTimeout, Ip))
        .twin(Visit::to("https://dead.lab.test/").meets(drop_all(ORIGIN)), DOWN)
}

/// A reset answers the SYN (A4).
fn syn_answered_by_a_reset() -> Scenario {
    Scenario::of(Visit::mirror().meets(reject(ORIGIN, "tcp-reset")), blocked(TcpRefused, Ip))
}

/// ICMP port unreachable answers the SYN (A4).
fn syn_answered_by_port_unreachable() -> Scenario {
    Scenario::of(Visit::mirror().meets(reject(ORIGIN, "icmp-port-unreachable")), blocked(TcpRefused, Ip))
}

/// ICMP host unreachable answers the SYN (A4).
fn syn_answered_by_host_unreachable() -> Scenario {
    Scenario::of(Visit::mirror().meets(reject(ORIGIN, "icmp-host-unreachable")), blocked(TcpUnreachable, Ip))
}

/// A reset follows the SYN-ACK, before anything is said (A4).
fn reset_as_soon_as_connected() -> Scenario {
    let rule = format!(
        "iptables-legacy -A FORWARD -p tcp -d {ORIGIN} --tcp-flags SYN,PSH,ACK ACK -j REJECT --reject-with tcp-reset"
    );
    Scenario::of(Visit::mirror().meets(rule), blocked(TcpReset, Ip))
}

/// The connection is reset at the first packet with data, whatever it says: the neutral name fares no better.
fn reset_once_connected() -> Scenario {
    Scenario::of(Visit::mirror().meets(reset_data()), blocked(TlsReset, Unknown))
}

/// The same, where nobody showed a name of late: the neutral name goes first, fails, and passes for the control.
fn reset_once_connected_at_an_address_that_rested() -> Scenario {
    Scenario::of(Visit::mirror().rested().meets(reset_data()), blocked(TlsReset, Ip))
}

/// Port 443 is dropped, port 80 is open (A4).
fn only_port_443_dropped() -> Scenario {
    let rule = format!("iptables-legacy -A FORWARD -p tcp -d {ORIGIN} --dport 443 -j DROP");
    let expected = blocked(TcpTimeout, Ip).because("port 80 of the same address connects");
    Scenario::of(Visit::mirror().meets(rule.clone()), expected)
        .twin(Visit::to(&format!("http://{MIRROR}/")).meets(rule), OK)
}

/// Every TCP port is dropped (A4).
fn all_ports_dropped() -> Scenario {
    let rule = format!("iptables-legacy -A FORWARD -p tcp -d {ORIGIN} -j DROP");
    let expected = blocked(TcpTimeout, Ip).because("port 80 of the same address ended with Timeout too");
    Scenario::of(Visit::mirror().meets(rule), expected)
}

/// One of two addresses is a black hole: visitors wait, then reach the other.
fn first_of_two_addresses_dropped() -> Scenario {
    let visit = Visit::to("https://two.lab.test/").within_secs(12);
    Scenario::of(visit.clone().meets(drop_all(SECOND)), impaired(TcpTimeout, Ip)).twin(visit, OK)
}

/// One of two addresses refuses: visitors reach the other.
fn first_of_two_addresses_refused() -> Scenario {
    let visit = Visit::to("https://two.lab.test/");
    Scenario::of(visit.clone().meets(reject(SECOND, "tcp-reset")), impaired(TcpRefused, Ip))
        .twin(visit.meets(reject(NEIGHBOUR_ADDRESS, "tcp-reset")), OK)
}

/// The other of two addresses is a black hole: this visitor does not notice, the next one will. Nobody holds the twin's
/// second address: dead for all.
fn second_of_two_addresses_dropped() -> Scenario {
    let visit = Visit::to("https://two.lab.test/").within_secs(12).meets(drop_all(ORIGIN));
    Scenario::of(visit.clone(), impaired(TcpTimeout, Ip))
        .twin(Visit { url: "https://half.lab.test/".to_owned(), ..visit }, OK)
}

/// Both addresses are black holes (A4).
fn both_addresses_dropped() -> Scenario {
    let visit = Visit::to("https://two.lab.test/").meets(drop_all(SECOND)).meets(drop_all(ORIGIN));
    Scenario::of(visit.clone(), blocked(TcpTimeout, Ip))
        .twin(Visit { url: "https://landing.lab.test/".to_owned(), ..visit }, OK)
}

/// IPv6 is a black hole and IPv4 is open: visitors fall back. Nothing shows that IPv6 works on this line at all.
fn ipv6_alone_dropped() -> Scenario {
    Scenario::of(Visit::to("https://dual.lab.test/").meets(drop_v6()), OK)
}

/// One of two IPv6 addresses is a black hole, and the other shows that IPv6 works here.
fn one_of_two_ipv6_addresses_dropped() -> Scenario {
    let visit = Visit::to("https://two-six.lab.test/").within_secs(12);
    let drop = format!("ip6tables-legacy -A FORWARD -d {SECOND_V6} -j DROP");
    Scenario::of(visit.clone().meets(drop), impaired(TcpTimeout, Ip)).twin(visit, OK)
}

/// The mirror has no other address than the black hole (A4).
fn ipv6_mirror_dropped() -> Scenario {
    let visit = Visit::to("https://six.lab.test/");
    Scenario::of(visit.clone().meets(drop_v6()), blocked(TcpTimeout, Ip)).twin(visit, OK)
}

fn drop_all(address: &str) -> String {
    format!("iptables-legacy -A FORWARD -d {address} -j DROP")
}

fn reset_data() -> String {
    format!(
        "iptables-legacy -A FORWARD -p tcp -d {ORIGIN} --tcp-flags SYN,PSH PSH -j REJECT --reject-with tcp-reset"
    )
}

fn drop_v6() -> String {
    format!("ip6tables-legacy -A FORWARD -d {ORIGIN_V6} -j DROP")
}

fn reject(address: &str, with: &str) -> String {
    format!("iptables-legacy -A FORWARD -p tcp -d {address} -j REJECT --reject-with {with}")
}
