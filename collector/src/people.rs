//! Who may ask as an operator: a name and the digest of a token each, so that two people are two.
//!
//! `zerkalo-collector operator add DIR NAME` makes the file `DIR/operators/NAME.toml`, which holds the digest alone, and
//! a file of secrets to be handed over.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zerkalo_core::target::Sha256;

use crate::clock;
use crate::config::Config;
use crate::init::{CA_CERTIFICATE, InitError, write_private};

/// Where the digests lie, in the collector's directory.
pub const DIR: &str = "operators";
/// Where files of secrets are written, to be moved away.
const SECRETS_DIR: &str = "operator";
/// Most operators: each call looks at them all.
pub const PEOPLE_MAX: usize = 100;
/// Longest name, in bytes.
const NAME_LEN_MAX: usize = 63;

/// An operator by name; only ever made from a token that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person(pub String);

/// Everybody who may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct People(pub Vec<(Person, Sha256)>);

/// Why an operator cannot be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("{name:?} is no operator's name: 1 to {NAME_LEN_MAX} of a-z, 0-9, '-', '_', '.'")]
    Name { name: String },
    #[error("there is an operator {name} already; remove it first, or choose another name")]
    Taken { name: String },
    #[error("there is no operator {name} in {}; `operator ls` names them", dir.display())]
    Unknown { name: String, dir: PathBuf },
    #[error("{name} is the operator of collector.toml; change [operators] there")]
    First { name: String },
    #[error("{PEOPLE_MAX} operators are the most")]
    TooMany,
    #[error("{} cannot be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the files cannot be written")]
    Write(#[source] Box<InitError>),
}

/// How far a token reaches; each scope holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Sees everything but other people's tokens and the audit log.
    Viewer,
    /// Gives orders, puts signed lists in force, lets boxes in.
    Operator,
    /// Says who else may ask.
    Admin,
}

impl Scope {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads a word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|scope| scope.word() == text)
    }
}

/// Compares without telling by its time where they differ.
pub fn same(left: &Sha256, right: &Sha256) -> bool {
    left.0.iter().zip(&right.0).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Whether a text can name an operator.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// Adds an operator; gives what to tell the person at the collector.
pub fn add(dir: &Path, config: &Config, name: &str) -> Result<String, PeopleError> {
    if !is_name(name) {
        return Err(PeopleError::Name { name: name.to_owned() });
    }
    let people = &config.operators.people.0;
    if people.iter().any(|(person, _)| person.0 == name) {
        return Err(PeopleError::Taken { name: name.to_owned() });
    }
    if people.len() >= PEOPLE_MAX {
        return Err(PeopleError::TooMany);
    }
    let (ca, digests, secrets) = (dir.join(CA_CERTIFICATE), dir.join(DIR), dir.join(SECRETS_DIR));
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| PeopleError::File { path, source }
    };
    let ca_pem = fs::read_to_string(&ca).map_err(fail(&ca))?;
    for dir in [&digests, &secrets] {
        fs::create_dir_all(dir).map_err(fail(dir))?;
    }
    let token = URL_SAFE_NO_PAD.encode(clock::random::<32>());
    let secret = secrets.join(format!("{name}.toml"));
    let digest = digests.join(format!("{name}.toml"));
    let write = |path: &Path, text: &str| write_private(path, text).map_err(fail(path));
    write(&secret, &secret_text(config, &ca_pem, &token))?;
    write(&digest, &format!("api_token_sha256 = \"{}\"\n", Sha256::of(token.as_bytes())))?;
    Ok(format!(
        "Made operator {name}. Next:
  1. Hand {} to {name}, to be ~/.config/zerkalo/operator.toml there, and delete it here.
     It gives orders under the name {name}; it signs no mirror lists.
  2. Tell the collector to read its operators anew: `systemctl reload zerkalo-collector`, or SIGHUP.
",
        secret.display()
    ))
}

/// Removes an operator.
pub fn remove(dir: &Path, config: &Config, name: &str) -> Result<String, PeopleError> {
    if config.operators.people.0.first().is_some_and(|(person, _)| person.0 == name) {
        return Err(PeopleError::First { name: name.to_owned() });
    }
    let unknown = || PeopleError::Unknown { name: name.to_owned(), dir: dir.join(DIR) };
    if !is_name(name) {
        return Err(unknown());
    }
    let path = dir.join(DIR).join(format!("{name}.toml"));
    fs::remove_file(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => unknown(),
        _ => PeopleError::File { path, source },
    })?;
    Ok(format!(
        "Removed operator {name}. Until the collector reads its operators anew (`systemctl reload \
         zerkalo-collector`, or SIGHUP) the token is good.\n"
    ))
}

fn secret_text(config: &Config, ca_pem: &str, token: &str) -> String {
    let host = config.agents.public_urls.first().and_then(|url| url.parse::<http::Uri>().ok());
    let host = host.as_ref().and_then(http::Uri::host).unwrap_or("localhost");
    format!(
        r#"# An operator's secrets: who holds this file can read everything and give orders. It signs no mirror lists.
url = "https://{host}:{port}"
api_token = "{token}"
# Public half of the key that signs mirror lists.
operator_key = "{operator_key}"
ca_pem = """
{ca_pem}"""
"#,
        port = config.operators.listen.port(),
        operator_key = config.operator_keys.first().to_hex(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for name in ["", "../x", ".x", "a/b", "Anna", "a b", &"x".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("anna") && is_name("a-1_b.c"));
    }
}
