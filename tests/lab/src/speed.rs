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
