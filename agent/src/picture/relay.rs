//! The browser's only way out: a relay on loopback to the one address the visit itself went to.
//!
//! The browser's resolver rules send the mirror's name here, and every other name nowhere. Thus no third party is reached,
//! whatever the page asks for, and the name is shown to the network no more often than its handshake budget allows:
//! connections beyond that wait unaccepted, so that the page uses those it has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Longest connection attempt: three SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Bytes one connection may bring: a page's first screen, not its films.
pub const BYTES_MAX: u64 = 6 * 1024 * 1024;

/// Bytes passed on at once.
const BUFFER_LEN: usize = 16 * 1024;
/// Connections of the browser that wait for one it may make: as many as Chromium opens to one host, and some.
const HELD_MAX: usize = 8;

/// The relay's listeners; everything ends with it.
pub struct Relay {
    /// The mirror's ports, and where each is reached here.
    pub ports: Vec<(u16, SocketAddr)>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Opens the way to `ports` of `address`, for `connections_max` connections in all.
    /// `bytes` counts what passes, both ways.
    pub async fn open(
        address: IpAddr,
        ports: &[u16],
        connections_max: usize,
        bytes: &Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let left = Arc::new(Semaphore::new(connections_max));
        let (mut open, mut tasks) = (Vec::new(), JoinSet::new());
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            open.push((*port, listener.local_addr()?));
            tasks.spawn(serve(listener, SocketAddr::new(address, *port), left.clone(), bytes.clone()));
        }
        Ok(Self { ports: open, _tasks: tasks })
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, left: Arc<Semaphore>, bytes: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut browser, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        if connections.len() >= HELD_MAX {
            continue;
        }
        let (left, bytes) = (left.clone(), bytes.clone());
        connections.spawn(async move {
            // Spent for good: a connection closed has shown the name all the same.
            if let Ok(permit) = left.acquire().await {
                permit.forget();
            }
            if pass(&mut browser, to, &bytes).await.is_err() {
                // The browser is to see a broken line as one, not as an orderly end.
                let _ = browser.set_zero_linger();
            }
        });
    }
}

/// Passes bytes both ways until both are at their ends.
async fn pass(browser: &mut TcpStream, to: SocketAddr, bytes: &AtomicU64) -> io::Result<()> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to));
    let mirror = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
    mirror.set_nodelay(true)?;
    let (mut from_browser, mut to_browser) = browser.split();
    let (from_mirror, mut to_mirror) = mirror.into_split();
    let up = pump(&mut from_browser, &mut to_mirror, u64::MAX, bytes);
    let down = pump(from_mirror, &mut to_browser, BYTES_MAX, bytes);
    tokio::try_join!(up, down).map(drop)
}

/// Passes at most `left` bytes on, counting them, and then the end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut left: u64,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    while left > 0 {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            break;
        }
        bytes.fetch_add(len as u64, Ordering::Relaxed);
        to.write_all(&buffer[..len]).await?;
        left = left.saturating_sub(len as u64);
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every connection with one byte, and how often it was reached.
    async fn server() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reached, seen) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                reached.send(()).unwrap();
                stream.write_all(b"!").await.unwrap();
            }
        });
        (address, seen)
    }

    #[tokio::test]
    async fn the_name_is_shown_no_more_often_than_allowed() {
        let (address, mut seen) = server().await;
        let bytes = Arc::new(AtomicU64::new(0));
        let relay = Relay::open(address.ip(), &[address.port()], 2, &bytes).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..2 * HELD_MAX {
            held.push(TcpStream::connect(relay.ports[0].1).await.unwrap());
        }
        let read = held.iter_mut().map(|stream| Box::pin(async { stream.read_u8().await.ok() }));
        let (first, _, rest) = futures::future::select_all(read).await;
        assert_eq!((first, seen.recv().await), (Some(b'!'), Some(())));
        // The one other connection is answered; those beyond what is held are closed; none besides is.
        let mut answers = Vec::new();
        let mut rest = rest;
        for _ in 0..HELD_MAX + 1 {
            let (answer, _, others) = futures::future::select_all(rest).await;
            answers.extend(answer);
            rest = others;
        }
        assert_eq!((answers, seen.recv().await), (vec![b'!'], Some(())));
        drop(rest);
        assert_eq!(bytes.load(Ordering::Relaxed), 2);
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_refusing_address_is_a_broken_line() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let relay = Relay::open(address.ip(), &[address.port()], 1, &Arc::default()).await.unwrap();
        let mut stream = TcpStream::connect(relay.ports[0].1).await.unwrap();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
