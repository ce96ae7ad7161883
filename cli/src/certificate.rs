//! Certificates as the core knows them, read from their DER bytes. Trusts and refuses nothing.

use x509_parser::prelude::{FromDer, X509Certificate};
use zerkalo_core::record::Certificate;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

/// Reads names, key and validity; what cannot be read keeps its digest.
pub fn read_certificate(der: &[u8]) -> Certificate {
    let mut certificate = Certificate {
        sha256: Sha256::of(der),
        spki_sha256: Sha256::default(),
        subject: "(unreadable)".to_owned(),
        issuer: "(unreadable)".to_owned(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: der.to_vec(),
    };
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        certificate.spki_sha256 = Sha256::of(parsed.public_key().raw);
        certificate.subject = parsed.subject().to_string();
        certificate.issuer = parsed.issuer().to_string();
        certificate.not_before = instant(parsed.validity().not_before.timestamp());
        certificate.not_after = instant(parsed.validity().not_after.timestamp());
    }
    certificate
}

/// Instants before 1970 count as 1970.
fn instant(unix_secs: i64) -> UnixMillis {
    UnixMillis(u64::try_from(unix_secs).unwrap_or(0).saturating_mul(1000))
}
