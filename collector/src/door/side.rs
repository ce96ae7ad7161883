//! The doors of the house's own: operators and scrapers, few of them. Who comes when all places are taken ousts the oldest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Door, Held, Kind};

/// How long to wait where the system gives no socket.
const ACCEPT_FAILED_WAIT: Duration = Duration::from_millis(100);
/// Connections waiting to be served.
const WAITING_MAX: usize = 16;

/// Operators' connections, as they come; ends when the receiver is dropped.
pub fn side_door(listener: TcpListener, door: Arc<Door>) -> ReceiverStream<io::Result<Held<TcpStream>>> {
    let (connections, incoming) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let (held, _) = tokio::select! {
                accepted = accept(&listener, &door, Kind::Operator) => accepted,
                () = connections.closed() => return,
            };
            if connections.send(Ok(held)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// Where scrapers come in.
pub struct ScrapersDoor {
    listener: TcpListener,
    door: Arc<Door>,
}

impl ScrapersDoor {
    /// Counts who comes in by `listener`.
    pub fn new(listener: TcpListener, door: Arc<Door>) -> Self {
        Self { listener, door }
    }
}

impl Listener for ScrapersDoor {
    type Io = Held<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        accept(&self.listener, &self.door, Kind::Scraper).await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn accept(listener: &TcpListener, door: &Arc<Door>, kind: Kind) -> (Held<TcpStream>, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it answers are late, not lost.
                let _ = stream.set_nodelay(true);
                let Some((place, ousted)) = door.admit_aside(kind) else { continue };
                let end = async { drop(ousted.await) };
                return (Held::new(stream, place, end), peer);
            }
            Err(error) => {
                door.turned_away("no_descriptor");
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_FAILED_WAIT).await;
            }
        }
    }
}
