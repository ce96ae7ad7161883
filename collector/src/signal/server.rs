//! The listener of the signal endpoints: HTTP/1.1, bounded in connections, bytes and time.
//!
//! Who finds no place is told so and when to come again. The word for it is 429, never 503: with `?http=1` that says
//! that no mirror is live, and trackers would act on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::guests::Guests;
use super::patience::Patient;
use super::{BUSY, Signal};
use crate::metrics::count;
use crate::stop::StopSignal;

/// Connections at a time; further ones are refused in words.
const CONNECTIONS_MAX: usize = 256;
/// Connections being told so at a time; further ones are closed without a word.
const REFUSALS_MAX: usize = 256;
/// How long the words may take to be heard.
const REFUSAL_MAX: Duration = Duration::from_secs(2);
/// The words.
const REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\ncontent-type: text/plain; charset=utf-8\r\n\
    cache-control: no-store\r\ncontent-length: 37\r\nconnection: close\r\n\r\ntoo many connections; try again soon\n";
/// How long a request's head may take to come, from the connection or the answer before it on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may wait for its reader to take some of it.
const READER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may live, however many requests it carries.
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
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let guests = Guests::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.stopped() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a signal connection was not accepted"
                );
                tokio::time::sleep(ACCEPT_WAIT).await;
                continue;
            }
        };
        let place = guests.enter(peer.ip()).zip(places.clone().try_acquire_owned().ok());
        let Some(place) = place else {
            count(&signal.metrics.signals, BUSY);
            if let Ok(turn) = refusals.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_MAX, refuse(stream)).await;
                    drop(turn);
                });
            }
            continue;
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

/// Says that there is no place. What was sent is read first: closing on unread bytes would take the words back.
async fn refuse(mut stream: TcpStream) {
    let mut some = [0; 1_024];
    // Whoever does not listen is not waited for.
    let _ = stream.write_all(REFUSAL).await;
    let _ = stream.shutdown().await;
    while let Ok(1..) = stream.read(&mut some).await {}
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
        .serve_connection(TokioIo::new(Patient::new(stream, READER_PATIENCE)), answer)
        .await;
}
