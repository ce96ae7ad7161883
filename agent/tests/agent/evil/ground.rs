//! What the behaviours stand on: loopback listeners that hand each connection or datagram to one function. A listener
//! lives as long as the test's runtime.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::child::{Reach, Scene};
use crate::world::{Authority, HOST, Reply, loopback, resolver};

/// Bytes that a flood sends at most: many times what an agent may hold.
pub const FLOOD_LEN_MAX: usize = 256 * 1024 * 1024;

/// A server in the clear; each connection goes to `serve`.
pub async fn tcp<S, F>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((loopback(1), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The visitor goes when it has had enough.
            let served = serve(stream);
            tokio::spawn(async move { drop(served.await) });
        }
    });
    address
}

/// A scene at a TCP server that is asked for https, which is the server's to break.
pub async fn https<S, F>(serve: S) -> Scene
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let address = tcp(serve).await;
    scene(format!("https://{HOST}:{}/", address.port())).await
}

/// A scene at a TCP server that is asked for http: `serve` begins after the request was read.
pub async fn http<S, F>(serve: S) -> Scene
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let serve = Arc::new(serve);
    let address = tcp(move |mut stream| {
        let serve = serve.clone();
        async move {
            read_head(&mut stream).await?;
            serve(stream).await
        }
    })
    .await;
    scene(format!("http://{HOST}:{}/", address.port())).await
}

/// A scene at a server in the clear that sends these bytes and closes.
pub async fn http_page(bytes: Vec<u8>) -> Scene {
    http(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.write_all(&bytes).await?;
            linger(stream).await
        }
    })
    .await
}

/// A scene at a server with a good certificate, after a handshake that agreed on `alpn`.
pub async fn over_tls<S, F>(alpn: &str, serve: S) -> Scene
where
    S: Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let authority = Authority::new();
    let mut config = (*authority.server(&[HOST])).clone();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    with_config(&authority, Arc::new(config), serve).await
}

/// The same with a configuration of one's own.
pub async fn with_config<S, F>(authority: &Authority, config: Arc<rustls::ServerConfig>, serve: S) -> Scene
where
    S: Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let (acceptor, serve) = (TlsAcceptor::from(config), Arc::new(serve));
    let scene = https(move |stream| {
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        async move { serve(acceptor.accept(stream).await?).await }
    })
    .await;
    Scene { authority_pem: Some(authority.pem.clone()), ..scene }
}

/// A scene on loopback with a resolver that knows its names.
pub async fn scene(url: String) -> Scene {
    let here: Vec<IpAddr> = vec![loopback(1)];
    let names = [HOST, "www.mirror.example"].map(|name| (name, Reply::Addresses(here.clone())));
    Scene { url, resolver: resolver(&names).await, authority_pem: None, ranges: Reach::Anywhere }
}

/// A resolver that answers each question as `datagrams` says, and speaks TCP as `stream` does, on one port.
pub async fn evil_resolver<S, F>(
    datagrams: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
    serve: S,
) -> SocketAddr
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind((loopback(1), 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let served = serve(stream);
            tokio::spawn(async move { drop(served.await) });
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer).await {
            for datagram in datagrams(&buffer[..len]) {
                let _ = udp.send_to(&datagram, peer).await;
            }
        }
    });
    address
}

/// Reads up to the end of a request's head.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends the same bytes again and again, until the visitor has enough.
pub async fn flood(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let block = bytes.repeat((64 * 1024 / bytes.len().max(1)).max(1));
    for _ in 0..FLOOD_LEN_MAX / block.len() {
        stream.write_all(&block).await?;
    }
    Ok(())
}

/// Keeps the connection open until the visitor closes it.
pub async fn linger(mut stream: impl AsyncRead + Unpin) -> std::io::Result<()> {
    let mut sink = [0; 4_096];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Sends one byte in each interval, for ever.
pub async fn drip(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    for byte in bytes.iter().cycle() {
        ticks.tick().await;
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
    }
    Ok(())
}
