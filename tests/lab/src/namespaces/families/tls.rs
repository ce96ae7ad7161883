//! TLS: the censor reads the ClientHello, or breaks TLS open.

use zerkalo_core::verdict::Mechanism::{
    EchTimeout, QuicTimeout, TlsEof, TlsMitmOther, TlsMitmStateCa, TlsReset, TlsTimeout,
};
use zerkalo_core::verdict::Trigger::{Ip, Protocol, Sni, Unknown};

use super::{Entry, named};
use crate::namespaces::addresses::{MIRROR, ORIGIN};
use crate::namespaces::certificates::Forger;
use crate::namespaces::middlebox::Trick;
use crate::namespaces::scenario::{Expected, INSUFFICIENT, OK, Scenario, Visit, blocked, impaired};

pub(super) const ALL: &[Entry] = named![
    hello_dropped,
    silence_after_the_hello,
    reset_after_the_hello,
    fin_after_the_hello,
    alert_after_the_hello,
    tls_dropped_by_address,
    residual_block_after_the_hello,
    internationalised_name_dropped,
    state_authority,
    expired_state_authority,
    unknown_authority,
    antivirus_on_the_host,
    quic_dropped,
    ech_dropped,
];

/// The ClientHello with the name never arrives (A6, A17).
fn hello_dropped() -> Scenario {
    Scenario::of(Visit::mirror().meets(on_name(MIRROR, "DROP")), blocked(TlsTimeout, Sni))
}

/// The ClientHello is acknowledged, then nothing comes (A7, A17).
fn silence_after_the_hello() -> Scenario {
    let mark = format!(
        "iptables-legacy -t mangle -A FORWARD -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j CONNMARK --set-mark 1
         iptables-legacy -A FORWARD -i abroad -m connmark --mark 1 -m length --length 61:65535 -j DROP"
    );
    Scenario::of(Visit::mirror().meets(mark), blocked(TlsTimeout, Sni))
}

/// A reset answers the ClientHello (A5).
fn reset_after_the_hello() -> Scenario {
    let reset = on_name(MIRROR, "REJECT --reject-with tcp-reset");
    Scenario::of(Visit::mirror().meets(reset), blocked(TlsReset, Sni))
}

/// The connection is closed after the ClientHello (A5).
fn fin_after_the_hello() -> Scenario {
    Scenario::of(Visit::mirror().led_to(Trick::Fin, 443), blocked(TlsEof, Sni))
}

/// A forged alert answers the ClientHello (A5).
fn alert_after_the_hello() -> Scenario {
    Scenario::of(Visit::mirror().led_to(Trick::Alert, 443), blocked(TlsEof, Sni))
}

/// Whatever name the hello has, the address gets none through.
fn tls_dropped_by_address() -> Scenario {
    let rule =
        format!("iptables-legacy -A FORWARD -p tcp -d {ORIGIN} --dport 443 --tcp-flags SYN,PSH PSH -j DROP");
    Scenario::of(Visit::mirror().meets(rule), blocked(TlsTimeout, Ip)).planned(
        "the neutral name is shown after the mirror's own: a residual block looks the same, so the trigger stays unknown",
    )
}

/// After the name was seen, the address stays dead for this subscriber: a later neutral name proves nothing.
fn residual_block_after_the_hello() -> Scenario {
    let rules = format!(
        "iptables-legacy -A FORWARD -i home -p tcp -m recent --name residual --rdest --rcheck --seconds 60 -j DROP
         iptables-legacy -A FORWARD -i home -p tcp --dport 443 -m string --algo bm --string {MIRROR} -m recent --name residual --rdest --set -j DROP"
    );
    Scenario::of(Visit::mirror().meets(rules), blocked(TlsTimeout, Unknown))
}

/// As `hello_dropped`, for a name with letters beyond ASCII.
fn internationalised_name_dropped() -> Scenario {
    let visit = Visit::to("https://зеркало.lab.test/");
    Scenario::of(visit.clone().meets(on_name("xn--80ajfngsk", "DROP")), blocked(TlsTimeout, Sni))
        .twin(visit.meets(on_name(MIRROR, "DROP")), OK)
}

/// TLS is broken open with the state's authority (A18).
fn state_authority() -> Scenario {
    forged(Forger::State, blocked(TlsMitmStateCa, Sni))
}

/// The same, with a certificate that ran out (A18).
fn expired_state_authority() -> Scenario {
    forged(Forger::StateExpired, blocked(TlsMitmStateCa, Sni))
}

/// TLS is broken open by nobody one knows.
fn unknown_authority() -> Scenario {
    forged(Forger::Unknown, blocked(TlsMitmOther, Sni))
}

/// TLS is broken open on the subscriber's own computer: the host's fault, not the carrier's (A19).
fn antivirus_on_the_host() -> Scenario {
    forged(Forger::Antivirus, INSUFFICIENT)
}

/// The page loads over TCP; QUIC meets silence (A11).
fn quic_dropped() -> Scenario {
    let drop = format!("iptables-legacy -A FORWARD -p udp -d {ORIGIN} --dport 443 -j DROP");
    let visit = Visit::to(&format!("https://{MIRROR}/h3")).meets(drop);
    Scenario::of(visit, impaired(QuicTimeout, Unknown))
}

/// A hello with the ECH extension is dropped (A12).
fn ech_dropped() -> Scenario {
    let drop = "iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --hex-string '|fe0d|' -m string --algo bm --string cloudflare-ech.com -j DROP";
    Scenario::of(Visit::mirror().meets(drop), impaired(EchTimeout, Protocol))
        .planned("the probe sends no ECH yet: the page loads")
}

fn forged(forger: Forger, expected: Expected) -> Scenario {
    Scenario::of(Visit::mirror().led_to(Trick::Forge(forger), 443), expected)
}

fn on_name(name: &str, target: &str) -> String {
    format!("iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --string {name} -j {target}")
}
