//! The host's own settings: agent.toml. Read once; unknown keys refused; all faults reported together, each with its
//! place. Nothing remote can change them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, ConfigError, File, FileFormat, Map, Value, ValueKind};
use serde::Deserialize;

use crate::picture::PictureSettings;
use crate::probe::chain::{Trust, TrustError};
use crate::probe::connect::Ranges;
use crate::probe::resolvers::{
    DohServer, Matrix, NamedServer, PUBLIC_DEFAULT, Resolvers, ResolversError, parse_doh, parse_dot,
    parse_server,
};
use crate::spool::Limits;

/// Read where no --config names another file, if it exists.
pub const DEFAULT_PATH: &str = "/etc/zerkalo/agent.toml";
/// How often each mirror is probed by default.
const INTERVAL_DEFAULT_SECS: u64 = 60;
/// The same on a metered line.
const INTERVAL_METERED_SECS: u64 = 900;
/// Less a day is not worth the box: some probes and the uplink's own words.
const BYTES_PER_DAY_MIN: u64 = 1_000_000;
/// Room for a few records of the largest size.
const SPOOL_BYTES_MIN: u64 = 100_000;
/// The main arm's deadline by default: DNS, connection and handshake may each take their worst.
pub const TIMEOUT_DEFAULT_SECS: u64 = 20;
/// A mirror probed less often than daily tells nothing.
const INTERVAL_MAX_SECS: u64 = 86_400;
/// Visitors wait less.
pub const TIMEOUT_MAX_SECS: u64 = 120;
/// Shown where the mirror's own name failed: reserved by RFC 2606, on no list.
pub const NEUTRAL_SNI_DEFAULT: &str = "www.example.com";

/// Every key there is.
const KEYS: [&str; 20] = [
    "field_addresses",
    "metered",
    "bytes_per_day",
    "spool_bytes",
    "interval_secs",
    "timeout_secs",
    "allow_special_ranges",
    "ca_file",
    "neutral_sni",
    "resolvers.system",
    "resolvers.public",
    "resolvers.public_dot",
    "resolvers.public_doh",
    "resolvers.nobody",
    "pictures.browser",
    "pictures.sandbox",
    "pictures.socket",
    "pictures.same_user",
    "log.format",
    "collector.urls",
];

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{path} cannot be read: {detail}")]
    Unreadable { path: PathBuf, detail: String },
    #[error("{path} has {} fault(s):\n  {}", faults.len(), faults.join("\n  "))]
    Faults { path: PathBuf, faults: Vec<String> },
    #[error("no resolver is known (or name them under [resolvers] in agent.toml)")]
    Resolvers(#[source] ResolversError),
    #[error("ca_file {path} cannot be read")]
    CaFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("ca_file {path} cannot be used")]
    Trust {
        path: PathBuf,
        #[source]
        source: TrustError,
    },
    #[error("the public roots cannot be used")]
    PublicTrust(#[source] TrustError),
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Each mirror's turn, jittered by a tenth.
    pub interval: Duration,
    /// The main arm's deadline.
    pub timeout: Duration,
    /// Whether every byte is paid for: no large pages, no pictures, no more of a page than is needed.
    pub is_metered: bool,
    /// Whether a control here tries the addresses that other agents got. Off where an address means another thing than
    /// there: in a laboratory, behind a box of its own.
    pub visits_field_addresses: bool,
    /// `None`: no limit was named, and the kind of line or station decides.
    pub bytes_per_day: Option<u64>,
    /// Room for records that wait for the collector, and for what it had a day ago.
    pub spool_bytes: u64,
    pub ranges: Ranges,
    /// Roots to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    pub neutral_sni: String,
    /// Instead of the operating system's.
    pub system_resolvers: Option<Vec<SocketAddr>>,
    pub public_resolver: SocketAddr,
    /// Whom to ask once a visit has failed.
    pub public_dot: Option<NamedServer>,
    pub public_doh: Option<DohServer>,
    pub nobody: Option<SocketAddr>,
    pub pictures: PictureSettings,
    pub log_format: LogFormat,
    /// Further addresses of the collector, tried before those of the token.
    pub collector_urls: Vec<String>,
}

impl Settings {
    /// Reads `path`; without one, the default file if it exists, else nothing but defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, SettingsError> {
        match path {
            Some(path) => Self::read(path),
            None if Path::new(DEFAULT_PATH).exists() => Self::read(Path::new(DEFAULT_PATH)),
            None => Self::parse("", Path::new(DEFAULT_PATH)),
        }
    }

    /// Checks a file's text; relative paths in it are relative to `path`'s directory.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let config = Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .build()
            .map_err(|error| SettingsError::Faults { path: path.to_owned(), faults: vec![detail(&error)] })?;
        let mut reading = Reading { faults: unknown_keys(&config), config: &config };
        let settings = reading.settings(path.parent().unwrap_or(Path::new("")));
        match reading.faults.is_empty() {
            true => Ok(settings),
            false => Err(SettingsError::Faults { path: path.to_owned(), faults: reading.faults }),
        }
    }

    /// The resolvers to ask.
    pub fn resolvers(&self) -> Result<Resolvers, SettingsError> {
        let public = Some(self.public_resolver);
        let resolvers = match &self.system_resolvers {
            Some(system) => Resolvers::named(system.clone(), public),
            None => Resolvers::of_system(public).map_err(SettingsError::Resolvers)?,
        };
        Ok(resolvers.with(Matrix {
            dot: self.public_dot.clone(),
            doh: self.public_doh.clone(),
            nobody: self.nobody,
            ..Matrix::default()
        }))
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable {
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        Self::parse(&text, path)
    }
}

/// The roots of `ca_file`, or the public ones.
pub fn load_trust(ca_file: Option<&Path>) -> Result<Trust, SettingsError> {
    let Some(path) = ca_file else { return Trust::public().map_err(SettingsError::PublicTrust) };
    let pem =
        std::fs::read(path).map_err(|source| SettingsError::CaFile { path: path.to_owned(), source })?;
    Trust::from_pem(&pem).map_err(|source| SettingsError::Trust { path: path.to_owned(), source })
}

struct Reading<'a> {
    config: &'a Config,
    faults: Vec<String>,
}

impl Reading<'_> {
    fn collector_urls(&mut self) -> Vec<String> {
        let urls = self.take::<Vec<String>>("collector.urls").unwrap_or_default();
        for url in &urls {
            if let Err(error) = crate::channel::check_url(url) {
                self.fault("collector.urls", crate::uplink::chain(&error));
            }
        }
        urls
    }

    fn settings(&mut self, dir: &Path) -> Settings {
        let is_metered = self.take::<bool>("metered").unwrap_or(false);
        let interval_default = if is_metered { INTERVAL_METERED_SECS } else { INTERVAL_DEFAULT_SECS };
        let interval_secs = self.secs("interval_secs", interval_default, INTERVAL_MAX_SECS);
        let bytes_per_day = self.take::<i64>("bytes_per_day").map(|bytes| u64::try_from(bytes).unwrap_or(0));
        if bytes_per_day.is_some_and(|bytes| bytes < BYTES_PER_DAY_MIN) {
            self.fault("bytes_per_day", format!("must be at least {BYTES_PER_DAY_MIN}"));
        }
        let spool_default = Limits::default().bytes;
        let spool_bytes = self.take::<i64>("spool_bytes").map(|bytes| u64::try_from(bytes).unwrap_or(0));
        if spool_bytes.is_some_and(|bytes| bytes < SPOOL_BYTES_MIN) {
            self.fault("spool_bytes", format!("must be at least {SPOOL_BYTES_MIN}"));
        }
        let timeout_secs = self.secs("timeout_secs", TIMEOUT_DEFAULT_SECS, TIMEOUT_MAX_SECS);
        let special = self.take::<bool>("allow_special_ranges").unwrap_or(false);
        let neutral_sni =
            self.take::<String>("neutral_sni").unwrap_or_else(|| NEUTRAL_SNI_DEFAULT.to_owned());
        if rustls::pki_types::DnsName::try_from(neutral_sni.as_str()).is_err() {
            self.fault("neutral_sni", format!("{neutral_sni:?} is no host name"));
        }
        let system_resolvers = self.take::<Vec<String>>("resolvers.system").map(|servers| {
            if servers.is_empty() {
                self.fault("resolvers.system", "is empty; name at least one, or remove the key".to_owned());
            }
            servers.iter().filter_map(|server| self.server("resolvers.system", server)).collect()
        });
        let public_resolver = self
            .take::<String>("resolvers.public")
            .and_then(|server| self.server("resolvers.public", &server))
            .unwrap_or(PUBLIC_DEFAULT);
        let known = Matrix::of_public(public_resolver);
        let public_dot = self.one_or_none("resolvers.public_dot", known.dot, parse_dot);
        let public_doh = self.one_or_none("resolvers.public_doh", known.doh, parse_doh);
        let nobody = self.one_or_none("resolvers.nobody", known.nobody, parse_server);
        let collector_urls = self.collector_urls();
        let log_format = match self.take::<String>("log.format").as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.fault("log.format", format!("{other:?} is neither \"text\" nor \"json\""));
                LogFormat::Text
            }
        };
        Settings {
            interval: Duration::from_secs(interval_secs),
            timeout: Duration::from_secs(timeout_secs),
            is_metered,
            visits_field_addresses: self.take("field_addresses").unwrap_or(true),
            bytes_per_day,
            spool_bytes: spool_bytes.unwrap_or(spool_default),
            ranges: if special { Ranges::Any } else { Ranges::PublicOnly },
            ca_file: self.take::<String>("ca_file").map(|file| dir.join(file)),
            neutral_sni,
            system_resolvers,
            public_resolver,
            public_dot,
            public_doh,
            nobody,
            pictures: PictureSettings::new(
                self.take("pictures.browser"),
                self.take("pictures.sandbox"),
                self.take("pictures.socket"),
                self.take("pictures.same_user"),
            ),
            log_format,
            collector_urls,
        }
    }

    fn take<'de, T: Deserialize<'de>>(&mut self, key: &str) -> Option<T> {
        match self.config.get(key) {
            Ok(value) => Some(value),
            Err(ConfigError::NotFound(_)) => None,
            Err(error) => {
                self.fault(key, detail(&error));
                None
            }
        }
    }

    fn secs(&mut self, key: &str, default: u64, max: u64) -> u64 {
        let secs = self.take::<i64>(key).map_or(default, |secs| u64::try_from(secs).unwrap_or(0));
        if secs == 0 || secs > max {
            self.fault(key, format!("must be from 1 to {max} seconds"));
        }
        secs
    }

    fn server(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        parse_server(text).map_err(|message| self.fault(key, message)).ok()
    }

    /// What the key names; nothing where it says "none", and the default where it is not written.
    fn one_or_none<T>(
        &mut self,
        key: &str,
        default: Option<T>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.take::<String>(key).as_deref() {
            None => default,
            Some("none") => None,
            Some(text) => parse(text).map_err(|message| self.fault(key, message)).ok(),
        }
    }

    fn fault(&mut self, key: &str, message: String) {
        self.faults.push(format!("{key}: {message}"));
    }
}

/// The message without the key that the caller puts before it.
fn detail(error: &ConfigError) -> String {
    match error {
        ConfigError::Type { unexpected, expected, .. } => format!("is {unexpected}; expected {expected}"),
        other => other.to_string(),
    }
}

fn unknown_keys(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if let ValueKind::Table(table) = &config.cache.kind {
        walk(table, "", &mut found);
    }
    found.sort();
    found
}

fn walk(table: &Map<String, Value>, prefix: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let is_section = KEYS.iter().any(|known| known.starts_with(&format!("{key}.")));
        match &value.kind {
            ValueKind::Table(inner) if is_section => walk(inner, &format!("{key}."), found),
            _ if is_section => found.push(format!("{key}: is a section; write it as [{key}]")),
            _ if KEYS.contains(&key.as_str()) => {}
            _ => found.push(format!("{key}: unknown key; the keys are {}", KEYS.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(text, Path::new("/etc/zerkalo/agent.toml"))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let settings = parse("").unwrap();
        assert_eq!((settings.interval.as_secs(), settings.timeout.as_secs()), (60, 20));
        let known = Matrix::of_public(PUBLIC_DEFAULT);
        assert_eq!(
            (settings.public_dot, settings.public_doh, settings.nobody),
            (known.dot, known.doh, known.nobody)
        );
        assert_eq!((settings.ranges, settings.system_resolvers), (Ranges::PublicOnly, None));
    }

    #[test]
    fn every_key_is_read() {
        let settings = parse(
            "metered = true\nfield_addresses = false\nbytes_per_day = 5_000_000\nspool_bytes = 300_000\ninterval_secs = 2\ntimeout_secs = 3\nallow_special_ranges = true\nca_file = \"ca.pem\"\n\
             neutral_sni = \"n.example\"\n[resolvers]\nsystem = [\"127.0.0.1:5353\"]\npublic = \"127.0.0.2\"\n\
             public_dot = \"dns.example@127.0.0.3\"\npublic_doh = \"none\"\nnobody = \"127.0.0.4:54\"\n\
             [pictures]\nbrowser = \"none\"\nsandbox = false\nsocket = \"/run/x\"\nsame_user = false\n[log]\nformat = \"json\"\n\
             [collector]\nurls = [\"quic://192.0.2.7:8445\"]\n",
        )
        .unwrap();
        let expected = Settings {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(3),
            is_metered: true,
            visits_field_addresses: false,
            bytes_per_day: Some(5_000_000),
            spool_bytes: 300_000,
            ranges: Ranges::Any,
            ca_file: Some("/etc/zerkalo/ca.pem".into()),
            neutral_sni: "n.example".to_owned(),
            system_resolvers: Some(vec!["127.0.0.1:5353".parse().unwrap()]),
            public_resolver: "127.0.0.2:53".parse().unwrap(),
            public_dot: parse_dot("dns.example@127.0.0.3:853").ok(),
            public_doh: None,
            nobody: Some("127.0.0.4:54".parse().unwrap()),
            pictures: PictureSettings {
                browser: None,
                sandbox: crate::picture::Sandbox::Off,
                socket: "/run/x".into(),
                user: crate::picture::BrowserUser::Another,
            },
            log_format: LogFormat::Json,
            collector_urls: vec!["quic://192.0.2.7:8445".to_owned()],
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_metered_line_is_looked_at_less_often_unless_its_host_says_otherwise() {
        let settings = parse("metered = true").unwrap();
        assert_eq!((settings.interval.as_secs(), settings.bytes_per_day), (900, None));
        assert_eq!(parse("metered = true\ninterval_secs = 120").unwrap().interval.as_secs(), 120);
        for bytes in ["999_999", "-1", "0"] {
            let message = parse(&format!("bytes_per_day = {bytes}")).unwrap_err().to_string();
            assert!(message.contains("bytes_per_day: must be at least 1000000"), "{message}");
        }
    }

    #[test]
    fn the_shipped_sample_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/agent.toml");
        let settings = Settings::load(Some(&path)).unwrap();
        assert_eq!((settings.interval.as_secs(), settings.ranges), (300, Ranges::PublicOnly));
    }

    #[test]
    fn all_faults_are_reported_together_with_file_and_key() {
        let message = parse(
            "interval_secs = 0\ntimeout_secs = \"soon\"\nallow_special = true\nneutral_sni = \"a b\"\n\
             [resolvers]\nsystem = [\"dns.example\"]\npublic = \"9.9.9.9:99999\"\nsytem = []\npublic_doh = \"https://dns.example/q\"\n[log]\nformat = \"xml\"\n",
        )
        .unwrap_err()
        .to_string();
        for part in [
            "/etc/zerkalo/agent.toml has 9 fault(s)",
            "interval_secs: must be from 1",
            "timeout_secs: is string \"soon\"; expected an integer",
            "allow_special: unknown key",
            "neutral_sni: \"a b\"",
            "resolvers.system: \"dns.example\"",
            "resolvers.public: \"9.9.9.9:99999\"",
            "resolvers.public_doh: \"https://dns.example/q\"",
            "resolvers.sytem: unknown key",
            "log.format: \"xml\"",
        ] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
        let message = parse("interval_secs = = 2").unwrap_err().to_string();
        assert!(message.contains("agent.toml") && message.contains("line 1"), "{message}");
        assert!(parse("log = 3").unwrap_err().to_string().contains("[log]"));
    }
}
