//! The collector's own certificate authority: it vouches for the collector to agents and for agents to the collector.
//!
//! All keys are P-256: small certificates keep the handshake far below the byte counts at which some networks freeze
//! foreign connections. It keeps no list of what it signed: the journal knows every agent.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};

/// Behind an agent's name in its certificate; no public name ends so.
const AGENT_SUFFIX: &str = ".agent.zerkalo";
/// Before the generation, in a certificate's organisational unit.
const GENERATION_PREFIX: &str = "generation ";
/// An agent's certificate is short-lived: agents renew theirs at half its life.
const AGENT_CERTIFICATE_DAYS: u64 = 7;
/// CA and server certificate: agents pin the CA, so nothing is gained by changing them more often than the machine.
const AUTHORITY_DAYS: u64 = 3_650;
/// Certificates count from a while ago: an agent's clock may be behind.
const BACKDATED: Duration = Duration::from_secs(3_600);
/// A certificate request is a key and a name; more is somebody else's file.
const REQUEST_LEN_MAX: usize = 16 * 1024;

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the CA's certificate or key cannot be used")]
    Load(#[source] rcgen::Error),
    #[error("the certificate cannot be made")]
    Make(#[source] rcgen::Error),
    #[error("{name:?} is no host name and no address that a certificate can carry")]
    Name { name: String, source: rcgen::Error },
    #[error("the certificate request cannot be used")]
    Request(#[source] rcgen::Error),
    #[error("the certificate request has {len} bytes; the limit is {REQUEST_LEN_MAX}")]
    RequestTooLong { len: usize },
}

/// A certificate and its key, both PEM.
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A certificate request whose own signature holds.
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Parses PKCS#10 in PEM and checks that the sender holds the key.
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        if pem.len() > REQUEST_LEN_MAX {
            return Err(AuthorityError::RequestTooLong { len: pem.len() });
        }
        CertificateSigningRequestParams::from_pem(pem).map(Self).map_err(AuthorityError::Request)
    }

    /// Digest of the public key, as a certificate over it has it.
    pub fn key(&self) -> Sha256 {
        Sha256::of(&self.0.public_key.subject_public_key_info())
    }
}

/// The CA, able to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new CA; the second value is what to keep.
    pub fn create(now: UnixMillis) -> Result<(Self, Issued), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = params("Zerkalo collector CA", now, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?;
        let issued = Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        Ok((Self { issuer: Issuer::new(params, key) }, issued))
    }

    /// Reads the CA back.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Load)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(AuthorityError::Load)?;
        Ok(Self { issuer })
    }

    /// A certificate for the collector under the names and addresses agents will call it by.
    pub fn server_certificate(&self, names: &[String], now: UnixMillis) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = params("Zerkalo collector", now, AUTHORITY_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = names.iter().map(|name| alt_name(name)).collect::<Result<_, _>>()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for an agent over the key of its request; whatever else the request asks for is ignored.
    pub fn agent_certificate(
        &self,
        agent: &AgentId,
        generation: u64,
        request: &Request,
        now: UnixMillis,
    ) -> Result<String, AuthorityError> {
        let name = format!("{agent}{AGENT_SUFFIX}");
        let mut params = params(&name, now, AGENT_CERTIFICATE_DAYS);
        let unit = format!("{GENERATION_PREFIX}{generation}");
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![alt_name(&name)?];
        let certificate =
            params.signed_by(&request.0.public_key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(certificate.pem())
    }
}

/// What an agent's certificate says. Whether the chain holds is checked in the handshake, not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Papers {
    pub agent: AgentId,
    /// Rises with each certificate of the agent; 0 for those made before there were generations.
    pub generation: u64,
    /// Digest of its public key.
    pub key: Sha256,
    pub until: UnixMillis,
}

impl Papers {
    /// Reads a certificate; `None` if it speaks for no agent.
    pub fn read(certificate_der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let agent = names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => AgentId::parse(name.strip_suffix(AGENT_SUFFIX)?).ok(),
            _ => None,
        })?;
        let units = certificate.subject().iter_organizational_unit();
        let generation = units
            .filter_map(|unit| unit.as_str().ok()?.strip_prefix(GENERATION_PREFIX)?.parse().ok())
            .next()
            .unwrap_or_default();
        let until = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let key = Sha256::of(certificate.public_key().raw);
        Some(Self { agent, generation, key, until: UnixMillis(until.saturating_mul(1_000)) })
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        now > self.until
    }
}

fn params(common_name: &str, now: UnixMillis, days: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = UNIX_EPOCH + Duration::from_millis(now.0);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + Duration::from_secs(days * 86_400)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn alt_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let fail = |source| AuthorityError::Name { name: name.to_owned(), source };
    Ok(SanType::DnsName(name.to_owned().try_into().map_err(fail)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_certificate_names_it_whatever_its_request_asked_for() {
        let now = UnixMillis(1_763_717_400_000);
        let (_, kept) = Authority::create(now).unwrap();
        let authority = Authority::load(&kept.certificate_pem, &kept.key_pem).unwrap();
        let mut asked = CertificateParams::new(vec!["kz-kcell-ffffffff.agent.zerkalo".to_owned()]).unwrap();
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = asked.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let agent = AgentId::parse("kz-kcell-00000001").unwrap();
        let request = Request::parse(&pem).unwrap();
        let pem = authority.agent_certificate(&agent, 7, &request, now).unwrap();
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let papers = Papers::read(&der.contents).unwrap();
        assert_eq!((&papers.agent, papers.generation, papers.key), (&agent, 7, request.key()));
        assert_eq!(papers.until, now.plus_secs(AGENT_CERTIFICATE_DAYS * 86_400));
        assert!(!papers.is_over(papers.until) && papers.is_over(papers.until.plus_secs(1)));
        assert!(!der.parse_x509().unwrap().is_ca());
        assert!(Request::parse("no request").is_err());
        assert!(Request::parse(&"x".repeat(REQUEST_LEN_MAX + 1)).is_err());
    }
}
