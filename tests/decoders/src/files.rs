//! Files: settings, data, what the programs keep for themselves.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hickory_proto::rr::RecordType;
use zerkalo_agent::config::Settings;
use zerkalo_agent::paths::Memory;
use zerkalo_agent::probe::resolvers::{parse_doh, parse_dot, parse_server};
use zerkalo_agent::state::StateDir;
use zerkalo_collector::config::Config;
use zerkalo_collector::executor::Notice;
use zerkalo_collector::executor::dns::{DnsKey, parse_name, parse_value};
use zerkalo_collector::state::{Delivery, Topic};
use zerkalo_core::audit::AuditHead;
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::fingerprint::{Fingerprints, Sighting};
use zerkalo_core::networks::{Networks, cut_to};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::policy::{self, Policy};
use zerkalo_core::simulate::Noise;
use zerkalo_core::target::TargetUrl;
use zerkalo_core::words::UnixMillis;

use crate::segments::scratch;
use crate::statements::key;
use crate::{Read, refused};

/// The command line's reader of its own file, which is no library.
#[allow(dead_code, clippy::all)]
#[path = "../../../cli/src/operator.rs"]
mod operator;

fn text(bytes: &[u8]) -> &str {
    // Files that are no text are refused before any of these readers is asked.
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A policy, by the built-in catalogue.
pub fn policy(bytes: &[u8]) -> Read {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    let (text, catalogue) = (text(bytes), CATALOGUE.get_or_init(Catalogue::built_in));
    let named = policy::market_of(text);
    match Policy::parse(text, catalogue) {
        Ok(policy) => {
            assert_eq!(named.as_ref(), Some(&policy.market));
            assert!(policy.explain(catalogue).iter().all(|line| !line.is_empty()));
            let _ = (policy.pause_carriers_min(), policy.confirm_age_max_secs());
            Read::Whole
        }
        Err(faults) => refused(&faults, bytes),
    }
}

/// A catalogue; the built-in policies are held against it.
pub fn catalogue(bytes: &[u8]) -> Read {
    match Catalogue::parse(text(bytes)) {
        Ok(catalogue) => {
            for carrier in catalogue.carriers() {
                assert!(catalogue.has_market(&carrier.market) && catalogue.carrier(&carrier.id).is_some());
            }
            for policy in policy::BUILT_IN {
                if let Err(faults) = Policy::parse(policy, &catalogue) {
                    refused(&faults, bytes);
                }
            }
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// A table; what is kept of it for some networks says of every address what the whole says.
pub fn networks(bytes: &[u8]) -> Read {
    let text = text(bytes);
    let networks = match Networks::parse([text]) {
        Ok(networks) => networks,
        Err(error) => return refused(&error, bytes),
    };
    let words = text.split([',', '\n']).map(|word| word.trim().trim_matches('"'));
    let asns: BTreeSet<u32> = words.clone().filter_map(|word| word.parse().ok()).take(3).collect();
    let cut = cut_to(text, &asns, "2026-11-01").expect("it was read the line before");
    let kept = Networks::parse([cut.as_str()]).expect("our own table");
    for address in words.filter_map(|word| word.parse::<IpAddr>().ok()).take(64) {
        let whole = networks.announcer(address).filter(|announcer| asns.contains(&announcer.asn));
        assert_eq!(kept.announcer(address).map(|one| one.asn), whole.map(|one| one.asn), "{address}");
    }
    Read::Whole
}

/// The simulation's noise.
pub fn noise(bytes: &[u8]) -> Read {
    match Noise::parse(text(bytes)) {
        Ok(noise) => {
            assert_eq!(Noise::parse(&noise.to_toml()).expect("our own file").to_toml(), noise.to_toml());
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// Fingerprints, asked about pages, headers and addresses.
pub fn fingerprints(bytes: &[u8]) -> Read {
    let known = match Fingerprints::parse(text(bytes)) {
        Ok(known) => known,
        Err(error) => return refused(&error, bytes),
    };
    let body = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa <title>Доступ ограничен</title>";
    let url = TargetUrl::parse("http://warning.rt.ru/?id=1").expect("a URL");
    let address = "195.82.146.120".parse().expect("an address");
    let seen = [
        Sighting::Body(body),
        Sighting::Url(&url),
        Sighting::Address(address),
        Sighting::Header { name: "Location", value: body },
    ];
    for seen in seen {
        let all = known.matches(seen, None);
        assert_eq!(known.weigh(seen, None).is_some(), !all.is_empty());
    }
    let _ =
        (known.captive_url(&url), known.unpaid_url(&url), known.state_ca(&[]), known.host_interceptor(&[]));
    Read::Whole
}

/// The agent's settings; each line as a resolver too.
pub fn agent_config(bytes: &[u8]) -> Read {
    let text = text(bytes);
    for line in text.lines().take(64) {
        for why in
            [parse_dot(line).err(), parse_doh(line).err(), parse_server(line).err()].into_iter().flatten()
        {
            refused(&why, line.as_bytes());
        }
    }
    match Settings::parse(text, Path::new("/etc/zerkalo/agent.toml")) {
        Ok(settings) => {
            assert!(!settings.interval.is_zero() && !settings.timeout.is_zero());
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// A directory of one file under test, written anew each time.
fn in_directory<R>(files: &[&str], bytes: &[u8], read: impl FnOnce(&Path) -> R) -> R {
    thread_local! {
        static DIR: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    DIR.with_borrow_mut(|dir| {
        let dir = dir.get_or_insert_with(|| tempfile::tempdir_in(scratch()).expect("room for a directory"));
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it is in the directory"))
                .expect("room for a directory");
            std::fs::write(path, bytes).expect("room for a file");
        }
        read(dir.path())
    })
}

/// The collector's settings.
pub fn collector_config(bytes: &[u8]) -> Read {
    // Names of files are tried; none beyond the directory is to be opened here.
    if bytes.windows(4).any(|part| part == b"/dev") || bytes.windows(5).any(|part| part == b"/proc") {
        return Read::Refused;
    }
    const SOUND: &str = include_str!("../data/collector.toml");
    in_directory(&["own/collector.toml", "added/operators/berta.toml"], bytes, |dir| {
        let added = dir.join("added");
        std::fs::write(added.join("collector.toml"), SOUND).expect("room for a file");
        let mut read = Read::Refused;
        for dir in [dir.join("own"), added] {
            match Config::load(&dir) {
                Ok(_) => read = Read::Whole,
                Err(faults) => drop(refused(&faults, bytes)),
            }
        }
        read
    })
}

/// The command line's own file.
pub fn operator_file(bytes: &[u8]) -> Read {
    let found = in_directory(&["operator.toml"], bytes, |dir| {
        let path: PathBuf = dir.join("operator.toml");
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("our own file");
        operator::Operator::read(Some(path))
    });
    match found {
        Ok(operator) => {
            assert!(
                operator.url.starts_with("https:") || operator.url.starts_with("HTTPS:"),
                "{}",
                operator.url
            );
            Read::Whole
        }
        Err(error) => refused(&format!("{error:#}"), bytes),
    }
}

/// Keys of name servers, and values of records, a line each.
pub fn tsig_key(bytes: &[u8]) -> Read {
    let text = text(bytes);
    for line in text.lines().take(64) {
        if let Some(name) = parse_name(line) {
            assert_eq!(parse_name(&name.to_ascii()), Some(name));
        }
        for kind in [RecordType::A, RecordType::AAAA, RecordType::CNAME] {
            if let Some(value) = parse_value(kind, line) {
                assert_eq!(value.record_type(), kind);
            }
        }
    }
    match DnsKey::parse(text) {
        Ok(key) => {
            let _ = key.signer();
            assert!(format!("{key:?}").ends_with(", ..)"), "a key never prints");
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// Every file of an agent's state directory.
pub fn agent_state(bytes: &[u8]) -> Read {
    const FILES: [&str; 9] = [
        "identity.toml",
        "record.key",
        "list.json",
        "operator-keys.json",
        "consent.toml",
        "touched.json",
        "bytes.json",
        "standing.json",
        "paths.json",
    ];
    let keys = OperatorKeys::from(key().public());
    let mut read = Read::Refused;
    in_directory(&FILES, bytes, |dir| {
        let state = StateDir::existing(dir);
        let mut note = |why: Option<String>| match why {
            None => read = Read::Whole,
            Some(why) => drop(refused(&why, bytes)),
        };
        note(
            state
                .identity()
                .map(|identity| drop(state.operator_key(&identity)))
                .err()
                .map(|why| why.to_string()),
        );
        note(state.record_key().err().map(|why| why.to_string()));
        note(zerkalo_agent::list::load(&state, &keys, UnixMillis(1)).err().map(|why| why.to_string()));
        note(zerkalo_agent::consent::kept(&state).err().map(|why| why.to_string()));
        note(zerkalo_agent::touched::kept(&state).err().map(|why| why.to_string()));
        note(zerkalo_agent::means::kept(&state).err().map(|why| why.to_string()));
        if zerkalo_agent::papers::told(&state).is_some() {
            note(None);
        }
    });
    if let Some(memory) = Memory::parse(text(bytes)) {
        assert_eq!(Memory::parse(&memory.to_text()), Some(memory));
        read = Read::Whole;
    }
    read
}

/// Lines of the audit log, in a row, and a notice.
pub fn audit(bytes: &[u8]) -> Read {
    let (mut head, mut read) = (AuditHead::default(), Read::Refused);
    for line in text(bytes).lines() {
        match head.follow(line) {
            Ok((_, next)) => {
                assert_eq!(next.number, head.number + 1);
                assert_ne!(next.sha256, head.sha256);
                (head, read) = (next, Read::Whole);
            }
            Err(broken) => {
                assert_eq!(broken.number(), head.number + 1);
                refused(&broken, bytes);
                break;
            }
        }
    }
    if let Ok(delivery) = serde_json::from_slice::<Delivery>(bytes) {
        let again = serde_json::to_vec(&delivery).expect("texts and numbers");
        assert_eq!(serde_json::from_slice::<Delivery>(&again).expect("our own JSON"), delivery);
        read = Read::Whole;
    }
    for topic in [Topic::Decision, Topic::Alert] {
        match Notice::parse(topic, bytes) {
            Ok(notice) => {
                let logged = notice.to_json();
                let again = Notice::parse(topic, logged.as_bytes()).expect("our own line");
                assert_eq!(again.to_json(), logged);
                let body = notice.body(logged.as_bytes(), "");
                serde_json::from_slice::<serde_json::Value>(&body).expect("a body is JSON");
                read = Read::Whole;
            }
            Err(error) => drop(refused(&error, bytes)),
        }
    }
    read
}

/// A backup of which nothing is there but what says what is: restored, it is the same files, or nothing at all.
pub fn backup(bytes: &[u8]) -> Read {
    let home = tempfile::tempdir_in(scratch()).expect("room for a directory");
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    std::fs::create_dir_all(from.join("journal")).expect("room for a directory");
    std::fs::write(from.join("collector.toml"), "x = 1\n").expect("room for a file");
    std::fs::write(from.join("backup.json"), bytes).expect("room for a file");
    match zerkalo_collector::backup::restore(&from, &to) {
        Ok(_) => {
            for entry in std::fs::read_dir(home.path()).expect("our own directory").flatten() {
                let name = entry.file_name();
                assert!(name == "from" || name == "to", "something was written beside: {name:?}");
            }
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}
