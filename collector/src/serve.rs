//! `zerkalo-collector serve DIR`: opens the stores, binds the listeners, and stops them in the right order.
//!
//! Stopping goes along the road: listeners and streams first, then the writer once its queue is done, the outbox last.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{self, Router};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use zerkalo_core::fingerprint::{FingerprintError, Fingerprints};
use zerkalo_durable::credentials;
use zerkalo_proto::agent_v1::enrollment_service_server::EnrollmentServiceServer;
use zerkalo_proto::agent_v1::uplink_service_server::UplinkServiceServer;
use zerkalo_proto::operator_v1::operator_service_server::OperatorServiceServer;

use crate::access::Access;
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use crate::config::Config;
use crate::door::{self, Door, Handshakes, Limits, ScrapersDoor, side_door};
use crate::engine::{self, Engine, EngineError, FutureJournal};
use crate::enrollment::Enrollment;
use crate::executor::{self, Route};
use crate::gate::Gate;
use crate::init::{CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY};
use crate::journal::Archive;
use crate::lock::{DirLock, LockError};
use crate::metrics::{self, Metrics, count};
use crate::operator::Operator;
use crate::outbox::{Bell, Outbox};
use crate::pictures::{self, Pictures};
use crate::session::{self, Secured, SessionError};
use crate::signal::{self, Signal, SignalTokens};
use crate::state::{State, StateError};
use crate::stop::{self, StopSender, StopSignal};
use crate::uplink::quic::{self, QuicError};
use crate::uplink::{Connected, FRAME_LEN_MAX, Paces, Parts, Uplink, Ways};
use crate::vicinity::{VICINITY_KEY, VicinityKey};
use crate::watchdog;

/// The journal's directory, in the collector's.
const JOURNAL: &str = "journal";
/// How long peers get to finish when the collector stops.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// A connection that says nothing for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// And must answer within.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest TLS handshake of an operator.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents waiting in the kernel to be accepted, where it allows so many: a fleet comes back as one.
const BACKLOG: u32 = 4_096;
/// Calls and streams one connection may have open.
const CONNECTION_STREAMS_MAX: u32 = 16;
/// Largest message of an operator, in bytes: a list at all its limits fits, to be refused in words.
const OPERATOR_MESSAGE_LEN_MAX: usize = 16 * 1024 * 1024;

/// Why a collector cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{path} cannot be read; was the directory made by `zerkalo-collector init`?")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the directory cannot be served")]
    Lock(#[source] LockError),
    #[error("the certificate authority cannot be used")]
    Authority(#[source] AuthorityError),
    #[error("the state in {dir} cannot be opened")]
    State {
        dir: PathBuf,
        #[source]
        source: StateError,
    },
    #[error("the pictures in {dir} cannot be kept")]
    Pictures {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key {VICINITY_KEY} cannot be read or made")]
    VicinityKey(#[source] io::Error),
    #[error("the journal cannot be served from")]
    Engine(#[source] EngineError),
    #[error(
        "{address} cannot be listened on for {what}; stop whatever uses it, or change {key} in collector.toml"
    )]
    Bind {
        what: &'static str,
        key: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS cannot be set up from {SERVER_CERTIFICATE}, {SERVER_KEY} and {CA_CERTIFICATE}")]
    Tls(#[source] tonic::transport::Error),
    #[error("TLS cannot be set up from {SERVER_CERTIFICATE}, {SERVER_KEY} and {CA_CERTIFICATE}")]
    Sessions(#[source] SessionError),
    #[error("QUIC cannot be served; remove agents.quic_listen from collector.toml, or mend what it says")]
    Quic(#[source] QuicError),
    #[error("the fingerprints cannot be used")]
    Fingerprints(#[source] FingerprintError),
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[source] Box<tonic_reflection::server::Error>),
    #[error("the listener for {what} failed")]
    Listener {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + std::marker::Send + Sync>,
    },
    #[error("the threads for handshakes cannot be started")]
    Threads(#[source] io::Error),
    #[error("the writer ended without a word")]
    WriterGone,
}

/// A collector that serves.
pub struct Running {
    pub agents: SocketAddr,
    /// Where agents come in by QUIC, if they do.
    pub quic: Option<SocketAddr>,
    pub operators: SocketAddr,
    pub metrics: SocketAddr,
    /// Where the signal endpoints listen, if they do.
    pub signal: Option<SocketAddr>,
    _lock: DirLock,
    access: Arc<Access>,
    metrics_of: Arc<Metrics>,
    engine: Engine,
    stop: StopSender,
    _handshakes: Handshakes,
    listeners: Vec<JoinHandle<Result<(), ServeError>>>,
    outbox: JoinHandle<()>,
    watch: JoinHandle<()>,
    writer: oneshot::Receiver<Result<(), EngineError>>,
}

/// Opens everything in the configuration's directory and serves it.
pub async fn start(config: Config, future_journal: FutureJournal) -> Result<Running, ServeError> {
    let lock = DirLock::take(&config.dir).map_err(ServeError::Lock)?;
    let tls = Tls::read(&config.dir)?;
    let Listeners { agents, quic, operators, scrapers, signals } = Listeners::bind(&config).await?;
    let state = open_state(&config)?;
    let (metrics, registry) = Metrics::new();
    let bell = Arc::new(Bell::default());
    let routes = executor::routes(&config.executors);
    let parts = engine::Parts {
        state: state.clone(),
        metrics: metrics.clone(),
        settings: config.settings.clone(),
        future_journal,
        routes: routes.clone(),
        outbox: bell.clone(),
    };
    let (engine, writer) = engine::start(&config.dir.join(JOURNAL), parts).map_err(ServeError::Engine)?;
    let (stop, stopping) = stop::channel();
    let pictures = open_pictures(&config, &metrics)?;
    let signal_tokens = open_signal_tokens(&config, &state)?;
    let access = open_access(&config, &state)?;
    let services = Services {
        config: &config,
        tls: &tls,
        engine: &engine,
        state: &state,
        metrics: &metrics,
        pictures: &pictures,
        access: &access,
        signals: &signal_tokens,
        signal_listen: signals.as_ref().and_then(|listener| listener.local_addr().ok()),
        routes: &routes,
        bell: &bell,
    };
    let doors = services.open((agents, quic, operators, scrapers), registry, &stopping).await?;
    let signal = signals.map(|listener| {
        let (engine, metrics, tokens) = (engine.clone(), metrics.clone(), signal_tokens.clone());
        let catalogue = Arc::new(config.catalogue.clone());
        listen_signal(Signal { engine, catalogue, tokens, metrics }, listener, &stopping)
    });
    let outbox = Outbox::new(state.clone(), metrics.clone(), &config.executors);
    let outbox = tokio::spawn(outbox.run(bell, stopping));
    Ok(Running {
        agents: doors.agents,
        quic: doors.quic,
        operators: doors.operators,
        metrics: doors.metrics,
        signal: signal.flatten(),
        _lock: lock,
        watch: tokio::spawn(watchdog::watch(engine.clone())),
        access,
        metrics_of: metrics,
        engine,
        stop,
        _handshakes: doors.handshakes,
        listeners: doors.listeners,
        outbox,
        writer,
    })
}

impl Running {
    /// Puts the operators of the directory in force as they are now. Files that cannot be read change nothing: those of
    /// before go on.
    pub fn read_operators(&self, dir: &Path) {
        let word = match Config::load(dir) {
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the operators were NOT read anew, and those of before stay in force; mend this, then send SIGHUP again"
                );
                "refused"
            }
            Ok(config) => match self.access.configure(config.operators.people) {
                Ok((came, left)) => {
                    tracing::info!(came, left, "read the operators anew; all else waits for the next start");
                    "ok"
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the operators were NOT read anew, and those of before stay in force"
                    );
                    "storage_failed"
                }
            },
        };
        count(&self.metrics_of.operators_reloads, word);
    }

    /// Waits until something fails that the collector cannot go on without.
    pub async fn failed(&mut self) -> ServeError {
        let first_listener = futures::future::select_all(self.listeners.iter_mut());
        tokio::select! {
            ended = &mut self.writer => match ended {
                Ok(Err(error)) => ServeError::Engine(error),
                Ok(Ok(())) | Err(_) => ServeError::WriterGone,
            },
            (ended, number, _) = first_listener => {
                self.listeners.swap_remove(number);
                match ended {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) => ServeError::Listener { what: "peers", source: "it ended".into() },
                    Err(error) => ServeError::Listener { what: "peers", source: error.into() },
                }
            }
        }
    }

    /// Closes streams and listeners, lets the writer finish and sync, and returns what went wrong at last.
    pub async fn stop(self) -> Result<(), ServeError> {
        watchdog::stopping();
        self.watch.abort();
        self.stop.stop();
        for mut listener in self.listeners {
            if tokio::time::timeout(STOP_WAIT, &mut listener).await.is_err() {
                listener.abort();
            }
        }
        self.engine.stop().await;
        let ended = self.writer.await;
        // What it has under way it may finish; it holds nothing that is not in the state.
        let mut outbox = self.outbox;
        if tokio::time::timeout(STOP_WAIT, &mut outbox).await.is_err() {
            outbox.abort();
        }
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ServeError::Engine(error)),
            Err(_) => Err(ServeError::WriterGone),
        }
    }
}

fn open_state(config: &Config) -> Result<Arc<State>, ServeError> {
    let dir = config.dir.join("state");
    let opened = State::open(&dir).and_then(|state| {
        state.prune_tokens(clock::now())?;
        Ok(Arc::new(state))
    });
    opened.map_err(|source| ServeError::State { dir, source })
}

fn open_signal_tokens(config: &Config, state: &Arc<State>) -> Result<Arc<SignalTokens>, ServeError> {
    let opened = SignalTokens::open(state.clone());
    opened.map(Arc::new).map_err(|source| ServeError::State { dir: config.dir.join("state"), source })
}

fn open_access(config: &Config, state: &Arc<State>) -> Result<Arc<Access>, ServeError> {
    let opened = Access::open(state.clone(), config.operators.people.clone());
    opened.map(Arc::new).map_err(|source| ServeError::State { dir: config.dir.join("state"), source })
}

fn open_pictures(config: &Config, metrics: &Arc<Metrics>) -> Result<Arc<Pictures>, ServeError> {
    let dir = config.dir.join(pictures::DIR);
    let bytes_max = u64::from(config.picture_store_mib) << 20;
    let opened = Pictures::open(&dir, bytes_max, metrics.clone());
    opened.map(Arc::new).map_err(|source| ServeError::Pictures { dir, source })
}

/// Every address taken before anything is served on one.
struct Listeners {
    agents: TcpListener,
    quic: Option<std::net::UdpSocket>,
    operators: TcpListener,
    scrapers: TcpListener,
    signals: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let signals = match &config.signal {
            Some(signal) => Some(bind("redirectors and trackers", "signal.listen", signal.listen).await?),
            None => None,
        };
        let quic = config.agents.quic_listen.map(|address| {
            std::net::UdpSocket::bind(address).map_err(|source| {
                let (what, key) = ("agents by QUIC", "agents.quic_listen");
                ServeError::Bind { what, key, address, source }
            })
        });
        Ok(Self {
            quic: quic.transpose()?,
            agents: bind_agents(config.agents.listen)?,
            operators: bind("operators", "operators.listen", config.operators.listen).await?,
            scrapers: bind("metrics", "metrics.listen", config.metrics_listen).await?,
            signals,
        })
    }
}

/// Certificates and keys, as files hold them.
struct Tls {
    ca_pem: String,
    authority: Arc<Authority>,
    /// How agents are listened to.
    agents: Arc<rustls::ServerConfig>,
    identity: Identity,
}

impl Tls {
    fn read(dir: &Path) -> Result<Self, ServeError> {
        let read_at =
            |path: PathBuf| fs::read_to_string(&path).map_err(|source| ServeError::Read { path, source });
        let read = |name: &str| read_at(dir.join(name));
        let read_secret = |name: &str| read_at(credentials::file_of(&dir.join(name)));
        let ca_pem = read(CA_CERTIFICATE)?;
        let authority = Authority::load(&ca_pem, &read_secret(CA_KEY)?).map_err(ServeError::Authority)?;
        let (certificate, key) = (read(SERVER_CERTIFICATE)?, read_secret(SERVER_KEY)?);
        let agents = session::server_config(&ca_pem, &certificate, &key).map_err(ServeError::Sessions)?;
        let identity = Identity::from_pem(certificate, key);
        Ok(Self { ca_pem, authority: Arc::new(authority), agents, identity })
    }
}

/// What the services are made of.
struct Services<'a> {
    config: &'a Config,
    tls: &'a Tls,
    engine: &'a Engine,
    state: &'a Arc<State>,
    metrics: &'a Arc<Metrics>,
    pictures: &'a Arc<Pictures>,
    access: &'a Arc<Access>,
    signals: &'a Arc<SignalTokens>,
    signal_listen: Option<SocketAddr>,
    routes: &'a Arc<[Route]>,
    bell: &'a Arc<Bell>,
}

/// What is listened to, and where.
struct Doors {
    agents: SocketAddr,
    quic: Option<SocketAddr>,
    operators: SocketAddr,
    metrics: SocketAddr,
    handshakes: Handshakes,
    listeners: Vec<JoinHandle<Result<(), ServeError>>>,
}

/// Of agents by TCP and by QUIC, of operators, of scrapers.
type Sockets = (TcpListener, Option<std::net::UdpSocket>, TcpListener, TcpListener);

impl Services<'_> {
    /// Lets everybody in, each by their own door.
    async fn open(
        &self,
        (agents, quic, operators, scrapers): Sockets,
        registry: Registry,
        stopping: &StopSignal,
    ) -> Result<Doors, ServeError> {
        let config = self.config;
        let connected = Connected::new(self.metrics.clone());
        let limits = Limits::of_this_process(config.agents.connections_max);
        let door = Door::new(limits, config.agents.relays.clone(), self.metrics.clone());
        let handshakes = Handshakes::start().map_err(ServeError::Threads)?;
        let address = |listener: &TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let agents_address = address(&agents, config.agents.listen);
        let operators_address = address(&operators, config.operators.listen);
        let metrics_address = address(&scrapers, config.metrics_listen);
        let quic_address = quic.as_ref().and_then(|socket| socket.local_addr().ok());
        let agents = door::accept(agents, self.tls.agents.clone(), door.clone(), handshakes.handle());
        let mut listeners = self.listen_agents(agents, quic, &connected, stopping).await?;
        let router = self.operators(&connected, stopping).await?;
        listeners.push(listen("operators", router, side_door(operators, door.clone()), stopping.clone()));
        let scrapers = ScrapersDoor::new(scrapers, door);
        listeners.push(listen_metrics(metrics::routes(registry), scrapers, stopping.clone()));
        Ok(Doors {
            agents: agents_address,
            quic: quic_address,
            operators: operators_address,
            metrics: metrics_address,
            handshakes,
            listeners,
        })
    }

    /// Agents by TCP, and by QUIC where that is wanted.
    async fn listen_agents(
        &self,
        tcp: impl Stream<Item = io::Result<Secured<door::Wire>>> + Send + 'static,
        quic: Option<std::net::UdpSocket>,
        connected: &Connected,
        stopping: &StopSignal,
    ) -> Result<Vec<JoinHandle<Result<(), ServeError>>>, ServeError> {
        let ways = self.ways()?;
        let tls = &self.tls.agents;
        let mut listeners = Vec::new();
        if let Some(socket) = quic {
            // Agents say nothing while they probe, nor that they live.
            let router = self.agents(connected, stopping, &ways, server(quic::IDLE_MAX)).await?;
            let incoming = quic::listen(socket, tls, stopping.clone()).map_err(ServeError::Quic)?;
            listeners.push(listen("agents by QUIC", router, incoming, stopping.clone()));
        }
        let router = self.agents(connected, stopping, &ways, server(KEEPALIVE_TIMEOUT)).await?;
        listeners.push(listen("agents", router, tcp, stopping.clone()));
        Ok(listeners)
    }

    /// How agents find this collector, and what all their streams share.
    fn ways(&self) -> Result<Arc<Ways>, ServeError> {
        let config = self.config;
        let fingerprints =
            Fingerprints::parse(&config.settings.fingerprints).map_err(ServeError::Fingerprints)?;
        let urls = config.agents.public_urls.clone();
        let relays = config.agents.relays.clone();
        let paces = Paces::new(config.agents.records_per_sec);
        Ok(Arc::new(Ways { urls, fingerprints, relays, parts: Parts::default(), paces }))
    }

    async fn agents(
        &self,
        connected: &Connected,
        stopping: &StopSignal,
        ways: &Arc<Ways>,
        mut server: Server,
    ) -> Result<Router, ServeError> {
        let catalogue = Arc::new(self.config.catalogue.clone());
        let enrollment = EnrollmentServiceServer::new(Enrollment {
            engine: self.engine.clone(),
            state: self.state.clone(),
            authority: self.tls.authority.clone(),
            catalogue,
            metrics: self.metrics.clone(),
        });
        let uplink = UplinkServiceServer::new(Uplink {
            engine: self.engine.clone(),
            connected: connected.clone(),
            metrics: self.metrics.clone(),
            pictures: self.pictures.clone(),
            ways: ways.clone(),
            vicinities: VicinityKey::open(&self.config.dir).map_err(ServeError::VicinityKey)?,
            stopping: stopping.clone(),
        })
        .max_decoding_message_size(FRAME_LEN_MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<EnrollmentServiceServer<Enrollment>>().await;
        health.set_serving::<UplinkServiceServer<Uplink>>().await;
        // Who has no place hears nothing else.
        let enrollment = InterceptedService::new(enrollment, door::turn_away);
        let uplink = InterceptedService::new(uplink, door::turn_away);
        Ok(server.add_service(health_service).add_service(enrollment).add_service(uplink))
    }

    async fn operators(&self, connected: &Connected, stopping: &StopSignal) -> Result<Router, ServeError> {
        let tls = ServerTlsConfig::new().identity(self.tls.identity.clone()).timeout(HANDSHAKE_TIMEOUT);
        let operator = OperatorServiceServer::new(Operator {
            engine: self.engine.clone(),
            state: self.state.clone(),
            archive: Arc::new(Archive::new(self.config.dir.join(JOURNAL))),
            catalogue: Arc::new(self.config.catalogue.clone()),
            metrics: self.metrics.clone(),
            pictures: self.pictures.clone(),
            connected: connected.clone(),
            access: self.access.clone(),
            signals: self.signals.clone(),
            signal_listen: self.signal_listen,
            routes: self.routes.clone(),
            bell: self.bell.clone(),
            operator_keys: self.config.operator_keys.clone(),
            ca_pem: self.tls.ca_pem.clone(),
            public_urls: self.config.agents.public_urls.clone(),
            stopping: stopping.clone(),
        })
        .max_decoding_message_size(OPERATOR_MESSAGE_LEN_MAX);
        let operator = Gate::new(operator, self.access.clone(), self.metrics.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<OperatorServiceServer<Operator>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(zerkalo_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| ServeError::Reflection(Box::new(error)))?;
        let mut server = server(KEEPALIVE_TIMEOUT).tls_config(tls).map_err(ServeError::Tls)?;
        Ok(server.add_service(health_service).add_service(reflection).add_service(operator))
    }
}

/// Whoever is asked whether they live may take so long to answer.
fn server(answer_wait: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(answer_wait))
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
}

async fn bind(what: &'static str, key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { what, key, address, source })
}

fn bind_agents(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| ServeError::Bind { what: "agents", key: "agents.listen", address, source })
}

fn listen<IO>(
    what: &'static str,
    router: Router,
    incoming: impl Stream<Item = io::Result<IO>> + Send + 'static,
    stopping: StopSignal,
) -> JoinHandle<Result<(), ServeError>>
where
    IO: AsyncRead + AsyncWrite + server::Connected + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let stopped = async move { stopping.stopped().await };
        let served = router.serve_with_incoming_shutdown(incoming, stopped).await;
        served.map_err(|source| ServeError::Listener { what, source: source.into() })
    })
}

/// It ends by itself when told to stop, and holds nothing.
fn listen_signal(signal: Signal, listener: TcpListener, stopping: &StopSignal) -> Option<SocketAddr> {
    let address = listener.local_addr().ok();
    tokio::spawn(signal::serve(signal, listener, stopping.clone()));
    address
}

fn listen_metrics(
    routes: axum::Router,
    listener: ScrapersDoor,
    stopping: StopSignal,
) -> JoinHandle<Result<(), ServeError>> {
    tokio::spawn(async move {
        let stopped = async move { stopping.stopped().await };
        let served = axum::serve(listener, routes).with_graceful_shutdown(stopped).await;
        served.map_err(|source| ServeError::Listener { what: "metrics", source: source.into() })
    })
}
