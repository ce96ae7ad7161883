//! TLS: the censor reads the ClientHello, or breaks TLS open.

use zerkalo_core::verdict::Mechanism::{
    EchTimeout, QuicTimeout, TlsEof, TlsMitmOther, TlsMitmStateCa, TlsReset, TlsTimeout,
};
use zerkalo_core::verdict::Trigger::{Ip, Protocol, Sni, Unknown};

use super::{Entry, named};
use crate::namespaces::addresses::{ECH_PUBLIC_NAME, MIRROR, ORIGIN, WITH_ECH};
use crate::namespaces::certificates::Forger;
use crate::namespaces::middlebox::Trick;
use crate::namespaces::quic_box;
use crate::namespaces::scenario::{Expected, INSUFFICIENT, OK, Scenario, Visit, blocked, impaired};

pub(super) const ALL: &[Entry] = named![
    hello_dropped,
    silence_after_the_hello,
    reset_after_the_hello,
    fin_after_the_hello,
    alert_after_the_hello,
    reset_at_the_first_hop,
    first_handshake_lost,
    tls_dropped_by_address,
    tls_dropped_by_address_alone,
    residual_block_after_the_hello,
    residual_block_that_fools_a_neutral_name,
    residual_block_wherever_the_name_is_shown,
    internationalised_name_dropped,
    state_authority,
    expired_state_authority,
    unknown_authority,
    antivirus_on_the_host,
    quic_dropped,
    quic_dropped_by_name,
    ech_dropped,
    ech_rejected_by_the_site,
];

/// The ClientHello with the name never arrives (A6, A17).
fn hello_dropped() -> Scenario {
    let expected = blocked(TlsTimeout, Sni).because("bytes of ClientHello 0 were acknowledged");
    Scenario::of(Visit::mirror().meets(on_name(MIRROR, "DROP")), expected)
}

/// The ClientHello is acknowledged, then nothing comes (A7, A17).
fn silence_after_the_hello() -> Scenario {
    let mark = format!(
        "iptables-legacy -t mangle -A FORWARD -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j CONNMARK --set-mark 1
         iptables-legacy -A FORWARD -i abroad -m connmark --mark 1 -m length --length 61:65535 -j DROP"
    );
    let expected = blocked(TlsTimeout, Sni).because("were acknowledged, then no byte came");
    Scenario::of(Visit::mirror().meets(mark), expected)
}

/// A reset answers the ClientHello (A5).
fn reset_after_the_hello() -> Scenario {
    let reset = on_name(MIRROR, "REJECT --reject-with tcp-reset");
    Scenario::of(Visit::mirror().meets(reset), blocked(TlsReset, Sni))
}

/// The same, by a box before the first router: the TTL tells.
fn reset_at_the_first_hop() -> Scenario {
    let rules = format!(
        "iptables-legacy -t mangle -A PREROUTING -i home -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j MARK --set-mark 7
         nft add table ip box
         nft add chain ip box before '{{ type filter hook prerouting priority 0; }}'
         nft add rule ip box before meta mark 7 meta l4proto tcp reject with tcp reset"
    );
    let visit = Visit::mirror().with("--hops").with("--hop-pause=0").meets(rules);
    Scenario::of(visit, blocked(TlsReset, Sni).because("comes from hop 1 of at least 2"))
}

/// One connection in many is swallowed at the name: the next one passes.
fn first_handshake_lost() -> Scenario {
    let rules = format!(
        "iptables-legacy -t mangle -A FORWARD -i home -p tcp -d {ORIGIN} --dport 443 --syn -m statistic --mode nth --every 100 --packet 0 -j CONNMARK --set-mark 1
         iptables-legacy -A FORWARD -i home -m connmark --mark 1 -m string --algo bm --string {MIRROR} -j DROP"
    );
    let visit = Visit::mirror().with("--first-arm=again").within_secs(5).meets(rules);
    Scenario::of(visit, impaired(TlsTimeout, Unknown).because("passes over a new connection"))
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
    Scenario::of(Visit::mirror().rested().meets(rule), blocked(TlsTimeout, Ip))
}

/// The same, where nobody knows whether the address rested: the mirror's name passes elsewhere.
fn tls_dropped_by_address_alone() -> Scenario {
    let rule =
        format!("iptables-legacy -A FORWARD -p tcp -d {ORIGIN} --dport 443 --tcp-flags SYN,PSH PSH -j DROP");
    let visit = Visit::mirror().with_control_address().within_secs(12).meets(rule);
    Scenario::of(visit, blocked(TlsTimeout, Ip).because("passes at the operator's control address"))
}

/// After the name was seen, the address stays dead for this subscriber. The neutral name went first, and passed.
fn residual_block_after_the_hello() -> Scenario {
    let visit = Visit::mirror().rested().meets(residual());
    Scenario::of(visit, blocked(TlsTimeout, Sni).because("(residual)"))
}

/// The same, where the neutral name goes second: it fails too, and proves nothing.
fn residual_block_that_fools_a_neutral_name() -> Scenario {
    Scenario::of(Visit::mirror().meets(residual()), blocked(TlsTimeout, Unknown))
}

/// The same, where the name is also shown to the operator's own server: it fails there too.
fn residual_block_wherever_the_name_is_shown() -> Scenario {
    let visit = Visit::mirror().with_control_address().within_secs(16).meets(residual());
    Scenario::of(visit, blocked(TlsTimeout, Sni).because("fails at the operator's control address too"))
}

fn residual() -> String {
    format!(
        "iptables-legacy -A FORWARD -i home -p tcp -m recent --name residual --rdest --rcheck --seconds 60 -j DROP
         iptables-legacy -A FORWARD -i home -p tcp --dport 443 -m string --algo bm --string {MIRROR} -m recent --name residual --rdest --set -j DROP"
    )
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
    Scenario::of(visit, impaired(QuicTimeout, Protocol))
}

/// The same where the Initial packet shows the mirror's name: a box that opens it (A11). Other names pass, also to the
/// mirror's address.
fn quic_dropped_by_name() -> Scenario {
    let lead = format!(
        "iptables-legacy -t nat -A PREROUTING -i home -p udp -d {ORIGIN} --dport 443 -j REDIRECT --to-ports {}",
        quic_box::PORT
    );
    let visit = |host: &str| Visit::to(&format!("https://{host}/h3")).meets(&lead);
    Scenario::of(visit(MIRROR), impaired(QuicTimeout, Sni)).twin(visit("xn--80ajfngsk.lab.test"), OK)
}

/// A hello with the ECH extension and the front's public name is dropped (A12).
fn ech_dropped() -> Scenario {
    let visit = Visit::to(&format!("https://{WITH_ECH}/"));
    let drop = format!(
        "iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --hex-string '|fe0d|' -m string --algo bm --string {ECH_PUBLIC_NAME} -j DROP"
    );
    // The same censor, and a site that publishes no ECH.
    Scenario::of(visit.meets(&drop), impaired(EchTimeout, Protocol)).twin(Visit::mirror().meets(&drop), OK)
}

/// The site publishes an ECH configuration that it no longer knows: it rejects every offer, and nobody is in the way.
fn ech_rejected_by_the_site() -> Scenario {
    Scenario::of(Visit::to(&format!("https://{WITH_ECH}/")), OK)
}

fn forged(forger: Forger, expected: Expected) -> Scenario {
    Scenario::of(Visit::mirror().led_to(Trick::Forge(forger), 443), expected)
}

fn on_name(name: &str, target: &str) -> String {
    format!("iptables-legacy -A FORWARD -p tcp --dport 443 -m string --algo bm --string {name} -j {target}")
}
