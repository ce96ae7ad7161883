//! Where a collector answers, and by which transport: `https://HOST:PORT` is gRPC over TLS over TCP, `quic://HOST:PORT` the
//! same inside one stream of QUIC.

use std::fmt;

use zerkalo_core::target::{TargetError, TargetUrl};

/// What carries the gRPC stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Quic,
}

impl Transport {
    /// Its word on the wire and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

/// One place at which the collector, or a relay before it, answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub transport: Transport,
    /// A name, or an address without brackets: then no name is shown on the way.
    pub host: String,
    pub port: u16,
}

/// Why a text is no collector's address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("the collector's URL cannot be used")]
    Url(#[source] TargetError),
    #[error(
        "the collector's URL {url} is not https:// or quic://; agents speak to it over TLS only, by TCP or by QUIC"
    )]
    Scheme { url: String },
    #[error("the collector's URL {url} names no port; QUIC has none of its own here, write quic://HOST:PORT")]
    NoPort { url: String },
}

impl Address {
    /// Reads `https://HOST:PORT` or `quic://HOST:PORT`.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let (transport, text) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("quic") => {
                (Transport::Quic, format!("https://{rest}"))
            }
            _ => (Transport::Tcp, url.to_owned()),
        };
        let parsed = TargetUrl::parse(&text).map_err(AddressError::Url)?;
        if !parsed.is_https() {
            return Err(AddressError::Scheme { url: url.to_owned() });
        }
        // A URL's parser leaves out the port that https has of its own.
        let is_port_written = text.trim_end_matches('/').ends_with(&format!(":{}", parsed.port()));
        if transport == Transport::Quic && !is_port_written {
            return Err(AddressError::NoPort { url: url.to_owned() });
        }
        Ok(Self { transport, host: parsed.host(), port: parsed.port() })
    }

    /// `HOST:PORT`, as URLs have it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Tcp => "https",
            Transport::Quic => "quic",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_transport_host_and_port() {
        let check = |url: &str, expected: &str| {
            assert_eq!(Address::parse(url).unwrap().to_string(), expected, "{url}");
        };
        check("https://collector.example:8443", "https://collector.example:8443");
        check("https://collector.example/", "https://collector.example:443");
        check("QUIC://collector.example:8445/", "quic://collector.example:8445");
        check("quic://[2001:db8::1]:8445", "quic://[2001:db8::1]:8445");
        assert_eq!(Address::parse("quic://192.0.2.1:8445").unwrap().transport, Transport::Quic);
        let fails = |url: &str, part: &str| {
            let said = Address::parse(url).unwrap_err().to_string();
            assert!(said.contains(part), "{url}: {said}");
        };
        fails("http://collector.example:8443", "is not https:// or quic://");
        fails("quic://collector.example", "names no port");
        fails("ftp://collector.example", "cannot be used");
    }
}
