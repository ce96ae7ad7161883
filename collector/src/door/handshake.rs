//! Handshakes of agents, on threads of their own that yield to all others: however many want in, those inside are served.
//!
//! Connections are taken no faster than these threads come to them; what is beyond waits in the kernel. A handshake that
//! stands still gives way to a newer one when its line is full, at the latest when its time is over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::setpriority_process;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::{Door, Held, Place};
use crate::clock;
use crate::session::{Secured, Session};
use crate::signal::Patient;

/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a box without a certificate in force may stay: enrolling takes a second, on the worst line some more.
const STRANGER_STAY_MAX: Duration = Duration::from_secs(60);
/// How long one may stay that is told that there is no place.
const REFUSED_STAY_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what is written to it.
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// Sessions waiting to be served.
const SESSIONS_WAITING_MAX: usize = 64;
/// How long to wait where the system gives no socket.
const ACCEPT_FAILED_WAIT: Duration = Duration::from_millis(100);
/// Connections taken before the handshakes' threads are given their turn.
const ACCEPTED_AT_ONCE: usize = 32;
/// How much the handshakes' threads yield to the others, as `nice` counts.
const YIELDING: i32 = 5;

/// What agents speak on.
pub type Wire = Held<TlsStream<Patient<TcpStream>>>;

/// The threads of handshakes; they end when this is dropped.
pub struct Handshakes(Option<Runtime>);

impl Handshakes {
    /// Starts as many as the machine has cores.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
            .thread_name("handshake")
            // Where that is forbidden, as in a hardened unit, they are the others' equals.
            .on_thread_start(|| {
                let _ = setpriority_process(None, YIELDING);
            })
            .enable_time()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where they are run.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is taken only when dropped").handle().clone()
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        // Within another runtime nothing may be waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Shakes hands with whoever connects; ends when the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    door: Arc<Door>,
    threads: Handle,
) -> ReceiverStream<io::Result<Secured<Wire>>> {
    let (sessions, accepted) = mpsc::channel(SESSIONS_WAITING_MAX);
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        for number in 1_usize.. {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        door.turned_away("no_descriptor");
                        tracing::debug!(%error, "no connection can be accepted");
                        tokio::time::sleep(ACCEPT_FAILED_WAIT).await;
                        continue;
                    }
                },
                () = sessions.closed() => return,
            };
            let Some((place, ousted)) = door.shake(peer.ip()) else { continue };
            let (acceptor, sessions, door) = (acceptor.clone(), sessions.clone(), door.clone());
            threads.spawn(async move {
                // Without it answers are late, not lost.
                let _ = stream.set_nodelay(true);
                let shaken = shake(acceptor, Patient::new(stream, READER_PATIENCE), ousted, &door).await;
                drop(place);
                if let Some(session) = shaken.and_then(|stream| seat(stream, peer, &door)) {
                    // Nobody takes it while the collector stops.
                    let _ = sessions.send(Ok(session)).await;
                }
            });
            if number % ACCEPTED_AT_ONCE == 0 {
                // Once this had its turn they have come to those before it. It fails only while they end.
                let _ = threads.spawn(async {}).await;
            }
        }
    });
    ReceiverStream::new(accepted)
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: Patient<TcpStream>,
    ousted: oneshot::Receiver<()>,
    door: &Arc<Door>,
) -> Option<TlsStream<Patient<TcpStream>>> {
    tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => match shaken {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                door.turned_away("handshake_failed");
                tracing::debug!(%error, "a handshake failed");
            }
            Err(_) => door.turned_away("handshake_timeout"),
        },
        // Whoever came instead was counted.
        _ = ousted => {}
    }
    None
}

/// Gives a session its place: an agent's, a stranger's, or one to be told that there is none; `None`: not even that.
fn seat(stream: TlsStream<Patient<TcpStream>>, peer: SocketAddr, door: &Arc<Door>) -> Option<Secured<Wire>> {
    let session = Session::over_tls(&stream, peer);
    let agent = session.papers(clock::now()).ok().map(|papers| papers.agent);
    match agent {
        None => {
            let (place, ousted) = door.admit_stranger(peer.ip())?;
            Some(hold(stream, session, place, ousted, Some(STRANGER_STAY_MAX)))
        }
        Some(agent) => match door.admit_agent(agent) {
            Some((place, ousted)) => Some(hold(stream, session, place, ousted, None)),
            None => {
                let (place, ousted) = door.refuse()?;
                let session = Session { is_refused: true, ..session };
                Some(hold(stream, session, place, ousted, Some(REFUSED_STAY_MAX)))
            }
        },
    }
}

fn hold(
    stream: TlsStream<Patient<TcpStream>>,
    session: Session,
    place: Place,
    ousted: oneshot::Receiver<()>,
    stay_max: Option<Duration>,
) -> Secured<Wire> {
    let end = async move {
        match stay_max {
            // Whether it was ousted or its time is over.
            Some(stay_max) => drop(tokio::time::timeout(stay_max, ousted).await),
            None => drop(ousted.await),
        }
    };
    Secured::new(Held::new(stream, place, end), session)
}
