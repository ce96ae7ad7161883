//! Encrypted ClientHello (RFC 9849): what a hello may offer, and the arms that offer it. A browser that learnt of a
//! mirror's ECH uses it, so a box that drops such hellos takes the mirror from its visitors though it loads without.
//! Says nothing of why a handshake failed.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::{EchConfig, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::hpke::{ALL_SUPPORTED_SUITES, DH_KEM_X25519_HKDF_SHA256_AES_128};
use rustls::crypto::hpke::Hpke;
use rustls::pki_types::{EchConfigListBytes, ServerName};
use rustls::{ClientConfig, ClientConnection, Error as TlsError};
use zerkalo_core::record::{Arm, DnsExchange, Ech, TcpConnect, TlsHandshake, TlsOutcome};

use super::client_hello::ClientHello;
use super::clock::StepClock;
use super::road::Road;
use super::tls::{self, Hello, HelloShape};
use super::{ARM_CAP, EchLook, OwnArms, ProbeSettings, connect};

/// What a hello carries beside the usual.
#[derive(Debug, Clone)]
pub enum EchOffer {
    /// An extension that looks like ECH and hides nothing: as browsers send it where they know of no configuration.
    Grease(EchMode),
    /// The mirror's own configuration: its name travels encrypted, under the public name of who runs its front.
    Real(EchMode),
}

impl EchOffer {
    /// A GREASE extension, with a key made for it.
    pub fn grease() -> Result<Self, TlsError> {
        let suite = DH_KEM_X25519_HKDF_SHA256_AES_128;
        let (key, _) = suite.generate_key_pair()?;
        Ok(Self::Grease(EchGreaseConfig::new(suite, key).into()))
    }

    /// The first configuration of an ECHConfigList that we can use.
    pub fn real(config_list: &[u8]) -> Result<Self, TlsError> {
        let list = EchConfigListBytes::from(config_list);
        Ok(Self::Real(EchConfig::new(list, ALL_SUPPORTED_SUITES)?.into()))
    }

    /// As rustls wants it.
    pub fn mode(&self) -> EchMode {
        match self {
            Self::Grease(mode) | Self::Real(mode) => mode.clone(),
        }
    }

    /// What is known while the server has said nothing.
    pub fn before_an_answer(&self) -> Ech {
        match self {
            Self::Grease(_) => Ech::Grease,
            Self::Real(_) => Ech::Offered,
        }
    }

    fn arm(&self) -> Arm {
        match self {
            Self::Grease(_) => Arm::EchGrease,
            Self::Real(_) => Arm::EchReal,
        }
    }
}

/// The name that a hello for `host` would show to boxes on the way: with ECH, that of the configuration. Found by making
/// such a hello, for the configuration is rustls' to choose and to read.
pub fn shown_name(config: ClientConfig, host: ServerName<'static>) -> Option<String> {
    let mut client = ClientConnection::new(Arc::new(config), host).ok()?;
    let mut flight = Vec::new();
    client.write_tls(&mut flight).ok()?;
    ClientHello::read(&flight)?.server_name().map(str::to_owned)
}

/// The ECH configuration that DNS has of `host`; the system's resolver first, for its answers come first.
pub fn published<'a>(dns: &'a [DnsExchange], host: &str) -> Option<&'a [u8]> {
    let services = dns.iter().filter(|step| step.name == host).flat_map(|step| &step.detail.services);
    // An alias (priority 0) has no parameters.
    services
        .filter(|service| service.priority > 0)
        .map(|service| service.ech_config.as_slice())
        .find(|config| !config.is_empty())
}

/// A connection and a handshake over it.
pub type EchSteps = (TcpConnect, Option<TlsHandshake>);

/// Connects to `address` once more and offers ECH there.
pub async fn look(
    settings: &ProbeSettings,
    clock: StepClock,
    address: SocketAddr,
    host: &str,
    offer: &EchOffer,
) -> EchSteps {
    let (arm, caps) = (offer.arm(), settings.caps);
    let (step, stream) = connect::connect(arm, address, settings.ranges, caps.connect, clock).await;
    let Some(stream) = stream else { return (step, None) };
    let hello = Hello { arm, address, host, shape: HelloShape::PostQuantum };
    let cap = caps.tls.min(ARM_CAP);
    let (shaken, _) = tls::handshake_with(hello, Some(offer), stream, &settings.trust, cap, clock).await;
    (step, Some(shaken))
}

impl Road<'_> {
    /// What there is to offer at the mirror, and whether it shows another name than the mirror's own.
    pub(super) fn real_offer(&self) -> Option<EchOffer> {
        if self.assignment.ech == EchLook::Kept {
            return None;
        }
        let host = self.assignment.url.host();
        let offer = EchOffer::real(published(&self.facts.dns, &host)?).ok()?;
        let shown = tls::shown_name(&self.settings.trust, &offer, &host)?;
        (shown != host || !self.is_name_spent()).then_some(offer)
    }

    /// The address where the mirror's own name met silence or refusal, with the name encrypted.
    pub(super) async fn ech_real_arm(&mut self) {
        if let Some(address) = self.suspect_address()
            && let Some(offer) = self.real_offer()
        {
            self.offer_ech(address, &offer).await;
        }
    }

    /// Where the visit went well: whether browsers that use the mirror's ECH fare as well. Where they do not, whether the
    /// extension alone is what is minded.
    pub(super) async fn ech_steps(&self) -> Vec<EchSteps> {
        let (Some(address), Some(offer)) = (self.own_edge(), self.real_offer()) else { return Vec::new() };
        let host = self.assignment.url.host();
        let real = look(self.settings, self.clock, address, &host, &offer).await;
        let is_silent = real.1.as_ref().is_some_and(|step| step.bytes_received == 0);
        let mut steps = vec![real];
        // QUIC shows the name at this time, where it is spoken.
        let shown = self.own_handshakes() + usize::from(self.h3_address().is_some());
        if is_silent
            && shown < self.assignment.own_handshakes_max
            && self.may_show_name_again()
            && let Ok(grease) = EchOffer::grease()
        {
            steps.push(look(self.settings, self.clock, address, &host, &grease).await);
        }
        steps
    }

    /// The same address and the name in the clear again, with GREASE: where the own name may be shown once more.
    pub(super) async fn offer_grease(&mut self, address: SocketAddr) {
        if self.may_show_name_again()
            && let Ok(offer) = EchOffer::grease()
        {
            self.offer_ech(address, &offer).await;
        }
    }

    async fn offer_ech(&mut self, address: SocketAddr, offer: &EchOffer) {
        if !self.clock.is_over() {
            let host = self.assignment.url.host();
            let steps = look(self.settings, self.clock, address, &host, offer).await;
            self.keep_ech([steps]);
        }
    }

    pub(super) fn keep_ech(&mut self, steps: impl IntoIterator<Item = EchSteps>) {
        for (connected, shaken) in steps {
            self.facts.tcp.push(connected);
            self.facts.tls.extend(shaken);
        }
    }

    fn may_show_name_again(&self) -> bool {
        self.assignment.own_arms != OwnArms::Kept && self.has_own_handshakes_left()
    }

    /// Where the main arm shook hands with the mirror under its own name.
    pub(super) fn own_edge(&self) -> Option<SocketAddr> {
        let host = self.assignment.url.host();
        let own = |step: &&TlsHandshake| step.arm == Arm::Main && step.sni.as_ref() == Some(&host);
        let done = |step: &&TlsHandshake| matches!(step.outcome, TlsOutcome::Completed { .. });
        self.facts.tls.iter().filter(own).find(done).map(|step| step.address)
    }
}
