//! The operator's own web server behind all fronts: TLS, HTTP/1.1 and 2, one page; can be taken down and brought back.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::pki::ServerIdentity;

/// Not 127.0.0.1: outgoing connections take their ports there, and ours must be free again after an outage.
const ADDRESS: [u8; 4] = [127, 0, 0, 80];
/// Bytes of the page: beyond the offset at which the known freeze strikes.
pub const PAGE_LEN: usize = 72 * 1024;
/// Connections the kernel may queue.
const BACKLOG: u32 = 256;
/// How long a connection may live: probes take seconds.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(60);
/// Before the address is tried again, where another socket still holds it.
const REBIND_WAIT: Duration = Duration::from_millis(20);

/// A running web server; stops when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    up: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Origin {
    /// Serves `page` on a port of the system's choice.
    pub fn start(identity: &ServerIdentity, page: String) -> io::Result<Self> {
        let listener = listen(SocketAddr::from((ADDRESS, 0)))?;
        let address = listener.local_addr()?;
        let (up, is_up) = watch::channel(true);
        let acceptor = TlsAcceptor::from(identity.config.clone());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, address, acceptor, Bytes::from(page), is_up));
        Ok(Self { address, up, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the server down: its port refuses, open connections are cut.
    pub fn take_down(&self) {
        self.up.send_replace(false);
    }

    /// Brings the server back.
    pub fn bring_up(&self) {
        self.up.send_replace(true);
    }
}

/// A page of [`PAGE_LEN`] bytes with the canary in it.
pub fn page(title: &str, canary: &str) -> String {
    let mut page = format!("<!doctype html><html><head><title>{title}</title></head><body><p>{canary}</p>\n");
    let mut line = 0;
    while page.len() < PAGE_LEN {
        line += 1;
        page.push_str(&format!("<p>line {line} of a page long enough to meet a freeze</p>\n"));
    }
    page + "</body></html>\n"
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(
    first: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    page: Bytes,
    mut up: watch::Receiver<bool>,
) {
    let mut first = Some(first);
    loop {
        if up.wait_for(|up| *up).await.is_err() {
            return;
        }
        let Some(listener) = first.take().or_else(|| listen(address).ok()) else {
            tokio::time::sleep(REBIND_WAIT).await;
            continue;
        };
        // Dropping the connections with the listener cuts them all.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            tokio::select! {
                down = up.wait_for(|up| !*up) => {
                    if down.is_err() { return }
                    break;
                }
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let visit = visit(stream, acceptor.clone(), page.clone());
                    connections.spawn(async { let _late = tokio::time::timeout(CONNECTION_LIFE_MAX, visit).await; });
                }
            }
        }
    }
}

async fn visit(stream: TcpStream, acceptor: TlsAcceptor, page: Bytes) {
    let _ = stream.set_nodelay(true);
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |_: Request<hyper::body::Incoming>| {
        let page = page.clone();
        async move {
            let mut response = Response::new(Full::new(page));
            let html = http::HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(http::header::CONTENT_TYPE, html);
            Ok::<_, Infallible>(response)
        }
    });
    // How a visitor leaves is the visitor's business.
    let io = TokioIo::new(tls);
    let _left = if is_h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::LabCa;
    use http_body_util::{BodyExt, Empty};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use std::sync::Arc;

    async fn fetch(address: SocketAddr, ca_pem: &str, h2: bool) -> io::Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("m1.lab.test").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let request = Request::get("https://m1.lab.test/")
            .header("host", "m1.lab.test")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let io = TokioIo::new(tls);
        let response = if h2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let body =
            response.map_err(io::Error::other)?.into_body().collect().await.map_err(io::Error::other)?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    #[tokio::test]
    async fn the_page_is_served_over_both_protocols_and_goes_down_and_up() {
        let ca = LabCa::generate().unwrap();
        let identity = ca.server(&["m1.lab.test"]).unwrap();
        let origin = Origin::start(&identity, page("Mirror one", "canary-of-the-lab")).unwrap();
        for h2 in [false, true] {
            let body = fetch(origin.address(), &ca.pem(), h2).await.unwrap();
            assert!(body.contains("canary-of-the-lab") && body.len() >= PAGE_LEN);
        }
        origin.take_down();
        while TcpStream::connect(origin.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        origin.bring_up();
        while TcpStream::connect(origin.address()).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(fetch(origin.address(), &ca.pem(), true).await.unwrap().contains("canary-of-the-lab"));
    }
}
