//! CPU for one look at the same page of the same server: the agent's `probe` command, `curl`, and Debian's
//! `prometheus-blackbox-exporter`. The agent alone asks a resolver, keeps the chain, searches and digests the page, and
//! writes a record; the others are given the address.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::usage::{cpu_of, cpu_of_ended_children};
use crate::internet::Internet;
use crate::process::{Home, Process};

/// Looks of each tool.
const LOOKS: u32 = 100;
/// How long the exporter may take to listen.
const START_TRIES_MAX: usize = 100;
const START_POLL: Duration = Duration::from_millis(50);
/// Where Debian's package puts it.
const EXPORTER: &str = "prometheus-blackbox-exporter";

/// One tool's cost.
#[derive(Debug, Clone, Serialize)]
pub struct PeerCost {
    pub tool: String,
    /// `None` where the tool is not installed.
    pub probes_per_cpu_sec: Option<f64>,
}

/// Runs all tools, one after the other.
pub async fn measure(agent: &Path) -> Result<Vec<PeerCost>> {
    let internet = Internet::start().await?;
    let home = Home::create()?;
    let ca_file = home.path().join("ca.pem");
    std::fs::write(&ca_file, internet.ca_pem())?;
    let mirror = internet.list(1, zerkalo_core::words::UnixMillis(0)).mirrors.swap_remove(0);
    let front = internet.control().fronts().next().context("the lab has no front")?;
    let site = Site { url: mirror.url.to_string(), host: mirror.url.host(), front, ca_file: &ca_file };
    // The lab's own servers run on this runtime: the tools run beside it.
    let resolver = internet.control().resolver();
    tokio::task::block_in_place(|| {
        Ok(vec![
            PeerCost {
                tool: "zerkalo-agent probe".into(),
                probes_per_cpu_sec: Some(ours(agent, &site, resolver)?),
            },
            PeerCost { tool: "curl".into(), probes_per_cpu_sec: curl(&site)? },
            PeerCost { tool: EXPORTER.into(), probes_per_cpu_sec: exporter(&site, home.path())? },
        ])
    })
}

/// What is looked at.
struct Site<'a> {
    url: String,
    host: String,
    front: SocketAddr,
    ca_file: &'a Path,
}

fn ours(agent: &Path, site: &Site<'_>, resolver: SocketAddr) -> Result<f64> {
    per_cpu_sec(|| {
        let mut command = Command::new(agent);
        command.args(["probe", &site.url, "--json", "--allow-special-ranges"]);
        command.args(["--resolver", &resolver.to_string()]).arg("--ca-file").arg(site.ca_file);
        command
    })
}

fn curl(site: &Site<'_>) -> Result<Option<f64>> {
    if !is_installed("curl") {
        return Ok(None);
    }
    let pinned = format!("{}:{}:{}", site.host, site.front.port(), site.front.ip());
    per_cpu_sec(|| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--output", "/dev/null", "--resolve", &pinned]);
        command.arg("--cacert").arg(site.ca_file).arg(&site.url);
        command
    })
    .map(Some)
}

/// Looks by processes of their own: their CPU time is known once they ended.
fn per_cpu_sec(command: impl Fn() -> Command) -> Result<f64> {
    let before = cpu_of_ended_children()?;
    for _ in 0..LOOKS {
        let output = command().stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{:?} failed: {}", command(), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    let used = cpu_of_ended_children()? - before;
    Ok(f64::from(LOOKS) / used.as_secs_f64())
}

fn exporter(site: &Site<'_>, home: &Path) -> Result<Option<f64>> {
    if !is_installed(EXPORTER) || !is_installed("curl") {
        return Ok(None);
    }
    let config = home.join("blackbox.yml");
    std::fs::write(
        &config,
        format!(
            "modules:\n  page:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n      \
             tls_config:\n        ca_file: {}\n        server_name: {}\n",
            site.ca_file.display(),
            site.host
        ),
    )?;
    let listen = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let config = format!("--config.file={}", config.display());
    let address = format!("--web.listen-address={listen}");
    let log = home.join("exporter.log");
    let program = which(EXPORTER).context("the exporter was here a moment ago")?;
    let mut process = Process::start(EXPORTER, &program, &[&config, &address], &log)?;
    let target = format!("http://{listen}/probe?module=page&target=https://{}/", site.front);
    let ask = || Command::new("curl").args(["--silent", "--fail", &target]).output();
    let mut tries = 0;
    while !ask()?.status.success() {
        process.require_running()?;
        tries += 1;
        if tries > START_TRIES_MAX {
            bail!("the exporter does not answer at {listen}");
        }
        std::thread::sleep(START_POLL);
    }
    let pid = process.pid().context("the exporter has ended")?;
    let before = cpu_of(pid)?;
    for _ in 0..LOOKS {
        let answer = String::from_utf8(ask()?.stdout)?;
        if !answer.contains("probe_success 1") {
            bail!("the exporter did not reach the page:\n{answer}");
        }
    }
    Ok(Some(f64::from(LOOKS) / (cpu_of(pid)? - before).as_secs_f64()))
}

fn is_installed(tool: &str) -> bool {
    which(tool).is_some()
}

fn which(tool: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file())
}
