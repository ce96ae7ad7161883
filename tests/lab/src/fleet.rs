//! A real collector and real agents as child processes: a control, and owners' agents in the carriers' networks.
//!
//! Enrolled with real tokens, configured through real files. What they measure is the lab's internet.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zerkalo_core::words::{CarrierId, Station, UnixMillis};

use crate::internet::{Internet, PLACES, Place};
use crate::operator::Operator;
use crate::process::{Home, Process, program};

/// Owners in each carrier's network: a cell needs two of three.
pub const OWNERS_PER_CARRIER: usize = 3;
/// Agents of the whole crew: the control and the owners'.
pub const AGENTS: usize = 1 + PLACES.len() * OWNERS_PER_CARRIER;

/// Who hosts the control.
const CONTROL_OWNER: &str = "control-host";
/// Where the collector listens: not 127.0.0.1, whose ports outgoing connections take.
const COLLECTOR_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 81);
/// Enrolments at once: they are processes on perhaps two cores.
const ENROLMENTS_AT_ONCE: usize = 4;
/// How long a collector may take to answer.
const START_MAX: Duration = Duration::from_secs(180);
/// Between looks at a starting collector.
const START_POLL: Duration = Duration::from_millis(50);

/// A collector of one's own, in a directory that goes with it.
pub struct Collector {
    process: Process,
    operator: Operator,
    // Last: the directory goes after the process that writes to it.
    home: Home,
}

/// The whole fleet; ends when dropped.
pub struct Fleet {
    agents: Vec<Process>,
    collector: Collector,
}

/// How often agents measure, how long they wait, and by which policies markets decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tempo {
    /// Seconds between probes of one mirror.
    pub interval_secs: u64,
    /// Deadline of a probe's main arm, in seconds.
    pub timeout_secs: u64,
    pub policies: Policies,
    pub control: ControlVisits,
}

/// Whether a control goes to the addresses that field agents got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlVisits {
    /// On loopback the censor sits at the address: a control would meet it there too.
    OwnAddresses,
    /// As shipped; the censors must be told to let it pass ([`Internet::exempt`]).
    FieldAddresses,
}

/// Which policies a collector is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// The shipped ones with seconds for minutes.
    Hurried,
    /// None: it decides by those shipped.
    Shipped,
}

impl Tempo {
    /// While one watches: loopback answers in milliseconds, a busy machine in tenths of a second.
    pub const HURRIED: Self = Self {
        interval_secs: 2,
        timeout_secs: 2,
        policies: Policies::Hurried,
        control: ControlVisits::OwnAddresses,
    };
    /// As agents and collectors run where nobody configured them.
    pub const SHIPPED: Self = Self {
        interval_secs: 60,
        timeout_secs: 20,
        policies: Policies::Shipped,
        control: ControlVisits::FieldAddresses,
    };
}

/// Where decisions are announced.
#[derive(Debug, Clone, Copy)]
pub struct WebhookTarget<'a> {
    pub url: &'a str,
    pub secret: &'a str,
}

impl Collector {
    /// Initialises a directory, configures it for the lab and serves it.
    pub async fn start(webhook: Option<WebhookTarget<'_>>) -> Result<Self> {
        Self::start_with(webhook, Policies::Hurried).await
    }

    /// The same with other policies.
    pub async fn start_with(webhook: Option<WebhookTarget<'_>>, policies: Policies) -> Result<Self> {
        Self::start_changed(webhook, policies, |_| {}).await
    }

    /// The same with whatever else `change` writes into its settings.
    pub async fn start_changed(
        webhook: Option<WebhookTarget<'_>>,
        policies: Policies,
        change: impl FnOnce(&mut toml::Table),
    ) -> Result<Self> {
        Self::start_in(Home::create()?, webhook, policies, change).await
    }

    /// The same in memory, where the machine lends some: nothing waits for a disk.
    pub async fn start_in_memory() -> Result<Self> {
        let home = Home::create_in(Path::new(MEMORY)).or_else(|_| Home::create())?;
        Self::start_in(home, None, Policies::Hurried, |_| {}).await
    }

    /// Ends it, and serves its directory anew from where other collectors' lie.
    pub async fn settle(mut self) -> Result<Self> {
        self.kill().await?;
        let home = Home::create()?;
        let dir = home.path().join("collector");
        copy(&self.dir(), &dir).context("the collector's directory cannot be copied")?;
        let mut collector = Self { process: serve(&dir, &home)?, operator: self.operator, home };
        collector.wait_until_serving().await?;
        Ok(collector)
    }

    async fn start_in(
        home: Home,
        webhook: Option<WebhookTarget<'_>>,
        policies: Policies,
        change: impl FnOnce(&mut toml::Table),
    ) -> Result<Self> {
        let program = program("zerkalo-collector")?;
        let dir = home.path().join("collector");
        let log = home.path().join("collector.log");
        init(&program, &dir, &log).await?;
        configure(&dir, webhook, policies, change).context("cannot configure the collector")?;
        let operator = Operator::from_file(&dir.join("operator/operator.toml"))?;
        let mut collector = Self { process: serve(&dir, &home)?, operator, home };
        collector.wait_until_serving().await?;
        Ok(collector)
    }

    /// The operator's line to it.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Its own directory.
    pub fn dir(&self) -> PathBuf {
        self.home.path().join("collector")
    }

    /// The directory everything of this run lies in.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process; `None` once it ended.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Serves the same directory again, after [`Collector::kill`]; does not wait until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.start_again()
    }

    /// The same, and waits until it answers.
    pub async fn serve_again(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_until_serving().await
    }

    /// Fails, with the end of its log, if it is no longer running.
    pub fn require_running(&mut self) -> Result<()> {
        self.process.require_running()
    }

    async fn wait_until_serving(&mut self) -> Result<()> {
        let waiting = async {
            loop {
                self.process.require_running()?;
                if self.operator.agents().await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(START_POLL).await;
            }
        };
        tokio::time::timeout(START_MAX, waiting).await.context("the collector does not answer")?
    }
}

/// Someone who hosts an agent: a name, and a carrier of [`PLACES`] or none for the control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub owner: String,
    pub place: Option<Place>,
    pub browser: Browser,
}

/// Whether a host's agent takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Browser {
    /// A fleet of browsers would be another load than a fleet of agents.
    Absent,
    /// As root Chromium runs no other way.
    Unsandboxed,
}

/// Where Linux lends memory as a file system.
const MEMORY: &str = "/dev/shm";
/// Where Debian's Chromium lies.
pub const BROWSER: &str = "/usr/bin/chromium";

/// The control and [`OWNERS_PER_CARRIER`] owners at each of `places`.
pub fn crew(places: &[Place]) -> Vec<Host> {
    let owners = places.iter().flat_map(|place| {
        (1..=OWNERS_PER_CARRIER).map(|number| Host {
            owner: format!("{}-owner-{number}", place.carrier),
            place: Some(*place),
            browser: Browser::Absent,
        })
    });
    let control = Host { owner: CONTROL_OWNER.to_owned(), place: None, browser: Browser::Absent };
    std::iter::once(control).chain(owners).collect()
}

impl Fleet {
    /// Starts a collector and the agents of `hosts`, and puts the lab's mirror list in force.
    pub async fn start(
        internet: &Internet,
        webhook: Option<WebhookTarget<'_>>,
        hosts: &[Host],
    ) -> Result<Self> {
        Self::start_with(&program("zerkalo-agent")?, Tempo::HURRIED, internet, webhook, hosts).await
    }

    /// The same with an agent program of another build, or at another tempo.
    pub async fn start_with(
        program: &Path,
        tempo: Tempo,
        internet: &Internet,
        webhook: Option<WebhookTarget<'_>>,
        hosts: &[Host],
    ) -> Result<Self> {
        let collector = Collector::start_with(webhook, tempo.policies).await?;
        collector.operator.put_list(&internet.list(1, now())).await.context("the mirror list was refused")?;
        let ca_file = collector.home().join("lab-ca.pem");
        std::fs::write(&ca_file, internet.ca_pem())?;
        let turns = Arc::new(Semaphore::new(ENROLMENTS_AT_ONCE));
        let mut starting = JoinSet::new();
        for host in hosts {
            let seat = Seat::new(host, internet, tempo)?;
            let dir = collector.home().join("agents").join(&seat.owner);
            let (operator, turns) = (collector.operator.clone(), Arc::clone(&turns));
            let (program, ca_file) = (program.to_owned(), ca_file.clone());
            starting.spawn(async move {
                let _turn = turns.acquire().await?;
                seat.enrol_and_run(&operator, &program, &dir, &ca_file).await
            });
        }
        let mut agents = Vec::with_capacity(hosts.len());
        while let Some(started) = starting.join_next().await {
            agents.push(started??);
        }
        Ok(Self { agents, collector })
    }

    /// The collector.
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// The collector, to be killed and served again.
    pub fn collector_mut(&mut self) -> &mut Collector {
        &mut self.collector
    }

    /// The process of the control.
    pub fn control(&self) -> Option<u32> {
        let is_it = |agent: &&Process| agent.name() == agent_name(CONTROL_OWNER);
        self.agents.iter().find(is_it)?.pid()
    }

    /// The agents' processes, to be killed and started again.
    pub fn agents_mut(&mut self) -> &mut [Process] {
        &mut self.agents
    }

    /// Fails, with the end of its log, if a process ended by itself.
    pub fn require_running(&mut self) -> Result<()> {
        self.collector.require_running()?;
        self.agents.iter_mut().try_for_each(Process::require_running)
    }
}

/// One agent to be: who hosts it, where, and through which resolvers it sees the lab.
#[derive(Debug)]
struct Seat {
    owner: String,
    station: Station,
    resolver: SocketAddr,
    public_resolver: SocketAddr,
    browser: Browser,
    tempo: Tempo,
}

impl Seat {
    fn new(host: &Host, internet: &Internet, tempo: Tempo) -> Result<Self> {
        let (station, network) = match host.place {
            None => (Station::Control, internet.control()),
            Some(place) => {
                let network = internet.carrier(place.carrier).context("the place has no network")?;
                let carrier = CarrierId::parse(place.carrier)?;
                (Station::Field { carrier, access: place.access }, network)
            }
        };
        let (resolver, public_resolver) = (network.resolver(), network.public_resolver());
        let owner = host.owner.clone();
        Ok(Self { owner, station, resolver, public_resolver, browser: host.browser, tempo })
    }

    async fn enrol_and_run(
        self,
        operator: &Operator,
        program: &Path,
        dir: &Path,
        ca_file: &Path,
    ) -> Result<Process> {
        std::fs::create_dir_all(dir)?;
        let token = operator.create_token(&self.owner, &self.station).await.context("no token was given")?;
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let (token_file, config, state, log) =
            (path("token"), path("agent.toml"), path("state"), dir.join("log"));
        std::fs::write(&token_file, &token)?;
        std::fs::write(&config, self.agent_toml(ca_file))?;
        let url = url_of(&token).context("the token names no collector")?;
        let enrol = ["enroll", &url, "--token-file", &token_file, "--dir", &state, "--accept", "1"];
        Process::start(&format!("enrolment of {}", self.owner), program, &enrol, &log)?.succeed().await?;
        let run = ["run", "--dir", &state, "--config", &config];
        Process::start(&agent_name(&self.owner), program, &run, &log)
    }

    fn agent_toml(&self, ca_file: &Path) -> String {
        let Tempo { interval_secs, timeout_secs, control, .. } = self.tempo;
        let visits = control == ControlVisits::FieldAddresses;
        let pictures = match self.browser {
            Browser::Absent => "browser = \"none\"".to_owned(),
            Browser::Unsandboxed => format!("browser = \"{BROWSER}\"\nsandbox = false"),
        };
        format!(
            "field_addresses = {visits}\ninterval_secs = {interval_secs}\ntimeout_secs = {timeout_secs}\nallow_special_ranges = true\n\
             ca_file = {:?}\n\n[resolvers]\nsystem = [\"{}\"]\npublic = \"{}\"\n\n[pictures]\n{pictures}\n",
            ca_file.to_string_lossy(),
            self.resolver,
            self.public_resolver
        )
    }
}

fn serve(dir: &Path, home: &Home) -> Result<Process> {
    let args = ["serve", &dir.to_string_lossy()];
    let log = home.path().join("collector.log");
    Process::start("zerkalo-collector serve", &program("zerkalo-collector")?, &args, &log)
}

/// A directory and all in it.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, from.metadata()?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

async fn init(program: &Path, dir: &Path, log: &Path) -> Result<()> {
    let name = COLLECTOR_ADDRESS.to_string();
    let [agents, operators, metrics] = free_addresses()?.map(|address| address.to_string());
    let dir = dir.to_string_lossy();
    let args = [
        "init",
        &dir,
        "--name",
        &name,
        "--agents-listen",
        &agents,
        "--operators-listen",
        &operators,
        "--metrics-listen",
        &metrics,
    ];
    Process::start("zerkalo-collector init", program, &args, log)?.succeed().await
}

fn agent_name(owner: &str) -> String {
    format!("agent of {owner}")
}

/// Adds the lab's policies and the webhook to what `init` wrote.
fn configure(
    dir: &Path,
    webhook: Option<WebhookTarget<'_>>,
    policies: Policies,
    change: impl FnOnce(&mut toml::Table),
) -> Result<()> {
    let file = dir.join("collector.toml");
    let mut tree: toml::Table = std::fs::read_to_string(&file)?.parse()?;
    if policies == Policies::Hurried {
        std::fs::create_dir_all(dir.join("policies"))?;
        std::fs::write(dir.join("policies/ru.toml"), include_str!("policy/ru.toml"))?;
        std::fs::write(dir.join("policies/kz.toml"), include_str!("policy/kz.toml"))?;
        let files = ["policies/ru.toml", "policies/kz.toml"].map(toml::Value::from).to_vec();
        let data = toml::Table::from_iter([("policies".to_owned(), files.into())]);
        tree.insert("data".to_owned(), data.into());
    }
    if let Some(webhook) = webhook {
        std::fs::write(dir.join("webhook.secret"), webhook.secret)?;
        let keys = [("url", webhook.url), ("secret_file", "webhook.secret")];
        let keys = keys.map(|(key, value)| (key.to_owned(), toml::Value::from(value)));
        tree.insert("webhook".to_owned(), toml::Table::from_iter(keys).into());
    }
    change(&mut tree);
    Ok(std::fs::write(file, toml::to_string(&tree)?)?)
}

/// Three addresses nobody listens on: held all at once, so that they differ.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((COLLECTOR_ADDRESS, 0));
    let held = [bind()?, bind()?, bind()?];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// The first collector URL a token names.
pub fn url_of(token: &str) -> Option<String> {
    let token = crate::signer::read_token(token)?;
    token.urls.into_iter().next()
}

/// The wall clock.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
