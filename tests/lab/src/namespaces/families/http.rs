//! HTTP: the censor reads the request, or the site itself turns the visitor away.

use zerkalo_core::verdict::Mechanism::{
    HttpBlockpage, HttpEof, HttpRedirect, HttpReset, HttpTimeout, TlsReset,
};
use zerkalo_core::verdict::Trigger::{Host, Unknown};

use super::{Entry, named};
use crate::namespaces::addresses::MIRROR;
use crate::namespaces::middlebox::Trick;
use crate::namespaces::scenario::{DOWN, Expected, OK, REFUSED, Scenario, Visit, blocked};

pub(super) const ALL: &[Entry] = named![
    known_page,
    unknown_page,
    stub_with_451,
    redirect_to_a_known_stub,
    redirect_to_a_stub_by_https,
    redirect_to_an_unknown_host,
    broken_location,
    forged_redirect_loop,
    reset_on_host,
    silence_on_host,
    fin_on_host,
    block_on_the_second_hop,
    second_hop_dropped_by_address,
    origin_answers_451,
    origin_asks_for_a_captcha,
    origin_asks_for_a_captcha_with_200,
    redirect_loop_of_the_site,
    more_than_ten_hops,
];

/// A block page that every list knows comes instead of the mirror's (A16).
fn known_page() -> Scenario {
    answered(Trick::KnownPage, blocked(HttpBlockpage, Host))
}

/// A page that nobody knows comes instead (A16).
fn unknown_page() -> Scenario {
    answered(Trick::UnknownPage, blocked(HttpBlockpage, Host))
}

/// The same with the status 451 (A16).
fn stub_with_451() -> Scenario {
    answered(Trick::Page451, blocked(HttpBlockpage, Host))
}

/// A redirect to a known stub (A16).
fn redirect_to_a_known_stub() -> Scenario {
    answered(Trick::ToStub, blocked(HttpRedirect, Host))
}

/// The stub speaks https (A16).
fn redirect_to_a_stub_by_https() -> Scenario {
    answered(Trick::ToStubByTls, blocked(HttpRedirect, Host))
}

/// A redirect to a host that nobody knows (A16).
fn redirect_to_an_unknown_host() -> Scenario {
    answered(Trick::ToUnknown, blocked(HttpRedirect, Host))
}

/// A redirect to what is no URL.
fn broken_location() -> Scenario {
    answered(Trick::BrokenLocation, blocked(HttpRedirect, Host))
}

/// A forged redirect back to the page itself, for ever.
fn forged_redirect_loop() -> Scenario {
    answered(Trick::Loop, blocked(HttpRedirect, Host))
}

/// A reset answers the request.
fn reset_on_host() -> Scenario {
    let reset = format!("{} -j REJECT --reject-with tcp-reset", on_host());
    Scenario::of(Visit::plain_mirror().meets(reset), blocked(HttpReset, Host))
}

/// The request never arrives.
fn silence_on_host() -> Scenario {
    Scenario::of(Visit::plain_mirror().meets(format!("{} -j DROP", on_host())), blocked(HttpTimeout, Host))
}

/// The connection is closed after the request.
fn fin_on_host() -> Scenario {
    answered(Trick::Fin, blocked(HttpEof, Host))
}

/// The mirror passes; the page it leads to is reset by name.
fn block_on_the_second_hop() -> Scenario {
    let reset = "iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --string landing.lab.test -j REJECT --reject-with tcp-reset";
    let visit = Visit::to(&format!("https://{MIRROR}/landing")).meets(reset);
    Scenario::of(visit.clone(), blocked(TlsReset, Unknown)).twin(Visit { rules: Vec::new(), ..visit }, OK)
}

/// The mirror passes; the address it leads to is a black hole.
fn second_hop_dropped_by_address() -> Scenario {
    use crate::namespaces::addresses::LANDING;
    use zerkalo_core::verdict::Mechanism::TcpTimeout;
    use zerkalo_core::verdict::Trigger::Ip;
    let visit = Visit::to(&format!("https://{MIRROR}/landing"))
        .meets(format!("iptables-legacy -A FORWARD -d {LANDING} -j DROP"));
    Scenario::of(visit.clone(), blocked(TcpTimeout, Ip)).twin(Visit { rules: Vec::new(), ..visit }, OK)
}

/// The site itself answers 451, under its own key, to this country alone (A20).
fn origin_answers_451() -> Scenario {
    turned_away("forbidden-country")
}

/// The site asks this country for a CAPTCHA (A20).
fn origin_asks_for_a_captcha() -> Scenario {
    turned_away("captcha")
}

/// The same with the status 200 (A20).
fn origin_asks_for_a_captcha_with_200() -> Scenario {
    turned_away("captcha-200")
}

/// The site's own redirect loop: everybody sees it.
fn redirect_loop_of_the_site() -> Scenario {
    Scenario::of(Visit::to(&format!("https://{MIRROR}/loop")), DOWN)
        .twin(Visit::to(&format!("https://{MIRROR}/hops/3")), OK)
}

/// Eleven redirects are one too many; ten are not.
fn more_than_ten_hops() -> Scenario {
    Scenario::of(Visit::to(&format!("https://{MIRROR}/hops/11")), DOWN)
        .twin(Visit::to(&format!("https://{MIRROR}/hops/10")), OK)
}

fn answered(trick: Trick, expected: Expected) -> Scenario {
    Scenario::of(Visit::plain_mirror().led_to(trick, 80), expected)
}

fn turned_away(path: &str) -> Scenario {
    Scenario::of(Visit::to(&format!("https://{MIRROR}/{path}")), REFUSED).twin(Visit::mirror(), OK)
}

fn on_host() -> String {
    format!("iptables-legacy -A FORWARD -p tcp --dport 80 -m string --algo bm --string 'ost: {MIRROR}'")
}
