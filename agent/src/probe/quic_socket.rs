//! A UDP socket under quinn that counts bytes and notices a refusal. quinn shows a black hole and a closed port alike,
//! as silence; the socket knows better.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::Interest;

/// quinn's own socket, with counts.
#[derive(Debug)]
pub struct CountingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    sent: AtomicU64,
    received: AtomicU64,
    /// The same socket once more: errors wake only who waits for errors.
    errors: tokio::net::UdpSocket,
}

impl CountingSocket {
    /// A socket on `local` that hears what the network says of `peer` (ICMP reaches connected sockets only).
    pub fn connect(local: SocketAddr, peer: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(peer)?;
        socket.set_nonblocking(true)?;
        let errors = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        Ok(Arc::new(Self {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
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

    /// Ends when the peer's port is said to be closed.
    pub async fn refused(&self) {
        loop {
            // Waiting itself cannot fail but with the runtime's end.
            let _ = self.errors.ready(Interest::ERROR).await;
            match self.errors.take_error() {
                Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return,
                // Sending may have swallowed the error; the peer says it again to the next datagram.
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
            let len: usize = meta[..*count].iter().map(|one| one.len).sum();
            self.received.fetch_add(len as u64, Ordering::Relaxed);
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }
}
