//! A connection that holds a place: given back when it closes, and closed when another takes it or its time is over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Place;

/// The connection and its place.
pub struct Held<IO> {
    io: IO,
    /// Ends when it must go.
    end: Option<BoxFuture<'static, ()>>,
    _place: Place,
}

impl<IO> Held<IO> {
    /// Holds `place` until dropped; once `end` ended the peer seems to have closed.
    pub fn new(io: IO, place: Place, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { io, end: Some(end.boxed()), _place: place }
    }

    /// Whether it must go; the caller is woken when it must.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.end {
            None => true,
            Some(end) => {
                let is_over = end.poll_unpin(context).is_ready();
                if is_over {
                    self.end = None;
                }
                is_over
            }
        }
    }
}

/// What a write hears once the connection must go.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the place is wanted by another")
}

impl Connected for Held<TcpStream> {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Held<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Held<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
