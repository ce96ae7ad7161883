//! The run of many scenarios over a few topologies at once: each takes the next one that waits. Whoever stops us stops
//! everything: what a run made goes with it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::certificates::Certificates;
use super::families;
use super::namespace::{self, Namespace};
use super::scenario::{Expected, Scenario, Visit};
use super::topology::Topology;
use super::visit::{Visited, visit};

/// Programs the second floor calls, with Debian's packages.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("iptables-legacy", "iptables"),
    ("ethtool", "ethtool"),
];

/// One visit judged against what was expected of it.
#[derive(Debug, Clone)]
pub struct Finding {
    pub family: &'static str,
    pub name: String,
    pub expected: Expected,
    pub planned: Option<&'static str>,
    pub visited: Visited,
}

impl Finding {
    /// Whether the verdict was as expected.
    pub fn is_right(&self) -> bool {
        self.expected.is_met_by(&self.visited.verdict)
    }

    /// Whether the run fails by it.
    pub fn is_failure(&self) -> bool {
        self.planned.is_none() && !self.is_right()
    }
}

/// What this machine lacks for the second floor, in words; empty if nothing.
pub fn missing() -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_found = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let mut missing: Vec<String> = TOOLS
        .iter()
        .filter(|(tool, _)| !is_found(tool))
        .map(|(tool, package)| format!("{tool} (package {package})"))
        .collect();
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        missing.push("root".to_owned());
    }
    if missing.is_empty()
        && let Err(error) = trial()
    {
        missing.push(format!("a kernel that lets it filter packets in namespaces ({error:#})"));
    }
    missing
}

/// Containers may be root and still may not.
fn trial() -> Result<()> {
    Namespace::create("trial")?.shell(
        "nft list ruleset
         iptables-legacy -A FORWARD -p tcp -m string --algo bm --string x -m connbytes --connbytes 1: --connbytes-dir reply --connbytes-mode bytes -j DROP
         ip link add trial type veth peer name other",
    )?;
    Ok(())
}

/// A visit that waits for a topology.
struct Job {
    order: usize,
    family: &'static str,
    name: String,
    visit: Visit,
    expected: Expected,
    planned: Option<&'static str>,
}

/// Plays every scenario that `is_wanted` names, with its twin, over `topologies` at once. `tell` hears each finding as
/// it comes; they are returned in the order of the families.
pub async fn play(
    topologies: usize,
    is_wanted: impl Fn(&str) -> bool,
    tell: impl Fn(&Finding) + Send + Sync + 'static,
) -> Result<Vec<Finding>> {
    namespace::sweep()?;
    let certificates = Certificates::generate()?;
    let mut jobs = jobs(is_wanted);
    let count = topologies.clamp(1, jobs.len().max(1));
    // The longest first: none of them is left alone at the end.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.visit.timeout_secs));
    let jobs = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let tell = Arc::new(tell);
    let mut workers = JoinSet::new();
    for number in 0..count {
        let (jobs, certificates, tell) = (jobs.clone(), certificates.clone(), tell.clone());
        workers.spawn(async move {
            let topology = Topology::build(number, &certificates).await?;
            let mut findings = Vec::new();
            while let Some(job) = take(&jobs) {
                let visited = visit(&topology, certificates.key_pin, &job.visit)
                    .await
                    .with_context(|| format!("scenario {}", job.name))?;
                let Job { family, name, expected, planned, .. } = job;
                let finding = Finding { family, name, expected, planned, visited };
                tell(&finding);
                findings.push((job.order, finding));
            }
            anyhow::Ok(findings)
        });
    }
    let mut findings = Vec::new();
    while let Some(done) = workers.join_next().await {
        findings.extend(done??);
    }
    findings.sort_by_key(|(order, _)| *order);
    Ok(findings.into_iter().map(|(_, finding)| finding).collect())
}

fn jobs(is_wanted: impl Fn(&str) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (family, name, scenario) in families::all().filter(|(_, name, _)| is_wanted(name)) {
        let Scenario { visit, expected, planned, twin } = scenario;
        let order = jobs.len();
        jobs.push(Job { order, family, name: name.to_owned(), visit, expected, planned });
        if let Some((visit, expected)) = twin {
            let name = format!("{name}, healthy twin");
            jobs.push(Job { order: order + 1, family, name, visit, expected, planned: None });
        }
    }
    jobs
}

fn take(jobs: &Mutex<VecDeque<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Writes a text, with the directories it needs.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
