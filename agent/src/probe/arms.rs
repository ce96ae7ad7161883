//! The arms that tell one cause of a failed visit from another: the same address with another name, the same name with
//! another hello, other addresses. Each changes one thing; each ends by the deadline.

use std::net::{IpAddr, SocketAddr};

use zerkalo_core::record::{Arm, DnsExchange, DnsTransport, ResolverKind, TlsHandshake};

use super::road::{Road, addresses_of};
use super::tls::{self, Hello, HelloShape};
use super::{Neutral, OTHER_HELLO_CAP, OtherHello, dns_matrix, is_name_suspect};

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
        if self.assignment.other_hello == OtherHello::GreaseFirst {
            self.ech_grease_arm().await;
        }
        self.other_hello_arm().await;
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
        if self.assignment.neutral == Neutral::Spent {
            return;
        }
        let Some(address) = self.suspect_address() else { return };
        let name = self.settings.neutral_sni.clone();
        if let Some(stream) = self.connect(Arm::NeutralSni, address).await {
            let hello = Hello { arm: Arm::NeutralSni, address, host: &name, shape: HelloShape::PostQuantum };
            let caps = self.settings.caps;
            let (step, _) = tls::handshake(hello, stream, &self.settings.trust, caps.tls, self.clock).await;
            self.facts.tls.push(step);
        }
    }

    /// The same address and name with a hello of the other shape, where the own name may be shown once more.
    async fn other_hello_arm(&mut self) {
        let Some(address) = self.suspect_address() else { return };
        if self.assignment.other_hello == OtherHello::Kept || self.is_name_spent() || self.clock.is_over() {
            return;
        }
        if let Some(stream) = self.connect(Arm::OtherHello, address).await {
            let host = self.assignment.url.host();
            let hello = Hello { arm: Arm::OtherHello, address, host: &host, shape: HelloShape::Classic };
            let cap = self.settings.caps.tls.min(OTHER_HELLO_CAP);
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
}
