//! The operator's file: where the collector is, how to know it, and the two secrets that speak for the operator.
//!
//! Reads and checks; connects to nothing. Every fault of the file is reported at once, with its place.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tonic::transport::Uri;
use zerkalo_core::evidence::{PublicKey, SecretKey};
use zerkalo_core::operator_keys::OperatorKeys;

/// How to get the file, for every message that misses it.
const REMEDY: &str = "`zerkalo-collector init DIR` writes it as DIR/operator/operator.toml: move it here, or name its \
                      place with --config FILE or ZERKALO_CONFIG";
/// Where several keys sign lists: all their public halves, and how many must.
const SEVERAL: [&str; 2] = ["operator_keys", "operator_threshold"];
/// Its keys that are texts. The first operator's file has `signing_key`, that of an operator added later `operator_key`.
const KEYS: [&str; 5] = ["url", "ca_pem", "api_token", "signing_key", "operator_key"];

/// A text that never prints.
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The operator's file, checked.
pub struct Operator {
    /// Where it was read.
    pub path: PathBuf,
    /// The collector's operator service, `https://HOST:PORT`.
    pub url: String,
    /// The only CA trusted, PEM.
    pub ca_pem: String,
    pub api_token: Secret,
    /// Signs mirror lists; an operator added later has none.
    signing_key: Option<SecretKey>,
    /// The public halves, to know the lists by.
    pub keys: OperatorKeys,
}

impl Operator {
    /// What signs mirror lists, or who has it.
    pub fn signing_key(&self) -> Result<&SecretKey> {
        self.signing_key.as_ref().with_context(|| {
            format!(
                "{} holds no `signing_key`: mirror lists are signed by the operator for whom `zerkalo-collector init` \
                 made the key",
                self.path.display()
            )
        })
    }

    /// Reads the file named, or `~/.config/zerkalo/operator.toml`.
    pub fn read(named: Option<PathBuf>) -> Result<Self> {
        let path = match named {
            Some(path) => path,
            None => default_path()?,
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the operator's file {}; {REMEDY}", path.display()))?;
        warn_if_open_to_others(&path);
        parse(path, &text)
    }
}

fn default_path() -> Result<PathBuf> {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .with_context(|| format!("there is no HOME to look for the operator's file in; {REMEDY}"))?;
    Ok(PathBuf::from(home).join(".config/zerkalo/operator.toml"))
}

/// The file holds the key that agents obey: say so if others may read it.
fn warn_if_open_to_others(path: &Path) {
    let open = path.metadata().is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if open {
        eprintln!("warning: others may read {0}, which holds your keys: chmod 600 {0}", path.display());
    }
}

fn parse(path: PathBuf, text: &str) -> Result<Operator> {
    let table: toml::Table =
        toml::from_str(text).with_context(|| format!("{} is not TOML", path.display()))?;
    let mut faults = Vec::new();
    for key in table.keys().filter(|key| !KEYS.iter().chain(&SEVERAL).any(|known| known == key)) {
        let known = [&KEYS[..], &SEVERAL].concat().join(", ");
        faults.push(format!("unknown key `{key}`; the keys are {known}"));
    }
    let several = several_of(&table).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    let has_operator_key = table.contains_key("operator_key") || table.contains_key("operator_keys");
    let mut take = |key: &str| match table.get(key) {
        Some(toml::Value::String(text)) if !text.trim().is_empty() => text.trim().to_owned(),
        Some(_) => {
            faults.push(format!("`{key}` must be a text, and not empty"));
            String::new()
        }
        None if has_operator_key && key == "signing_key" => String::new(),
        None if key == "operator_key" => String::new(),
        None => {
            faults.push(format!("`{key}` is missing"));
            String::new()
        }
    };
    let [url, ca_pem, api_token, signing_key, operator_key] = KEYS.map(&mut take);
    let key = signing_key_of(&signing_key);
    let public = PublicKey::from_hex(&operator_key).ok();
    if public.is_none() && !operator_key.is_empty() {
        faults.push("`operator_key` must be 64 hexadecimal digits, a public key".to_owned());
    }
    let public = public.or(key.as_ref().map(SecretKey::public));
    let keys = several.or(public.map(OperatorKeys::from));
    if key.is_none() && !signing_key.is_empty() {
        faults.push("`signing_key` must be 64 hexadecimal digits".to_owned());
    }
    if !url.is_empty() && !is_https(&url) {
        faults.push(format!("`url` is {url:?}; it must be https://HOST:PORT"));
    }
    if !ca_pem.is_empty() && !ca_pem.starts_with("-----BEGIN CERTIFICATE-----") {
        faults.push("`ca_pem` must be a certificate in PEM".to_owned());
    }
    match keys {
        Some(keys) if faults.is_empty() => {
            Ok(Operator { path, url, ca_pem, api_token: Secret(api_token), signing_key: key, keys })
        }
        _ => bail!("{}: {}\nremedy: {REMEDY}", path.display(), faults.join("; ")),
    }
}

fn several_of(table: &toml::Table) -> Result<Option<OperatorKeys>, String> {
    let Some(keys) = table.get("operator_keys") else { return Ok(None) };
    let texts =
        keys.as_array().and_then(|keys| keys.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>());
    let texts = texts.ok_or_else(|| "`operator_keys` must be a list of texts".to_owned())?;
    let threshold = table.get("operator_threshold").and_then(toml::Value::as_integer);
    let threshold = threshold.and_then(|threshold| usize::try_from(threshold).ok());
    let threshold = threshold
        .ok_or_else(|| "`operator_threshold` must say how many of `operator_keys` sign".to_owned())?;
    OperatorKeys::parse(&texts, threshold).map(Some).map_err(|error| format!("`operator_keys`: {error}"))
}

fn signing_key_of(text: &str) -> Option<SecretKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(SecretKey::from_bytes(&bytes))
}

fn is_https(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_file_is_reported_at_once() {
        let text = "url = \"http://collector.example\"\nca_pem = 5\nsigning_key = \"abc\"\nextra = 1\n";
        let message = parse(PathBuf::from("operator.toml"), text).err().unwrap().to_string();
        for part in [
            "operator.toml",
            "`extra`",
            "`ca_pem` must",
            "`api_token` is missing",
            "64 hexadecimal",
            "https://HOST",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn an_operator_added_later_reads_lists_and_signs_none() {
        let public = SecretKey::from_bytes(&[7; 32]).public();
        let text = format!(
            "url = \"https://h:1\"\nca_pem = \"-----BEGIN CERTIFICATE-----\"\napi_token = \"t\"\noperator_key = \"{}\"\n",
            public.to_hex()
        );
        let operator = parse(PathBuf::from("anna.toml"), &text).unwrap();
        assert_eq!(operator.keys, public.into());
        let error = operator.signing_key().err().unwrap().to_string();
        assert!(error.contains("anna.toml") && error.contains("signing_key"), "{error}");
        assert!(parse(PathBuf::from("x"), &text.replace(&public.to_hex(), "zz")).is_err());
    }
}
