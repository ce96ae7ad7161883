//! A connection that counts: bytes out, bytes in, and how it ended, as the socket said it. Layers above (TLS, HTTP)
//! wrap and blur errors; the tap keeps the plain fact, and asks the kernel for what only it knows (`gauge.rs`).

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zerkalo_core::record::Transport;

use super::gauge::Gauge;

/// Bytes kept of the first flight: a ClientHello with post-quantum key shares and ECH takes about 2.5 KB.
const FIRST_FLIGHT_LEN_MAX: usize = 4 * 1024;

/// How the socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed in order.
    Eof,
    /// The peer, or something on the way, reset the connection.
    Reset,
}

/// Counts of one connection; shared with whoever asks.
#[derive(Debug, Default)]
pub struct Tap {
    sent: AtomicU64,
    first_flight_len: AtomicU64,
    first_flight: Mutex<Vec<u8>>,
    received: AtomicU64,
    end: AtomicU8,
    gauge: Option<Gauge>,
}

impl Tap {
    /// Bytes handed to the socket.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes handed to the socket before the first one came back.
    pub fn first_flight_len(&self) -> u64 {
        self.first_flight_len.load(Ordering::Relaxed)
    }

    /// Those bytes themselves, at most 4 KiB of them: then they are given away.
    pub fn take_first_flight(&self) -> Vec<u8> {
        std::mem::take(&mut *self.first_flight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that came from the socket.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<End> {
        match self.end.load(Ordering::Relaxed) {
            1 => Some(End::Eof),
            2 => Some(End::Reset),
            _ => None,
        }
    }

    /// What the kernel knows of the connection at this instant.
    pub fn transport(&self) -> Option<Transport> {
        self.gauge.as_ref()?.read()
    }

    fn note_sent(&self, bytes: &[u8]) {
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.received() == 0 {
            self.first_flight_len.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let mut flight = self.first_flight.lock().unwrap_or_else(PoisonError::into_inner);
            let room = FIRST_FLIGHT_LEN_MAX - flight.len();
            flight.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn note_end(&self, end: End) {
        let code = match end {
            End::Eof => 1,
            End::Reset => 2,
        };
        // A reset outweighs the end of file it may come with.
        self.end.fetch_max(code, Ordering::Relaxed);
    }

    fn note_error(&self, error: &io::Error) {
        use io::ErrorKind as Kind;
        if matches!(error.kind(), Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe) {
            self.note_end(End::Reset);
        }
    }
}

/// Any stream, its type forgotten: each type over which TLS or HTTP is spoken costs a small box tens of kilobytes of
/// program, or a hundred.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A stream under a tap.
#[derive(Debug)]
pub struct Tapped<S> {
    stream: S,
    tap: Arc<Tap>,
}

impl<S: AsFd> Tapped<S> {
    /// Puts a tap on `stream`.
    pub fn new(stream: S) -> (Self, Arc<Tap>) {
        let tap = Arc::new(Tap { gauge: Gauge::on(&stream), ..Tap::default() });
        (Self { stream, tap: tap.clone() }, tap)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let (had_room, result) = (buf.remaining() > 0, Pin::new(&mut self.stream).poll_read(cx, buf));
        match &result {
            Poll::Ready(Ok(())) => match buf.filled().len() - before {
                0 if had_room => self.tap.note_end(End::Eof),
                read => {
                    self.tap.received.fetch_add(read as u64, Ordering::Relaxed);
                }
            },
            Poll::Ready(Err(error)) => self.tap.note_error(error),
            Poll::Pending => {}
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        match &result {
            Poll::Ready(Ok(written)) => self.tap.note_sent(&buf[..*written]),
            Poll::Ready(Err(error)) => self.tap.note_error(error),
            Poll::Pending => {}
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
