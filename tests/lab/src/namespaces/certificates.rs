//! Every certificate of the second floor: the site's own, with the faults sites have, and those of whoever breaks TLS
//! open. One key serves the site whatever its certificate: it is what the operator pins.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zerkalo_core::target::Sha256;

use super::addresses::{MIRROR, ZONE};

/// ALPN of the web servers.
const WEB: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Who vouches for a forged certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forger {
    /// The Kazakh state authority.
    State,
    /// The same, with a certificate that ran out: it was used so for months.
    StateExpired,
    /// Nobody ever heard of it.
    Unknown,
    /// Software on the subscriber's own computer.
    Antivirus,
}

/// The certificates of one run.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The root of the public CAs, for an agent's `--ca-file`.
    pub root_pem: String,
    /// The site's key as a mirror list pins it.
    pub key_pin: Sha256,
    /// The site and everything beside it, by name.
    pub site: Arc<ServerConfig>,
    /// The same for QUIC.
    pub site_quic: Arc<ServerConfig>,
    /// A stub's certificate, whatever name is asked for.
    pub stub: Arc<ServerConfig>,
    forged: Vec<(Forger, Arc<ServerConfig>)>,
}

impl Certificates {
    /// Makes them all.
    pub fn generate() -> Result<Self> {
        let public = authority(&[(DnType::CommonName, "Zerkalo lab public CA")])?;
        let key = KeyPair::generate()?;
        let names: Vec<&str> = ZONE.iter().map(|(name, _)| *name).filter(|name| !is_faulty(name)).collect();
        let own = |names: &[&str], life| chain(names, life, &key, &public);
        let by_name = ByName {
            usual: own(&names, Life::Current)?,
            expired: own(&["expired.lab.test"], Life::Past)?,
            wrong_name: own(&["elsewhere.test"], Life::Current)?,
            self_signed: self_signed("self-signed.lab.test", &key)?,
        };
        let by_name = Arc::new(by_name);
        let stub = self_signed("stub.carrier.test", &KeyPair::generate()?)?;
        let mut forged = Vec::new();
        for forger in [Forger::State, Forger::StateExpired, Forger::Unknown, Forger::Antivirus] {
            let life = if forger == Forger::StateExpired { Life::Past } else { Life::Current };
            let leaf = chain(&[MIRROR], life, &KeyPair::generate()?, &authority(forger.names())?)?;
            forged.push((forger, config(Arc::new(Always(leaf)), &WEB)?));
        }
        Ok(Self {
            root_pem: public.pem(),
            key_pin: Sha256::of(&key.subject_public_key_info()),
            site: config(by_name.clone(), &WEB)?,
            site_quic: config(by_name, &[b"h3"])?,
            stub: config(Arc::new(Always(stub)), &WEB)?,
            forged,
        })
    }

    /// What a forger shows for the mirror.
    pub fn forged(&self, forger: Forger) -> Option<Arc<ServerConfig>> {
        self.forged.iter().find(|(known, _)| *known == forger).map(|(_, config)| config.clone())
    }
}

impl Forger {
    fn names(self) -> &'static [(DnType, &'static str)] {
        match self {
            Self::State | Self::StateExpired => &[
                (DnType::CountryName, "KZ"),
                (DnType::OrganizationName, "ISCA"),
                (DnType::CommonName, "Information Security Certification Authority"),
            ],
            Self::Unknown => &[(DnType::CommonName, "Secure Gateway CA 2")],
            Self::Antivirus => &[(DnType::CommonName, "Kaspersky Anti-Virus Personal Root Certificate")],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Current,
    Past,
}

fn is_faulty(name: &str) -> bool {
    matches!(name, "expired.lab.test" | "wrong-name.lab.test" | "self-signed.lab.test")
}

fn authority(names: &[(DnType, &str)]) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, name) in names {
        params.distinguished_name.push(kind.clone(), *name);
    }
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn chain(
    names: &[&str],
    life: Life,
    key: &KeyPair,
    issuer: &CertifiedIssuer<'static, KeyPair>,
) -> Result<Arc<CertifiedKey>> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    if life == Life::Past {
        (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2024, 3, 16));
    }
    let leaf = params.signed_by(key, issuer)?;
    certified(vec![leaf.der().clone(), issuer.der().clone()], key)
}

fn self_signed(name: &str, key: &KeyPair) -> Result<Arc<CertifiedKey>> {
    let leaf = CertificateParams::new(vec![name.to_owned()])?.self_signed(key)?;
    certified(vec![leaf.der().clone()], key)
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Arc<CertifiedKey>> {
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&secret)?;
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

fn config(certificates: Arc<dyn ResolvesServerCert>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The same certificate for everyone.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// The certificate of the name asked for; the usual one for names nobody knows, as most hosters do.
#[derive(Debug)]
struct ByName {
    usual: Arc<CertifiedKey>,
    expired: Arc<CertifiedKey>,
    wrong_name: Arc<CertifiedKey>,
    self_signed: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = match hello.server_name() {
            Some("expired.lab.test") => &self.expired,
            Some("wrong-name.lab.test") => &self.wrong_name,
            Some("self-signed.lab.test") => &self.self_signed,
            _ => &self.usual,
        };
        Some(found.clone())
    }
}
