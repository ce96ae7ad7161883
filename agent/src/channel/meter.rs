//! Counts the bytes of one connection, both ways, handshake and all; and of all connections of the uplink together.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Bytes of the uplink since the process began, over whatever connection.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Bytes sent and received so far.
    pub fn so_far(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// Bytes of one connection.
#[derive(Debug)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
    total: Arc<Traffic>,
    /// Bytes either way at which to say so.
    limit: AtomicU64,
    reached: Notify,
    /// When anything came last.
    heard: Mutex<Instant>,
}

impl Meter {
    /// Nothing passed yet.
    pub fn new(total: Arc<Traffic>) -> Arc<Self> {
        Arc::new(Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            total,
            limit: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
            heard: Mutex::new(Instant::now()),
        })
    }

    /// Counts what passes over `inner`.
    pub fn on<T>(self: &Arc<Self>, inner: T) -> Metered<T> {
        Metered { inner, meter: self.clone() }
    }

    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How long nothing has come.
    pub fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Has [`Meter::reached`] end once either count is at `bytes`.
    pub fn limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.check();
    }

    /// Ends once either count is at the limit.
    pub async fn reached(&self) {
        let limit = || self.limit.load(Ordering::Relaxed);
        while self.sent() < limit() && self.received() < limit() {
            self.reached.notified().await;
        }
    }

    /// Notes bytes sent.
    pub fn note_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.total.sent.fetch_add(bytes, Ordering::Relaxed);
        self.check();
    }

    /// Notes bytes received.
    pub fn note_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.total.received.fetch_add(bytes, Ordering::Relaxed);
        if bytes > 0 {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        self.check();
    }

    fn check(&self) {
        if self.sent().max(self.received()) >= self.limit.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub struct Metered<T> {
    inner: T,
    meter: Arc<Meter>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.meter.note_received((buf.filled().len() - before) as u64);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.meter.note_sent(written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_count_both_ways_and_the_limit_is_told() {
        let traffic = Arc::<Traffic>::default();
        let meter = Meter::new(traffic.clone());
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = meter.on(ours);
        ours.write_all(b"question").await.unwrap();
        theirs.write_all(b"answers").await.unwrap();
        let mut answer = [0; 7];
        ours.read_exact(&mut answer).await.unwrap();
        assert_eq!((meter.sent(), meter.received()), (8, 7));
        meter.limit(8);
        meter.reached().await;
        let other = Meter::new(traffic.clone());
        other.note_sent(2);
        assert_eq!((traffic.so_far(), other.sent()), ((10, 7), 2));
        meter.limit(9);
        let reached = meter.reached();
        tokio::pin!(reached);
        assert!(futures::poll!(&mut reached).is_pending());
        theirs.write_all(b"xy").await.unwrap();
        ours.read_exact(&mut answer[..2]).await.unwrap();
        reached.await;
    }
}
