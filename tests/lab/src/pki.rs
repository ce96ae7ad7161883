//! The lab's own certificate authority: what the public CAs are to a real mirror. Knows nothing of the collector's CA.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zerkalo_core::target::Sha256;

/// The authority's name, as a browser would show it.
const CA_NAME: &str = "Zerkalo lab CA";

/// An authority that exists for one run.
pub struct LabCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A server's identity under the lab's CA.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// Speaks h2 and http/1.1.
    pub config: Arc<ServerConfig>,
    /// SHA-256 of the subject public key info, as a mirror list pins it.
    pub key_pin: Sha256,
}

impl LabCa {
    /// A fresh authority.
    pub fn generate() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, CA_NAME);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The root, for an agent's `ca_file`.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for `names`; it is shown whatever name a client asks for, as most hosters do.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<ServerIdentity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key_pin = Sha256::of(&key.subject_public_key_info());
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerIdentity { config: Arc::new(config), key_pin })
    }
}
