//! The collector's configuration: one typed struct, read once from DIR/collector.toml.
//!
//! Every fault is reported, not the first one: file, key, what is wrong, what to do. Unknown keys are faults. Secrets
//! stand in files of their own and never print.

mod executors;
mod networks;
mod operators;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use config::{FileFormat, Map, Value};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::fold::default_settings;
use zerkalo_core::journal::SettingsText;
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::policy::{self, Policy, PolicyError, PolicyFaults};

use crate::door::CONNECTIONS_MAX;
use crate::people::People;
use crate::pictures::{STORE_MIB_DEFAULT, STORE_MIB_MAX, STORE_MIB_MIN};
use crate::uplink::{RECORDS_PER_SEC_DEFAULT, RECORDS_PER_SEC_MAX, RECORDS_PER_SEC_MIN};

pub use executors::{
    ATTEMPTS_DEFAULT, DnsConfig, ExecutorConfig, ExecutorKind, ProgramConfig, WEBHOOK_NAME, WebhookConfig,
    WebhookSecret,
};

/// The file's name in the collector's directory.
pub const FILE_NAME: &str = "collector.toml";

/// Everything a collector is told.
#[derive(Debug)]
pub struct Config {
    pub dir: PathBuf,
    /// Whose lists are taken until one names other keys.
    pub operator_keys: OperatorKeys,
    pub agents: AgentsConfig,
    pub operators: OperatorsConfig,
    pub metrics_listen: SocketAddr,
    /// Who carries decisions out.
    pub executors: Vec<ExecutorConfig>,
    pub signal: Option<SignalConfig>,
    /// Bytes of all pictures kept, in MiB.
    pub picture_store_mib: u32,
    /// The data files in force, built-in or overridden.
    pub settings: SettingsText,
    pub catalogue: Catalogue,
    pub log: LogFormat,
}

/// Where agents come in.
#[derive(Debug)]
pub struct AgentsConfig {
    pub listen: SocketAddr,
    /// Where they come in by QUIC, if they do.
    pub quic_listen: Option<SocketAddr>,
    /// Addresses of relays: where a stream from there truly comes from is not known.
    pub relays: Vec<IpAddr>,
    /// As agents reach it; written into tokens.
    pub public_urls: Vec<String>,
    /// Agents connected by TCP at once; without it as many as the limit on open files allows.
    pub connections_max: Option<usize>,
    /// What one agent may send in the long run, each second.
    pub records_per_sec: u32,
}

/// Where operators come in.
#[derive(Debug)]
pub struct OperatorsConfig {
    pub listen: SocketAddr,
    /// The one of this file first.
    pub people: People,
}

/// Where redirectors and trackers come in.
#[derive(Debug)]
pub struct SignalConfig {
    pub listen: SocketAddr,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// One thing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// Such as `agents.listen`; empty if the whole file is at fault.
    pub key: String,
    pub problem: String,
    pub remedy: String,
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s):", self.0.len())?;
        for fault in &self.0 {
            let key = if fault.key.is_empty() { String::new() } else { format!("{}: ", fault.key) };
            write!(f, "\n  {}: {key}{}; {}", fault.file.display(), fault.problem, fault.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Reads DIR/collector.toml and the files it names.
    pub fn load(dir: &Path) -> Result<Self, Faults> {
        let file = dir.join(FILE_NAME);
        let fault = |problem: String, remedy: &str| {
            Faults(vec![Fault { file: file.clone(), key: String::new(), problem, remedy: remedy.to_owned() }])
        };
        let text = std::fs::read_to_string(&file).map_err(|error| {
            fault(error.to_string(), "name a directory made by `zerkalo-collector init DIR`")
        })?;
        let tree = config::Config::builder()
            .add_source(config::File::from_str(&text, FileFormat::Toml))
            .build()
            .and_then(|built| built.try_deserialize::<Map<String, Value>>())
            .map_err(|error| fault(error.to_string().trim_end().to_owned(), "mend the TOML"))?;
        let mut reader = Reader { dir, file: &file, faults: Vec::new() };
        let config = reader.config(tree);
        let faults = reader.faults;
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Faults(faults)),
        }
    }
}

/// The keys of one table not read yet.
struct Section {
    /// With the dot behind it; empty for the root.
    prefix: String,
    keys: Map<String, Value>,
}

/// Reads sections and gathers what is wrong.
struct Reader<'a> {
    dir: &'a Path,
    file: &'a Path,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn config(&mut self, tree: Map<String, Value>) -> Option<Config> {
        let mut root = Section { prefix: String::new(), keys: tree };
        let operator_keys = self.operator_keys(&mut root);
        let mut section = self.section(&mut root, "agents");
        let listen = self.address(&mut section, "listen");
        let quic_listen = self.quic_listen(&mut section);
        let relays = self.relays(&mut section);
        let public_urls = self.public_urls(&mut section);
        let connections_max = section.keys.contains_key("connections_max").then(|| {
            let most = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
            self.number(&mut section, "connections_max", (1, most), most) as usize
        });
        let allowed = (RECORDS_PER_SEC_MIN, RECORDS_PER_SEC_MAX);
        let records_per_sec = self.number(&mut section, "records_per_sec", allowed, RECORDS_PER_SEC_DEFAULT);
        self.finish(section);
        let agents = listen.zip(public_urls);
        let mut section = self.section(&mut root, "operators");
        let listen = self.address(&mut section, "listen");
        let people = self.people(&mut section);
        self.finish(section);
        let operators = listen.zip(people);
        let mut section = self.section(&mut root, "metrics");
        let metrics_listen = self.address(&mut section, "listen");
        self.finish(section);
        let signal = self.signal(&mut root);
        let picture_store_mib = self.pictures(&mut root);
        let data = self.data(&mut root);
        let executors = self.executors(&mut root, data.as_ref().map(|(_, catalogue)| catalogue));
        let log = self.log(&mut root);
        self.finish(root);
        let (agents, operators, (settings, catalogue)) = (agents?, operators?, data?);
        Some(Config {
            dir: self.dir.to_owned(),
            operator_keys: operator_keys?,
            agents: AgentsConfig {
                listen: agents.0,
                quic_listen,
                relays,
                public_urls: agents.1,
                connections_max,
                records_per_sec,
            },
            operators: OperatorsConfig { listen: operators.0, people: operators.1 },
            metrics_listen: metrics_listen?,
            executors,
            signal,
            picture_store_mib,
            settings,
            catalogue,
            log,
        })
    }

    fn signal(&mut self, root: &mut Section) -> Option<SignalConfig> {
        if !root.keys.contains_key("signal") {
            return None;
        }
        let mut section = self.section(root, "signal");
        let listen = self.address(&mut section, "listen");
        self.finish(section);
        Some(SignalConfig { listen: listen? })
    }

    fn pictures(&mut self, root: &mut Section) -> u32 {
        let mut section = self.section(root, "pictures");
        let mib = self.number(&mut section, "store_mib", (STORE_MIB_MIN, STORE_MIB_MAX), STORE_MIB_DEFAULT);
        self.finish(section);
        mib
    }

    /// The settings texts, each parsed here so that a fault is found before the journal sees it.
    fn data(&mut self, root: &mut Section) -> Option<(SettingsText, Catalogue)> {
        let mut settings = default_settings();
        let mut section = self.section(root, "data");
        let remedy = "mend the file, or remove the key to use the built-in one";
        if let Some((_, _, text)) = self.data_file(&mut section, "catalogue") {
            settings.catalogue = text;
        }
        let catalogue = Catalogue::parse(&settings.catalogue)
            .map_err(|error| self.fault(section.key("catalogue"), chain(&error), remedy))
            .ok();
        match &catalogue {
            Some(catalogue) => settings.policies = self.policies(&mut section, catalogue),
            // Nothing can be said of policies without the carriers they name.
            None => drop(section.keys.remove("policies")),
        }
        if let Some((key, path, text)) = self.data_file(&mut section, "fingerprints") {
            if let Err(error) = Fingerprints::parse(&text) {
                self.fault(key, format!("{}: {}", path.display(), chain(&error)), remedy);
            }
            settings.fingerprints = text;
        }
        let networks = self.optional(&mut section, "networks", "a file's path", |text| Ok(text.to_owned()));
        if let (Some(path), Some(catalogue)) = (networks, &catalogue) {
            settings.networks = self.networks(section.key("networks"), &self.dir.join(path), catalogue);
        }
        self.finish(section);
        Some((settings, catalogue?))
    }

    /// The operator's table, cut to the carriers of the catalogue.
    fn networks(&mut self, key: String, path: &Path, catalogue: &Catalogue) -> String {
        let remedy = "mend the file, or remove the key to use the built-in one";
        let asns = catalogue.carriers().iter().flat_map(|carrier| carrier.asns.iter().copied()).collect();
        match networks::table(path, &asns) {
            Ok(table) => table,
            Err(error) => {
                self.fault(key, format!("{}: {error}", path.display()), remedy);
                String::new()
            }
        }
    }

    /// The operator's policies; the built-in ones of markets these do not name stay in force.
    fn policies(&mut self, section: &mut Section, catalogue: &Catalogue) -> Vec<String> {
        let key = section.key("policies");
        let (mut texts, mut named) = (Vec::new(), BTreeSet::new());
        for path in self.texts(section, "policies").unwrap_or_default() {
            let path = self.dir.join(path);
            let Some(text) = self.read(&key, &path) else { continue };
            if let Err(PolicyFaults(faults)) = Policy::parse(&text, catalogue) {
                faults.iter().for_each(|fault| self.fault_in(&path, fault, "mend it"));
            }
            if let Some(market) = policy::market_of(&text).filter(|market| !named.insert(market.clone())) {
                self.fault_in(&path, &PolicyError::Twice { market }, "keep one in data.policies");
            }
            texts.push(text);
        }
        for text in policy::BUILT_IN {
            let market = policy::market_of(text).filter(|market| catalogue.has_market(market));
            let Some(market) = market.filter(|market| !named.contains(market)) else { continue };
            if let Err(faults) = Policy::parse(text, catalogue) {
                let problem =
                    format!("the built-in policy of market {market} does not fit the catalogue: {faults}");
                self.fault(key.clone(), problem, "name a policy file of your own for this market");
            }
            texts.push(text.to_owned());
        }
        texts
    }

    fn log(&mut self, root: &mut Section) -> LogFormat {
        let mut section = self.section(root, "log");
        let format = self.optional(&mut section, "format", "\"text\" or \"json\"", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is no log format")),
        });
        self.finish(section);
        format.unwrap_or(LogFormat::Text)
    }

    fn relays(&mut self, section: &mut Section) -> Vec<IpAddr> {
        let texts = self.texts(section, "relays").unwrap_or_default();
        let mut relays = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse() {
                Ok(address) => relays.push(address),
                Err(_) => self.fault(
                    section.key("relays"),
                    format!("{text:?} is no address"),
                    "name the relays' own addresses, without ports",
                ),
            }
        }
        relays
    }

    fn quic_listen(&mut self, section: &mut Section) -> Option<SocketAddr> {
        section.keys.contains_key("quic_listen").then(|| self.address(section, "quic_listen")).flatten()
    }

    fn public_urls(&mut self, section: &mut Section) -> Option<Vec<String>> {
        let remedy = "list at least one such as \"https://HOST:8443\"";
        let urls = self.texts(section, "public_urls");
        let Some(urls) = urls else {
            self.missing(section, "public_urls", remedy);
            return None;
        };
        if urls.is_empty() {
            self.fault(section.key("public_urls"), "is empty".to_owned(), remedy);
        }
        for url in &urls {
            let parsed: Option<http::Uri> = url.parse().ok();
            let is_good = parsed.is_some_and(|url| match url.scheme_str() {
                Some("https") => url.host().is_some(),
                Some("quic") => url.host().is_some() && url.port_u16().is_some(),
                _ => false,
            });
            if !is_good {
                let problem = format!("{url:?} is neither https://HOST:PORT nor quic://HOST:PORT");
                self.fault(section.key("public_urls"), problem, remedy);
            }
        }
        Some(urls)
    }

    fn data_file(&mut self, section: &mut Section, name: &str) -> Option<(String, PathBuf, String)> {
        let key = section.key(name);
        let path = self.optional(section, name, "a file's path", |text| Ok(text.to_owned()))?;
        let path = self.dir.join(path);
        let text = self.read(&key, &path)?;
        Some((key, path, text))
    }

    fn address(&mut self, section: &mut Section, name: &str) -> Option<SocketAddr> {
        self.required(section, name, "ADDRESS:PORT such as 0.0.0.0:8443, ports from 0 to 65535", |text| {
            text.parse().map_err(|_| format!("{text:?} is no address with a port"))
        })
    }

    fn section(&mut self, parent: &mut Section, name: &str) -> Section {
        let prefix = format!("{}{name}.", parent.prefix);
        let keys = match parent.keys.remove(name).map(Value::into_table) {
            None => Map::new(),
            Some(Ok(keys)) => keys,
            Some(Err(_)) => {
                self.fault(parent.key(name), "is no table".to_owned(), &format!("write it as [{name}]"));
                Map::new()
            }
        };
        Section { prefix, keys }
    }

    fn required<T>(
        &mut self,
        section: &mut Section,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !section.keys.contains_key(name) {
            self.missing(section, name, &format!("set it to {expected}"));
        }
        self.optional(section, name, expected, parse)
    }

    fn optional<T>(
        &mut self,
        section: &mut Section,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = section.keys.remove(name)?;
        let result = match value.kind {
            config::ValueKind::String(text) => parse(&text),
            _ => Err("is no text".to_owned()),
        };
        result.map_err(|problem| self.fault(section.key(name), problem, &format!("expected {expected}"))).ok()
    }

    fn texts(&mut self, section: &mut Section, name: &str) -> Option<Vec<String>> {
        let value = section.keys.remove(name)?;
        let texts = value.into_array().and_then(|array| array.into_iter().map(Value::into_string).collect());
        texts
            .map_err(|_| self.fault(section.key(name), "is no list of texts".to_owned(), "write [\"...\"]"))
            .ok()
    }

    fn read(&mut self, key: &str, path: &Path) -> Option<String> {
        std::fs::read_to_string(path)
            .map_err(|error| {
                let problem = format!("{} cannot be read ({error})", path.display());
                self.fault(key.to_owned(), problem, "paths are relative to the collector's directory");
            })
            .ok()
    }

    fn missing(&mut self, section: &Section, name: &str, remedy: &str) {
        self.fault(section.key(name), "is missing".to_owned(), remedy);
    }

    fn finish(&mut self, section: Section) {
        let mut unknown: Vec<_> = section.keys.keys().map(|name| section.key(name)).collect();
        unknown.sort();
        for key in unknown {
            self.fault(key, "is no key of this file".to_owned(), "correct its spelling or remove it");
        }
    }

    /// A fault in a file that the configuration names.
    fn fault_in(&mut self, file: &Path, problem: &dyn fmt::Display, remedy: &str) {
        let (file, problem) = (file.to_owned(), problem.to_string());
        self.faults.push(Fault { file, key: String::new(), problem, remedy: remedy.to_owned() });
    }

    fn fault(&mut self, key: String, problem: String, remedy: &str) {
        self.faults.push(Fault { file: self.file.to_owned(), key, problem, remedy: remedy.to_owned() });
    }
}

impl Section {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {}", error.to_string().replace('\n', " "));
        source = error.source();
    }
    text
}
