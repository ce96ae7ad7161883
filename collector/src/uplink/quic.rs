//! Agents by QUIC: one bidirectional stream a connection, and in it what TCP would carry. Its port is not 443: UDP there is
//! what censors drop first.

use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use zerkalo_core::identity::{BINDING_LABEL, Binding};

use crate::session::{Secured, Session};
use crate::stop::StopSignal;

/// Connections at once, and handshakes among them: memory of both is bounded.
const CONNECTIONS_MAX: usize = 20_000;
/// See [`CONNECTIONS_MAX`].
const HANDSHAKES_MAX: usize = 512;
/// With so many connections open a newcomer first proves that its address is its own.
const UNPROVED_MAX: usize = 128;
/// Longest handshake, and longest wait for the stream in it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that says nothing for so long is dead. Agents are silent while they probe.
pub const IDLE_MAX: Duration = Duration::from_secs(180);
/// Unread bytes of a connection: a frame at its limit fits.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// What agents say above TLS.
const ALPN: &[u8] = b"h3";
/// How long the last words of a stream may take to arrive.
const LINGER_MAX: Duration = Duration::from_secs(3);
/// Connections waiting to be served.
const WAITING_MAX: usize = 64;

/// Why QUIC cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    #[error("no cipher fits QUIC")]
    Cipher(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
    #[error("the socket cannot be used")]
    Socket(#[source] io::Error),
}

/// Accepts agents on `socket` until told to stop; gives their streams as they come.
pub fn listen(
    socket: UdpSocket,
    tls: &rustls::ServerConfig,
    stopping: StopSignal,
) -> Result<ReceiverStream<io::Result<Secured<QuicWire>>>, QuicError> {
    let config = server_config(tls)?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint =
        Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime).map_err(QuicError::Socket)?;
    let (wires, incoming) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let shaking = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = stopping.stopped() => None,
            };
            let Some(incoming) = incoming else { break };
            let Some(incoming) = admit(&endpoint, incoming) else { continue };
            let Ok(turn) = shaking.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let wires = wires.clone();
            tokio::spawn(async move {
                if let Ok(Ok(wire)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake(incoming)).await {
                    // Fails only where the server is gone.
                    let _ = wires.send(Ok(wire)).await;
                }
                drop(turn);
            });
        }
        // Streams end by themselves, told by the service; what is left after that is cut off here.
        endpoint.wait_idle().await;
    });
    Ok(ReceiverStream::new(incoming))
}

/// Takes in a newcomer, unless there are too many; among many it must prove its address first.
fn admit(endpoint: &Endpoint, incoming: Incoming) -> Option<Incoming> {
    let open = endpoint.open_connections();
    if open >= CONNECTIONS_MAX {
        incoming.refuse();
        return None;
    }
    if open >= UNPROVED_MAX && !incoming.remote_address_validated() {
        // Fails only for who was validated.
        let _ = incoming.retry();
        return None;
    }
    Some(incoming)
}

async fn shake(incoming: Incoming) -> io::Result<Secured<QuicWire>> {
    let connection = incoming.await?;
    let shown = connection.peer_identity().and_then(|shown| shown.downcast().ok());
    let chain: Option<Box<Vec<CertificateDer<'static>>>> = shown;
    let mut bytes = [0; 32];
    let binding = connection.export_keying_material(&mut bytes, BINDING_LABEL, b"").ok();
    let session = Session {
        peer: Some(connection.remote_address()),
        leaf: chain.and_then(|chain| chain.into_iter().next()),
        binding: binding.map(|()| Binding(bytes)),
        is_refused: false,
    };
    let (send, receive) = connection.accept_bi().await?;
    Ok(Secured::new(QuicWire { send, receive, connection }, session))
}

fn server_config(tls: &rustls::ServerConfig) -> Result<ServerConfig, QuicError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(QuicError::Cipher)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.max_incoming(HANDSHAKES_MAX);
    let mut limits = TransportConfig::default();
    limits.max_idle_timeout(IdleTimeout::try_from(IDLE_MAX).ok());
    limits.stream_receive_window(WINDOW_BYTES.into());
    limits.receive_window(WINDOW_BYTES.into());
    limits.max_concurrent_bidi_streams(VarInt::from_u32(1));
    limits.max_concurrent_uni_streams(VarInt::from_u32(0));
    limits.datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(limits));
    Ok(config)
}

/// Both halves of an agent's stream.
pub struct QuicWire {
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
}

impl Drop for QuicWire {
    fn drop(&mut self) {
        // What was said last still arrives: a stream that is finished outlives this handle, until its bytes are acknowledged.
        let _ = self.send.finish();
        let (connection, taken) = (self.connection.clone(), self.send.stopped());
        // Without a runtime the process is at its end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let _ = tokio::time::timeout(LINGER_MAX, taken).await;
            connection.close(VarInt::from_u32(0), b"");
        });
    }
}

impl AsyncRead for QuicWire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for QuicWire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}
