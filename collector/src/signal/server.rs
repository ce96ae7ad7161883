//! The listener of the signal endpoints: HTTP/1.1, bounded in connections, bytes and time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Signal;
use crate::stop::StopSignal;

/// Connections at a time; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take to come, from the connection or the answer before it on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live, however many requests it carries: slow readers of answers end here.
const CONNECTION_SECS_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's head; hyper's own least.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Where accepting fails, for want of file handles for one, it is tried again after this.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Answers until told to stop.
pub async fn serve(signal: Signal, listener: TcpListener, stopping: StopSignal) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("nobody closes the places");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.stopped() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a signal connection was not accepted"
                );
                tokio::time::sleep(ACCEPT_WAIT).await;
                continue;
            }
        };
        let (signal, stopping) = (signal.clone(), stopping.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_SECS_MAX, converse(signal, stream)) => {}
                () = stopping.stopped() => {}
            }
            drop(place);
        });
    }
}

/// Whatever breaks a conversation concerns its peer alone.
async fn converse(signal: Signal, stream: TcpStream) {
    // Without it answers are late, not lost.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let answer = signal.answer(&request).map(Full::new);
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}
