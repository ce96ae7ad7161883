//! What this box has talked to, for its host: every address, under which name, how often, first and last. Kept in the
//! state directory; nothing of it is sent anywhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::words::UnixMillis;

use crate::state::{StateDir, StateError};

/// The file in the state directory.
const FILE: &str = "touched.json";
/// Most targets kept; those not touched for the longest give way, and are counted.
const TARGETS_MAX: usize = 4_096;
/// A new target is on the disk at once; counts of known ones this often, at least.
const WRITE_EVERY_MILLIS: u64 = 60_000;

/// How a target was talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// A question to a name server.
    Dns,
    /// A TCP connection.
    Tcp,
    /// A TLS handshake.
    Tls,
    /// A request for a page.
    Http,
    /// A QUIC handshake.
    Quic,
    /// A look whether the network works, at one of the operator's reference hosts.
    Reference,
}

impl Manner {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http => "HTTP",
            Self::Quic => "QUIC",
            Self::Reference => "reference",
        }
    }
}

/// One thing talked to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The name shown or asked for; empty where none was.
    pub name: String,
    /// Address and port; empty where the operating system chose one of several.
    pub address: String,
    pub manner: Manner,
}

/// How often, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub first: UnixMillis,
    pub last: UnixMillis,
    pub count: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    targets: BTreeMap<Target, Times>,
    /// Targets that gave way.
    forgotten: u64,
    written: Option<UnixMillis>,
}

/// A line of the file, and of `touched --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub target: Target,
    #[serde(flatten)]
    pub times: Times,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    pub targets: Vec<Line>,
    /// Targets touched so long ago that they gave way to others.
    pub forgotten: u64,
}

/// What was kept, for people.
pub fn kept(state: &StateDir) -> Result<Kept, StateError> {
    let path = state.path(FILE);
    if !path.exists() {
        return Ok(Kept::default());
    }
    serde_json::from_str(&state.read(FILE)?)
        .map_err(|error| StateError::Malformed { path, detail: error.to_string() })
}

impl Touched {
    /// Goes on where the last run ended.
    pub fn load(state: &StateDir) -> Result<Self, StateError> {
        let Kept { targets, forgotten } = kept(state)?;
        let targets = targets.into_iter().map(|line| (line.target, line.times)).collect();
        Ok(Self { targets, forgotten, written: None })
    }

    /// Notes what a probe talked to; tells whether the file is to be written.
    pub fn note(&mut self, record: &ProbeRecord, now: UnixMillis) -> bool {
        let mut is_news = false;
        for target in targets_of(record) {
            let known = self.targets.entry(target).or_insert_with(|| {
                is_news = true;
                Times { first: now, last: now, count: 0 }
            });
            known.count = known.count.saturating_add(1);
            known.last = now;
        }
        while self.targets.len() > TARGETS_MAX {
            let oldest =
                self.targets.iter().min_by_key(|(_, times)| times.last).map(|(target, _)| target.clone());
            self.targets.remove(&oldest.expect("there are too many, so there is one"));
            self.forgotten += 1;
        }
        let is_due = self.written.is_none_or(|written| now.0.abs_diff(written.0) >= WRITE_EVERY_MILLIS);
        if is_news || is_due {
            self.written = Some(now);
        }
        is_news || is_due
    }

    /// What is to be written.
    pub fn to_kept(&self) -> Kept {
        let line = |(target, times): (&Target, &Times)| Line { target: target.clone(), times: *times };
        Kept { targets: self.targets.iter().map(line).collect(), forgotten: self.forgotten }
    }
}

/// Writes the file whole.
pub fn write(state: &StateDir, kept: &Kept) -> Result<(), StateError> {
    state.write(FILE, &serde_json::to_vec(kept).expect("texts and numbers are always JSON"))
}

/// Everything a record says was talked to.
fn targets_of(record: &ProbeRecord) -> impl Iterator<Item = Target> {
    let target = |name: &str, address: SocketAddr, manner| Target {
        name: name.to_owned(),
        address: address.to_string(),
        manner,
    };
    let host = record.url.host();
    let dns = record.dns.iter().map(move |step| target(&step.name, step.server, Manner::Dns));
    let tcp = record.tcp.iter().map(move |step| target("", step.address, Manner::Tcp));
    let tls = record
        .tls
        .iter()
        .map(move |step| target(step.sni.as_deref().unwrap_or_default(), step.address, Manner::Tls));
    let hops = record.hops.iter().map(move |hop| target(&host, hop.address, Manner::Tls));
    let http = record.http.iter().map(move |step| target(&step.url.host(), step.address, Manner::Http));
    let quic = record.quic.iter().map(move |step| target(&step.sni, step.address, Manner::Quic));
    let by_name = |name: &str, manner| Target { name: name.to_owned(), address: String::new(), manner };
    let references = record.references.iter().map(move |check| by_name(&check.url.host(), Manner::Reference));
    dns.chain(tcp).chain(tls).chain(hops).chain(http).chain(quic).chain(references)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{
        Arm, Cause, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, QueryType, ReferenceCheck,
        ResolverKind, Span, TcpConnect, TcpOutcome,
    };
    use zerkalo_core::target::{ReferenceSide, TargetUrl};

    fn record(server: &str, address: &str) -> ProbeRecord {
        let url = TargetUrl::parse("https://mirror.example/").unwrap();
        let question = DnsExchange {
            resolver: ResolverKind::System,
            server: server.parse().unwrap(),
            transport: DnsTransport::Udp,
            name: "mirror.example".to_owned(),
            query: QueryType::A,
            span: Span::default(),
            outcome: DnsOutcome::Timeout,
            others: vec![],
            detail: DnsDetail::default(),
        };
        let connect = TcpConnect {
            arm: Arm::Main,
            address: address.parse().unwrap(),
            span: Span::default(),
            outcome: TcpOutcome::Timeout,
            transport: None,
        };
        let reference = ReferenceCheck {
            side: ReferenceSide::Foreign,
            url: TargetUrl::parse("https://reference.example/").unwrap(),
            checked_at: UnixMillis(1),
            reached: true,
            failure: None,
        };
        ProbeRecord {
            clock: None,
            mirror: None,
            url,
            list_version: 1,
            cause: Cause::Scheduled,
            started_at: UnixMillis(0),
            duration_micros: 0,
            agent_version: String::new(),
            dns: vec![question],
            tcp: vec![connect],
            tls: vec![],
            http: vec![],
            quic: vec![],
            references: vec![reference],
            network: None,
            hops: vec![],
            screenshot: None,
            uplink: None,
        }
    }

    #[test]
    fn new_targets_are_written_at_once_and_known_ones_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        let mut touched = Touched::load(&state).unwrap();
        let visit = record("192.0.2.53:53", "192.0.2.1:443");
        assert!(touched.note(&visit, UnixMillis(1_000)));
        assert!(!touched.note(&visit, UnixMillis(2_000)), "nothing is new");
        assert!(
            touched.note(&record("192.0.2.53:53", "192.0.2.2:443"), UnixMillis(3_000)),
            "an address is new"
        );
        assert!(touched.note(&visit, UnixMillis(3_000 + WRITE_EVERY_MILLIS)), "the counts are old");
        write(&state, &touched.to_kept()).unwrap();
        let again = Touched::load(&state).unwrap();
        assert_eq!(again.targets, touched.targets);
        let lines = kept(&state).unwrap().targets;
        let found = |name: &str, address: &str, manner| {
            lines.iter().find(|line| {
                (line.target.name.as_str(), line.target.address.as_str(), line.target.manner)
                    == (name, address, manner)
            })
        };
        let asked = found("mirror.example", "192.0.2.53:53", Manner::Dns).unwrap();
        assert_eq!(
            (asked.times.count, asked.times.first, asked.times.last),
            (4, UnixMillis(1_000), UnixMillis(63_000))
        );
        assert_eq!(found("", "192.0.2.2:443", Manner::Tcp).unwrap().times.count, 1);
        assert!(found("reference.example", "", Manner::Reference).is_some());
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn what_was_not_touched_for_the_longest_gives_way_and_is_counted() {
        let mut touched = Touched::default();
        for port in 0..u64::try_from(TARGETS_MAX).unwrap() {
            let address = format!("192.0.{}.{}:443", port / 256, port % 256);
            touched.note(&record("192.0.2.53:53", &address), UnixMillis(port));
        }
        let kept = touched.to_kept();
        // The resolver and the reference stay, being touched each time.
        assert_eq!((kept.targets.len(), kept.forgotten), (TARGETS_MAX, 2));
        assert!(kept.targets.iter().all(|line| line.target.address != "192.0.0.1:443"));
    }

    #[test]
    fn a_damaged_file_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        state.write(FILE, b"{").unwrap();
        assert!(Touched::load(&state).unwrap_err().to_string().contains("touched.json"));
    }
}
