//! The collector's command line: `init`, `serve`, `backup`, `restore`, `verify`, `mend`. Everything else is in the library.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use zerkalo_collector::backup;
use zerkalo_collector::clock;
use zerkalo_collector::config::{Config, LogFormat};
use zerkalo_collector::engine::FutureJournal;
use zerkalo_collector::init::{InitOptions, init};
use zerkalo_collector::journal::mend;
use zerkalo_collector::people;
use zerkalo_collector::relay::{Relay, RelayOptions};
use zerkalo_collector::serve;
use zerkalo_collector::verify;
use zerkalo_collector::watchdog;

/// Verifies, stores and judges what agents measure, decides by market, tells the operator.
#[derive(Parser)]
#[command(name = "zerkalo-collector", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Connections a relay can be told to pass at once: descriptors of one process.
const CONNECTIONS_MAX: usize = 500_000;

#[derive(Subcommand)]
enum Command {
    /// Makes DIR: certificate authority, operator's key, configuration
    Init {
        dir: PathBuf,
        /// Host name or address agents and operators will use (repeatable; the first goes into URLs)
        #[arg(long = "name", default_values_t = ["localhost".to_owned(), "127.0.0.1".to_owned()])]
        names: Vec<String>,
        /// Where agents come in
        #[arg(long, default_value = "0.0.0.0:8443")]
        agents_listen: SocketAddr,
        /// Where agents come in by QUIC; without it they do not. Any port but 443
        #[arg(long)]
        quic_listen: Option<SocketAddr>,
        /// Where operators come in
        #[arg(long, default_value = "127.0.0.1:8444")]
        operators_listen: SocketAddr,
        /// Where Prometheus reads
        #[arg(long, default_value = "127.0.0.1:9464")]
        metrics_listen: SocketAddr,
    },
    /// Who may ask as an operator, each under a name of their own
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Copies DIR to the new directory TO, while it is served or not; without pictures and the operator's secrets
    Backup { dir: PathBuf, to: PathBuf },
    /// Makes DIR, which must not exist, from a backup
    Restore { from: PathBuf, dir: PathBuf },
    /// Checks every signature, chain and checksum of DIR or of a backup, while it is served or not; changes nothing
    Verify { dir: PathBuf },
    /// Passes agents' bytes on to a collector, from a place they can reach; it can read and forge nothing
    Relay {
        /// Where agents come in by TCP
        #[arg(long)]
        listen: SocketAddr,
        /// The collector's address for agents, HOST:PORT; nothing else is ever connected to
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        /// Where agents come in by QUIC
        #[arg(long, requires = "quic_to")]
        quic_listen: Option<SocketAddr>,
        /// The collector's address for QUIC
        #[arg(long, value_name = "HOST:PORT", requires = "quic_listen")]
        quic_to: Option<String>,
        /// Connections at once, and as many agents by QUIC
        #[arg(long, default_value_t = 1_000, value_parser = parse_connections)]
        connections: usize,
    },
    /// Makes a new journal out of what DIR's damaged one still holds; agents send again what is missing. Not while it serves
    Mend { dir: PathBuf },
    /// Serves DIR until it is told to stop (SIGTERM, SIGINT); SIGHUP reads the operators anew
    Serve {
        dir: PathBuf,
        /// Serve though the journal's last entry lies in the future: decisions wait until the clock has passed it
        #[arg(long)]
        accept_future_journal: bool,
    },
}

#[derive(Subcommand)]
enum OperatorCommand {
    /// Makes a token for a person, and a file to hand over
    Add {
        dir: PathBuf,
        /// How orders of theirs will be signed, such as anna
        name: String,
    },
    /// Takes a person's token away
    Rm { dir: PathBuf, name: String },
    /// Names everybody who may ask
    Ls { dir: PathBuf },
}

fn operator(command: &OperatorCommand) -> anyhow::Result<String> {
    Ok(match command {
        OperatorCommand::Add { dir, name } => people::add(dir, &Config::load(dir)?, name)?,
        OperatorCommand::Rm { dir, name } => people::remove(dir, &Config::load(dir)?, name)?,
        OperatorCommand::Ls { dir } => {
            let config = Config::load(dir)?;
            config.operators.people.0.iter().map(|(person, _)| format!("{}\n", person.0)).collect()
        }
    })
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Init { dir, names, agents_listen, quic_listen, operators_listen, metrics_listen } => {
            let options = InitOptions { names, agents_listen, quic_listen, operators_listen, metrics_listen };
            init(&dir, &options).map(|said| print!("{said}")).map_err(anyhow::Error::from)
        }
        Command::Operator(command) => operator(&command).map(|said| print!("{said}")),
        Command::Backup { dir, to } => backup::backup(&dir, &to).map(tell).map_err(anyhow::Error::from),
        Command::Restore { from, dir } => backup::restore(&from, &dir).map(tell).map_err(anyhow::Error::from),
        Command::Verify { dir } => verify::verify(&dir).map(tell).map_err(anyhow::Error::from),
        Command::Relay { listen, to, quic_listen, quic_to, connections } => relay_until_told(RelayOptions {
            listen,
            to,
            quic: quic_listen.zip(quic_to),
            connections_max: connections,
        }),
        Command::Mend { dir } => mend::mend(&dir, clock::now()).map(tell).map_err(anyhow::Error::from),
        Command::Serve { dir, accept_future_journal: false } => serve_until_told(&dir, FutureJournal::Refuse),
        Command::Serve { dir, accept_future_journal: true } => serve_until_told(&dir, FutureJournal::Accept),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zerkalo-collector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=CONNECTIONS_MAX).contains(&count) => Ok(count),
        _ => Err(format!("must be from 1 to {CONNECTIONS_MAX}")),
    }
}

fn relay_until_told(options: RelayOptions) -> anyhow::Result<()> {
    log_to_stderr(LogFormat::Text);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let to = options.to.clone();
        let relay = Relay::bind(options).await?;
        let (tcp, udp) = relay.addresses();
        let shown = |address: Option<SocketAddr>| address.map(tracing::field::display);
        tracing::info!(listen = shown(tcp), quic = shown(udp), to, "relaying");
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            never = relay.run() => match never {},
        }
        Ok(())
    })
}

fn tell(said: String) {
    println!("{said}");
}

fn serve_until_told(dir: &Path, future_journal: FutureJournal) -> anyhow::Result<()> {
    let config = Config::load(dir)?;
    log_to_stderr(config.log);
    // A second provider cannot be installed; the first is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hup = signal(SignalKind::hangup())?;
        let mut running = serve::start(config, future_journal).await?;
        tracing::info!(
            agents = %running.agents, quic = running.quic.map(tracing::field::display), operators = %running.operators, metrics = %running.metrics,
            signal = running.signal.map(tracing::field::display), "ready"
        );
        watchdog::ready();
        let failure = loop {
            tokio::select! {
                _ = term.recv() => break None,
                _ = int.recv() => break None,
                _ = hup.recv() => tokio::task::block_in_place(|| running.read_operators(dir)),
                error = running.failed() => break Some(error),
            }
        };
        match failure {
            None => {
                tracing::info!("stopping");
                running.stop().await?;
                tracing::info!("stopped; everything acknowledged is on the disk");
                Ok(())
            }
            Some(error) => Err(error.into()),
        }
    })
}

fn log_to_stderr(format: LogFormat) {
    let wanted = std::env::var("ZERKALO_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let wanted = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(wanted).with(lines).init();
}
