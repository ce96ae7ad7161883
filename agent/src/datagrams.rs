//! QUIC's sockets and endpoints, for the uplink and for probes: one datagram a system call. quinn's own socket joins
//! several into one, which nobody needs at a box's rates; for that it asks the C library, whose resolver a small static
//! program must not hold, and keeps three megabytes ready for each connection.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime, UdpPoller};
use tokio::io::ReadBuf;
use tokio::sync::Notify;

/// A socket of the system's choice of port, towards `peer`.
pub fn bind_towards(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind(SocketAddr::new(any, 0))
}

/// QUIC over `socket`, to others alone: nobody is let in.
pub fn endpoint(socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Endpoint> {
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, Arc::new(OnTokio))
}

/// A UDP socket under quinn, one datagram at a time.
#[derive(Debug)]
pub struct Datagrams {
    socket: tokio::net::UdpSocket,
    refusal: Notify,
}

impl Datagrams {
    /// Takes over a socket.
    pub fn on(socket: UdpSocket) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Self { socket: tokio::net::UdpSocket::from_std(socket)?, refusal: Notify::new() }))
    }

    /// Ends once sending or receiving met a refusal of an earlier datagram: the system tells each to one caller alone.
    pub async fn refused(&self) {
        self.refusal.notified().await;
    }

    /// Whether the system told of an earlier datagram's refusal, and did nothing else.
    fn is_refusal(&self, error: &io::Error) -> bool {
        let is_refusal = error.kind() == io::ErrorKind::ConnectionRefused;
        if is_refusal {
            self.refusal.notify_one();
        }
        is_refusal
    }
}

impl AsyncUdpSocket for Datagrams {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable(self))
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        let send = || self.socket.try_send_to(transmit.contents, transmit.destination);
        let sent = match send() {
            Err(error) if self.is_refusal(&error) => send(),
            sent => sent,
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // Whatever else befalls a datagram, to QUIC it is lost; the next one may fare better.
            _ => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else { return Poll::Ready(Ok(0)) };
        loop {
            let mut read = ReadBuf::new(buf);
            match ready!(self.socket.poll_recv_from(cx, &mut read)) {
                Ok(addr) => {
                    let len = read.filled().len();
                    *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                // What the network says of an earlier datagram, and says once: QUIC's timers take care of it.
                Err(error) => drop(self.is_refusal(&error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Tells the one connection there is when it may send again.
#[derive(Debug)]
struct Writable(Arc<Datagrams>);

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.0.socket.poll_send_ready(cx)
    }
}

/// quinn's runtime but for its sockets.
#[derive(Debug)]
struct OnTokio;

impl Runtime for OnTokio {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(task);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Datagrams::on(socket)?)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
