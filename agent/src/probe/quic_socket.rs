//! A UDP socket under quinn that counts, keeps the beginning of the first datagram, and notices a refusal and a flood.
//! quinn shows a black hole and a closed port alike, as silence, and drops what it cannot use; the socket knows better.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::sync::Notify;
use zerkalo_core::record::QUIC_FIRST_LEN_MAX;

use crate::datagrams::{self, Datagrams};

/// Bytes of one connection after which the peer is a flood: a page as long as we read, its head, and as much again. No
/// layer above limits what a peer may send as a head.
const RECEIVED_MAX: u64 = 1024 * 1024;
/// Versions kept of a Version Negotiation packet; servers offer a handful.
pub const VERSIONS_MAX: usize = 16;

/// Datagrams with counts.
#[derive(Debug)]
pub struct CountingSocket {
    inner: Arc<Datagrams>,
    sent: AtomicU64,
    received: AtomicU64,
    datagrams: AtomicU32,
    first: Mutex<First>,
    flood: Notify,
    /// The same socket once more: errors wake only who waits for errors.
    errors: tokio::net::UdpSocket,
}

/// What came first.
#[derive(Debug, Default)]
struct First {
    beginning: Vec<u8>,
    versions: Vec<u32>,
}

impl CountingSocket {
    /// A socket that hears what the network says of `peer` (ICMP reaches connected sockets only).
    pub fn connect(peer: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = datagrams::bind_towards(peer)?;
        socket.connect(peer)?;
        socket.set_nonblocking(true)?;
        let errors = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        Ok(Arc::new(Self {
            inner: Datagrams::on(socket)?,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            datagrams: AtomicU32::new(0),
            first: Mutex::default(),
            flood: Notify::new(),
            errors,
        }))
    }

    /// Payload bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Payload bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Datagrams received.
    pub fn datagrams(&self) -> u32 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// The beginning of the first datagram received.
    pub fn first_received(&self) -> Vec<u8> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).beginning.clone()
    }

    /// What the first Version Negotiation packet offered.
    pub fn versions_offered(&self) -> Vec<u32> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).versions.clone()
    }

    /// Ends when the peer has sent more than any page needs.
    pub async fn flooded(&self) {
        self.flood.notified().await;
    }

    fn note(&self, datagram: &[u8]) {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
        let before = self.received.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        if before + datagram.len() as u64 > RECEIVED_MAX {
            self.flood.notify_one();
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if before == 0 {
            first.beginning = datagram[..datagram.len().min(QUIC_FIRST_LEN_MAX)].to_vec();
        }
        if first.versions.is_empty() {
            first.versions = versions(datagram);
        }
    }

    /// Ends when the peer's port is said to be closed.
    pub async fn refused(&self) {
        tokio::select! {
            () = self.inner.refused() => {}
            () = self.refused_aside() => {}
        }
    }

    /// The same, of what nobody else was told.
    async fn refused_aside(&self) {
        loop {
            // Waiting itself cannot fail but with the runtime's end.
            let _ = self.errors.ready(Interest::ERROR).await;
            match self.errors.take_error() {
                Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return,
                // Sending was told of it first.
                _ => drop(
                    self.errors.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())),
                ),
            }
        }
    }
}

impl AsyncUdpSocket for CountingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        self.sent.fetch_add(transmit.contents.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = &polled {
            bufs.iter().zip(&meta[..*count]).for_each(|(buf, meta)| self.note(&buf[..meta.len]));
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// The versions in a Version Negotiation packet (RFC 9000, 17.2.1); none in any other.
pub fn versions(datagram: &[u8]) -> Vec<u32> {
    let read = || {
        let (head, rest) = datagram.split_first_chunk::<5>()?;
        let is_negotiation = head[0] & 0x80 != 0 && head[1..] == [0; 4];
        let (to_len, rest) = rest.split_first()?;
        let (from_len, rest) = rest.get(usize::from(*to_len)..)?.split_first()?;
        let versions = rest.get(usize::from(*from_len)..)?.chunks_exact(4).take(VERSIONS_MAX);
        let number = |four: &[u8]| four.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        is_negotiation.then(|| versions.map(number).collect())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_of_a_version_negotiation_packet_alone() {
        let check = |datagram: &[u8], expected: &[u32]| assert_eq!(versions(datagram), expected);
        let whole = b"\xc0\0\0\0\0\x02ab\x03xyz\0\0\0\x01\x6b\x33\x43\xcf";
        check(whole, &[1, 0x6b33_43cf]);
        check(&whole[..whole.len() - 1], &[1]);
        check(&whole[..9], &[]);
        check(b"\xc0\0\0\0\x01\x02ab\x03xyz\0\0\0\x01", &[]);
        check(b"\x40\0\0\0\0\x02ab\x03xyz\0\0\0\x01", &[]);
        check(&[&b"\x80\0\0\0\0\0\0"[..], &[7; 4 * 99]].concat(), &[0x0707_0707; VERSIONS_MAX]);
        check(b"", &[]);
    }
}
