//! One attack on one agent: everything set up, the censor begins, the records counted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::log::{AgentLog, Seen};
use super::scenarios::{COLLECTOR_URL, Cut, Expected, Scenario};
use crate::namespaces::addresses::{CANARY, COLLECTOR_ADDRESS, PUBLIC_RESOLVER};
use crate::namespaces::names::Lie;
use crate::namespaces::scenario::Place;
use crate::namespaces::topology::Topology;
use crate::process::{Home, Process, program};
use crate::stored;

/// Longest wait for anything that no censor disturbs.
const START_MAX: Duration = Duration::from_secs(180);
/// Longest switch-over measured; the aim is a sixth of it.
const SWITCH_MAX: Duration = Duration::from_secs(180);
/// Records delivered before the censor begins, and after records arrive again.
const RECORDS_BEFORE: u64 = 3;
/// See [`RECORDS_BEFORE`].
const RECORDS_AFTER: u64 = 12;
/// Between looks at a program that starts.
const POLL: Duration = Duration::from_millis(50);

/// What came of a trial.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub scenario: &'static str,
    /// From the censor's beginning to the ack of the first record measured after it.
    pub switched_after: Duration,
    pub acknowledged: u64,
    /// Acknowledged and not in the journal; in it twice.
    pub lost: u64,
    pub double: u64,
    pub seen: Seen,
    /// What was expected and is not so.
    pub faults: Vec<String>,
}

/// Plays one.
pub async fn play(topology: &Topology, scenario: &'static Scenario) -> Result<Outcome> {
    topology.apply(&[])?;
    let stage = Stage::set(topology, scenario).await?;
    let log = AgentLog::new(&stage.agent_log);
    log.becomes("the first records", START_MAX, |seen| seen.acked >= RECORDS_BEFORE).await?;
    let censor = topology.namespace(Place::Censor);
    let before = log.seen();
    let began = Instant::now();
    censor.shell(scenario.censor)?;
    if scenario.cut == Cut::Reset {
        cut(topology)?;
        log.becomes("the cut", START_MAX, |seen| seen.lost > before.lost).await?;
    }
    let measured = log.seen().measured.max(before.measured);
    // A freeze by length begins when the length is reached: then, and not before, the line is dead.
    let arrived = match scenario.cut {
        Cut::Reset => {
            log.becomes("records again", SWITCH_MAX, |seen| seen.acked > measured).await?;
            began.elapsed()
        }
        Cut::Left => dead_time(&log, before.lost, began).await?,
    };
    let again = log.seen().acked;
    log.becomes("more records", START_MAX, |seen| seen.acked >= again + RECORDS_AFTER).await?;
    let metrics = stage.metrics(topology)?;
    let seen = log.seen();
    let (lost, double) = stage.close(seen.acked).await?;
    let faults = faults(scenario.expected, &seen, &metrics);
    Ok(Outcome {
        scenario: scenario.name,
        switched_after: arrived,
        acknowledged: seen.acked,
        lost,
        double,
        seen,
        faults,
    })
}

/// Resets the agent's connection to the collector, and no other that follows.
fn cut(topology: &Topology) -> Result<()> {
    let asked = format!("ss -tnH state established dst {COLLECTOR_ADDRESS}");
    let open = topology.namespace(Place::Subscriber).shell(&asked)?;
    let port = open.split_whitespace().nth(2).and_then(|local| local.rsplit(':').next()?.parse::<u16>().ok());
    let port = port.with_context(|| format!("the agent has no connection to the collector: {open}"))?;
    let rule = format!("FORWARD -p tcp --sport {port} --dport 8443 -j REJECT --reject-with tcp-reset");
    topology.namespace(Place::Censor).shell(&format!("iptables-legacy -I {rule}")).map(drop)
}

/// How long no record arrived, the longest such time until the stream was lost and another delivers.
async fn dead_time(log: &AgentLog, lost_before: usize, began: Instant) -> Result<Duration> {
    let (mut acked, mut last_ack, mut longest) = (log.seen().acked, began, Duration::ZERO);
    loop {
        let known = acked;
        let seen = log.becomes("a record", SWITCH_MAX, |seen| seen.acked > known).await?;
        (acked, longest) = (seen.acked, longest.max(last_ack.elapsed()));
        last_ack = Instant::now();
        if seen.lost > lost_before {
            return Ok(longest);
        }
        if began.elapsed() > SWITCH_MAX {
            bail!("the line goes on as if nobody disturbed it: {seen:?}");
        }
    }
}

fn faults(expected: Expected, seen: &Seen, metrics: &str) -> Vec<String> {
    let mut faults = Vec::new();
    match expected {
        Expected::Transport(wanted) if seen.transport != wanted => {
            faults.push(format!("records came by {:?} instead of {wanted:?}", seen.transport));
        }
        Expected::Short if seen.recycled == 0 => faults.push("no connection was recycled".to_owned()),
        Expected::Short if seen.recycled_bytes_max >= 12_000 => {
            faults.push(format!("a connection grew to {} bytes", seen.recycled_bytes_max));
        }
        Expected::Intercepted => {
            if !seen.is_interception_named {
                faults.push("the agent's log does not name who broke TLS open".to_owned());
            }
            let counted = "zerkalo_uplink_interceptions_total{code=\"state_ca\"} ";
            let count = metrics.lines().find_map(|line| line.strip_prefix(counted)?.parse::<u64>().ok());
            if count.unwrap_or(0) == 0 {
                faults.push("the collector does not count the interception".to_owned());
            }
        }
        _ => {}
    }
    faults
}

/// The programs of one trial.
struct Stage {
    agent: Process,
    relay: Process,
    collector: Process,
    agent_log: PathBuf,
    journal: PathBuf,
    // Last: the directory goes after the processes that write to it.
    _home: Home,
}

impl Stage {
    /// A collector abroad, a relay at home, an agent enrolled and at work.
    async fn set(topology: &Topology, scenario: &Scenario) -> Result<Self> {
        let home = Home::create()?;
        let at = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        let world = topology.namespace(Place::World).name().to_owned();
        let subscriber = topology.namespace(Place::Subscriber).name().to_owned();
        let censor = topology.namespace(Place::Censor).name().to_owned();
        let collector_program = program("zerkalo-collector")?.to_string_lossy().into_owned();
        let dir = at("collector");
        init(topology, &collector_program, &dir, scenario)?;
        let path = home.path().join("collector.log");
        let collector = inside(&world, &[&collector_program, "serve", &dir], &path)?;
        let operator = at("collector/operator/operator.toml");
        let zerkalo = program("zerkalo")?.to_string_lossy().into_owned();
        let ask = |arguments: &str| {
            let command = format!("{zerkalo} --config {operator} {arguments}");
            topology.namespace(Place::World).shell(&command)
        };
        wait_for("the collector", || ask("agents ls").is_ok()).await?;
        ask(&format!("mirrors add http://neighbour.lab.test/ --market ru --unverified --canary {CANARY}"))?;
        let token = at("token");
        ask(&format!(
            "tokens create --owner subscriber --carrier ru-rostelecom --access fixed --out {token}"
        ))?;
        let to = format!("{COLLECTOR_ADDRESS}:8443");
        let relay = [collector_program.as_str(), "relay", "--listen", "198.18.0.1:9443", "--to", &to];
        let relay = inside(&censor, &relay, &home.path().join("relay.log"))?;
        let (config, resolv, state) = (at("agent.toml"), at("resolv.conf"), at("agent"));
        std::fs::write(&resolv, format!("nameserver {}\n", Lie::None.resolver()))?;
        std::fs::write(&config, agent_toml(topology, scenario))?;
        let agent_program = program("zerkalo-agent")?.to_string_lossy().into_owned();
        // The agent asks the system's resolver for the collector: that of the subscriber's carrier.
        let as_subscriber = [
            "sh",
            "-c",
            "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"",
            &resolv,
            "env",
            "ZERKALO_LOG=info,zerkalo_agent=debug",
            &agent_program,
        ];
        let agent_log = home.path().join("agent.log");
        let enrol = ["enroll", COLLECTOR_URL, "--token-file", &token, "--dir", &state, "--accept", "1"];
        let enrol = [&as_subscriber[..], &enrol].concat();
        inside(&subscriber, &enrol, &home.path().join("enrol.log"))?.succeed().await?;
        let run = [&as_subscriber[..], &["run", "--dir", &state, "--config", &config]].concat();
        let agent = inside(&subscriber, &run, &agent_log)?;
        let journal = home.path().join("collector/journal");
        Ok(Self { agent, relay, collector, agent_log, journal, _home: home })
    }

    fn metrics(&self, topology: &Topology) -> Result<String> {
        // No tool for HTTP is needed: bash speaks it.
        let ask = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464; printf \"GET /metrics HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\" >&3; cat <&3'";
        Ok(topology.namespace(Place::World).shell(ask)?.replace('\r', ""))
    }

    /// Ends all; records lost and double in the journal.
    async fn close(mut self, acknowledged: u64) -> Result<(u64, u64)> {
        for process in [&mut self.agent, &mut self.relay, &mut self.collector] {
            process.require_running()?;
            process.kill().await?;
        }
        count(&self.journal, acknowledged)
    }
}

fn init(topology: &Topology, program: &str, dir: &str, scenario: &Scenario) -> Result<()> {
    topology.namespace(Place::World).shell(&format!(
        "{program} init {dir} --name {COLLECTOR_ADDRESS} --name collector.lab.test \
         --agents-listen {COLLECTOR_ADDRESS}:8443 --quic-listen {COLLECTOR_ADDRESS}:8445 \
         --operators-listen {COLLECTOR_ADDRESS}:8444 --metrics-listen 127.0.0.1:9464"
    ))?;
    let file = Path::new(dir).join("collector.toml");
    let mut tree: toml::Table = std::fs::read_to_string(&file)?.parse()?;
    let agents = tree.get_mut("agents").and_then(toml::Value::as_table_mut).context("[agents] is missing")?;
    let urls: Vec<toml::Value> = scenario.urls.iter().map(|url| toml::Value::from(*url)).collect();
    agents.insert("public_urls".to_owned(), urls.into());
    agents.insert("relays".to_owned(), vec![toml::Value::from("198.18.1.1")].into());
    Ok(std::fs::write(file, toml::to_string(&tree)?)?)
}

fn agent_toml(topology: &Topology, scenario: &Scenario) -> String {
    // The address it enrolled at would come first otherwise.
    let urls = scenario.urls;
    format!(
        "interval_secs = 1\ntimeout_secs = 3\nallow_special_ranges = true\nca_file = {:?}\n\n[resolvers]\nsystem = [\"{}\"]\n\
         public = \"{PUBLIC_RESOLVER}\"\npublic_dot = \"none\"\npublic_doh = \"none\"\n\n[pictures]\nbrowser = \"none\"\n\n\
         [log]\nformat = \"json\"\n\n[collector]\nurls = {urls:?}\n",
        topology.root_pem().to_string_lossy(),
        Lie::None.resolver(),
    )
}

/// Starts a command in a namespace.
fn inside(namespace: &str, command: &[&str], log: &Path) -> Result<Process> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ip = std::env::split_paths(&path).map(|dir| dir.join("ip")).find(|ip| ip.is_file());
    let ip = ip.context("ip is not installed (package iproute2)")?;
    let args = [&["netns", "exec", namespace][..], command].concat();
    Process::start(&command.join(" "), &ip, &args, log)
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        ensure!(began.elapsed() < START_MAX, "{what} does not answer");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Records acknowledged that the journal lacks, and records that stand in it twice.
fn count(journal: &Path, acknowledged: u64) -> Result<(u64, u64)> {
    let stored = stored::read(journal)?;
    let found: BTreeSet<(u64, u64)> =
        stored.records.iter().map(|(_, epoch, sequence)| (*epoch, *sequence)).collect();
    let lost = (1..=acknowledged).filter(|sequence| !found.contains(&(1, *sequence))).count() as u64;
    Ok((lost, stored.double))
}
