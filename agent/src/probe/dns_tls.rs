//! DNS over TLS (RFC 7858): all questions in one row over one connection, with the resolver's name shown as clients show
//! it. Whoever cannot prove to be that resolver is asked nothing.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zerkalo_core::record::{ChainFault, DnsExchange, DnsTransport};

use super::chain::Trust;
use super::clock::StepClock;
use super::dns::{Question, exchange_of, prefixed, read_prefixed};
use super::dns_answer::{Answer, Extension, query};
use super::late::answers;
use super::resolvers::NamedServer;
use super::tap::Duplex;

/// Messages read that answer none of our questions, before we hang up.
const STRAYS_MAX: usize = 8;

/// Asks all questions over one connection.
pub async fn ask_all(
    server: &NamedServer,
    questions: Vec<Question>,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> Vec<DnsExchange> {
    let (since, until) = (Instant::now(), clock.until(cap));
    let mut exchanges: Vec<Option<DnsExchange>> = vec![None; questions.len()];
    let conversed =
        timeout_at(until, converse(server, &questions, trust, since, clock, &mut exchanges)).await;
    let rest = match conversed {
        Ok(Ok(())) => Answer::failed("the resolver answers other questions than ours".to_owned()),
        Ok(Err(why)) => Answer::failed(why),
        Err(_) => Answer::timeout(),
    };
    let ended = questions.into_iter().zip(exchanges).map(|(question, exchange)| {
        exchange.unwrap_or_else(|| {
            exchange_of(question, DnsTransport::Dot, since, rest.clone(), Vec::new(), clock)
        })
    });
    ended.collect()
}

/// A connection with whoever proves to be the resolver of that name.
pub(super) async fn open(
    server: &NamedServer,
    alpn: &[&[u8]],
    trust: &Trust,
) -> Result<TlsStream<Box<dyn Duplex>>, String> {
    let name = ServerName::try_from(server.name.clone())
        .map_err(|_| format!("{:?} is no name for TLS", server.name))?;
    let recorder = trust.recorder();
    let mut config = ClientConfig::builder_with_provider(trust.provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(server.address).await.map_err(|error| format!("TCP: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("TCP: {error}"))?;
    let stream: Box<dyn Duplex> = Box::new(stream);
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(|error| format!("TLS: {error}"))?;
    match recorder.seen() {
        Some((_, ChainFault::Valid)) => Ok(stream),
        Some((chain, fault)) => {
            let issuer = chain.first().map_or("nobody", |leaf| leaf.issuer.as_str());
            Err(format!("TLS: not the resolver's certificate ({fault:?}, vouched for by {issuer})"))
        }
        None => Err("TLS: no certificate came".to_owned()),
    }
}

/// Sends all questions, and reads until each has its answer.
async fn converse(
    server: &NamedServer,
    questions: &[Question],
    trust: &Trust,
    since: Instant,
    clock: StepClock,
    exchanges: &mut [Option<DnsExchange>],
) -> Result<(), String> {
    let mut stream = open(server, &[], trust).await?;
    let (mut queries, mut flight) = (Vec::new(), Vec::new());
    for question in questions {
        let (query, bytes) = query(&question.name, question.query, Extension::Edns)?;
        flight.extend(prefixed(&bytes).map_err(|error| error.to_string())?);
        queries.push(query);
    }
    // One record for all: pipelined as RFC 7766 wants it.
    stream.write_all(&flight).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())?;
    let mut strays = 0;
    while exchanges.iter().any(Option::is_none) && strays < STRAYS_MAX {
        let bytes = read_prefixed(&mut stream).await.map_err(|error| error.to_string())?;
        let message =
            Message::from_vec(&bytes).map_err(|error| format!("the answer cannot be read: {error}"))?;
        let asked = queries.iter().position(|query| answers(&message, query));
        match asked.filter(|index| exchanges[*index].is_none()) {
            Some(index) => {
                let (question, answer) = (questions[index].clone(), Answer::read(&message));
                exchanges[index] =
                    Some(exchange_of(question, DnsTransport::Dot, since, answer, Vec::new(), clock));
            }
            None => strays += 1,
        }
    }
    Ok(())
}
