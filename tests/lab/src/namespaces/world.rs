//! The world beyond the censor: the site with all the ways sites behave, reference hosts, stub pages, a resolver, and
//! a QUIC server. What is asked for decides what comes: the path, the name, the address, and who asks.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALT_SVC, CONTENT_TYPE, LOCATION};
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::Request;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;

use super::addresses::{CANARY, CONTROL, KNOWN_STUB, PUBLIC_RESOLVER, STUB_HOST, TELLING_STUB, UNKNOWN_STUB};
use super::certificates::Certificates;
use super::names::{self, Lie};
use crate::origin;

/// How long a connection may live: probes take seconds.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(60);
/// Connections the kernel may queue.
const BACKLOG: i32 = 128;
/// Parts of a page that comes slowly, and the wait before each.
const SLOW_PARTS: usize = 20;
const SLOW_PART_AFTER: Duration = Duration::from_millis(250);

/// Where the public resolver is asked over HTTPS.
pub const DOH_PATH: &str = "/dns-query";
/// Largest question read.
const DNS_QUERY_LEN_MAX: usize = 4_096;

/// What known stubs say.
pub const STUB_PAGE: &str = "<html><head><title>Доступ ограничен</title></head><body>\
    Доступ к сайту ограничен в соответствии с Федеральными законами</body></html>";
/// A page that says nothing known.
pub const PARKING_PAGE: &str = "<html><head><title>Welcome</title></head><body>It works!</body></html>";
const CAPTCHA_PAGE: &str =
    "<html><head><title>Just a moment...</title></head><body>Are you a robot?</body></html>";

type Body = BoxBody<Bytes, Infallible>;

/// Starts everything that lives in the world.
pub async fn open(certificates: Certificates) -> io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let resolver = PUBLIC_RESOLVER.parse().map_err(io::Error::other)?;
    names::start(resolver, Lie::None, &mut tasks).await?;
    names::start_tls(resolver, certificates.site.clone(), &mut tasks).await?;
    for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        tasks.spawn(serve_plain(listen(SocketAddr::new(any, 80))?));
        tasks.spawn(serve_tls(listen(SocketAddr::new(any, 443))?, certificates.clone()));
    }
    tasks.spawn(serve_quic(&certificates)?);
    Ok(tasks)
}

/// A listener on every address of one family.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn serve_plain(listener: TcpListener) {
    accept(listener, |stream, visitor| async move { speak(stream, false, false, visitor).await }).await;
}

async fn serve_tls(listener: TcpListener, certificates: Certificates) {
    accept(listener, move |stream, visitor| {
        let config = if is_stub(visitor.local) { &certificates.stub } else { &certificates.site };
        serve_visitor(stream, config.clone(), visitor)
    })
    .await;
}

/// Shakes hands and serves the site: what the origin does, and who breaks TLS open to pass the page on.
pub async fn serve_visitor(stream: TcpStream, config: Arc<rustls::ServerConfig>, visitor: Visitor) {
    let Ok(tls) = TlsAcceptor::from(config).accept(stream).await else { return };
    let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    speak(tls, true, is_h2, visitor).await;
}

/// Who came, and to which of our addresses.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    pub local: IpAddr,
    pub peer: IpAddr,
}

async fn accept<F, O>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream, Visitor) -> O,
    O: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        let _ = stream.set_nodelay(true);
        let visit = serve(stream, Visitor { local: local.ip(), peer: peer.ip() });
        connections.spawn(async { drop(tokio::time::timeout(CONNECTION_LIFE_MAX, visit).await) });
    }
}

async fn speak<S>(stream: S, is_https: bool, is_h2: bool, visitor: Visitor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| async move {
        let host = request.uri().host().map(str::to_owned).or_else(|| {
            let host = request.headers().get("host")?.to_str().ok()?;
            Some(host.split(':').next().unwrap_or(host).to_owned())
        });
        if request.method() == http::Method::POST && request.uri().path() == DOH_PATH {
            return Ok(answer_name(request.into_body()).await);
        }
        let scheme = if is_https { "https" } else { "http" };
        let host = host.unwrap_or_default();
        Ok::<_, Infallible>(answer(scheme, &host, request.uri().path(), visitor))
    });
    let io = TokioIo::new(stream);
    // How a visitor leaves is the visitor's business.
    let _left = if is_h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

/// What the public resolver says over HTTPS; whoever asks elsewhere gets the same, for names are asked for.
async fn answer_name(body: Incoming) -> Response<Body> {
    let query = Limited::new(body, DNS_QUERY_LEN_MAX).collect().await;
    let answer = query.ok().and_then(|query| names::answer_honestly(&query.to_bytes()));
    let Some(answer) = answer else { return page(StatusCode::BAD_REQUEST, "no question") };
    let mut response = Response::new(Full::new(Bytes::from(answer)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/dns-message"));
    response
}

fn is_stub(address: IpAddr) -> bool {
    [KNOWN_STUB, UNKNOWN_STUB, TELLING_STUB].iter().any(|stub| address == *stub)
}

/// What a visitor gets.
fn answer(scheme: &str, host: &str, path: &str, visitor: Visitor) -> Response<Body> {
    let is_control = visitor.peer == CONTROL;
    if visitor.local == UNKNOWN_STUB {
        return page(StatusCode::OK, PARKING_PAGE);
    }
    if is_stub(visitor.local) || visitor.local.to_string() == STUB_HOST {
        return page(StatusCode::OK, STUB_PAGE);
    }
    let own = || page(StatusCode::OK, origin::page("The mirror", CANARY));
    let sent_to = |location: String| redirect(&location);
    match path {
        "/loop" => sent_to(format!("{scheme}://{host}/loop")),
        "/landing" => sent_to("https://landing.lab.test/".to_owned()),
        "/forbidden-country" if !is_control => {
            page(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, "Not in your country.")
        }
        "/captcha" if !is_control => page(StatusCode::FORBIDDEN, CAPTCHA_PAGE),
        "/captcha-200" if !is_control => page(StatusCode::OK, CAPTCHA_PAGE),
        "/slow" => slow_page(),
        "/small" => page(StatusCode::OK, format!("<title>The mirror</title>{CANARY}")),
        "/h3" => {
            let mut page = own();
            page.headers_mut().insert(ALT_SVC, http::HeaderValue::from_static("h3=\":443\"; ma=60"));
            page
        }
        _ => match path.strip_prefix("/hops/").and_then(|left| left.parse::<u32>().ok()) {
            None | Some(0) => own(),
            Some(left) => sent_to(format!("{scheme}://{host}/hops/{}", left - 1)),
        },
    }
}

fn page(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())).boxed());
    *response.status_mut() = status;
    let html = http::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

fn redirect(location: &str) -> Response<Body> {
    let mut response = page(StatusCode::FOUND, "");
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The page, in parts: a tired origin, not a censor.
fn slow_page() -> Response<Body> {
    let page = Bytes::from(origin::page("The mirror", CANARY));
    let part = page.len().div_ceil(SLOW_PARTS);
    let parts: Vec<Bytes> =
        (0..page.len()).step_by(part).map(|start| page.slice(start..page.len().min(start + part))).collect();
    let stream = tokio_stream::iter(parts).then(|part| async move {
        tokio::time::sleep(SLOW_PART_AFTER).await;
        Ok(Frame::data(part))
    });
    Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(stream)))))
}

/// A boxed body must be `Sync`; its stream is polled through `&mut` alone.
struct SyncStream<S>(std::pin::Pin<Box<S>>);

impl<S: tokio_stream::Stream> tokio_stream::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

fn serve_quic(certificates: &Certificates) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let crypto = QuicServerConfig::try_from((*certificates.site_quic).clone()).map_err(io::Error::other)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443)))?;
    Ok(async move {
        let mut connections = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                if let Ok(connection) = incoming.await {
                    drop(tokio::time::timeout(CONNECTION_LIFE_MAX, serve_h3(connection)).await);
                }
            });
        }
    })
}

/// The mirror's page to every request.
async fn serve_h3(connection: quinn::Connection) -> Option<()> {
    let transport = h3_quinn::Connection::new(connection);
    let mut server = h3::server::Connection::<_, Bytes>::new(transport).await.ok()?;
    while let Ok(Some(resolver)) = server.accept().await {
        let (_, mut stream) = resolver.resolve_request().await.ok()?;
        stream.send_response(Response::new(())).await.ok()?;
        stream.send_data(origin::page("The mirror", CANARY).into()).await.ok()?;
        stream.finish().await.ok()?;
    }
    Some(())
}
