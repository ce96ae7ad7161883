//! The HTTP/3 step: one request over a QUIC connection that has shaken hands, as a browser asks once it knows of h3. Never
//! follows a redirect: where the visit leads is known by then.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3::error::StreamError;
use h3::quic::OpenStreams;
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{HttpExchange, HttpOutcome};

use super::clock::StepClock;
use super::http::{Answer, Ask, HEAD_LEN_MAX, as_browsers_ask, chain_text, exchange_of};
use super::quic::QuicConnection;

/// Asks and reads the answer, up to the body cap. The connection is closed at the end.
pub async fn exchange(quic: QuicConnection, ask: Ask<'_>, cap: Duration, clock: StepClock) -> HttpExchange {
    let (since, until) = (Instant::now(), clock.until(cap));
    let (mut answer, address) = (Answer::default(), quic.address);
    let outcome = tokio::select! {
        biased;
        () = quic.socket.flooded() => HttpOutcome::Protocol("more than any page needs".to_owned()),
        ended = timeout_at(until, converse(&quic, &ask, &mut answer)) => match ended {
            Ok(Ok(())) => HttpOutcome::Complete,
            Ok(Err(outcome)) => outcome,
            Err(_) => HttpOutcome::Timeout,
        },
    };
    exchange_of(ask, address, "h3", answer, outcome, since, clock)
}

async fn converse(quic: &QuicConnection, ask: &Ask<'_>, answer: &mut Answer) -> Result<(), HttpOutcome> {
    let transport = h3_quinn::Connection::new(quic.connection.clone());
    let (mut driver, sender) = h3::client::builder()
        .max_field_section_size(HEAD_LEN_MAX as u64)
        .build::<_, _, Bytes>(transport)
        .await
        .map_err(|error| outcome_of(&error, &quic.connection))?;
    // What the driver meets reaches the request too: there it is told.
    let drive = async {
        poll_fn(|context| driver.poll_close(context)).await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        ended = request(sender, ask, answer) => ended.map_err(|error| match error {
            Refusal::Unsent(text) => HttpOutcome::Failed(text),
            Refusal::Broken(error) => outcome_of(&error, &quic.connection),
        }),
        never = drive => match never {},
    }
}

/// Why no answer came to its end.
enum Refusal {
    /// The request could not be written.
    Unsent(String),
    Broken(StreamError),
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        Self::Broken(error)
    }
}

async fn request<T: OpenStreams<Bytes>>(
    mut sender: SendRequest<T, Bytes>,
    ask: &Ask<'_>,
    answer: &mut Answer,
) -> Result<(), Refusal> {
    let request = as_browsers_ask(http::Request::get(ask.url.as_str().split('#').next().unwrap_or_default()))
        .body(())
        .map_err(|error| Refusal::Unsent(error.to_string()))?;
    let mut stream = sender.send_request(request).await?;
    stream.finish().await?;
    let response = stream.recv_response().await?;
    answer.note_head(response.status(), response.headers());
    while let Some(mut data) = stream.recv_data().await? {
        if answer.is_enough_after(&data.copy_to_bytes(data.remaining()), ask) {
            return Ok(());
        }
    }
    Ok(())
}

/// How QUIC itself ended tells more than what HTTP/3 made of it.
fn outcome_of(error: &(dyn std::error::Error + 'static), connection: &quinn::Connection) -> HttpOutcome {
    if let Some(StreamError::RemoteTerminate { .. }) = error.downcast_ref() {
        return HttpOutcome::Reset;
    }
    match connection.close_reason() {
        Some(quinn::ConnectionError::TimedOut) => HttpOutcome::Timeout,
        Some(quinn::ConnectionError::Reset) => HttpOutcome::Reset,
        Some(quinn::ConnectionError::ApplicationClosed(_) | quinn::ConnectionError::ConnectionClosed(_)) => {
            HttpOutcome::Eof
        }
        _ => HttpOutcome::Protocol(chain_text(error)),
    }
}
