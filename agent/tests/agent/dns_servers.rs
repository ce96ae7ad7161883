//! Resolvers behind TLS: over TLS alone, and over HTTPS in either version. They behave as told, and remember who asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::world::*;

/// The resolver's name.
pub const RESOLVER: &str = "dns.example";

/// What a resolver speaks over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Messages with their length before them.
    Plain,
    Http1,
    Http2,
}

/// What a resolver does once TLS is up.
#[derive(Clone)]
pub enum Manner {
    /// Answers; where the replies have nothing to say, stays silent.
    Answer(Replies),
    /// Bytes that are no DNS.
    Garbage,
    /// The beginning of an answer, and the end.
    Torn,
    /// Answers to questions that nobody asked, for ever.
    OtherQuestions,
    /// HTTPS alone: this status, type and body.
    Http(u16, &'static str, Vec<u8>),
}

/// What a resolver saw.
#[derive(Default)]
pub struct Seen {
    pub names: Vec<String>,
    pub questions: usize,
}

/// Shared with the test.
pub type Log = Arc<Mutex<Seen>>;

/// Starts a resolver with that certificate.
pub async fn start(config: Arc<rustls::ServerConfig>, speech: Speech, manner: Manner) -> (SocketAddr, Log) {
    let mut config = (*config).clone();
    config.alpn_protocols = match speech {
        Speech::Plain => Vec::new(),
        Speech::Http1 => vec![b"http/1.1".to_vec()],
        Speech::Http2 => vec![b"h2".to_vec()],
    };
    let config = Arc::new(config);
    let listener = TcpListener::bind((loopback(1), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Log::default();
    let seen = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, manner, seen) = (config.clone(), manner.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let name = stream.get_ref().1.server_name().unwrap_or("(none)").to_owned();
                seen.lock().unwrap().names.push(name);
                match speech {
                    Speech::Plain => drop(serve_plain(stream, &manner, &seen).await),
                    Speech::Http1 | Speech::Http2 => serve_http(stream, speech, manner, seen).await,
                }
            });
        }
    });
    (address, log)
}

async fn serve_plain(mut stream: TlsStream<TcpStream>, manner: &Manner, seen: &Log) -> std::io::Result<()> {
    loop {
        let len = stream.read_u16().await?;
        let mut question = vec![0; usize::from(len)];
        stream.read_exact(&mut question).await?;
        seen.lock().unwrap().questions += 1;
        match manner {
            Manner::Torn => {
                stream.write_all(&[1, 0, question[0], question[1], 0x81]).await?;
                return stream.shutdown().await;
            }
            Manner::OtherQuestions => loop {
                let other = vec![!question[0], question[1], 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
                write_message(&mut stream, &other).await?;
            },
            manner => {
                for answer in answer_bytes(&question, manner) {
                    write_message(&mut stream, &answer).await?;
                }
            }
        }
    }
}

async fn write_message(stream: &mut TlsStream<TcpStream>, message: &[u8]) -> std::io::Result<()> {
    stream.write_u16(message.len() as u16).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

fn answer_bytes(question: &[u8], manner: &Manner) -> Vec<Vec<u8>> {
    match manner {
        Manner::Answer(replies) => answers(question, replies, false),
        _ => vec![[&question[..2], &[0xff; 40]].concat()],
    }
}

async fn serve_http(stream: TlsStream<TcpStream>, speech: Speech, manner: Manner, seen: Log) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (manner, seen) = (manner.clone(), seen.clone());
        async move { Ok::<_, Infallible>(respond(request, &manner, &seen).await) }
    });
    let io = TokioIo::new(stream);
    match speech {
        Speech::Http2 => {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(io, service).await);
        }
        _ => drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await),
    }
}

async fn respond(request: Request<Incoming>, manner: &Manner, seen: &Log) -> Response<Full<Bytes>> {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri().path(), "/dns-query");
    assert_eq!(request.headers()["content-type"], "application/dns-message");
    let question = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(question[..2], [0, 0], "caches know equal questions by equal bytes");
    seen.lock().unwrap().questions += 1;
    let (status, kind, body) = match manner {
        Manner::Http(status, kind, body) => (*status, *kind, body.clone()),
        manner => match answer_bytes(&question, manner).into_iter().next() {
            Some(answer) => (200, "application/dns-message", answer),
            None => std::future::pending().await,
        },
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}
