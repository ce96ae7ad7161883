//! The uplink inside one bidirectional stream of QUIC. Its socket sends nothing while a probe runs: UDP to foreign hosts
//! has made censors block what the probe then looks at.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ClientConfig, IdleTimeout, TransportConfig, UdpPoller, VarInt};
use zerkalo_core::identity::{BINDING_LABEL, Binding};

use super::{ADDRESSES_MAX, Address, Meter, Trust, Wired, resolve};
use crate::datagrams::{self, Datagrams};
use crate::quiet::Quiet;

/// A connection that says nothing for so long is dead. Longer than any probe, during which it must not speak.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(180);
/// Unread bytes of the stream.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Of the time for all, what one address of several may take.
const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(4);

/// Connects and opens the stream.
pub async fn open(address: &Address, trust: &Trust, meter: &Arc<Meter>, quiet: &Quiet) -> io::Result<Wired> {
    let crypto = QuicClientConfig::try_from(trust.quic()).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(limits()));
    let found: Vec<IpAddr> = resolve(&address.host).await?.into_iter().take(ADDRESSES_MAX).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", address.host));
    for (index, &ip) in found.iter().enumerate() {
        let opening = shake(SocketAddr::new(ip, address.port), &address.host, &config, meter, quiet);
        let opened = match index + 1 == found.len() {
            true => opening.await,
            false => tokio::time::timeout(ADDRESS_WAIT_MAX, opening)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        match opened {
            Ok(wired) => return Ok(wired),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn shake(
    peer: SocketAddr,
    host: &str,
    config: &ClientConfig,
    meter: &Arc<Meter>,
    quiet: &Quiet,
) -> io::Result<Wired> {
    let socket = Arc::new(QuietSocket {
        inner: Datagrams::on(datagrams::bind_towards(peer)?)?,
        meter: meter.clone(),
        quiet: quiet.clone(),
    });
    let endpoint = datagrams::endpoint(socket)?;
    let connecting = endpoint.connect_with(config.clone(), peer, host).map_err(io::Error::other)?;
    let connection = connecting.await?;
    let mut binding = [0; 32];
    // Fails only for lengths that no hash gives.
    let exported = connection.export_keying_material(&mut binding, BINDING_LABEL, b"");
    exported.map_err(|_| io::Error::other("this session has nothing to bind a proof to"))?;
    let (send, receive) = connection.open_bi().await?;
    // The connection ends with both halves of its one stream, and the endpoint with its one connection.
    let wire = Box::new(tokio::io::join(receive, send));
    Ok(Wired { wire, binding: Binding(binding), gauge: None })
}

fn limits() -> TransportConfig {
    let mut limits = TransportConfig::default();
    limits.max_idle_timeout(IdleTimeout::try_from(IDLE_MAX).ok());
    limits.stream_receive_window(STREAM_WINDOW_BYTES.into());
    limits.receive_window(STREAM_WINDOW_BYTES.into());
    limits.max_concurrent_bidi_streams(VarInt::from_u32(0));
    limits.max_concurrent_uni_streams(VarInt::from_u32(0));
    limits.datagram_receive_buffer_size(None);
    limits
}

/// Datagrams counted, and none sent while a probe runs.
#[derive(Debug)]
struct QuietSocket {
    inner: Arc<Datagrams>,
    meter: Arc<Meter>,
    quiet: Quiet,
}

impl AsyncUdpSocket for QuietSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let (inner, quiet) = (self.inner.clone().create_io_poller(), self.quiet.clone());
        Box::pin(QuietPoller { inner, quiet, pause: Mutex::default() })
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        // Counted before a probe can begin: its record tells of its own time alone.
        let sent = self.quiet.if_quiet(|| {
            self.inner.try_send(transmit)?;
            self.meter.note_sent(transmit.contents.len() as u64);
            Ok(())
        });
        sent.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = &polled {
            self.meter.note_received(meta[..*count].iter().map(|meta| meta.len as u64).sum());
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Writable once no probe runs and the socket has room.
struct QuietPoller {
    inner: Pin<Box<dyn UdpPoller>>,
    quiet: Quiet,
    /// Waits for the end of the probes; a lock makes it shareable, nobody contends for it.
    pause: Mutex<Option<Pause>>,
}

impl fmt::Debug for QuietPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuietPoller").field("quiet", &self.quiet).finish_non_exhaustive()
    }
}

impl UdpPoller for QuietPoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let pause = this.pause.get_mut().unwrap_or_else(PoisonError::into_inner);
        while !this.quiet.is_quiet() {
            let quiet = this.quiet.clone();
            let waiting = pause.get_or_insert_with(|| Box::pin(async move { quiet.quiet().await }));
            ready!(waiting.as_mut().poll(cx));
            *pause = None;
        }
        this.inner.as_mut().poll_writable(cx)
    }
}
