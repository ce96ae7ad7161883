//! Reading the name a client asks for from its first bytes, as a censor's box does. Sends nothing.

use rustls::server::Acceptor;

/// Most bytes looked at: a ClientHello with post-quantum key shares takes about 2 KiB.
pub const HELLO_LEN_MAX: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstBytes {
    /// Not enough to tell.
    Partial,
    /// A ClientHello, with the name it asks for.
    Tls { sni: Option<String> },
    /// The head of a plain HTTP request, with its host (without port).
    Http { host: Option<String> },
    /// Neither.
    Other,
}

/// Reads the first bytes a client sent.
pub fn read(bytes: &[u8]) -> FirstBytes {
    match bytes.first() {
        None => FirstBytes::Partial,
        // A TLS handshake record (RFC 8446, 5.1).
        Some(0x16) => read_hello(bytes),
        Some(letter) if letter.is_ascii_uppercase() => read_head(bytes),
        Some(_) => FirstBytes::Other,
    }
}

fn read_hello(bytes: &[u8]) -> FirstBytes {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return FirstBytes::Other;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                return FirstBytes::Tls { sni: accepted.client_hello().server_name().map(str::to_owned) };
            }
            Err(_) => return FirstBytes::Other,
        }
    }
    if bytes.len() >= HELLO_LEN_MAX { FirstBytes::Other } else { FirstBytes::Partial }
}

fn read_head(bytes: &[u8]) -> FirstBytes {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        return if bytes.len() >= HELLO_LEN_MAX { FirstBytes::Other } else { FirstBytes::Partial };
    };
    let host = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        let host = value.split_once(':').map_or(value, |(host, _)| host);
        name.eq_ignore_ascii_case("host").then(|| host.to_owned())
    });
    FirstBytes::Http { host }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    /// The first flight of a client that asks for `name`.
    pub(crate) fn hello(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_is_read_once_the_whole_hello_is_there() {
        let bytes = hello("m1.lab.test");
        assert_eq!(read(&bytes), FirstBytes::Tls { sni: Some("m1.lab.test".into()) });
        for cut in [0, 1, 5, 6, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(read(&bytes[..cut]), FirstBytes::Partial, "cut at {cut}");
        }
        assert_eq!(read(&hello("127.0.0.1")), FirstBytes::Tls { sni: None });
    }

    #[test]
    fn plain_requests_and_noise_are_told_apart() {
        let check = |bytes: &[u8], expected| assert_eq!(read(bytes), expected);
        check(
            b"GET / HTTP/1.1\r\nHost: m1.lab.test:81\r\n\r\n",
            FirstBytes::Http { host: Some("m1.lab.test".into()) },
        );
        check(b"GET / HTTP/1.0\r\n\r\n", FirstBytes::Http { host: None });
        check(b"GET / HTTP/1.1\r\nHo", FirstBytes::Partial);
        check(b"\x16\xff\xff\xff\xff\xff", FirstBytes::Other);
        check(b"\x00", FirstBytes::Other);
    }
}
