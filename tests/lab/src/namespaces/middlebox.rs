//! The censor's own boxes, for tricks that packet filters cannot play: each is a listener that the censor's rules lead a
//! connection to. Whatever does not carry the mirror's name is passed on to the mirror untouched.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::addresses::{MIRROR, ORIGIN};
use super::certificates::{Certificates, Forger};
use super::world::{PARKING_PAGE, STUB_PAGE, Visitor, listen, serve_visitor};
use crate::hello::{self, FirstBytes, HELLO_LEN_MAX};

/// Port of the first box.
const PORT_FIRST: u16 = 9_000;
/// How long a connection may live.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(60);
/// A fatal `handshake_failure` (RFC 8446, 6).
const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// What a portal shows that does not redirect.
const LOGIN_PAGE: &str = "<html><head><meta http-equiv=\"refresh\" content=\"0; url=http://login.portal.test/\">\
    </head><body>One moment.</body></html>";

/// What a box does where it reads the mirror's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// Closes in order.
    Fin,
    /// Sends a fatal TLS alert.
    Alert,
    /// Breaks TLS open.
    Forge(Forger),
    /// Shows a page every list knows.
    KnownPage,
    /// Shows a page nobody knows.
    UnknownPage,
    /// The same with the status 451.
    Page451,
    /// Sends to a known stub.
    ToStub,
    /// The same by https.
    ToStubByTls,
    /// Sends to a host nobody knows.
    ToUnknown,
    /// Sends to what is no URL.
    BrokenLocation,
    /// Sends back to the same page, for ever.
    Loop,
    /// Sends to the carrier's page for who has not paid.
    ToUnpaid,
    /// Sends every request, whatever the host, to a login page.
    ToLogin,
    /// Shows every request, whatever the host, a page that sends there by itself.
    LoginPage,
}

impl Trick {
    /// Every box.
    pub const ALL: [Self; 17] = [
        Self::Fin,
        Self::Alert,
        Self::Forge(Forger::State),
        Self::Forge(Forger::StateExpired),
        Self::Forge(Forger::Unknown),
        Self::Forge(Forger::Antivirus),
        Self::KnownPage,
        Self::UnknownPage,
        Self::Page451,
        Self::ToStub,
        Self::ToStubByTls,
        Self::ToUnknown,
        Self::BrokenLocation,
        Self::Loop,
        Self::ToUnpaid,
        Self::ToLogin,
        Self::LoginPage,
    ];

    /// Where its box listens, at every address of the censor.
    pub fn port(self) -> u16 {
        let index = Self::ALL.iter().position(|trick| *trick == self).unwrap_or_default();
        PORT_FIRST + u16::try_from(index).unwrap_or_default()
    }

    fn strikes_all(self) -> bool {
        matches!(self, Self::ToUnpaid | Self::ToLogin | Self::LoginPage)
    }

    /// The head and body of a plain answer.
    fn plain_answer(self) -> String {
        let redirect = |location: &str| {
            format!(
                "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        };
        match self {
            Self::KnownPage => page("200 OK", STUB_PAGE),
            Self::UnknownPage => page("200 OK", PARKING_PAGE),
            Self::Page451 => page("451 Unavailable For Legal Reasons", PARKING_PAGE),
            Self::ToStub => redirect("http://warning.rt.ru/?id=17"),
            Self::ToStubByTls => redirect("https://warning.rt.ru/?id=17"),
            Self::ToUnknown => redirect("http://44.128.0.10/blocked"),
            Self::BrokenLocation => redirect("http://[::bad/"),
            Self::Loop => redirect(&format!("http://{MIRROR}/")),
            Self::ToUnpaid => redirect("http://unblock.mts.ru/pay"),
            Self::ToLogin => redirect("http://login.portal.test/"),
            Self::LoginPage => page("200 OK", LOGIN_PAGE),
            Self::Fin | Self::Alert | Self::Forge(_) => String::new(),
        }
    }
}

/// Starts every box.
pub async fn open(certificates: Certificates) -> io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for trick in Trick::ALL {
        let listener = listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, trick.port())))?;
        let certificates = certificates.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, peer)) = listener.accept().await else { continue };
                let certificates = certificates.clone();
                let handling = async move { handle(stream, peer, trick, &certificates).await };
                connections.spawn(async { drop(tokio::time::timeout(CONNECTION_LIFE_MAX, handling).await) });
            }
        });
    }
    Ok(tasks)
}

fn page(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn handle(
    mut client: TcpStream,
    peer: SocketAddr,
    trick: Trick,
    certificates: &Certificates,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    if let Trick::Forge(forger) = trick {
        // The page passes through: only the certificate is another.
        let visitor = Visitor { local: Ipv4Addr::LOCALHOST.into(), peer: peer.ip() };
        if let Some(config) = certificates.forged(forger) {
            serve_visitor(client, config, visitor).await;
        }
        return Ok(());
    }
    let mut first = Vec::new();
    let (name, port) = match read_first(&mut client, &mut first).await? {
        FirstBytes::Tls { sni } => (sni, 443),
        FirstBytes::Http { host } => (host, 80),
        FirstBytes::Partial | FirstBytes::Other => return Ok(()),
    };
    if name.as_deref() != Some(MIRROR) && !trick.strikes_all() {
        return pass_on(client, &first, port).await;
    }
    match trick {
        Trick::Fin => {}
        Trick::Alert => client.write_all(&ALERT).await?,
        _ => client.write_all(trick.plain_answer().as_bytes()).await?,
    }
    client.shutdown().await
}

async fn read_first(client: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<FirstBytes> {
    loop {
        let mut chunk = [0; 4096];
        let len = client.read(&mut chunk).await?;
        first.extend_from_slice(&chunk[..len]);
        match hello::read(first) {
            FirstBytes::Partial if len > 0 && first.len() < HELLO_LEN_MAX => {}
            seen => return Ok(seen),
        }
    }
}

async fn pass_on(mut client: TcpStream, first: &[u8], port: u16) -> io::Result<()> {
    let mut origin = TcpStream::connect((ORIGIN, port)).await?;
    origin.set_nodelay(true)?;
    origin.write_all(first).await?;
    tokio::io::copy_bidirectional(&mut client, &mut origin).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_box_has_a_port_of_its_own() {
        let ports: std::collections::BTreeSet<u16> = Trick::ALL.iter().map(|trick| trick.port()).collect();
        assert_eq!(ports.len(), Trick::ALL.len());
    }
}
