//! Signing the list: alone at once, or by several keys one after the other over a file that is handed around.
//!
//! Whoever adds a signature is shown what it is given to. Nothing is put in force below the threshold.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zerkalo_core::evidence::{SecretKey, SignedList};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::{LIST_LIFE_SECS_MAX, MirrorList};
use zerkalo_proto::evidence::list_to_wire;
use zerkalo_proto::operator_v1 as wire;

use super::{Change, ownership};
use crate::client::{Service, answer};
use crate::operator::Operator;
use crate::table::{Format, print};

/// Longest life of a list, in days.
const DAYS_MAX: u32 = (LIST_LIFE_SECS_MAX / 86_400) as u32;
/// Names the file's format.
const KIND: &str = "zerkalo-mirror-list.v1";
/// Largest file read, in bytes: the largest list fits, as text within text.
const FILE_LEN_MAX: u64 = 8 * 1024 * 1024;

/// How a list is signed.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// For how many days the list is good; agents measure nothing by it afterwards.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    pub days: u32,
    /// Sign mirrors that nobody proved to be yours (see `zerkalo mirrors verify`): agents will touch them in your name.
    #[arg(long)]
    pub unverified: bool,
    /// Write the signed list to this new file instead of putting it in force; needed where more than one key must sign.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The list as it stands, signed anew.
#[derive(Debug, Args)]
pub struct Sign {
    #[command(flatten)]
    pub how: How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Another key's signature.
#[derive(Debug, Args)]
pub struct Cosign {
    /// The file that `zerkalo mirrors sign --out` wrote; the signature is added to it.
    file: PathBuf,
    /// A file with another `signing_key` than the operator's file has, as `zerkalo mirrors keygen` writes it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A list that enough keys have signed.
#[derive(Debug, Args)]
pub struct Publish {
    /// The file that `zerkalo mirrors sign --out` wrote and `zerkalo mirrors cosign` completed.
    file: PathBuf,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Other keys.
#[derive(Debug, Args)]
pub struct SetKeys {
    /// The public half of a key that may sign, or `own` for that of the operator's file; repeat for each, the present
    /// ones too.
    #[arg(long = "key", value_name = "HEX|own", required = true)]
    keys: Vec<String>,
    /// How many of them must sign.
    #[arg(long, value_name = "COUNT")]
    threshold: usize,
    #[command(flatten)]
    pub how: How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// A new key.
#[derive(Debug, Args)]
pub struct Keygen {
    /// The new file for the secret half; keep it offline.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A list on its way from signer to signer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    kind: String,
    /// The exact bytes signed.
    list: String,
    /// Hexadecimal.
    signatures: Vec<String>,
}

/// Signs a changed list and puts it in force, or writes it down for the other signers.
pub async fn finish(
    service: &mut Service,
    operator: &Operator,
    keys: &OperatorKeys,
    change: &Change,
    how: &How,
    format: Format,
) -> Result<()> {
    let mut list = change.list.clone();
    list.expires_at = Some(list.issued_at.plus_secs(u64::from(how.days) * 86_400));
    list.validate()?;
    let key = operator.signing_key()?;
    // Nothing is touched by a list that stops everything: it must not wait for anybody's proof.
    if list.stop.is_none() {
        ownership::require(operator, &list, how.unverified)?;
    }
    let signed = SignedList::sign(&list, key);
    let lacking = lacking(&signed, &list, keys);
    if how.out.is_none() && lacking.is_none() {
        let version = put(service, &signed).await?;
        return Ok(print(&super::done(change, version, format)?)?);
    }
    if !keys.keys().contains(&key.public())
        && !list.keys.as_ref().is_some_and(|named| named.keys().contains(&key.public()))
    {
        bail!("the `signing_key` in {} is none of the operator's keys ({keys})", operator.path.display());
    }
    let default = PathBuf::from(format!("mirrors-v{}.json", list.version));
    let path = how.out.as_ref().unwrap_or(&default);
    write(path, &signed, true)?;
    let said = match format {
        Format::Json => {
            let value = json!({ "version": list.version, "file": path, "lacking": lacking, change.kind: change.what });
            serde_json::to_string_pretty(&value)? + "\n"
        }
        Format::Table => format!(
            "{}; list version {} signed and written to {}, not in force: {}\n",
            change.said,
            list.version,
            path.display(),
            next_step(lacking.as_deref(), path)
        ),
    };
    Ok(print(&said)?)
}

/// Puts a list that enough keys have signed in force.
pub async fn publish(service: &mut Service, keys: &OperatorKeys, args: &Publish) -> Result<()> {
    let signed = read(&args.file)?;
    let list = signed.open(keys).with_context(|| format!("{} cannot be published", args.file.display()))?;
    let version = put(service, &signed).await?;
    match args.format {
        Format::Table => print(&format!(
            "list version {version} is in force, until {}\n",
            list.expires_at.map_or_else(|| "it is replaced".to_owned(), |at| at.to_rfc3339())
        ))?,
        Format::Json => print(&(serde_json::to_string_pretty(&json!({ "version": version }))? + "\n"))?,
    }
    Ok(())
}

/// Adds this operator's signature to a file, and shows what it is given to.
pub fn cosign(operator: &Operator, args: &Cosign) -> Result<()> {
    let mut signed = read(&args.file)?;
    let list: MirrorList = serde_json::from_slice(&signed.bytes)
        .with_context(|| format!("the list in {} cannot be read", args.file.display()))?;
    list.validate().with_context(|| format!("the list in {} is refused", args.file.display()))?;
    let from_file = args.key.as_deref().map(key_in).transpose()?;
    let key = match &from_file {
        Some(key) => key,
        None => operator.signing_key()?,
    };
    let is_known = |keys: &OperatorKeys| keys.keys().contains(&key.public());
    if !is_known(&operator.keys) && !list.keys.as_ref().is_some_and(is_known) {
        bail!(
            "{} is none of the operator's keys ({}); add it to `operator_keys` in {}, or sign with another",
            key.public().to_hex(),
            operator.keys,
            operator.path.display()
        );
    }
    super::show(Some(&list), Format::Table)?;
    if !signed.cosign(key) {
        bail!(
            "{} has signed this list already; the next signature must be another key's",
            key.public().to_hex()
        );
    }
    write(&args.file, &signed, false)?;
    let lacking = lacking(&signed, &list, &operator.keys);
    Ok(print(&format!("signed; {}\n", next_step(lacking.as_deref(), &args.file)))?)
}

/// Makes a key.
pub fn keygen(args: &Keygen) -> Result<()> {
    let mut bytes = [0; 32];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).ok().context("the operating system gives no randomness")?;
    let key = SecretKey::from_bytes(&bytes);
    let text = format!(
        "# A key that signs mirror lists, secret: keep it offline.\nsigning_key = \"{}\"\n# Its public half.\n#operator_key = \"{}\"\n",
        hex::encode(key.to_bytes()),
        key.public().to_hex()
    );
    let mut file = crate::enrolment::new_secret_file(&args.out)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    Ok(print(&format!("{}\n", key.public().to_hex()))?)
}

/// Stands for the public half of the operator's own key.
const OWN: &str = "own";

/// The keys that a list is to name from now on.
pub fn keys_of(args: &SetKeys, operator: &Operator) -> Result<OperatorKeys> {
    let named = args.keys.iter().map(|key| match key.as_str() {
        OWN => Ok(operator.signing_key()?.public().to_hex()),
        key => Ok(key.to_owned()),
    });
    let named = named.collect::<Result<Vec<String>>>()?;
    OperatorKeys::parse(&named, args.threshold).context("these keys cannot be the operator's")
}

async fn put(service: &mut Service, signed: &SignedList) -> Result<u64> {
    let request = wire::PutMirrorListRequest { list: Some(list_to_wire(signed)) };
    Ok(answer("put the mirror list", service.put_mirror_list(request)).await?.version)
}

/// What a list lacks yet to be put in force; `None`: nothing.
fn lacking(signed: &SignedList, list: &MirrorList, keys: &OperatorKeys) -> Option<String> {
    let sets = std::iter::once(keys).chain(list.keys.as_ref().filter(|named| *named != keys));
    let lacking = sets.filter_map(|keys| {
        let found = signed.signed_by(keys);
        (found < keys.threshold())
            .then(|| format!("it bears {found} of {} signatures of {keys}", keys.threshold()))
    });
    let lacking: Vec<_> = lacking.collect();
    (!lacking.is_empty()).then(|| lacking.join(", and "))
}

fn next_step(lacking: Option<&str>, path: &Path) -> String {
    match lacking {
        Some(lacking) => {
            format!("{lacking}; next: `zerkalo mirrors cosign {}` with another key", path.display())
        }
        None => format!("it bears all signatures needed; next: `zerkalo mirrors publish {}`", path.display()),
    }
}

fn read(path: &Path) -> Result<SignedList> {
    let fail = || format!("cannot read {}", path.display());
    let len = std::fs::metadata(path).with_context(fail)?.len();
    if len > FILE_LEN_MAX {
        bail!("{} has {len} bytes; no signed list has more than {FILE_LEN_MAX}", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(fail)?;
    let remedy = || format!("{} is no file that `zerkalo mirrors sign --out` wrote", path.display());
    let envelope: Envelope = serde_json::from_str(&text).with_context(remedy)?;
    let signatures = envelope.signatures.iter().map(|text| {
        let mut signature = [0; 64];
        hex::decode_to_slice(text, &mut signature).map(|()| signature)
    });
    let mut signatures = signatures.collect::<Result<Vec<_>, _>>().with_context(remedy)?;
    if envelope.kind != KIND || signatures.is_empty() {
        bail!(remedy());
    }
    let signature = signatures.remove(0);
    Ok(SignedList { bytes: envelope.list.into_bytes(), signature, cosignatures: signatures })
}

fn write(path: &Path, signed: &SignedList, is_new: bool) -> Result<()> {
    let signatures = std::iter::once(&signed.signature).chain(&signed.cosignatures).map(hex::encode);
    let envelope = Envelope {
        kind: KIND.to_owned(),
        list: String::from_utf8(signed.bytes.clone()).context("a list is text")?,
        signatures: signatures.collect(),
    };
    let text = serde_json::to_string_pretty(&envelope)? + "\n";
    let fail = || format!("cannot write {}", path.display());
    if is_new {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
        let mut file = opened.with_context(|| format!("{}; the file must be new", fail()))?;
        return file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(fail);
    }
    let draft = path.with_extension("tmp");
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path)).with_context(fail)
}

fn key_in(path: &Path) -> Result<SecretKey> {
    #[derive(Deserialize)]
    struct KeyFile {
        signing_key: String,
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let remedy =
        || format!("{} holds no `signing_key`; `zerkalo mirrors keygen` writes such a file", path.display());
    let file: KeyFile = toml::from_str(&text).with_context(remedy)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(file.signing_key.trim(), &mut bytes).with_context(remedy)?;
    Ok(SecretKey::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::words::UnixMillis;

    fn secret(number: u8) -> SecretKey {
        SecretKey::from_bytes(&[number; 32])
    }

    fn operator(dir: &Path, own: u8) -> Operator {
        let text = format!(
            "url = \"https://h:1\"\nca_pem = \"-----BEGIN CERTIFICATE-----\"\napi_token = \"t\"\nsigning_key = \"{}\"\n\
             operator_keys = [\"{}\", \"{}\", \"{}\"]\noperator_threshold = 2\n",
            hex::encode(secret(own).to_bytes()),
            secret(1).public().to_hex(),
            secret(2).public().to_hex(),
            secret(3).public().to_hex(),
        );
        let path = dir.join(format!("operator-{own}.toml"));
        std::fs::write(&path, text).unwrap();
        Operator::read(Some(path)).unwrap()
    }

    #[test]
    fn a_list_goes_from_signer_to_signer_and_counts_each_key_once() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (operator(dir.path(), 1), operator(dir.path(), 2));
        let list = MirrorList { version: 4, issued_at: UnixMillis(1), ..MirrorList::default() };
        let path = dir.path().join("list.json");
        let signed = SignedList::sign(&list, first.signing_key().unwrap());
        write(&path, &signed, true).unwrap();
        assert!(write(&path, &signed, true).is_err(), "never over another");
        assert!(lacking(&signed, &list, &first.keys).unwrap().contains("1 of 2"));
        let args = |key| Cosign { file: path.clone(), key };
        let error = cosign(&first, &args(None)).unwrap_err().to_string();
        assert!(error.contains("has signed this list already"), "{error}");
        cosign(&second, &args(None)).unwrap();
        let signed = read(&path).unwrap();
        assert_eq!(lacking(&signed, &list, &first.keys), None);
        assert_eq!(signed.open(&first.keys).unwrap(), list);
        // A stranger's key is refused by name.
        let stranger = dir.path().join("stranger.key");
        keygen(&Keygen { out: stranger.clone() }).unwrap();
        let error = cosign(&first, &args(Some(stranger))).unwrap_err().to_string();
        assert!(error.contains("none of the operator's keys"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_signed_list_says_what_it_should_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        for text in ["", "{}", "{\"kind\":\"x\",\"list\":\"{}\",\"signatures\":[]}"] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains("zerkalo mirrors sign --out"), "{error}");
        }
        let error = format!("{:#}", read(&dir.path().join("none")).unwrap_err());
        assert!(error.contains("none"), "{error}");
    }
}
