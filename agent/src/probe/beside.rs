//! What visitors' browsers use beside HTTP over TCP: QUIC with HTTP/3, and ECH. Looked at after the visit, all at once, so
//! that no visit waits for it; each on ports of its own.

use std::net::SocketAddr;
use std::time::Duration;

use zerkalo_core::record::{Arm, HttpExchange, QuicHandshake, QuicOutcome};
use zerkalo_core::target::TargetUrl;

use super::http::{Ask, header};
use super::quic::{self, QuicHello};
use super::road::Road;
use super::{connect, h3};

/// The protocol's name in ALPN, Alt-Svc and HTTPS records.
const H3: &str = "h3";
/// All of it together, in caps of the QUIC step: a handshake, then another one or a page.
const CAPS: u32 = 3;

/// What QUIC brought.
#[derive(Debug, Default)]
struct QuicSteps {
    handshakes: Vec<QuicHandshake>,
    page: Option<HttpExchange>,
}

impl Road<'_> {
    /// Looks at them. ECH only where the visit went well: where it did not, it was an arm of the comparison.
    pub async fn steps_beside(&mut self, is_reached: bool) {
        self.renew(self.settings.caps.quic * CAPS);
        let ech = async { if is_reached { self.ech_steps().await } else { Vec::new() } };
        let (quic, ech) = tokio::join!(self.quic_steps(), ech);
        self.facts.quic.extend(quic.handshakes);
        self.facts.http.extend(quic.page);
        self.keep_ech(ech);
    }

    /// One handshake, where the mirror said that it speaks h3: then its page, or, where it failed, what the address makes of
    /// a name no censor looks for. The own name goes first, for mostly it passes; what sticks after it sticks to the 4-tuple
    /// (420 s), and the second attempt has another port.
    async fn quic_steps(&self) -> QuicSteps {
        let url = &self.assignment.url;
        let Some(address) = self.h3_address().filter(|_| self.has_own_handshakes_left()) else {
            return QuicSteps::default();
        };
        let host = url.host();
        let (step, connection) = self.shake_quic(QuicHello { arm: Arm::Main, address, host: &host }).await;
        let is_suspect = matches!(step.outcome, QuicOutcome::Timeout | QuicOutcome::Closed(_));
        let mut handshakes = vec![step];
        if let Some(connection) = connection {
            let (canary, reading) = (self.assignment.canary.as_deref(), self.settings.reading);
            let ask = Ask { arm: Arm::Http3, url, canary, reading };
            let page = h3::exchange(connection, ask, self.clock_left(), self.clock).await;
            return QuicSteps { handshakes, page: Some(page) };
        }
        let neutral = &self.settings.neutral_sni;
        // One handshake with the neutral name is what this probe was promised.
        let is_spent = self.facts.tls.iter().any(|step| step.sni.as_ref() == Some(neutral));
        if is_suspect && self.assignment.neutral.is_after() && !is_spent {
            let hello = QuicHello { arm: Arm::NeutralSni, address, host: neutral };
            handshakes.push(self.shake_quic(hello).await.0);
        }
        QuicSteps { handshakes, page: None }
    }

    async fn shake_quic(&self, hello: QuicHello<'_>) -> (QuicHandshake, Option<quic::QuicConnection>) {
        let (trust, cap) = (&self.settings.trust, self.settings.caps.quic);
        quic::handshake(hello, trust, cap, self.clock).await
    }

    /// A page may take what the handshake left, and no more than one asked for over TCP.
    fn clock_left(&self) -> Duration {
        self.settings.caps.http.min(self.settings.caps.quic * (CAPS - 1))
    }

    /// Where h3 is spoken: as the mirror's own answer says (RFC 7838), else as its HTTPS record does, at the address that
    /// served the visit.
    pub(super) fn h3_address(&self) -> Option<SocketAddr> {
        let url = &self.assignment.url;
        let own = |other: &TargetUrl| other.host() == url.host() && other.is_https();
        let answers = self.facts.http.iter().filter(|step| step.arm == Arm::Main && own(&step.url));
        let advertised = answers.filter_map(|step| {
            let port = header(&step.headers, "alt-svc").and_then(quic::advertised_port)?;
            Some(SocketAddr::new(step.address.ip(), port))
        });
        let host = url.host();
        let of_host = self.facts.dns.iter().filter(|step| step.name == host);
        let mut services = of_host.flat_map(|step| &step.detail.services);
        let is_published = services.any(|service| service.alpn.iter().any(|protocol| protocol == H3));
        let published = self.own_edge().filter(|_| is_published);
        let address = advertised.into_iter().next().or(published)?;
        connect::forbidden(address, self.settings.ranges).is_none().then_some(address)
    }
}
