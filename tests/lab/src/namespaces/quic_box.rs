//! The censor's box for QUIC: opens the Initial packets of every connection led to it, whose keys are on the wire for
//! whoever reads it (RFC 9001, 5.2), reads the name the client asks for, and lets nothing more pass where it is the
//! mirror's. Everything else goes on to the mirror untouched.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::quic::{DirectionalKeys, Suite, Version};
use rustls::{Side, crypto};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::addresses::{MIRROR, ORIGIN};
use crate::hello::{self, FirstBytes, HELLO_LEN_MAX};

/// Where it listens, at every address of the censor.
pub const PORT: u16 = 9_100;
/// Connections remembered: a visit makes a few.
const CONNECTIONS_MAX: usize = 256;
/// Largest datagram.
const DATAGRAM_LEN_MAX: usize = 65_535;
/// First byte of a long header (RFC 8999): the bit that says so; the bits of the type, all clear in an Initial.
const LONG_HEADER: u8 = 0x80;
const TYPE_BITS: u8 = 0x30;
/// Frames of a client's first flight (RFC 9000, 19).
const PADDING: u64 = 0;
const PING: u64 = 1;
const CRYPTO: u64 = 6;
/// Bytes of a packet number's field at most, and of the sample behind them (RFC 9001, 5.4.2).
const PACKET_NUMBER_LEN_MAX: usize = 4;
const SAMPLE_LEN: usize = 16;

/// Starts the box.
pub async fn open(tasks: &mut JoinSet<()>) -> io::Result<()> {
    let suite = initial_suite().ok_or_else(|| io::Error::other("no cipher for QUIC's Initial packets"))?;
    let home = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?);
    tasks.spawn(async move {
        let (mut connections, mut returns) = (BTreeMap::new(), JoinSet::new());
        let mut datagram = vec![0; DATAGRAM_LEN_MAX];
        loop {
            while returns.try_join_next().is_some() {}
            // An error here is the ICMP echo of an earlier answer.
            let Ok((len, peer)) = home.recv_from(&mut datagram).await else { continue };
            if connections.len() >= CONNECTIONS_MAX && !connections.contains_key(&peer) {
                (connections, returns) = (BTreeMap::new(), JoinSet::new());
            }
            if let std::collections::btree_map::Entry::Vacant(vacant) = connections.entry(peer) {
                let Ok(upstream) = connect().await else { continue };
                returns.spawn(hand_back(Arc::clone(&upstream), Arc::clone(&home), peer));
                vacant.insert((upstream, FirstFlight::new(suite)));
            }
            let Some((upstream, flight)) = connections.get_mut(&peer) else { continue };
            flight.read(&datagram[..len]);
            if flight.name().as_deref() != Some(MIRROR) {
                let _gone = upstream.send(&datagram[..len]).await;
            }
        }
    });
    Ok(())
}

async fn connect() -> io::Result<Arc<UdpSocket>> {
    let upstream = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    upstream.connect((ORIGIN, 443)).await?;
    Ok(Arc::new(upstream))
}

/// What the mirror says; it hears nothing of a connection that was struck.
async fn hand_back(upstream: Arc<UdpSocket>, home: Arc<UdpSocket>, peer: SocketAddr) {
    let mut datagram = vec![0; DATAGRAM_LEN_MAX];
    loop {
        if let Ok(len) = upstream.recv(&mut datagram).await {
            let _gone = home.send_to(&datagram[..len], peer).await;
        }
    }
}

/// Initial packets are always under this one (RFC 9001, 5.2).
fn initial_suite() -> Option<Suite> {
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()
}

/// What a client has shown of its ClientHello.
struct FirstFlight {
    suite: Suite,
    /// The client's keys, known from its first packet on.
    keys: Option<DirectionalKeys>,
    /// Parts of the TLS stream by their offsets: they come in any order.
    parts: BTreeMap<usize, Vec<u8>>,
}

impl FirstFlight {
    fn new(suite: Suite) -> Self {
        Self { suite, keys: None, parts: BTreeMap::new() }
    }

    /// Reads all Initial packets of a datagram; what is none, or is broken, is passed over.
    fn read(&mut self, datagram: &[u8]) {
        let mut rest = Reader(datagram);
        while let Some(()) = self.read_packet(&mut rest) {}
    }

    /// The name asked for, once the whole hello is there.
    fn name(&self) -> Option<String> {
        let mut stream = Vec::new();
        for (offset, part) in &self.parts {
            // A gap: more is to come.
            let seen = stream.len().checked_sub(*offset)?;
            stream.extend_from_slice(part.get(seen..).unwrap_or_default());
        }
        let [_, a, b, c, ..] = *stream.as_slice() else { return None };
        let len = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        let message = stream.get(..len)?;
        // As it would stand in a record over TCP.
        let record = [&[0x16, 3, 1][..], &u16::try_from(len).ok()?.to_be_bytes(), message].concat();
        match hello::read(&record) {
            FirstBytes::Tls { sni } => sni,
            _ => None,
        }
    }

    fn read_packet(&mut self, rest: &mut Reader<'_>) -> Option<()> {
        let whole = rest.0;
        let first = *rest.take(1)?.first()?;
        let version = rest.take(4)?;
        if first & LONG_HEADER == 0 || first & TYPE_BITS != 0 || version != [0, 0, 0, 1] {
            return None;
        }
        let destination = rest.list_8()?;
        rest.list_8()?;
        let token_len = rest.number()?;
        rest.take(token_len)?;
        let len = rest.number()?;
        let header_len = whole.len() - rest.0.len();
        rest.take(len)?;
        let suite = self.suite;
        let keys = self.keys.get_or_insert_with(|| suite.keys(destination, Side::Server, Version::V1).remote);
        let frames = unprotect(keys, whole.get(..header_len + len)?, header_len)?;
        self.read_frames(Reader(&frames))
    }

    fn read_frames(&mut self, mut frames: Reader<'_>) -> Option<()> {
        while !frames.0.is_empty() {
            match frames.number()? as u64 {
                PADDING | PING => {}
                CRYPTO => {
                    let (offset, len) = (frames.number()?, frames.number()?);
                    let part = frames.take(len)?;
                    if offset + len <= HELLO_LEN_MAX {
                        self.parts.insert(offset, part.to_vec());
                    }
                }
                // Acknowledgements, an end: no hello behind them.
                _ => break,
            }
        }
        Some(())
    }
}

/// The frames of a packet whose packet number begins at `header_len`.
fn unprotect(keys: &DirectionalKeys, packet: &[u8], header_len: usize) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let sample_at = header_len + PACKET_NUMBER_LEN_MAX;
    let sample = packet.get(sample_at..sample_at + SAMPLE_LEN)?.to_vec();
    let (head, tail) = packet.split_at_mut(header_len);
    let number = tail.get_mut(..PACKET_NUMBER_LEN_MAX)?;
    keys.header.decrypt_in_place(&sample, head.first_mut()?, number).ok()?;
    let number_len = usize::from(head[0] & 0x03) + 1;
    // A client's first packets: the number is as short as it looks.
    let number = number[..number_len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (header, payload) = packet.split_at_mut(header_len + number_len);
    keys.packet.decrypt_in_place(number, header, payload).ok().map(<[u8]>::to_vec)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn list_8(&mut self) -> Option<&'a [u8]> {
        let len = *self.take(1)?.first()?;
        self.take(len.into())
    }

    /// A number of one, two, four or eight bytes (RFC 9000, 16).
    fn number(&mut self) -> Option<usize> {
        let first = *self.0.first()?;
        let bytes = self.take(1 << (first >> 6))?;
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let value_bits = 8 * bytes.len() as u32 - 2;
        usize::try_from(number & ((1 << value_bits) - 1)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::crypto::rustls::QuicClientConfig;

    /// The name the box reads off the first datagrams of quinn's own client.
    async fn name_shown(name: &str) -> Option<String> {
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let _connecting = client.connect_with(config, silent.local_addr().unwrap(), name).unwrap();
        let mut flight = FirstFlight::new(initial_suite().unwrap());
        let mut datagram = vec![0; DATAGRAM_LEN_MAX];
        // Whatever did not fit one datagram follows at once, or again: the client hears nothing.
        for _ in 0..4 {
            let (len, _) = silent.recv_from(&mut datagram).await.unwrap();
            flight.read(&datagram[..len]);
            if let Some(name) = flight.name() {
                return Some(name);
            }
        }
        None
    }

    #[tokio::test]
    async fn the_name_is_read_off_a_client_s_first_datagrams() {
        assert_eq!(name_shown(MIRROR).await.as_deref(), Some(MIRROR));
        assert_eq!(name_shown("other.lab.test").await.as_deref(), Some("other.lab.test"));
    }

    #[test]
    fn noise_has_no_name() {
        let mut flight = FirstFlight::new(initial_suite().unwrap());
        for noise in [&[][..], &[0xc0], &[0xc0, 0, 0, 0, 1, 8, 1, 2], &[0xff; 1_200], &[0x40; 60]] {
            flight.read(noise);
        }
        assert_eq!(flight.name(), None);
    }
}
