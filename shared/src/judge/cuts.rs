//! Rules on connections and handshakes that are cut, and what the arms that compare say of the trigger.
//!
//! A box may punish an address for minutes after it saw a name it looks for. So a neutral name that fails after the own one
//! proves nothing; one that fails at an address that rested does.

use std::net::SocketAddr;

use super::beside::fate_of_grease;
use super::controls::very_same_address;
use super::facts::{has_own_key, has_reached, last_leg_connects, last_leg_handshakes};
use super::line::tells;
use super::rules::Found;
use super::{Case, Conclusion};
use crate::hops::answering_hop;
use crate::record::{
    Arm, DnsOutcome, Ech, Ipv6Health, ProbeRecord, ResolverKind, TcpConnect, TcpOutcome, TlsHandshake,
    TlsOutcome,
};
use crate::verdict::{Mechanism, Outcome, Trigger};

/// Fewer SYNs sent again may be lost on any busy line.
const SYN_RETRANSMITS_MIN: u32 = 2;

/// The page loads, from one of several addresses: another is dead here and alive at the control.
pub(super) fn tcp_partial(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    if !has_reached(case.record, case.mirror) {
        return None;
    }
    let own = case.record.resolved(ResolverKind::System);
    let is_alive_there = |address: SocketAddr| connects(control, address);
    let dead: Vec<_> = (case.record.tcp.iter())
        .filter(|tcp| matches!(tcp.arm, Arm::Main | Arm::EachAddress) && own.contains(&tcp.address.ip()))
        .filter(|tcp| is_dead(tcp) && !connects(case.record, tcp.address) && is_alive_there(tcp.address))
        .filter(|tcp| is_family_alive(case.record, tcp.address))
        .collect();
    let first = dead.first()?;
    let basis = dead.iter().map(|tcp| {
        format!(
            "{}, one of {} addresses, ended with {:?} here and connects at the control",
            tcp.address,
            own.len(),
            tcp.outcome
        )
    });
    Some(Conclusion {
        outcome: Outcome::Impaired,
        mechanism: Some(mechanism_of_tcp(&first.outcome)?),
        trigger: Some(Trigger::Ip),
        basis: std::iter::once("the page loads from another address".to_owned()).chain(basis).collect(),
    })
}

/// No address of the last leg connects.
pub(super) fn tcp_unconnected(case: &Case<'_>) -> Found {
    let attempts: Vec<_> = last_leg_connects(case.record).filter(|tcp| tells(case, tcp)).collect();
    if attempts.is_empty() || attempts.iter().any(|tcp| tcp.outcome == TcpOutcome::Connected) {
        return None;
    }
    let (tcp, mechanism) = attempts.iter().find_map(|tcp| Some((tcp, mechanism_of_tcp(&tcp.outcome)?)))?;
    let same = attempts.iter().find_map(|tcp| very_same_address(case, tcp.address));
    let mut basis = vec![
        format!("no address connects: {} ended with {:?}", tcp.address, tcp.outcome),
        same.unwrap_or_else(|| "the control reached the mirror".to_owned()),
    ];
    basis.extend(fate_of_other_port(case, tcp.address));
    Conclusion::blocked(mechanism, Trigger::Ip, basis)
}

/// No handshake of the last leg gets through.
pub(super) fn tls_cut(case: &Case<'_>) -> Found {
    if last_leg_handshakes(case.record).any(|tls| matches!(tls.outcome, TlsOutcome::Completed { .. })) {
        return None;
    }
    let (tls, mechanism) =
        last_leg_handshakes(case.record).find_map(|tls| Some((tls, mechanism_of_tls(&tls.outcome)?)))?;
    let mut basis = vec![format!(
        "TCP connects to {}; after {} bytes of ClientHello and {} bytes back TLS ended with {:?}",
        tls.address, tls.bytes_sent, tls.bytes_received, tls.outcome
    )];
    basis.extend(fate_of_hello(tls));
    basis.extend(very_same_address(case, tls.address));
    let trigger = Comparison { case, tls }.trigger(&mut basis);
    basis.extend(fate_of_other_hello(case, tls));
    basis.extend(fate_of_grease(case.record));
    basis.extend(fate_of_other_port(case, tls.address));
    basis.extend(place_of_box(case, tls));
    let again = arm_of(case.record, Arm::FreshTuple, tls.address).filter(|again| again.sni == tls.sni);
    let Some(again) = again else { return Conclusion::blocked(mechanism, trigger, basis) };
    let is_passed = matches!(again.outcome, TlsOutcome::Completed { .. }) && has_own_key(again, case.mirror);
    if !is_passed {
        basis.push("the same handshake fails over a new connection too".into());
        return Conclusion::blocked(mechanism, trigger, basis);
    }
    basis.push("the same handshake passes over a new connection: visitors get through now and then".into());
    let (mechanism, trigger) = (Some(mechanism), Some(Trigger::Unknown));
    Some(Conclusion { outcome: Outcome::Impaired, mechanism, trigger, basis })
}

/// A handshake that was cut, beside those that differ from it in one thing.
struct Comparison<'a> {
    case: &'a Case<'a>,
    tls: &'a TlsHandshake,
}

impl Comparison<'_> {
    /// What set the censor off; `basis` gets the reasons.
    fn trigger(&self, basis: &mut Vec<String>) -> Trigger {
        let mut say = |text: &str| basis.push(text.to_owned());
        let [first, after] = [Arm::NeutralFirst, Arm::NeutralSni].map(|arm| self.at_same_address(arm));
        // The name where no censor looks.
        let elsewhere = (self.case.record.tls.iter())
            .find(|other| other.arm == Arm::ControlAddress && other.sni == self.tls.sni);
        let first = first.map(is_answered);
        // Where a punished address takes not even a connection, there is no handshake to speak of.
        let after = after.map(is_answered).or_else(|| self.is_connection_refused_after().then_some(false));
        let is_encrypted_answered = self.at_same_address(Arm::EchReal).is_some_and(|other| {
            other.sni != self.tls.sni && (is_answered(other) || other.ech == Ech::Rejected)
        });
        // It answers every name: an alert from there is forged.
        let elsewhere = elsewhere.map(|other| matches!(other.outcome, TlsOutcome::Completed { .. }));
        if is_encrypted_answered {
            say("with the name encrypted (ECH), another in the clear, the same address answers");
        }
        if first == Some(true) || after == Some(true) {
            say("with a neutral name the same address answers");
            if after == Some(false) {
                say(
                    "and no more once the mirror's own name was shown: the box punishes the address for a while (residual)",
                );
            }
            if elsewhere == Some(true) {
                say(
                    "the mirror's own name passes at the operator's control address: name and address together set it off",
                );
            }
            return Trigger::Sni;
        }
        if is_encrypted_answered {
            return Trigger::Sni;
        }
        if elsewhere == Some(false) {
            say("the mirror's own name fails at the operator's control address too");
            if first == Some(false) {
                say("its own address fails whatever the name");
            }
            return Trigger::Sni;
        }
        if self.is_neutral_refused_by_the_site() {
            say(
                "the site itself refuses the neutral name, as the control sees: that comparison tells nothing",
            );
        } else if first == Some(false) && self.is_neutral_trusted() {
            say("with a neutral name, shown first and to an address that rested, it fails too");
            return Trigger::Ip;
        } else if first == Some(false) {
            say(
                "with a neutral name, shown first, it fails too; whether the site answers that name is not known",
            );
        } else if after == Some(false) && self.passes_in_another_shape() {
            say("with a neutral name in the same hello it fails too, in another hello the own name passes");
            return Trigger::Protocol;
        } else if after == Some(false) {
            say(
                "with a neutral name the same address fails too, but only after the mirror's own was shown: \
                 a residual block of the address looks the same",
            );
        }
        if elsewhere == Some(true) {
            say("the mirror's own name passes at the operator's control address");
            return Trigger::Ip;
        }
        Trigger::Unknown
    }

    fn is_connection_refused_after(&self) -> bool {
        let mut connects = self.case.record.tcp.iter().filter(|tcp| tcp.arm == Arm::NeutralSni);
        connects.any(|tcp| tcp.address == self.tls.address && mechanism_of_tcp(&tcp.outcome).is_some())
    }

    fn at_same_address(&self, arm: Arm) -> Option<&TlsHandshake> {
        arm_of(self.case.record, arm, self.tls.address)
    }

    /// Whether a neutral name that fails must be a censor's doing: silence is no server's answer to a hello; closing may be.
    fn is_neutral_trusted(&self) -> bool {
        let is_silent = |other: &TlsHandshake| other.outcome == TlsOutcome::Timeout;
        self.at_same_address(Arm::NeutralFirst).is_some_and(is_silent)
            || self.neutrals_of_control().any(is_answered)
    }

    fn is_neutral_refused_by_the_site(&self) -> bool {
        let mut neutrals = self.neutrals_of_control().peekable();
        neutrals.peek().is_some() && !neutrals.any(is_answered)
    }

    fn neutrals_of_control(&self) -> impl Iterator<Item = &TlsHandshake> {
        let control = self.case.control.map(|(_, control)| control);
        let is_neutral = |tls: &&TlsHandshake| matches!(tls.arm, Arm::NeutralFirst | Arm::NeutralSni);
        control.into_iter().flat_map(|control| &control.tls).filter(is_neutral)
    }

    fn passes_in_another_shape(&self) -> bool {
        self.at_same_address(Arm::OtherHello).is_some_and(|other| {
            other.sni == self.tls.sni && matches!(other.outcome, TlsOutcome::Completed { .. })
        })
    }
}

fn arm_of(record: &ProbeRecord, arm: Arm, address: SocketAddr) -> Option<&TlsHandshake> {
    record.tls.iter().find(|tls| tls.arm == arm && tls.address == address)
}

/// Whether somebody at the far end read the hello: an alert is an answer too.
fn is_answered(tls: &TlsHandshake) -> bool {
    matches!(tls.outcome, TlsOutcome::Completed { .. } | TlsOutcome::Alert(_))
}

fn connects(record: &ProbeRecord, address: SocketAddr) -> bool {
    record.tcp.iter().any(|tcp| tcp.address == address && tcp.outcome == TcpOutcome::Connected)
}

fn is_dead(tcp: &TcpConnect) -> bool {
    let is_patient = tcp.transport.is_none_or(|transport| transport.retransmits >= SYN_RETRANSMITS_MIN);
    match tcp.outcome {
        TcpOutcome::Timeout => is_patient,
        TcpOutcome::Refused | TcpOutcome::Reset | TcpOutcome::Unreachable(_) => true,
        TcpOutcome::Connected | TcpOutcome::Forbidden(_) | TcpOutcome::Failed(_) => false,
    }
}

/// Whether something shows that addresses of that family work on the agent's line: many have IPv6 in name only.
fn is_family_alive(record: &ProbeRecord, address: SocketAddr) -> bool {
    let is_same = |other: SocketAddr| other.is_ipv6() == address.is_ipv6();
    let is_named_alive = record.network.as_ref().is_some_and(|network| network.ipv6 == Ipv6Health::Works);
    record.tcp.iter().any(|tcp| is_same(tcp.address) && tcp.outcome == TcpOutcome::Connected)
        || address.is_ipv4()
            && (record.dns.iter()).any(|dns| {
                dns.resolver == ResolverKind::Public
                    && is_same(dns.server)
                    && matches!(dns.outcome, DnsOutcome::Answer { .. })
            })
        || address.is_ipv6() && is_named_alive
}

fn mechanism_of_tcp(outcome: &TcpOutcome) -> Option<Mechanism> {
    Some(match outcome {
        TcpOutcome::Timeout => Mechanism::TcpTimeout,
        TcpOutcome::Reset => Mechanism::TcpReset,
        TcpOutcome::Refused => Mechanism::TcpRefused,
        TcpOutcome::Unreachable(_) => Mechanism::TcpUnreachable,
        TcpOutcome::Connected | TcpOutcome::Forbidden(_) | TcpOutcome::Failed(_) => return None,
    })
}

fn mechanism_of_tls(outcome: &TlsOutcome) -> Option<Mechanism> {
    Some(match outcome {
        TlsOutcome::Timeout => Mechanism::TlsTimeout,
        TlsOutcome::Reset => Mechanism::TlsReset,
        TlsOutcome::Eof | TlsOutcome::Alert(_) => Mechanism::TlsEof,
        TlsOutcome::Completed { .. } | TlsOutcome::Protocol(_) | TlsOutcome::Failed(_) => return None,
    })
}

/// What became of a connection to another port of that address.
fn fate_of_other_port(case: &Case<'_>, address: SocketAddr) -> Option<String> {
    let mut others = case.record.tcp.iter().filter(|tcp| tcp.arm == Arm::OtherPort);
    let other = others.find(|tcp| tcp.address.ip() == address.ip())?;
    let port = other.address.port();
    Some(match &other.outcome {
        TcpOutcome::Connected => {
            format!("port {port} of the same address connects: not the whole address is dead")
        }
        outcome => format!("port {port} of the same address ended with {outcome:?} too"),
    })
}

/// What a hello of another shape met at the same address, under the same name.
fn fate_of_other_hello(case: &Case<'_>, tls: &TlsHandshake) -> Option<String> {
    let other = arm_of(case.record, Arm::OtherHello, tls.address).filter(|other| other.sni == tls.sni)?;
    let shape = format!("a {} hello of {} bytes", other.hello_shape, other.hello_len);
    let was = format!("the {} one of {} bytes", tls.hello_shape, tls.hello_len);
    Some(match other.outcome {
        TlsOutcome::Completed { .. } => format!("{shape} passes where {was} does not: its shape matters"),
        _ => format!("{shape} fares no better than {was}"),
    })
}

/// Where on the way the hello was answered, where somebody asked.
fn place_of_box(case: &Case<'_>, tls: &TlsHandshake) -> Option<String> {
    let sni = tls.sni.as_ref()?;
    Some(answering_hop(&case.record.hops, sni)?.to_string())
}

/// Whether the ClientHello arrived, as far as the kernel knows: swallowed on its way, or acknowledged and then ignored.
fn fate_of_hello(tls: &TlsHandshake) -> Option<String> {
    let transport = tls.transport.filter(|_| tls.hello_len > 0)?;
    let (len, acked) = (tls.hello_len, transport.bytes_acked.min(tls.hello_len));
    Some(if acked < len {
        let retransmits = transport.retransmits;
        format!(
            "of the {len} bytes of ClientHello {acked} were acknowledged, after {retransmits} retransmits"
        )
    } else if tls.bytes_received == 0 {
        format!("all {len} bytes of ClientHello were acknowledged, then no byte came")
    } else {
        format!("all {len} bytes of ClientHello were acknowledged")
    })
}
