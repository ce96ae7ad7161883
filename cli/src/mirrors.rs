//! `zerkalo mirrors`: reads the list in force, checks it, changes it, signs it, puts it back.
//!
//! The signature is made here and nowhere else: the collector can hand a list on, never make one.

mod ownership;
mod proof;
mod show;
mod signing;
mod tools;

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::{
    Category, Mirror, MirrorList, Reference, ReferenceSide, Sha256, TargetError, TargetUrl,
};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};
use zerkalo_proto::evidence::list_from_wire;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::operator::Operator;
use crate::table::Format;
use show::show;

/// What can be done with the list of mirrors.
#[derive(Debug, Subcommand)]
pub enum Mirrors {
    /// Add a mirror to the list, sign the list and put it in force.
    ///
    /// With -o json: {"version": N, "mirror": {the mirror as listed}}.
    Add(Add),
    /// Show the list in force.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Take a mirror off the list.
    ///
    /// With -o json: {"version": N, "mirror": {the mirror as it was listed}}.
    Rm {
        /// The mirror's name.
        id: MirrorId,
        #[command(flatten)]
        how: signing::How,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Reference hosts: your own, or of your choice; they tell the state of an agent's network.
    #[command(subcommand)]
    Reference(References),
    /// Change what is read of a mirror on the list.
    ///
    /// With -o json: {"version": N, "mirror": {the mirror as listed}}.
    Set(Set),
    /// Have every agent stop at once and touch nothing, until `resume`.
    ///
    /// With -o json: {"version": N, "stop": REASON}.
    Stop {
        /// Why; agents' hosts see it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        how: signing::How,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Let agents measure again.
    ///
    /// With -o json: {"version": N, "stop": null}.
    Resume {
        #[command(flatten)]
        how: signing::How,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Set what you run so that agents can compare; what is not given stays as it is.
    ///
    /// With -o json: {"version": N, "tools": {what is set}}.
    Tools(tools::SetTools),
    /// Prove that mirrors are yours: by a TXT record, or a file on the site. Needed before they are signed.
    Verify(ownership::Verify),
    /// Sign the list as it stands anew: it is good for 14 days at most.
    ///
    /// With -o json: {"version": N, "list": {mirrors and end}}.
    Sign(signing::Sign),
    /// Add another key's signature to a list that is handed around; shows it first. Needs no collector.
    Cosign(signing::Cosign),
    /// Put a list that enough keys have signed in force.
    Publish(signing::Publish),
    /// Name the keys that sign lists from the next one on; this one the present keys sign, and enough of the new ones.
    Keys(signing::SetKeys),
    /// Make a key that signs lists, to be kept offline; prints its public half. Needs no collector.
    Keygen(signing::Keygen),
}

/// A new mirror.
#[derive(Debug, Args)]
pub struct Add {
    #[arg(value_parser = TargetUrl::parse, help = "The page to measure, such as https://mirror.example/")]
    url: TargetUrl,
    /// Its name in tables and decisions; by default the host name.
    #[arg(long)]
    id: Option<MirrorId>,
    /// A market it serves; repeat for several.
    #[arg(long = "market", value_name = "MARKET", required = true)]
    markets: Vec<MarketId>,
    /// A text only the real page holds.
    #[arg(long, value_name = "TEXT")]
    canary: Option<String>,
    /// SHA-256 of a public key (SPKI) the site may show; repeat for several.
    #[arg(long = "pin", value_name = "HEX", value_parser = pin)]
    pins: Vec<Sha256>,
    /// An address you know the mirror under; repeat for several.
    #[arg(long = "expected-address", value_name = "IP")]
    expected_addresses: Vec<IpAddr>,
    /// A page of at least 64 KiB at the same host: freezes and throttling show on nothing smaller.
    #[arg(long, value_name = "URL", value_parser = TargetUrl::parse)]
    large_page: Option<TargetUrl>,
    /// It serves nobody yet: it waits in its markets' pools to take another's place.
    #[arg(long)]
    standby: bool,
    /// What it is: news, human_rights, commerce, culture, communication or other. Hosts of agents say which they agree to.
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    #[command(flatten)]
    how: signing::How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A change of a mirror.
#[derive(Debug, Args)]
pub struct Set {
    /// The mirror's name.
    id: MirrorId,
    /// A page of at least 64 KiB at the mirror's host; `none` to read none any more.
    #[arg(long, value_name = "URL|none", value_parser = large_page,
          required_unless_present_any = ["standby", "category"])]
    large_page: Option<LargePage>,
    /// Whether it waits in its markets' pools to take another's place (true) or serves from the start (false).
    #[arg(long, value_name = "true|false")]
    standby: Option<bool>,
    /// What it is: news, human_rights, commerce, culture, communication or other.
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    #[command(flatten)]
    how: signing::How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A large page, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LargePage(Option<TargetUrl>);

/// What can be done with reference hosts.
#[derive(Debug, Subcommand)]
pub enum References {
    /// Add a reference host for one market.
    ///
    /// With -o json: {"version": N, "reference": {the reference as listed}}.
    Add(AddReference),
    /// Take a reference host off the list.
    ///
    /// With -o json: {"version": N, "reference": {"market": ..., "url": ...}}.
    Rm {
        #[arg(long, value_name = "MARKET")]
        market: MarketId,
        #[arg(value_parser = TargetUrl::parse)]
        url: TargetUrl,
        #[command(flatten)]
        how: signing::How,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// A new reference host.
#[derive(Debug, Args)]
pub struct AddReference {
    /// The market whose agents use it.
    #[arg(long, value_name = "MARKET")]
    market: MarketId,
    /// Where it stands: domestic (in the market's country) or foreign.
    #[arg(long, value_name = "SIDE", value_parser = side)]
    side: ReferenceSide,
    /// A page on it.
    #[arg(value_parser = TargetUrl::parse)]
    url: TargetUrl,
    #[command(flatten)]
    how: signing::How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What became of the list, once it is in force.
#[derive(Debug)]
struct Change {
    list: MirrorList,
    /// In words: what was added or removed.
    said: String,
    /// For programs: what it was, under the name of its kind.
    kind: &'static str,
    what: serde_json::Value,
}

/// Refuses what no collector needs to be asked about.
pub fn check(command: &Mirrors) -> Result<()> {
    match command {
        Mirrors::Add(add) => {
            add.url.require_public().with_context(|| format!("mirror {} is refused", add.url))?;
            require_own(add.large_page.as_ref(), &add.url)
        }
        Mirrors::Tools(set) => tools::check(set),
        _ => Ok(()),
    }
}

/// Carries out a command that needs no collector; gives others back.
pub async fn offline(operator: &Operator, command: Mirrors) -> Result<Option<Mirrors>> {
    match command {
        Mirrors::Cosign(args) => signing::cosign(operator, &args)?,
        Mirrors::Verify(args) if !ownership::needs_list(&args) => {
            ownership::verify(operator, None, &args).await?;
        }
        command => return Ok(Some(command)),
    }
    Ok(None)
}

/// Makes a key: that needs not even the operator's file.
pub fn keygen(command: &Mirrors) -> Option<Result<()>> {
    match command {
        Mirrors::Keygen(args) => Some(signing::keygen(args)),
        _ => None,
    }
}

/// Carries out one command on the list.
pub async fn mirrors(service: &mut Service, operator: &Operator, command: Mirrors) -> Result<()> {
    let list = fetch(service, &operator.keys).await?;
    // The list in force may have named others than the file.
    let keys = list.as_ref().and_then(|list| list.keys.clone()).unwrap_or_else(|| operator.keys.clone());
    let (change, how, format) = match command {
        Mirrors::Ls { format } => return show(list.as_ref(), format),
        Mirrors::Verify(args) => return ownership::verify(operator, list.as_ref(), &args).await,
        Mirrors::Publish(args) => return signing::publish(service, &keys, &args).await,
        Mirrors::Cosign(args) => return signing::cosign(operator, &args),
        Mirrors::Keygen(args) => return signing::keygen(&args),
        Mirrors::Add(add) => {
            let (how, format) = (add.how.clone(), add.format);
            (with_mirror(list, mirror_of(add)?)?, how, format)
        }
        Mirrors::Rm { id, how, format } => (without_mirror(list, &id)?, how, format),
        Mirrors::Reference(References::Add(AddReference { market, side, url, how, format })) => {
            (with_reference(list, Reference { market, side, url })?, how, format)
        }
        Mirrors::Reference(References::Rm { market, url, how, format }) => {
            (without_reference(list, &market, &url)?, how, format)
        }
        Mirrors::Set(set) => {
            let (how, format) = (set.how.clone(), set.format);
            (with_change(list, set)?, how, format)
        }
        Mirrors::Stop { reason, how, format } => (with_stop(list, Some(reason))?, how, format),
        Mirrors::Resume { how, format } => (with_stop(list, None)?, how, format),
        Mirrors::Tools(set) => {
            let (how, format) = (set.how.clone(), set.format);
            (tools::with_tools(list, &set)?, how, format)
        }
        Mirrors::Sign(sign) => (signed_anew(list)?, sign.how, sign.format),
        Mirrors::Keys(set) => (with_keys(list, signing::keys_of(&set, operator)?)?, set.how, set.format),
    };
    signing::finish(service, operator, &keys, &change, &how, format).await
}

/// The list in force, if any, after checking that it is ours.
async fn fetch(service: &mut Service, keys: &OperatorKeys) -> Result<Option<MirrorList>> {
    let answer =
        answer("read the mirror list", service.get_mirror_list(wire::GetMirrorListRequest {})).await?;
    let Some(list) = answer.list else { return Ok(None) };
    let signed = list_from_wire(list).context("the collector sent a mirror list that cannot be read")?;
    let list = signed.open(keys).context(
        "the collector's mirror list is not one of yours; check that `signing_key` or `operator_keys` belong to this \
         collector, and if they do, distrust the collector",
    )?;
    Ok(Some(list))
}

/// The change as it is printed.
fn done(change: &Change, version: u64, format: Format) -> Result<String> {
    Ok(match format {
        Format::Table => format!("{}; list version {version} is in force\n", change.said),
        Format::Json => {
            let value = json!({ "version": version, change.kind: change.what });
            serde_json::to_string_pretty(&value)? + "\n"
        }
    })
}

fn mirror_of(add: Add) -> Result<Mirror> {
    let id = match add.id {
        Some(id) => id,
        None => MirrorId::parse(&add.url.host()).with_context(|| {
            format!("the host of {} is no name for a mirror; give one with --id", add.url)
        })?,
    };
    let mut markets = add.markets;
    markets.sort();
    markets.dedup();
    Ok(Mirror {
        large_page: add.large_page,
        id,
        url: add.url,
        markets,
        canary: add.canary,
        key_pins: add.pins,
        expected_addresses: add.expected_addresses,
        standby: add.standby,
        category: add.category,
    })
}

/// This machine's time.
fn now() -> Result<UnixMillis> {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("this machine's clock stands before 1970; set it, the list is dated by it")?;
    Ok(UnixMillis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)))
}

/// The next version of the list, still unchanged.
fn next(list: Option<MirrorList>) -> Result<MirrorList> {
    let list = list.unwrap_or_default();
    Ok(MirrorList { version: list.version + 1, issued_at: now()?, expires_at: None, ..list })
}

fn signed_anew(list: Option<MirrorList>) -> Result<Change> {
    if list.is_none() {
        bail!("no list yet; `zerkalo mirrors add URL --market MARKET` makes one");
    }
    let list = next(list)?;
    let what = json!({ "mirrors": list.mirrors.len() });
    Ok(Change { list, said: "signed anew".to_owned(), kind: "list", what })
}

fn with_keys(list: Option<MirrorList>, keys: OperatorKeys) -> Result<Change> {
    let mut list = next(list)?;
    let (said, what) = (format!("the operator's keys are {keys}"), json!(keys));
    list.keys = Some(keys);
    Ok(Change { list, said, kind: "keys", what })
}

fn with_mirror(list: Option<MirrorList>, mirror: Mirror) -> Result<Change> {
    let mut list = next(list)?;
    if list.mirror(&mirror.id).is_some() {
        bail!(
            "mirror {0} is on the list already; `zerkalo mirrors rm {0}` first, or choose another --id",
            mirror.id
        );
    }
    let (said, what) = (format!("mirror {} added", mirror.id), json!(mirror));
    list.mirrors.push(mirror);
    Ok(Change { list, said, kind: "mirror", what })
}

fn with_change(list: Option<MirrorList>, set: Set) -> Result<Change> {
    let (mut list, id) = (next(list)?, set.id);
    let Some(mirror) = list.mirrors.iter_mut().find(|mirror| mirror.id == id) else {
        bail!("mirror {id} is not on the list; `zerkalo mirrors ls` shows it");
    };
    if let Some(page) = set.large_page {
        require_own(page.0.as_ref(), &mirror.url)?;
        mirror.large_page = page.0;
    }
    mirror.standby = set.standby.unwrap_or(mirror.standby);
    mirror.category = set.category.or(mirror.category);
    let what = json!(mirror);
    Ok(Change { list, said: format!("mirror {id} changed"), kind: "mirror", what })
}

fn with_stop(list: Option<MirrorList>, stop: Option<String>) -> Result<Change> {
    let mut list = next(list)?;
    if stop.is_none() && list.stop.is_none() {
        bail!("nothing is stopped; `zerkalo mirrors ls` shows the list in force");
    }
    let said = match &stop {
        Some(_) => "agents stop as soon as they hear of it; `zerkalo mirrors resume` ends it",
        None => "agents measure again",
    };
    let what = json!(stop);
    list.stop = stop;
    Ok(Change { list, said: said.to_owned(), kind: "stop", what })
}

/// A large page elsewhere would tell of another host.
fn require_own(page: Option<&TargetUrl>, mirror: &TargetUrl) -> Result<()> {
    match page {
        Some(page) if page.host() != mirror.host() => {
            bail!("--large-page {page} is at another host than {mirror}; it must be at the mirror's own")
        }
        _ => Ok(()),
    }
}

fn without_mirror(list: Option<MirrorList>, id: &MirrorId) -> Result<Change> {
    let mut list = next(list)?;
    let Some(place) = list.mirrors.iter().position(|mirror| mirror.id == *id) else {
        bail!("mirror {id} is not on the list; `zerkalo mirrors ls` shows it");
    };
    let what = json!(list.mirrors.remove(place));
    Ok(Change { list, said: format!("mirror {id} removed"), kind: "mirror", what })
}

fn with_reference(list: Option<MirrorList>, reference: Reference) -> Result<Change> {
    let mut list = next(list)?;
    if list.references.contains(&reference) {
        bail!("reference {} is on the list already", reference.url);
    }
    let (said, what) = (format!("reference {} added", reference.url), json!(reference));
    list.references.push(reference);
    Ok(Change { list, said, kind: "reference", what })
}

fn without_reference(list: Option<MirrorList>, market: &MarketId, url: &TargetUrl) -> Result<Change> {
    let mut list = next(list)?;
    let before = list.references.len();
    list.references.retain(|known| known.market != *market || known.url != *url);
    if list.references.len() == before {
        bail!("reference {url} of market {market} is not on the list; `zerkalo mirrors ls` shows it");
    }
    let what = json!({ "market": market, "url": url });
    Ok(Change { list, said: format!("reference {url} removed"), kind: "reference", what })
}

fn large_page(text: &str) -> Result<LargePage, TargetError> {
    match text {
        "none" => Ok(LargePage(None)),
        url => TargetUrl::parse(url).map(|url| LargePage(Some(url))),
    }
}

fn pin(text: &str) -> Result<Sha256, String> {
    Sha256::from_hex(text)
        .ok_or_else(|| "a pin is the SHA-256 of a public key: 64 hexadecimal digits".to_owned())
}

fn side(text: &str) -> Result<ReferenceSide, String> {
    match text {
        "domestic" => Ok(ReferenceSide::Domestic),
        "foreign" => Ok(ReferenceSide::Foreign),
        _ => Err("expected \"domestic\" or \"foreign\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::show::row;
    use super::*;

    fn how() -> signing::How {
        signing::How { days: 14, unverified: false, out: None }
    }

    fn mirror(url: &str, id: Option<&str>) -> Result<Mirror> {
        mirror_of(Add {
            url: TargetUrl::parse(url)?,
            id: id.map(MirrorId::parse).transpose()?,
            markets: vec![MarketId::parse("kz")?, MarketId::parse("kz")?],
            canary: None,
            pins: vec![],
            expected_addresses: vec![],
            large_page: None,
            standby: false,
            category: None,
            how: how(),
            format: Format::Table,
        })
    }

    #[test]
    fn a_stop_holds_through_other_changes_until_it_is_ended() {
        let first = with_mirror(None, mirror("https://mirror.example/", None).unwrap()).unwrap().list;
        assert!(with_stop(Some(first.clone()), None).is_err(), "nothing is stopped");
        let stopped = with_stop(Some(first), Some("a law suit".to_owned())).unwrap().list;
        let second = mirror("https://other.example/", None).unwrap();
        let changed = with_mirror(Some(stopped), second).unwrap().list;
        assert_eq!((changed.version, changed.stop.as_deref()), (3, Some("a law suit")));
        let resumed = with_stop(Some(changed), None).unwrap().list;
        assert_eq!((resumed.stop, resumed.mirrors.len()), (None, 2));
        let endless =
            with_stop(Some(MirrorList::issued(1, UnixMillis(1))), Some(String::new())).unwrap().list;
        assert!(endless.validate().unwrap_err().to_string().contains("reason"));
    }

    #[test]
    fn a_mirror_is_named_after_its_host_and_listed_once() {
        let first = mirror("https://mirror.example/", None).unwrap();
        assert_eq!((first.id.as_str(), first.markets.len()), ("mirror.example", 1));
        let list = with_mirror(None, first.clone()).unwrap().list;
        assert_eq!((list.version, list.mirrors.len()), (1, 1));
        assert!(with_mirror(Some(list.clone()), first).is_err());
        let list = without_mirror(Some(list), &MirrorId::parse("mirror.example").unwrap()).unwrap().list;
        assert_eq!((list.version, list.mirrors.len()), (2, 0));
    }

    #[test]
    fn every_change_is_told_in_words_or_as_json() {
        let check = |change: &Change, words: &str, kind: &str, url: &str| {
            let table = done(change, 7, Format::Table).unwrap();
            assert_eq!(table, format!("{words}; list version 7 is in force\n"));
            let json: serde_json::Value =
                serde_json::from_str(&done(change, 7, Format::Json).unwrap()).unwrap();
            assert_eq!((&json["version"], &json[kind]["url"]), (&7.into(), &url.into()), "{json}");
        };
        let page = "https://mirror.example/";
        let added = with_mirror(None, mirror(page, None).unwrap()).unwrap();
        check(&added, "mirror mirror.example added", "mirror", page);
        let removed = without_mirror(Some(added.list), &MirrorId::parse("mirror.example").unwrap()).unwrap();
        check(&removed, "mirror mirror.example removed", "mirror", page);
        let (market, url) = (MarketId::parse("kz").unwrap(), TargetUrl::parse(page).unwrap());
        let reference = Reference { market: market.clone(), side: ReferenceSide::Domestic, url: url.clone() };
        let added = with_reference(None, reference).unwrap();
        check(&added, "reference https://mirror.example/ added", "reference", page);
        let removed = without_reference(Some(added.list), &market, &url).unwrap();
        check(&removed, "reference https://mirror.example/ removed", "reference", page);
    }

    #[test]
    fn a_large_page_is_set_and_cleared_at_the_mirror_s_own_host() {
        let list = with_mirror(None, mirror("https://mirror.example/", None).unwrap()).unwrap().list;
        let id = MirrorId::parse("mirror.example").unwrap();
        let change = |id: &MirrorId, page: Option<&str>, standby| {
            let large_page = page.map(|page| large_page(page).unwrap());
            with_change(
                Some(list.clone()),
                Set {
                    id: id.clone(),
                    large_page,
                    standby,
                    category: None,
                    how: how(),
                    format: Format::Table,
                },
            )
        };
        let set = |page: &str| change(&id, Some(page), None);
        let changed = set("https://mirror.example/large").unwrap();
        assert_eq!((changed.said.as_str(), changed.list.version), ("mirror mirror.example changed", 2));
        assert_eq!(changed.what["large_page"], "https://mirror.example/large");
        assert_eq!(row(&changed.list.mirrors[0])[6], "/large");
        assert_eq!(set("none").unwrap().list.mirrors[0].large_page, None);
        assert!(set("https://elsewhere.example/").unwrap_err().to_string().contains("--large-page"));
        let unknown = MirrorId::parse("other").unwrap();
        assert!(change(&unknown, Some("none"), None).is_err());
        let waiting = change(&id, None, Some(true)).unwrap();
        assert!(waiting.list.mirrors[0].standby);
        assert_eq!(row(&waiting.list.mirrors[0])[7], "yes");
    }

    #[test]
    fn a_host_that_is_no_name_asks_for_one() {
        assert!(format!("{:#}", mirror("https://[2a00:1450::1]/", None).unwrap_err()).contains("--id"));
    }
}
