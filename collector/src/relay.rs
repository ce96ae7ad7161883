//! `zerkalo-collector relay`: stands where agents can reach it, often in their own country, and passes their bytes on to the
//! collector. TLS goes from end to end: it can read nothing and forge nothing, and holds no key. It connects to the one
//! place it was told and to no other, whoever asks.

mod datagrams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes on their way in one direction of one connection.
const BUFFER_BYTES: usize = 16 * 1024;
/// A direction in which nothing passes for so long is dead: both ends ask each other every half minute.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Longest wait for the collector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause where the system has no descriptor left: the connections at work go on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a relay is told.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    pub listen: SocketAddr,
    /// `HOST:PORT` of the collector's TCP listener.
    pub to: String,
    /// The same for QUIC: both or neither.
    pub quic: Option<(SocketAddr, String)>,
    /// Connections at once, and as many agents by QUIC.
    pub connections_max: usize,
}

/// Why a relay cannot work.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("{address} cannot be listened on; stop whatever uses it, or name another address")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{to} is no HOST:PORT that can be resolved; correct it")]
    Destination {
        to: String,
        #[source]
        source: io::Error,
    },
}

/// A relay that listens.
#[derive(Debug)]
pub struct Relay {
    tcp: TcpListener,
    udp: Option<(UdpSocket, String)>,
    options: RelayOptions,
}

impl Relay {
    /// Takes the addresses, and looks the destination up once, so that a wrong one is told at once.
    pub async fn bind(options: RelayOptions) -> Result<Self, RelayError> {
        let bound = |address| move |source| RelayError::Bind { address, source };
        let tcp = TcpListener::bind(options.listen).await.map_err(bound(options.listen))?;
        resolve(&options.to).await?;
        let udp = match &options.quic {
            Some((listen, to)) => {
                resolve(to).await?;
                Some((UdpSocket::bind(*listen).await.map_err(bound(*listen))?, to.clone()))
            }
            None => None,
        };
        Ok(Self { tcp, udp, options })
    }

    /// Where it listens, by TCP and by UDP.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let udp = self.udp.as_ref().and_then(|(socket, _)| socket.local_addr().ok());
        (self.tcp.local_addr().ok(), udp)
    }

    /// Passes bytes for ever.
    pub async fn run(self) -> std::convert::Infallible {
        let Self { tcp, udp, options } = self;
        let datagrams = async {
            match udp {
                Some((socket, to)) => datagrams::pass(socket, &to, options.connections_max).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = accept(tcp, &options) => match never {},
            never = datagrams => match never {},
        }
    }
}

async fn resolve(to: &str) -> Result<SocketAddr, RelayError> {
    let fail = |source| RelayError::Destination { to: to.to_owned(), source };
    let mut found = tokio::net::lookup_host(to).await.map_err(fail)?;
    found.next().ok_or_else(|| fail(io::Error::new(io::ErrorKind::NotFound, "it has no address")))
}

async fn accept(listener: TcpListener, options: &RelayOptions) -> std::convert::Infallible {
    let places = Arc::new(Semaphore::new(options.connections_max));
    let to: Arc<str> = options.to.as_str().into();
    let (mut connections, mut refused) = (JoinSet::new(), 0_u64);
    loop {
        while connections.try_join_next().is_some() {}
        let client = match listener.accept().await {
            Ok((client, peer)) => {
                tracing::debug!(%peer, "accepted");
                client
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refused += 1;
            tracing::warn!(
                code = "relay_full",
                refused,
                limit = options.connections_max,
                "a connection is refused: allow more with --connections, or run another relay"
            );
            continue;
        };
        let to = to.clone();
        connections.spawn(async move {
            match relay(client, &to).await {
                Ok((up, down)) => tracing::debug!(up, down, "done"),
                Err(error) => tracing::debug!(%error, "ended"),
            }
            drop(place);
        });
    }
}

/// Passes one connection on; bytes that went up and down.
async fn relay(mut client: TcpStream, to: &str) -> io::Result<(u64, u64)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to));
    let mut server = connecting.await.map_err(io::Error::from)??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    // A reset of either side ends both; an orderly end is passed on as one.
    tokio::try_join!(pass(client_read, server_write), pass(server_read, client_write))
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<u64> {
    let (mut buffer, mut passed) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let len = tokio::time::timeout(IDLE_MAX, from.read(&mut buffer)).await??;
        if len == 0 {
            to.shutdown().await?;
            return Ok(passed);
        }
        tokio::time::timeout(IDLE_MAX, to.write_all(&buffer[..len])).await??;
        passed += len as u64;
    }
}
