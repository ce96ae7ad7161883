//! `zerkalo mirrors verify`: whether a mirror is the operator's. Proof is a text that only whoever runs the host can put
//! there: in a TXT record, or in a file the site serves.
//!
//! The text follows from the operator's public key. Results are kept beside the operator's file, with their dates; a
//! list is signed only where each mirror has one, or where somebody says that it shall be signed without.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::target::{MirrorList, Sha256, TargetUrl};
use zerkalo_core::words::UnixMillis;

use super::proof::{Looked, Means, look};
use crate::operator::Operator;
use crate::table::{Format, draw, print, print_json};

/// Separates this digest from every other use of the key.
const DOMAIN: &[u8] = b"zerkalo.ownership.v1\0";
/// Hexadecimal digits of the digest: enough that nobody finds another key with the same.
const DIGITS: usize = 40;
/// The file beside the operator's.
const FILE: &str = "ownership.json";
/// Hosts named in one message.
const HOSTS_NAMED_MAX: usize = 10;

/// What to prove.
#[derive(Debug, Args)]
pub struct Verify {
    /// Mirrors by name or by URL, on the list or not yet; without any, all on the list in force.
    pub mirrors: Vec<String>,
    #[command(flatten)]
    pub means: Means,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How a host was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Txt,
    File,
    /// Not at all: somebody said that it shall be signed without.
    Unverified,
}

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub by: By,
    pub at: UnixMillis,
    /// What was looked for.
    pub text: String,
}

/// What is known, by host.
type Proofs = BTreeMap<String, Proof>;

/// One host's result, as it is printed.
#[derive(Serialize)]
struct Row {
    url: String,
    verified: Option<By>,
    detail: String,
}

/// What proves a host to be the operator's.
pub fn text_of(key: &PublicKey) -> String {
    let digest = Sha256::of(&[DOMAIN, &key.to_bytes()].concat()).to_string();
    format!("zerkalo-{}", &digest[..DIGITS])
}

/// Whether a mirror needs the list to be found.
pub fn needs_list(args: &Verify) -> bool {
    args.mirrors.is_empty() || args.mirrors.iter().any(|text| TargetUrl::parse(text).is_err())
}

/// Proves mirrors and keeps what was found. Fails where one is not proved.
pub async fn verify(operator: &Operator, list: Option<&MirrorList>, args: &Verify) -> Result<()> {
    let urls = urls_of(list, &args.mirrors)?;
    let text = text_of(&operator.keys.first());
    let mut rows = Vec::new();
    for url in urls {
        let found = match look(&url, &text, &args.means).await? {
            Looked::Txt => Ok(By::Txt),
            Looked::File => Ok(By::File),
            Looked::Nowhere(detail) => Err(detail),
        };
        if let Ok(by) = found {
            let mut proofs = read(operator)?;
            proofs.insert(url.host(), Proof { by, at: super::now()?, text: text.clone() });
            write(operator, &proofs)?;
        }
        let verified = found.as_ref().ok().copied();
        let detail = found.err().unwrap_or_else(|| "proved yours".to_owned());
        rows.push(Row { url: url.to_string(), verified, detail });
    }
    match args.format {
        Format::Json => print_json(&rows)?,
        Format::Table => {
            let cells = |row: &Row| {
                let by = row.verified.map_or("NOT PROVED", |by| if by == By::Txt { "TXT" } else { "file" });
                [row.url.clone(), by.to_owned(), row.detail.clone()]
            };
            print(&draw(["mirror", "proved by", "found"], rows.iter().map(cells)))?;
        }
    }
    let open: Vec<&str> =
        rows.iter().filter(|row| row.verified.is_none()).map(|row| row.url.as_str()).collect();
    if !open.is_empty() {
        bail!(
            "not proved yours: {} [ownership_unproved]; put the text {text} into a TXT record at _zerkalo.HOST, or into a line of \
             /.well-known/zerkalo.txt on the site, then run this again",
            open.join(", ")
        );
    }
    Ok(())
}

/// Refuses to sign mirrors that nobody proved, unless that was said; then it is said again, and remembered.
pub fn require(operator: &Operator, list: &MirrorList, unverified: bool) -> Result<()> {
    let text = text_of(&operator.keys.first());
    let mut proofs = read(operator)?;
    let mut open: Vec<String> = list.mirrors.iter().map(|mirror| mirror.url.host()).collect();
    open.retain(|host| {
        !proofs.get(host).is_some_and(|proof| proof.by == By::Unverified || proof.text == text)
    });
    open.sort();
    open.dedup();
    if open.is_empty() {
        return Ok(());
    }
    let mut named = open.iter().take(HOSTS_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if open.len() > HOSTS_NAMED_MAX {
        named += &format!(" and {} more", open.len() - HOSTS_NAMED_MAX);
    }
    if !unverified {
        bail!(
            "nobody proved that these are yours: {named} [ownership_unproved]; run `zerkalo mirrors verify URL`, which says what it \
             looks for, or sign them all the same with --unverified"
        );
    }
    eprintln!(
        "WARNING: SIGNING MIRRORS THAT NOBODY PROVED TO BE YOURS: {named}. Agents will touch them in your name. This is \
         remembered in {}; `zerkalo mirrors verify` proves them.",
        path(operator).display()
    );
    let at = super::now()?;
    proofs.extend(open.into_iter().map(|host| (host, Proof { by: By::Unverified, at, text: text.clone() })));
    write(operator, &proofs)
}

fn urls_of(list: Option<&MirrorList>, asked: &[String]) -> Result<Vec<TargetUrl>> {
    let listed = list.map_or(&[][..], |list| &list.mirrors[..]);
    if asked.is_empty() {
        if listed.is_empty() {
            bail!("there is no mirror on the list yet; name a URL, such as https://mirror.example/");
        }
        return Ok(listed.iter().map(|mirror| mirror.url.clone()).collect());
    }
    let url = |text: &String| {
        let known = listed.iter().find(|mirror| mirror.id.as_str() == text).map(|mirror| mirror.url.clone());
        known.map_or_else(
            || {
                TargetUrl::parse(text).with_context(|| {
                    format!("{text:?} is no mirror on the list (`zerkalo mirrors ls`) and no URL")
                })
            },
            Ok,
        )
    };
    asked.iter().map(url).collect()
}

fn path(operator: &Operator) -> PathBuf {
    operator.path.with_file_name(FILE)
}

fn read(operator: &Operator) -> Result<Proofs> {
    let path = path(operator);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; remove it and run `zerkalo mirrors verify` again", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Proofs::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write(operator: &Operator, proofs: &Proofs) -> Result<()> {
    let path = path(operator);
    let draft = path.with_extension("tmp");
    let text = serde_json::to_string_pretty(proofs)? + "\n";
    std::fs::write(&draft, text)
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot write {}; it keeps which mirrors are proved yours", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::SecretKey;
    use zerkalo_core::target::Mirror;
    use zerkalo_core::words::MirrorId;

    fn operator(dir: &std::path::Path, key: u8) -> Operator {
        let path = dir.join("operator.toml");
        let text = format!(
            "url = \"https://h:1\"\nca_pem = \"-----BEGIN CERTIFICATE-----\"\napi_token = \"t\"\nsigning_key = \"{}\"\n",
            hex::encode([key; 32])
        );
        std::fs::write(&path, text).unwrap();
        Operator::read(Some(path)).unwrap()
    }

    fn list(hosts: &[&str]) -> MirrorList {
        let mirror = |host: &&str| Mirror {
            id: MirrorId::parse(host).unwrap(),
            url: TargetUrl::parse(&format!("https://{host}/")).unwrap(),
            markets: vec![],
            canary: None,
            key_pins: vec![],
            expected_addresses: vec![],
            large_page: None,
            standby: false,
            category: None,
        };
        MirrorList { mirrors: hosts.iter().map(mirror).collect(), ..MirrorList::default() }
    }

    #[test]
    fn nothing_is_signed_unproved_unless_it_is_said_and_that_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let operator = operator(dir.path(), 7);
        let (one, two) = (list(&["a.example"]), list(&["a.example", "b.example"]));
        let error = require(&operator, &two, false).unwrap_err().to_string();
        for part in ["a.example, b.example", "ownership_unproved", "zerkalo mirrors verify", "--unverified"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        require(&operator, &one, true).unwrap();
        require(&operator, &one, false).unwrap();
        let error = require(&operator, &two, false).unwrap_err().to_string();
        assert!(!error.contains("a.example") && error.contains("b.example"), "{error}");
        let text = text_of(&SecretKey::from_bytes(&[7; 32]).public());
        let proof = Proof { by: By::Txt, at: UnixMillis(1), text };
        let mut proofs = read(&operator).unwrap();
        proofs.insert("b.example".to_owned(), proof.clone());
        write(&operator, &proofs).unwrap();
        require(&operator, &two, false).unwrap();
        // Proved under another key it is not proved.
        proofs.insert("b.example".to_owned(), Proof { text: "zerkalo-0".to_owned(), ..proof });
        write(&operator, &proofs).unwrap();
        assert!(require(&operator, &two, false).is_err());
        std::fs::write(path(&operator), "{").unwrap();
        let error = require(&operator, &two, false).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn mirrors_are_named_by_id_or_by_url() {
        let list = list(&["a.example", "b.example"]);
        let urls = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|text| (*text).to_owned()).collect();
            urls_of(Some(&list), &asked).map(|urls| urls.iter().map(TargetUrl::host).collect::<Vec<_>>())
        };
        assert_eq!(urls(&[]).unwrap(), ["a.example", "b.example"]);
        assert_eq!(urls(&["b.example", "https://c.example/"]).unwrap(), ["b.example", "c.example"]);
        assert!(urls(&["c.example"]).unwrap_err().to_string().contains("zerkalo mirrors ls"));
        assert!(urls_of(None, &[]).is_err());
    }
}
