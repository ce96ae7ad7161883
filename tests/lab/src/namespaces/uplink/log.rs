//! What an agent's log tells while it runs: records measured and acknowledged, streams opened and lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Between two looks at a log that grows.
const POLL: Duration = Duration::from_millis(20);
/// Lines shown of a log that did not say what was waited for.
const TAIL_LINES: usize = 25;

/// An agent's log, in JSON.
#[derive(Debug)]
pub struct AgentLog(PathBuf);

/// What it says so far.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The last record measured, and the last acknowledged.
    pub measured: u64,
    pub acked: u64,
    /// Streams lost.
    pub lost: usize,
    /// What carries the last stream opened.
    pub transport: String,
    /// The longest connection that was recycled, in bytes either way, and how many were.
    pub recycled_bytes_max: u64,
    pub recycled: usize,
    /// Bytes up and down when the first welcome came.
    pub greeting: Option<(u64, u64)>,
    /// Whether a certificate was refused and its issuer named.
    pub is_interception_named: bool,
}

impl AgentLog {
    /// The log at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Reads it from the beginning.
    pub fn seen(&self) -> Seen {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut seen = Seen::default();
        for line in text.lines() {
            // The last line may be half written.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            seen.note(&line["fields"]);
        }
        seen
    }

    /// Waits until it says so.
    pub async fn becomes(&self, what: &str, limit: Duration, is_so: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let waiting = async {
            loop {
                let seen = self.seen();
                if is_so(&seen) {
                    return seen;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(seen) => Ok(seen),
            Err(_) => {
                let text = std::fs::read_to_string(&self.0).context("no log")?;
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                bail!("{what}: not within {} s; {:?}; the agent said:\n{tail}", limit.as_secs(), self.seen())
            }
        }
    }
}

impl Seen {
    fn note(&mut self, fields: &Value) {
        let number = |key: &str| fields[key].as_u64().unwrap_or(0);
        match fields["message"].as_str() {
            Some("measured") => self.measured = self.measured.max(number("sequence")),
            Some("acknowledged") => self.acked = self.acked.max(number("sequence")),
            Some("uplink open") => {
                self.transport = fields["transport"].as_str().unwrap_or_default().to_owned();
                self.greeting.get_or_insert((number("sent"), number("received")));
            }
            Some("connection recycled") => {
                self.recycled += 1;
                let longer = number("sent").max(number("received"));
                self.recycled_bytes_max = self.recycled_bytes_max.max(longer);
            }
            Some("uplink lost") => {
                self.lost += 1;
                let said = fields["error"].as_str().unwrap_or_default();
                let is_named = said.contains("vouched for by") && said.contains("ISCA");
                self.is_interception_named |= is_named;
            }
            _ => {}
        }
    }
}
