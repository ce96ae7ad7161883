//! `[webhook]` and `[[executors]]`: who carries decisions out, each fault told with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use config::{Map, Value};
use hickory_proto::rr::{Name, RData, RecordType};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::market::Action;
use zerkalo_core::words::{MarketId, MirrorId};
use zerkalo_durable::credentials;

use super::{Reader, Section, chain};
use crate::executor::dns::{self, DnsKey};

/// The executor that `[webhook]` makes.
pub const WEBHOOK_NAME: &str = "webhook";
/// Attempts before a notice is given up: with the outbox's waits about a day, for whatever is away comes back or is
/// missed by then.
pub const ATTEMPTS_DEFAULT: u32 = 400;
/// A fortnight of attempts.
const ATTEMPTS_MAX: u32 = 4_000;
/// Attempts among them that were refused for good: a receiver that was deployed wrong is mended within the first waits,
/// or by a person.
pub const REFUSALS_DEFAULT: u32 = 3;
/// See [`REFUSALS_DEFAULT`].
const REFUSALS_MAX: u32 = 100;
/// How long a program may run.
const TIMEOUT_SECS_DEFAULT: u32 = 30;
/// Others of its market wait for it.
const TIMEOUT_SECS_MAX: u32 = 600;
/// How long resolvers may keep what an update wrote.
const TTL_SECS_DEFAULT: u32 = 60;
/// A day: longer, and the next rotation reaches nobody in time.
const TTL_SECS_MAX: u32 = 86_400;
/// Most executors: each has a lane a market.
const EXECUTORS_MAX: usize = 64;
/// Longest name, in bytes: it stands in keys and tables.
const NAME_LEN_MAX: usize = 63;

/// One that carries decisions out.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Unlike every other's.
    pub name: String,
    /// Empty: every market.
    pub markets: Vec<MarketId>,
    /// Empty: every action.
    pub actions: Vec<Action>,
    /// Attempts before a notice is given up.
    pub attempts: u32,
    /// Attempts refused for good before it is.
    pub refusals: u32,
    pub kind: ExecutorKind,
}

/// How it does so.
#[derive(Debug, Clone)]
pub enum ExecutorKind {
    Webhook(WebhookConfig),
    Program(ProgramConfig),
    Dns(Box<DnsConfig>),
}

/// Whom to tell.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    pub url: http::Uri,
    pub secret: WebhookSecret,
}

/// A Standard Webhooks secret, `whsec_...`; never prints.
#[derive(Clone)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// The text to sign with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct ProgramConfig {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where it starts: the collector's directory.
    pub dir: PathBuf,
    pub timeout_secs: u64,
}

/// Which name to point where.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The zone's primary.
    pub server: SocketAddr,
    pub zone: Name,
    pub record: Name,
    /// A, AAAA or CNAME.
    pub kind: RecordType,
    pub ttl_secs: u32,
    pub key: DnsKey,
    /// What to write for a mirror, sorted; without it a CNAME to the mirror's host.
    pub values: BTreeMap<MirrorId, Vec<RData>>,
}

impl Reader<'_> {
    /// All of them, that of `[webhook]` first.
    pub(super) fn executors(
        &mut self,
        root: &mut Section,
        catalogue: Option<&Catalogue>,
    ) -> Vec<ExecutorConfig> {
        let mut executors = Vec::new();
        if root.keys.contains_key("webhook") {
            let mut section = self.section(root, "webhook");
            let (attempts, refusals) = self.patience(&mut section);
            let kind = self.webhook(&mut section).map(ExecutorKind::Webhook);
            self.finish(section);
            executors.extend(kind.map(|kind| ExecutorConfig {
                name: WEBHOOK_NAME.to_owned(),
                markets: Vec::new(),
                actions: Vec::new(),
                attempts,
                refusals,
                kind,
            }));
        }
        let mut names: BTreeSet<_> = executors.iter().map(|executor| executor.name.clone()).collect();
        for mut section in self.tables(root, "executors", EXECUTORS_MAX) {
            let executor = self.executor(&mut section, catalogue);
            let key = section.key("name");
            self.finish(section);
            let Some(executor) = executor else { continue };
            if !names.insert(executor.name.clone()) {
                let problem = format!("{:?} is the name of another executor", executor.name);
                self.fault(key, problem, "give each a name of its own (that of [webhook] is \"webhook\")");
            }
            executors.push(executor);
        }
        executors
    }

    fn executor(&mut self, section: &mut Section, catalogue: Option<&Catalogue>) -> Option<ExecutorConfig> {
        let expected = "1 to 63 of a-z, 0-9, '-', '_', such as \"dns-kz\"";
        let name = self.required(section, "name", expected, |text| {
            let fits = (1..=NAME_LEN_MAX).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
            if fits { Ok(text.to_owned()) } else { Err(format!("{text:?} is no such name")) }
        });
        let markets = self.markets(section, catalogue);
        let actions = self.actions(section);
        let (attempts, refusals) = self.patience(section);
        let kinds = "\"webhook\", \"program\" or \"dns\"";
        let kind = self.required(section, "kind", kinds, |text| match text {
            "webhook" | "program" | "dns" => Ok(text.to_owned()),
            _ => Err(format!("{text:?} is no kind of executor")),
        });
        let kind = match kind.as_deref() {
            Some("webhook") => self.webhook(section).map(ExecutorKind::Webhook),
            Some("program") => self.program(section).map(ExecutorKind::Program),
            Some("dns") => self.dns(section).map(Box::new).map(ExecutorKind::Dns),
            _ => {
                // Without a kind nobody can say which keys belong here.
                section.keys.clear();
                None
            }
        };
        let actions = match (&kind, actions) {
            // Only a rotation names a replacement.
            (Some(ExecutorKind::Dns(_)), actions) if actions.is_empty() => vec![Action::Rotate],
            (_, actions) => actions,
        };
        Some(ExecutorConfig { name: name?, markets, actions, attempts, refusals, kind: kind? })
    }

    /// Attempts in all, and those refused for good.
    fn patience(&mut self, section: &mut Section) -> (u32, u32) {
        let attempts = self.number(section, "attempts", (1, ATTEMPTS_MAX), ATTEMPTS_DEFAULT);
        (attempts, self.number(section, "refusals", (1, REFUSALS_MAX), REFUSALS_DEFAULT))
    }

    fn markets(&mut self, section: &mut Section, catalogue: Option<&Catalogue>) -> Vec<MarketId> {
        let mut markets = Vec::new();
        for text in self.texts(section, "markets").unwrap_or_default() {
            let market = MarketId::parse(&text).ok();
            let known =
                market.filter(|market| catalogue.is_none_or(|catalogue| catalogue.has_market(market)));
            match known {
                Some(market) => markets.push(market),
                None => {
                    let problem = format!("{text:?} is no market of the catalogue");
                    self.fault(
                        section.key("markets"),
                        problem,
                        "name markets such as \"kz\", or leave it out for all",
                    );
                }
            }
        }
        markets
    }

    fn actions(&mut self, section: &mut Section) -> Vec<Action> {
        let mut actions = Vec::new();
        for text in self.texts(section, "actions").unwrap_or_default() {
            match Action::ALL.iter().find(|action| action.as_str() == text) {
                Some(action) => actions.push(*action),
                None => {
                    let words: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
                    let remedy = format!("use {}", words.join(", "));
                    self.fault(section.key("actions"), format!("{text:?} is no action"), &remedy);
                }
            }
        }
        actions
    }

    fn webhook(&mut self, section: &mut Section) -> Option<WebhookConfig> {
        let url = self.required(section, "url", "an http or https URL", |text| {
            let url: http::Uri = text.parse().map_err(|error| format!("{text:?} is no URL ({error})"))?;
            match url.scheme_str() {
                Some("http" | "https") if url.host().is_some() => Ok(url),
                _ => Err(format!("{text:?} is no http or https URL")),
            }
        });
        let (key, path, text) = self.secret_file(section, "secret_file")?;
        let secret = text.trim();
        if !secret.starts_with("whsec_") || standardwebhooks::Webhook::new(secret).is_err() {
            let problem = format!("{} holds no Standard Webhooks secret", path.display());
            self.fault(key, problem, "write \"whsec_\" and the secret in base64 into it");
            return None;
        }
        Some(WebhookConfig { url: url?, secret: WebhookSecret(secret.to_owned()) })
    }

    fn program(&mut self, section: &mut Section) -> Option<ProgramConfig> {
        let timeout = self.number(section, "timeout_secs", (1, TIMEOUT_SECS_MAX), TIMEOUT_SECS_DEFAULT);
        let key = section.key("command");
        let remedy = "write [\"/path/of/the/program\", \"its first argument\"]: no shell reads it";
        let Some(mut command) = self.texts(section, "command") else {
            if !self.faults.iter().any(|fault| fault.key == key) {
                self.fault(key, "is missing".to_owned(), remedy);
            }
            return None;
        };
        if command.first().is_none_or(|program| !program.contains('/')) {
            self.fault(key, "names no program by its path".to_owned(), remedy);
            return None;
        }
        let program = self.dir.join(command.remove(0));
        let problem = match std::fs::metadata(&program) {
            Err(error) => Some(error.to_string()),
            Ok(found) if !found.is_file() => Some("it is no file".to_owned()),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => Some("it is not executable".to_owned()),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            let problem = format!("{} cannot be run ({problem})", program.display());
            self.fault(
                key,
                problem,
                "paths are relative to the collector's directory; chmod +x makes it executable",
            );
            return None;
        }
        // The program starts in the collector's directory: a relative path must not be looked up from there again.
        let program = std::path::absolute(&program).unwrap_or(program);
        let dir = std::path::absolute(self.dir).unwrap_or_else(|_| self.dir.to_owned());
        Some(ProgramConfig { program, arguments: command, dir, timeout_secs: timeout.into() })
    }

    fn dns(&mut self, section: &mut Section) -> Option<DnsConfig> {
        let server = self.required(
            section,
            "server",
            "ADDRESS:PORT of the zone's primary, such as 192.0.2.53:53",
            |text| text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is no address with a port")),
        );
        let name = |text: &str| dns::parse_name(text).ok_or_else(|| format!("{text:?} is no DNS name"));
        let zone = self.required(section, "zone", "the zone's name, such as \"example.org\"", name);
        let record = self.required(section, "record", "the name to change, such as \"go.example.org\"", name);
        if let (Some(zone), Some(record)) = (&zone, &record)
            && !zone.zone_of(record)
        {
            self.fault(
                section.key("record"),
                format!("{record} is not in zone {zone}"),
                "name a record of the zone",
            );
        }
        let kind = self.required(section, "type", "\"A\", \"AAAA\" or \"CNAME\"", |text| match text {
            "A" => Ok(RecordType::A),
            "AAAA" => Ok(RecordType::AAAA),
            "CNAME" => Ok(RecordType::CNAME),
            _ => Err(format!("{text:?} is none of them")),
        });
        if kind == Some(RecordType::CNAME) && zone.is_some() && zone == record {
            let problem = "the zone's own name can be no CNAME".to_owned();
            self.fault(section.key("type"), problem, "use \"A\" or \"AAAA\", or a name below the zone's");
        }
        let ttl_secs = self.number(section, "ttl_secs", (1, TTL_SECS_MAX), TTL_SECS_DEFAULT);
        let values = self.values(section, kind);
        let (key, path, text) = self.secret_file(section, "key_file")?;
        let tsig = DnsKey::parse(&text)
            .map_err(|error| {
                let problem = format!("{} holds no TSIG key: {}", path.display(), chain(&error));
                self.fault(key, problem, "make it by `tsig-keygen -a hmac-sha256 zerkalo`");
            })
            .ok();
        let (server, zone, record) = (server?, zone?, record?);
        Some(DnsConfig { server, zone, record, kind: kind?, ttl_secs, key: tsig?, values })
    }

    fn values(&mut self, section: &mut Section, kind: Option<RecordType>) -> BTreeMap<MirrorId, Vec<RData>> {
        let table = self.section(section, "values");
        let mut values = BTreeMap::new();
        let mut keys: Vec<(String, Value)> = table.keys.clone().into_iter().collect();
        keys.sort_by(|left, right| left.0.cmp(&right.0));
        for (name, value) in keys {
            let key = table.key(&name);
            let Ok(mirror) = MirrorId::parse(&name) else {
                self.fault(key, format!("{name:?} is no mirror's name"), "use the names of the mirror list");
                continue;
            };
            let one = value
                .clone()
                .into_string()
                .ok()
                .filter(|_| !matches!(value.kind, config::ValueKind::Array(_)));
            let many = || value.into_array().ok()?.into_iter().map(|text| text.into_string().ok()).collect();
            let texts: Option<Vec<String>> = one.map(|text| vec![text]).or_else(many);
            let Some(kind) = kind else { continue };
            let mut parsed: Vec<_> =
                texts.iter().flatten().map_while(|text| dns::parse_value(kind, text)).collect();
            let is_whole = !parsed.is_empty() && texts.is_some_and(|texts| texts.len() == parsed.len());
            if !is_whole || (kind == RecordType::CNAME && parsed.len() > 1) {
                let expected =
                    if kind == RecordType::CNAME { "one host name" } else { "an address, or a list of them" };
                self.fault(key, format!("is no value of a {kind} record"), &format!("write {expected}"));
                continue;
            }
            dns::sort(&mut parsed);
            values.insert(mirror, parsed);
        }
        values
    }

    fn secret_file(&mut self, section: &mut Section, name: &str) -> Option<(String, PathBuf, String)> {
        let key = section.key(name);
        let path = self.required(section, name, "a file's path", |text| Ok(text.to_owned()))?;
        let path = credentials::file_of(&self.dir.join(path));
        let text = self.read(&key, &path)?;
        Some((key, path, text))
    }
}

impl Reader<'_> {
    /// A list of tables, `[[NAME]]`.
    pub(super) fn tables(&mut self, parent: &mut Section, name: &str, max: usize) -> Vec<Section> {
        let key = parent.key(name);
        let Some(value) = parent.keys.remove(name) else { return Vec::new() };
        let tables =
            value.into_array().and_then(|tables| tables.into_iter().map(Value::into_table).collect());
        let tables: Vec<Map<String, Value>> = match tables {
            Ok(tables) => tables,
            Err(_) => {
                self.fault(key, "is no list of tables".to_owned(), &format!("write each as [[{name}]]"));
                return Vec::new();
            }
        };
        if tables.len() > max {
            self.fault(key, format!("has {} tables", tables.len()), &format!("keep to {max}"));
            return Vec::new();
        }
        let section = |(place, keys)| Section { prefix: format!("{key}[{place}]."), keys };
        tables.into_iter().enumerate().map(section).collect()
    }

    /// A whole number within bounds; the default where it is left out or at fault.
    pub(super) fn number(
        &mut self,
        section: &mut Section,
        name: &str,
        bounds: (u32, u32),
        default: u32,
    ) -> u32 {
        let Some(value) = section.keys.remove(name) else { return default };
        let number = match value.kind {
            config::ValueKind::I64(number) => u32::try_from(number).ok(),
            _ => None,
        };
        number.filter(|number| (bounds.0..=bounds.1).contains(number)).unwrap_or_else(|| {
            let remedy = format!("write a number from {} to {}", bounds.0, bounds.1);
            self.fault(section.key(name), "is no such number".to_owned(), &remedy);
            default
        })
    }
}
