//! What a probe costs: round trips on a path with a real delay, memory and CPU of an agent at work, and the same page
//! fetched by other tools. Ratios of one run on one machine; nothing here is a test.

pub mod usage;
pub mod line;
pub mod path;
pub mod agent;
pub mod peers;

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use agent::AgentCost;
use path::PathCost;
use peers::PeerCost;

/// Largest agent that boxes on somebody's line are asked to keep: its file, and its resident memory between probes.
pub const FILE_BYTES_MAX: u64 = 6_000_000;
/// See [`FILE_BYTES_MAX`].
pub const IDLE_RSS_BYTES_MAX: u64 = 8_000_000;

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub struct SpeedReport {
    /// Stripped size of the agent's file, in bytes.
    pub agent_file_bytes: u64,
    /// Whether the file needs no shared library.
    pub is_static: bool,
    /// `None` without root.
    pub path: Option<PathCost>,
    pub agent: AgentCost,
    /// One process or one request a probe, the same page of the same server.
    pub peers: Vec<PeerCost>,
}

impl SpeedReport {
    /// What is larger than it may be, in words; ratios have no limit, for they differ by machine.
    pub fn excesses(&self) -> Vec<String> {
        let limits = [
            ("the agent's file", self.agent_file_bytes, FILE_BYTES_MAX),
            ("its memory between probes", self.agent.idle_rss_bytes, IDLE_RSS_BYTES_MAX),
        ];
        let beyond = limits.into_iter().filter(|(_, bytes, max)| bytes > max);
        beyond.map(|(what, bytes, max)| format!("{what} takes {bytes} bytes; {max} are the most")).collect()
    }
}

/// Measures with the agent at `program`, one thing after the other: they would disturb each other.
pub async fn run(program: &Path) -> Result<SpeedReport> {
    let path = if path::missing().is_empty() { Some(path::measure(program).await?) } else { None };
    let peers = peers::measure(program).await?;
    let agent = agent::measure(program).await?;
    let (agent_file_bytes, is_static) = (std::fs::metadata(program)?.len(), is_static(program)?);
    Ok(SpeedReport { agent_file_bytes, is_static, path, agent, peers })
}

/// Whether an ELF file names no interpreter: the loader that would bring in shared libraries.
fn is_static(program: &Path) -> Result<bool> {
    // The interpreter's path stands near the beginning of a file that has one.
    const HEAD_LEN: usize = 4_096;
    let file = std::fs::read(program)?;
    let head = &file[..file.len().min(HEAD_LEN)];
    Ok(!head.windows(8).any(|part| part == b"ld-linux" || part == b"/ld-musl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_named() {
        let agent = AgentCost {
            idle_rss_bytes: IDLE_RSS_BYTES_MAX,
            busy_rss_bytes: 0,
            probes: 1,
            probes_per_cpu_sec: 1.0,
        };
        let (agent_file_bytes, path, peers) = (FILE_BYTES_MAX, None, Vec::new());
        let fits = SpeedReport { agent_file_bytes, is_static: true, path, agent, peers };
        assert_eq!(fits.excesses(), Vec::<String>::new());
        let large = SpeedReport { agent_file_bytes: FILE_BYTES_MAX + 1, ..fits.clone() };
        assert!(large.excesses()[0].contains("6000001"), "{:?}", large.excesses());
        let agent = AgentCost { idle_rss_bytes: IDLE_RSS_BYTES_MAX + 1, ..fits.agent.clone() };
        assert!(SpeedReport { agent, ..fits }.excesses()[0].contains("memory"));
    }
}
