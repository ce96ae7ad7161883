//! The arms that tell one cause of a failed visit from another: the same address with another name, the same name with
//! another hello or elsewhere, other addresses, another port. Each changes one thing; each ends by the deadline.
//!
//! Some boxes punish an address for minutes once they saw a name they look for. So the neutral name goes first where an
//! earlier probe left that open and the address rested since; and it goes before the own name is shown again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zerkalo_core::record::{
    Arm, DnsExchange, DnsTransport, ResolverKind, TcpConnect, TcpOutcome, TlsHandshake,
};

use super::clock::StepClock;
use super::connect::{self, Ranges};
use super::road::{ADDRESSES_MAX, Road, addresses_of};
use super::tls::{self, Hello, HelloShape};
use super::{ARM_CAP, OwnArms, dns_matrix, is_name_suspect};

/// Before the same handshake is tried again: a burst of loss is over by then.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The ports that web servers hold: where one fails, the other is asked.
const PORTS: [u16; 2] = [443, 80];

/// The arms that show the mirror's own name once more, in order. A probe has room for one or two: which goes first
/// changes from probe to probe.
pub const OWN_ARMS: [Arm; 4] = [Arm::ControlAddress, Arm::OtherHello, Arm::EchGrease, Arm::FreshTuple];

impl Road<'_> {
    /// The arms that tell one cause from another, the neutral name first: a censor that has just seen the own name again
    /// may still be punishing the address.
    pub async fn comparing_arms(&mut self) {
        // Asked by UDP already; who answers that in the resolver's name seldom answers by other roads.
        let by_other_roads = dns_matrix::ask(self.settings, &self.assignment.url, self.clock);
        let (answers, ()) = tokio::join!(by_other_roads, self.neutral_arm());
        self.insert_beside(&self.assignment.url.host(), answers);
        self.ech_real_arm().await;
        self.other_resolver_arm().await;
        // No name is shown there: it may run beside those that show one.
        let other_port = self.other_port().map(|address| self.connect_alone(Arm::OtherPort, vec![address]));
        let other_port = async {
            match other_port {
                Some(connecting) => connecting.await,
                None => Vec::new(),
            }
        };
        let (connected, ()) = tokio::join!(other_port, self.own_name_arms());
        self.facts.tcp.extend(connected);
    }

    /// The neutral name at the address the visit will go to, before the own name is shown.
    pub(super) async fn neutral_first(&mut self, addresses: &[IpAddr]) {
        let url = &self.assignment.url;
        let Some(address) =
            addresses.first().filter(|_| url.is_https() && self.assignment.neutral.is_first())
        else {
            return;
        };
        let address = SocketAddr::new(*address, url.port());
        self.neutral_handshake(Arm::NeutralFirst, address, ARM_CAP).await;
        // The visit has all of its time.
        self.renew(self.settings.timeout);
    }

    /// Connects, without a word, to those addresses which a visit that goes well at the first has no need of: one family
    /// beside the other, one address after the other.
    pub(super) fn each_address(&self, addresses: &[IpAddr]) -> impl Future<Output = Vec<TcpConnect>> + use<> {
        let port = self.assignment.url.port();
        let others = addresses.iter().take(ADDRESSES_MAX).skip(1);
        let (v4, v6): (Vec<_>, Vec<_>) =
            others.map(|address| SocketAddr::new(*address, port)).partition(SocketAddr::is_ipv4);
        let [v4, v6] = [v4, v6].map(|some| self.connect_alone(Arm::EachAddress, some));
        async {
            let (mut steps, others) = tokio::join!(v4, v6);
            steps.extend(others);
            steps
        }
    }

    fn connect_alone(
        &self,
        arm: Arm,
        addresses: Vec<SocketAddr>,
    ) -> impl Future<Output = Vec<TcpConnect>> + use<> {
        let cap = self.settings.caps.connect.min(ARM_CAP);
        connect_each(arm, addresses, self.settings.ranges, cap, self.clock)
    }

    /// The addresses only the public resolver knows; those it gave by other roads than UDP first: they are harder to forge.
    async fn other_resolver_arm(&mut self) {
        let host = self.assignment.url.host();
        let mut addresses = self.answered(ResolverKind::Public, &host);
        let is_hard = |step: &&DnsExchange| {
            step.resolver == ResolverKind::Public && step.transport != DnsTransport::Udp
        };
        let by_other_roads = self.facts.dns.iter().filter(is_hard);
        let hard: Vec<IpAddr> =
            by_other_roads.flat_map(|step| addresses_of(&step.outcome)).copied().collect();
        addresses.sort_by_key(|address| !hard.contains(address));
        addresses.retain(|address| !self.facts.tcp.iter().any(|step| step.address.ip() == *address));
        self.try_addresses(Arm::OtherResolver, &addresses).await;
    }

    /// The address where the mirror's name met silence or refusal, with a name no censor looks for.
    async fn neutral_arm(&mut self) {
        if let Some(address) = self.suspect_address().filter(|_| self.assignment.neutral.is_after()) {
            self.neutral_handshake(Arm::NeutralSni, address, self.settings.caps.tls).await;
        }
    }

    async fn neutral_handshake(&mut self, arm: Arm, address: SocketAddr, cap: Duration) {
        let name = self.settings.neutral_sni.clone();
        self.handshake_alone(arm, address, &name, HelloShape::PostQuantum, cap).await;
    }

    /// The arms that show the own name, while the budget has room.
    async fn own_name_arms(&mut self) {
        let (Some(address), OwnArms::Allowed { turn }) = (self.suspect_address(), self.assignment.own_arms)
        else {
            return;
        };
        let host = self.assignment.url.host();
        let elsewhere = self.assignment.control_address.filter(|control| control.ip() != address.ip());
        for arm in OWN_ARMS.iter().cycle().skip(turn % OWN_ARMS.len()).take(OWN_ARMS.len()) {
            if !self.has_own_handshakes_left() || self.clock.is_over() {
                return;
            }
            let (address, shape) = match (arm, elsewhere) {
                (Arm::ControlAddress, None) => continue,
                (Arm::EchGrease, _) => {
                    self.offer_grease(address).await;
                    continue;
                }
                (Arm::ControlAddress, Some(elsewhere)) => (elsewhere, HelloShape::PostQuantum),
                (Arm::OtherHello, _) => (address, HelloShape::Classic),
                _ => (address, HelloShape::PostQuantum),
            };
            if *arm == Arm::FreshTuple {
                tokio::time::sleep_until(self.clock.until(AGAIN_AFTER)).await;
            }
            let cap = self.settings.caps.tls.min(ARM_CAP);
            self.handshake_alone(*arm, address, &host, shape, cap).await;
        }
    }

    /// A handshake on a new connection, and nothing after it.
    async fn handshake_alone(
        &mut self,
        arm: Arm,
        address: SocketAddr,
        host: &str,
        shape: HelloShape,
        cap: Duration,
    ) {
        if let Some(stream) = self.connect_within(arm, address, cap).await {
            let hello = Hello { arm, address, host, shape };
            let (step, _) = tls::handshake(hello, stream, &self.settings.trust, cap, self.clock).await;
            self.facts.tls.push(step);
        }
    }

    /// Where a handshake with the mirror's name met silence or refusal.
    pub(super) fn suspect_address(&self) -> Option<SocketAddr> {
        let host = self.assignment.url.host();
        let is_suspect = |step: &&TlsHandshake| {
            step.sni.as_ref() == Some(&host) && is_name_suspect(step.arm, &step.outcome)
        };
        self.facts.tls.iter().find(is_suspect).map(|step| step.address)
    }

    /// Another port of the address where the visit failed, below HTTP.
    fn other_port(&self) -> Option<SocketAddr> {
        let is_unconnected = |step: &&TcpConnect| {
            step.arm == Arm::Main
                && !matches!(
                    step.outcome,
                    TcpOutcome::Connected | TcpOutcome::Forbidden(_) | TcpOutcome::Failed(_)
                )
        };
        let unconnected = || self.facts.tcp.iter().find(is_unconnected).map(|step| step.address);
        let address = self.suspect_address().or_else(unconnected)?;
        let port = PORTS.into_iter().find(|port| *port != address.port())?;
        Some(SocketAddr::new(address.ip(), port))
    }
}

async fn connect_each(
    arm: Arm,
    addresses: Vec<SocketAddr>,
    ranges: Ranges,
    cap: Duration,
    clock: StepClock,
) -> Vec<TcpConnect> {
    let mut steps = Vec::with_capacity(addresses.len());
    for address in addresses {
        if clock.is_over() {
            break;
        }
        let (step, stream) = connect::connect(arm, address, ranges, cap, clock).await;
        drop(stream);
        steps.push(step);
    }
    steps
}
