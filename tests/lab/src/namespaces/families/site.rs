//! The site's own faults, and a control that is missing or ill: nothing of it is a block.

use super::{Entry, named};
use crate::namespaces::addresses::{MIRROR, ORIGIN};
use crate::namespaces::scenario::{DOWN, INSUFFICIENT, NAME_GONE, OK, Place, Scenario, Visit, blocked};
use zerkalo_core::verdict::Mechanism::{DnsInjectionBlockpage, TlsReset};
use zerkalo_core::verdict::Trigger::{Name, Sni};

pub(super) const ALL: &[Entry] = named![
    expired_certificate_of_the_site,
    wrong_name_certificate_of_the_site,
    self_signed_certificate_of_the_site,
    internationalised_name,
    alias_without_address,
    unknown_name,
    site_down,
    control_missing,
    control_missing_at_a_known_stub,
    control_down,
    site_and_control_down,
    site_down_under_a_censor,
];

/// The site forgot to renew: everybody sees it.
fn expired_certificate_of_the_site() -> Scenario {
    faulty("expired")
}

/// The site shows another name's certificate.
fn wrong_name_certificate_of_the_site() -> Scenario {
    faulty("wrong-name")
}

/// The site vouches for itself.
fn self_signed_certificate_of_the_site() -> Scenario {
    faulty("self-signed")
}

/// A name with letters beyond ASCII is a name.
fn internationalised_name() -> Scenario {
    Scenario::of(Visit::to("https://зеркало.lab.test/"), OK)
}

/// The site's name points to another that has no address.
fn alias_without_address() -> Scenario {
    Scenario::of(Visit::to("https://alias.lab.test/"), DOWN).twin(Visit::mirror(), OK)
}

/// The site's owner let the name go.
fn unknown_name() -> Scenario {
    Scenario::of(Visit::to("https://gone.lab.test/"), NAME_GONE).twin(Visit::mirror(), OK)
}

/// The site's server is gone.
fn site_down() -> Scenario {
    Scenario::of(Visit::mirror().meets_at(Place::World, origin_gone()), DOWN)
}

/// Nobody outside looked: no block without a control.
fn control_missing() -> Scenario {
    let visit = Visit::mirror().meets(reset_by_name());
    Scenario::of(visit.clone().without_control(), INSUFFICIENT).twin(visit, blocked(TlsReset, Sni))
}

/// A known stub speaks for itself.
fn control_missing_at_a_known_stub() -> Scenario {
    use crate::namespaces::names::Lie;
    let visit = Visit::mirror().lied_to(Lie::KnownStub).without_control();
    Scenario::of(visit, blocked(DnsInjectionBlockpage, Name))
}

/// The control's own line is dead: its failure says nothing of the site.
fn control_down() -> Scenario {
    let visit = Visit::mirror().meets(reset_by_name()).gated();
    Scenario::of(visit.clone().meets_at(Place::Control, "iptables-legacy -A INPUT -j DROP"), INSUFFICIENT)
        .twin(visit, blocked(TlsReset, Sni))
}

/// The control's line and the site are dead: nobody can tell.
fn site_and_control_down() -> Scenario {
    let visit = Visit::mirror()
        .meets_at(Place::World, origin_gone())
        .meets_at(Place::Control, "iptables-legacy -A INPUT -j DROP")
        .gated();
    Scenario::of(visit, INSUFFICIENT)
}

/// A block of a site that is gone: the control's word counts.
fn site_down_under_a_censor() -> Scenario {
    Scenario::of(Visit::mirror().meets(reset_by_name()).meets_at(Place::World, origin_gone()), DOWN)
}

fn faulty(kind: &str) -> Scenario {
    Scenario::of(Visit::to(&format!("https://{kind}.lab.test/")), DOWN)
        .twin(Visit::to(&format!("https://{MIRROR}/")), OK)
}

fn origin_gone() -> String {
    format!("iptables-legacy -A INPUT -d {ORIGIN} -j DROP")
}

fn reset_by_name() -> String {
    format!(
        "iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j REJECT --reject-with tcp-reset"
    )
}
