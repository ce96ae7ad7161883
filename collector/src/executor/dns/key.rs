//! A TSIG key as name servers' own tools write it; never prints.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};

/// The one algorithm: what `tsig-keygen` makes, and what RFC 8945 wants everywhere.
const ALGORITHM: &str = "hmac-sha256";
/// How far the clocks may be apart, in seconds: what RFC 8945 recommends.
const FUDGE_SECS: u16 = 300;
/// Shortest secret, in bytes.
const SECRET_LEN_MIN: usize = 16;

/// A key's name and secret.
#[derive(Clone)]
pub struct DnsKey {
    name: Name,
    secret: Vec<u8>,
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "it is neither `key \"NAME\" {{ algorithm {ALGORITHM}; secret \"...\"; }};`, as tsig-keygen writes it, nor {ALGORITHM}:NAME:SECRET"
    )]
    Shape,
    #[error("its algorithm is {0:?}; only {ALGORITHM} is spoken")]
    Algorithm(String),
    #[error("its name is no DNS name")]
    Name,
    #[error("its secret is not at least {SECRET_LEN_MIN} bytes in base64")]
    Secret,
}

impl DnsKey {
    /// Reads what `tsig-keygen` or `keymgr -t` printed.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (algorithm, name, secret) = one_line(text).or_else(|| clause(text)).ok_or(KeyError::Shape)?;
        if !algorithm.trim_end_matches('.').eq_ignore_ascii_case(ALGORITHM) {
            return Err(KeyError::Algorithm(algorithm.to_owned()));
        }
        let name = super::parse_name(name).ok_or(KeyError::Name)?;
        let secret = STANDARD.decode(secret).ok().filter(|secret| secret.len() >= SECRET_LEN_MIN);
        Ok(Self { name, secret: secret.ok_or(KeyError::Secret)? })
    }

    /// What signs with it.
    pub fn signer(&self) -> TSigner {
        TSigner::new(self.secret.clone(), TsigAlgorithm::HmacSha256, self.name.clone(), FUDGE_SECS)
            .expect("HMAC-SHA256 is supported")
    }
}

impl fmt::Debug for DnsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsKey({}, ..)", self.name)
    }
}

/// `hmac-sha256:NAME:SECRET`, perhaps as a comment.
fn one_line(text: &str) -> Option<(&str, &str, &str)> {
    text.lines().find_map(|line| {
        let mut parts = line.trim_start_matches('#').trim().splitn(3, ':');
        let found = (parts.next()?, parts.next()?.trim(), parts.next()?.trim());
        found.0.starts_with("hmac-").then_some(found)
    })
}

/// `key "NAME" { algorithm hmac-sha256; secret "SECRET"; };`
fn clause(text: &str) -> Option<(&str, &str, &str)> {
    let (head, body) = text.split_once('{')?;
    let name = head.trim().strip_prefix("key")?.trim().trim_matches('"');
    let value = |word: &str| {
        let statement = body.split(';').find_map(|statement| statement.trim().strip_prefix(word))?;
        Some(statement.trim().trim_matches('"'))
    };
    Some((value("algorithm")?, name, value("secret")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_name_servers_write_them_and_never_print() {
        let secret = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let made = format!("key \"zerkalo\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n");
        for text in [
            made.clone(),
            format!("# hmac-sha256:zerkalo:{secret}\nkey:\n"),
            format!("hmac-sha256:zerkalo:{secret}"),
        ] {
            let key = DnsKey::parse(&text).unwrap();
            assert_eq!((key.name.to_string().as_str(), key.secret.len()), ("zerkalo.", 24), "{text}");
            assert_eq!(format!("{key:?}"), "DnsKey(zerkalo., ..)");
        }
        let check = |text: &str, expected| assert_eq!(DnsKey::parse(text).unwrap_err(), expected, "{text}");
        check("", KeyError::Shape);
        check(secret, KeyError::Shape);
        check(&made.replace("sha256", "md5"), KeyError::Algorithm("hmac-md5".to_owned()));
        check(&made.replace(secret, "c2hvcnQ="), KeyError::Secret);
        check(&made.replace(secret, "no base64!"), KeyError::Secret);
        check(&made.replace("\"zerkalo\"", "\"\""), KeyError::Name);
    }
}
