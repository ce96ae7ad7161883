//! The command line: words in, exit status out. 0: done; 1: failed; 2: bad input; 3: this box is a copy of another;
//! 4: its host's consent is missing; 5: it was revoked.

mod host;

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use zerkalo_core::record::{Arm, Cause};
use zerkalo_core::target::{CANARY_LEN_MIN, Category, Reference, ReferenceSide, TargetUrl};
use zerkalo_core::words::{Access, CarrierId, MarketId};

use crate::allowance::Stage;
use crate::budget::HANDSHAKES_MAX;
use crate::clock;
use crate::config::{
    LogFormat, NEUTRAL_SNI_DEFAULT, Settings, TIMEOUT_DEFAULT_SECS, TIMEOUT_MAX_SECS, load_trust,
};
use crate::consent::{self, ConsentError};
use crate::enroll::{Application, Enrolled, Existing, enroll};
use crate::means;
use crate::papers::{self, Life};
use crate::probe::arms::OWN_ARMS;
use crate::probe::clock::micros;
use crate::probe::connect::Ranges;
use crate::probe::flow::Flow;
use crate::probe::hops;
use crate::probe::http::Reading;
use crate::probe::network::{self, Checked, Told};
use crate::probe::resolvers::{
    DohServer, Matrix, NamedServer, PUBLIC_DEFAULT, Resolvers, parse_doh, parse_dot, parse_server,
};
use crate::probe::{Assignment, EchLook, Neutral, OwnArms, ProbeSettings, StepCaps, measure};
use crate::run::{RunError, run};
use crate::show::{self, Colours};
use crate::state::StateDir;
use crate::token::Token;
use crate::uplink::{chain, wall_clock};

const STATE_DEFAULT: &str = "/var/lib/zerkalo-agent";
/// A few probes, which mostly wait, and one stream: a guest on somebody's box stays small.
const WORKER_THREADS: usize = 2;
/// Threads for the disk, and for names where hickory has no resolver.
const BLOCKING_THREADS_MAX: usize = 4;
/// Exit status for input that cannot be used, as clap has it.
const BAD_INPUT: u8 = 2;
/// Exit status where the collector says that two boxes share one name.
const CLONED: u8 = 3;
/// Exit status where the host has not agreed, or agrees no more.
const NO_CONSENT: u8 = 4;
/// Exit status where the operator has revoked this box.
const EXPELLED: u8 = 5;

/// Measures the operator's mirrors from this box.
#[derive(Debug, Parser)]
#[command(name = "zerkalo-agent", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a one-time token into this box's identity.
    Enroll(EnrollArgs),
    /// Measure by the operator's list and send records to the collector, until stopped.
    Run(RunArgs),
    /// Show who this box is, and what is left of the day's bytes.
    Status(StatusArgs),
    /// What this box is used for: show the terms, accept them, withdraw.
    #[command(subcommand)]
    Consent(host::ConsentCommand),
    /// List every address this box has talked to.
    Touched(host::TouchedArgs),
    /// Measure one URL now and print what happened; needs no collector and no enrolment.
    Probe(Box<ProbeArgs>),
    /// Keeps the browser of one picture; started by the agent itself, or by zerkalo-pictures.socket.
    #[cfg(feature = "screenshot")]
    #[command(name = crate::picture::camera::KEEPER_COMMAND, hide = true)]
    PictureKeeper(crate::picture::keeper::KeeperArgs),
}

#[derive(Debug, Args)]
struct EnrollArgs {
    /// The collector's address for agents, such as https://collector.example:8443; without it, those in the token.
    url: Option<String>,
    /// File with the token the operator gave you; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where the identity is kept.
    #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
    dir: PathBuf,
    /// Your carrier, such as kz-kcell; refused if the token is for another.
    #[arg(long)]
    carrier: Option<CarrierId>,
    /// How this box reaches it: fixed or mobile; refused if the token says otherwise.
    #[arg(long)]
    access: Option<Access>,
    /// Accept this version of the terms, which `zerkalo-agent consent show` prints: without it nothing is measured.
    #[arg(long, value_name = "VERSION")]
    accept: Option<u32>,
    /// Replace the identity this box already has; its unsent records are moved aside.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where the identity is kept.
    #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
    dir: PathBuf,
    /// This host's settings [default: /etc/zerkalo/agent.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Where the identity is kept.
    #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct ProbeArgs {
    /// What to measure, such as https://mirror.example/
    #[arg(value_parser = parse_url)]
    url: TargetUrl,
    /// Print the record as JSON instead of a step tree.
    #[arg(long)]
    json: bool,
    /// Ask this resolver instead of the system's (port 53 unless written). Given twice or more, the last one is asked
    /// as the public resolver; given once, no other is asked. Without it: the system's resolvers and 9.9.9.9.
    #[arg(long = "resolver", value_name = "IP[:PORT]", value_parser = parse_server)]
    resolvers: Vec<SocketAddr>,
    /// Ask this public resolver over TLS too, where the visit fails.
    #[arg(long, value_name = "NAME@IP[:PORT]", value_parser = parse_dot)]
    dot: Option<NamedServer>,
    /// Ask this public resolver over HTTPS too, where the visit fails.
    #[arg(long, value_name = "URL@IP", value_parser = parse_doh)]
    doh: Option<DohServer>,
    /// Ask this address too, at which no resolver runs, where the visit fails: an answer is somebody's on the way.
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_server)]
    nobody: Option<SocketAddr>,
    /// Trust the certificates in this PEM file instead of the public CAs.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Allow private and special addresses (laboratories); refused otherwise.
    #[arg(long)]
    allow_special_ranges: bool,
    /// The main arm's deadline; the comparisons after a failure get as much again.
    #[arg(long, value_name = "SECS", default_value_t = TIMEOUT_DEFAULT_SECS,
          value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MAX_SECS))]
    timeout: u64,
    /// Text that only the real page holds.
    #[arg(long, value_name = "TEXT", value_parser = parse_canary)]
    canary: Option<String>,
    /// Go to this address too, under the URL's own name, as a control does where another agent got it; may be given several
    /// times, up to eight.
    #[arg(long, value_name = "IP")]
    field_address: Vec<IpAddr>,
    /// Show a neutral name to the address before the mirror's own: for an address that nobody here tried for three
    /// minutes. Boxes may punish an address once they saw a name they look for; then a neutral name after it fails too.
    #[arg(long)]
    neutral_first: bool,
    /// The comparison under the mirror's own name that goes first after a failure: there is room for two of the four.
    #[arg(long, value_name = "ARM", default_value = "control-address", value_parser = parse_own_arm)]
    first_arm: usize,
    /// Find out where on the way the mirror's name is answered: it is shown again with a small TTL, rising, up to 16
    /// times, 20 s apart.
    #[arg(long)]
    hops: bool,
    /// Seconds between two such hellos: fewer may provoke boxes that police handshakes.
    #[arg(long, value_name = "SECS", default_value_t = hops::PAUSE_DEFAULT_SECS,
          value_parser = clap::value_parser!(u64).range(..=300))]
    hop_pause: u64,
    /// Your TLS server that answers any name, at an address no censor looks for: after a failure it is shown the
    /// mirror's name.
    #[arg(long, value_name = "IP:PORT")]
    control_address: Option<SocketAddr>,
    /// A host of your own that tells the state of this network, at home or abroad; checked once the probe is over. May be
    /// given several times.
    #[arg(long = "reference", value_name = "domestic|foreign=URL", value_parser = parse_reference)]
    references: Vec<Reference>,
    /// A page of 64 KiB or more at the same host, read after a visit that went through: freezes and throttling show on
    /// nothing smaller.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    large_page: Option<TargetUrl>,
    /// An object of about the same size at a host of your own, to compare the speed with.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    reference_object: Option<TargetUrl>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "screenshot")]
    if let Command::PictureKeeper(args) = &cli.command {
        return crate::picture::keeper::main(args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("zerkalo-agent: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (result, failure) = match cli.command {
        Command::Probe(args) => (runtime.block_on(probe_command(*args)), BAD_INPUT),
        Command::Enroll(args) => (runtime.block_on(enroll_command(args)), 1),
        Command::Status(args) => (status_command(&args), 1),
        Command::Consent(command) => (runtime.block_on(host::consent_command(command)), 1),
        Command::Touched(args) => (host::touched_command(&args), 1),
        Command::Run(args) => (runtime.block_on(run_command(args)), 1),
        #[cfg(feature = "screenshot")]
        Command::PictureKeeper(_) => unreachable!("answered above, before there is a runtime"),
    };
    // Nothing of the runtime's outlives the command; lookups by the C library may still block a thread.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zerkalo-agent: {}", chain(error.as_ref()));
            ExitCode::from(status_of(&error).unwrap_or(failure))
        }
    }
}

fn status_of(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<RunError>() {
        Some(RunError::Cloned(_)) => return Some(CLONED),
        Some(RunError::Expelled(_)) => return Some(EXPELLED),
        Some(RunError::Settings(_)) => return Some(BAD_INPUT),
        Some(RunError::Consent(_)) => return Some(NO_CONSENT),
        _ => {}
    }
    error.is::<crate::config::SettingsError>().then_some(BAD_INPUT)
}

async fn probe_command(args: ProbeArgs) -> anyhow::Result<()> {
    if !args.allow_special_ranges {
        args.url.require_public().context("this URL cannot be probed (see --allow-special-ranges)")?;
        if let Some(object) = &args.reference_object {
            object
                .require_public()
                .context("--reference-object cannot be read (see --allow-special-ranges)")?;
        }
    }
    if let Some(page) = args.large_page.as_ref().filter(|page| page.host() != args.url.host()) {
        anyhow::bail!("--large-page {page} is at another host than {}; it must be at the same", args.url);
    }
    let resolvers = match args.resolvers.as_slice() {
        [] if args.url.literal_address().is_some() => Resolvers::named(Vec::new(), None),
        [] => Resolvers::of_system(Some(PUBLIC_DEFAULT)).context("no resolver is known (see --resolver)")?,
        [only] => Resolvers::named(vec![*only], None),
        [system @ .., public] => Resolvers::named(system.to_vec(), Some(*public)),
    };
    let known = if args.resolvers.is_empty() { Matrix::of_public(PUBLIC_DEFAULT) } else { Matrix::default() };
    let matrix = Matrix {
        dot: args.dot.or(known.dot),
        doh: args.doh.or(known.doh),
        nobody: args.nobody.or(known.nobody),
        ..Matrix::default()
    };
    let settings = ProbeSettings {
        resolvers: resolvers.with(matrix),
        ranges: if args.allow_special_ranges { Ranges::Any } else { Ranges::PublicOnly },
        trust: load_trust(args.ca_file.as_deref())?,
        neutral_sni: NEUTRAL_SNI_DEFAULT.to_owned(),
        timeout: Duration::from_secs(args.timeout),
        caps: StepCaps::default(),
        reading: Reading::Whole,
    };
    let assignment = Assignment {
        mirror: None,
        url: args.url,
        canary: args.canary,
        list_version: 0,
        cause: Cause::Manual,
        neutral: if args.neutral_first { Neutral::FirstAndAfter } else { Neutral::Allowed },
        own_handshakes_max: HANDSHAKES_MAX,
        own_arms: OwnArms::Allowed { turn: args.first_arm },
        control_address: args.control_address,
        flow: Flow { large_page: args.large_page, reference_object: args.reference_object },
        ech: EchLook::Allowed,
        field_addresses: args.field_address,
    };
    let mut record = measure(&settings, &assignment, wall_clock()).await.record;
    if args.hops {
        let began = std::time::Instant::now();
        record.hops = hops::walk(&settings, &record, Duration::from_secs(args.hop_pause)).await;
        record.duration_micros = record.duration_micros.saturating_add(micros(began.elapsed()));
    }
    // After the probe: a network lost on the way must not be taken for a block.
    if !args.references.is_empty() {
        let checked = network::check(&settings, &args.references, &Told::default(), wall_clock()).await;
        let Checked { references, network } = checked;
        (record.references, record.network) = (references, Some(network));
    }
    let text = if args.json {
        show::harmless_json(&zerkalo_proto::record::to_json(&record)) + "\n"
    } else {
        let is_plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
        show::tree(&record, if is_plain { Colours::Off } else { Colours::On })
    };
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

async fn enroll_command(args: EnrollArgs) -> anyhow::Result<()> {
    let text = if args.token_file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("the token cannot be read from standard input")?
    } else {
        std::fs::read_to_string(&args.token_file)
            .with_context(|| format!("the token file {} cannot be read", args.token_file.display()))?
    };
    if let Some(offered) = args.accept.filter(|offered| *offered != consent::VERSION) {
        return Err(ConsentError::OtherVersion { offered }.into());
    }
    let token = Token::parse(&text)
        .with_context(|| format!("the token file {} holds no token", args.token_file.display()))?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let application =
        Application { url: args.url, token, carrier: args.carrier, access: args.access, existing };
    let Enrolled { identity, list_refused } = enroll(&application, &args.dir).await?;
    if let Some(refusal) = list_refused {
        eprintln!("zerkalo-agent: the collector's mirror list is not taken: {}", chain(&refusal));
    }
    let place = match (&identity.carrier, identity.access) {
        (Some(carrier), Some(access)) => format!("carrier {carrier}, {access}"),
        _ => "control".to_owned(),
    };
    println!("enrolled as {} (owner {}, {place}) in {}", identity.agent, identity.owner, args.dir.display());
    let state = StateDir::existing(&args.dir);
    if let Some(version) = args.accept {
        consent::accept(&state, version, host::own_language(), &Category::ALL, wall_clock())?;
    }
    if let Err(missing) = consent::standing(&state) {
        println!("before it measures: {missing}");
    }
    println!("start it with: zerkalo-agent run --dir {}", args.dir.display());
    Ok(())
}

fn status_command(args: &StatusArgs) -> anyhow::Result<()> {
    let state = StateDir::existing(&args.dir);
    let identity = state.identity()?;
    clock::load(&state);
    println!("agent {} (owner {})", identity.agent, identity.owner);
    host::show_agreement(&state, &identity)?;
    if let Some(told) = papers::told(&state) {
        println!("it measures nothing: {told}");
    }
    if let Some(life) = state.credentials().ok().and_then(|own| Life::of(&own.certificate_pem)) {
        println!("certificate {} until {}", life.generation, life.until);
    }
    match means::kept(&state)? {
        None => println!("nothing measured yet"),
        Some(kept) => {
            let today = wall_clock().0 / (24 * 60 * 60 * 1_000);
            let (bytes, stage) = match kept.spent.day == today {
                true => (kept.spent.bytes, kept.stage.as_str()),
                false => (0, Stage::Ample.as_str()),
            };
            let limit = match kept.bytes_per_day {
                u64::MAX => "no limit".to_owned(),
                limit => format!("of {limit}"),
            };
            println!("bytes today (UTC): {bytes} {limit}{}", if kept.is_metered { ", metered" } else { "" });
            println!("{stage}");
        }
    }
    Ok(())
}

async fn run_command(args: RunArgs) -> anyhow::Result<()> {
    let settings = Settings::load(args.config.as_deref())?;
    start_log(settings.log_format);
    run(&args.dir, &settings, stop_signal()?).await?;
    tracing::info!("agent stopped");
    Ok(())
}

fn start_log(format: LogFormat) {
    let wanted = std::env::var("ZERKALO_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let wanted = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(wanted).with(lines).init();
}

/// Ends at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn parse_url(text: &str) -> Result<TargetUrl, String> {
    TargetUrl::parse(text).map_err(|error| error.to_string())
}

fn parse_reference(text: &str) -> Result<Reference, String> {
    let (side, url) = text.split_once('=').ok_or("write domestic=URL or foreign=URL")?;
    let side = match side {
        "domestic" => ReferenceSide::Domestic,
        "foreign" => ReferenceSide::Foreign,
        other => return Err(format!("{other:?} is no side; write domestic=URL or foreign=URL")),
    };
    // A manual probe belongs to no market; the word is not written into the record.
    let market = MarketId::parse("manual").map_err(|error| error.to_string())?;
    Ok(Reference { market, side, url: parse_url(url)? })
}

fn parse_own_arm(text: &str) -> Result<usize, String> {
    let arm = match text {
        "control-address" => Arm::ControlAddress,
        "other-hello" => Arm::OtherHello,
        "ech-grease" => Arm::EchGrease,
        "again" => Arm::FreshTuple,
        _ => return Err("write control-address, other-hello, ech-grease or again".to_owned()),
    };
    OWN_ARMS.iter().position(|own| *own == arm).ok_or_else(|| format!("{text} is no such arm"))
}

fn parse_canary(text: &str) -> Result<String, String> {
    if text.len() < CANARY_LEN_MIN {
        return Err(format!("a canary needs at least {CANARY_LEN_MIN} bytes to be unmistakable"));
    }
    Ok(text.to_owned())
}
