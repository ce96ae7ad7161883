//! Which resolvers a probe asks, and by which roads: the operating system's, or those the host's settings name. Asks
//! nothing itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::system_conf::read_system_conf;
use tokio::time::Instant;
use zerkalo_core::address::require_public;
use zerkalo_core::target::TargetUrl;

use crate::budget::{Budget, WINDOW};

/// The public resolver asked where the settings name none (Quad9): abroad, and of no interest to a censor by itself.
pub const PUBLIC_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), 53);
/// System resolvers asked, one after the other: stub resolvers use the second where the first is silent.
pub const SYSTEM_MAX: usize = 2;

/// The address asked that has no resolver, where the settings name none: of TEST-NET-2 (RFC 5737), where nobody lives.
pub const NOBODY_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53)), 53);
/// Port of DNS over TLS (RFC 7858).
const DOT_PORT: u16 = 853;
/// The names under which well-known public resolvers speak TLS, and their URLs for HTTPS, as their operators state them.
const KNOWN: [(&[&str], &str, &str); 3] = [
    (&["9.9.9.9", "149.112.112.112", "2620:fe::fe"], "dns.quad9.net", "https://dns.quad9.net/dns-query"),
    (&["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888"], "dns.google", "https://dns.google/dns-query"),
    (&["1.1.1.1", "1.0.0.1", "2606:4700:4700::1111"], "one.one.one.one", "https://one.one.one.one/dns-query"),
];

/// Why no resolver is known.
#[derive(Debug, thiserror::Error)]
pub enum ResolversError {
    #[error("the system's resolvers cannot be read from /etc/resolv.conf; name one instead")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("/etc/resolv.conf names no resolver; name one instead")]
    None,
}

/// A resolver that proves by a certificate who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedServer {
    /// The name it proves; an address as text shows no name.
    pub name: String,
    pub address: SocketAddr,
}

/// A resolver that speaks HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DohServer {
    pub url: TargetUrl,
    pub address: SocketAddr,
}

/// Whom to ask once a visit has failed.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    pub dot: Option<NamedServer>,
    pub doh: Option<DohServer>,
    /// An address at which no resolver runs.
    pub nobody: Option<SocketAddr>,
    pub shown: Shown,
}

/// Handshakes with resolvers of late: probes of several mirrors share them.
#[derive(Debug, Clone)]
pub struct Shown {
    began: Instant,
    budget: Arc<Mutex<Budget>>,
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Resolvers {
    /// The carrier's, usually; at most [`SYSTEM_MAX`].
    pub system: Vec<SocketAddr>,
    pub public: Option<SocketAddr>,
    pub matrix: Matrix,
}

impl DohServer {
    /// The server to shake hands with.
    pub fn named(&self) -> NamedServer {
        let name = self.url.literal_address().map_or_else(|| self.url.host(), |address| address.to_string());
        NamedServer { name, address: self.address }
    }
}

impl Matrix {
    /// What is known of that public resolver, and the default address without one.
    pub fn of_public(public: SocketAddr) -> Self {
        let ip = public.ip();
        let is_known = |texts: &[&str]| texts.iter().any(|text| text.parse() == Ok(ip));
        let found = KNOWN.iter().find(|(texts, _, _)| public.port() == 53 && is_known(texts));
        Self {
            dot: found.map(|(_, name, _)| NamedServer {
                name: (*name).to_owned(),
                address: SocketAddr::new(ip, DOT_PORT),
            }),
            doh: found.and_then(|(_, _, url)| {
                let url = TargetUrl::parse(url).ok()?;
                Some(DohServer { address: SocketAddr::new(ip, url.port()), url })
            }),
            // Beside a resolver on this host or in its own network, an address of the world's is out of place.
            nobody: require_public(ip).is_ok().then_some(NOBODY_DEFAULT),
            shown: Shown::default(),
        }
    }

    /// Whether one more handshake may show `name` now; counts it. Censors that police handshakes may know resolvers too.
    pub fn may_show(&self, name: &str) -> bool {
        let now = self.shown.began.elapsed();
        let mut budget = self.shown.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = budget.fits(name, 1, now);
        if fits {
            budget.note(name, 1, now);
        }
        fits
    }
}

impl Default for Shown {
    fn default() -> Self {
        Self { began: Instant::now(), budget: Arc::new(Mutex::new(Budget::new(WINDOW))) }
    }
}

impl Resolvers {
    /// The operating system's resolvers, and a public one.
    pub fn of_system(public: Option<SocketAddr>) -> Result<Self, ResolversError> {
        let (config, _) = read_system_conf().map_err(|error| ResolversError::Unreadable(error.into()))?;
        let mut system: Vec<SocketAddr> = Vec::new();
        for server in &config.name_servers {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            let address = SocketAddr::new(server.ip, port);
            if !system.contains(&address) {
                system.push(address);
            }
        }
        if system.is_empty() {
            return Err(ResolversError::None);
        }
        Ok(Self::named(system, public))
    }

    /// Resolvers by name of the settings.
    pub fn named(mut system: Vec<SocketAddr>, public: Option<SocketAddr>) -> Self {
        system.truncate(SYSTEM_MAX);
        Self { system, public, matrix: Matrix::default() }
    }

    /// With these to ask once a visit has failed.
    pub fn with(self, matrix: Matrix) -> Self {
        Self { matrix, ..self }
    }
}

/// `NAME@IP[:PORT]`, or `IP[:PORT]` for a certificate of the address itself; port 853 where none is written.
pub fn parse_dot(text: &str) -> Result<NamedServer, String> {
    let (name, server) = match text.rsplit_once('@') {
        Some((name, server)) => (Some(name), server),
        None => (None, text),
    };
    let address = parse_address(server, DOT_PORT).ok().filter(|address| address.port() != 0).ok_or_else(|| {
        format!(
            "{text:?} is no resolver over TLS; write NAME@IP or NAME@IP:PORT, such as dns.quad9.net@9.9.9.9"
        )
    })?;
    let name = name.map_or_else(|| address.ip().to_string(), str::to_owned);
    if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
        return Err(format!("{name:?} is no host name"));
    }
    Ok(NamedServer { name, address })
}

/// `URL@IP`, or a URL with an address for a host. The port is the URL's.
pub fn parse_doh(text: &str) -> Result<DohServer, String> {
    let (url, ip) = match text.rsplit_once('@') {
        Some((url, ip)) => (url, Some(ip)),
        None => (text, None),
    };
    let refused = || {
        format!(
            "{text:?} is no resolver over HTTPS; write URL@IP, such as https://dns.quad9.net/dns-query@9.9.9.9, or a URL \
             with an address, such as https://9.9.9.9/dns-query"
        )
    };
    let url = TargetUrl::parse(url).ok().filter(TargetUrl::is_https).ok_or_else(refused)?;
    let ip = match ip {
        Some(ip) => ip.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        None => url.literal_address(),
    };
    Ok(DohServer { address: SocketAddr::new(ip.ok_or_else(refused)?, url.port()), url })
}

/// `IP` or `IP:PORT`, port 53 where none is written.
pub fn parse_server(text: &str) -> Result<SocketAddr, String> {
    match parse_address(text, 53) {
        Ok(server) if server.port() == 0 => Err(format!("{text:?} has port 0; ports go from 1 to 65535")),
        Ok(server) => Ok(server),
        Err(_) => Err(format!(
            "{text:?} is no resolver; write IP or IP:PORT, such as 9.9.9.9, 9.9.9.9:53 or [2620:fe::fe]:53 (ports go from 1 to 65535)"
        )),
    }
}

fn parse_address(text: &str, port: u16) -> Result<SocketAddr, std::net::AddrParseError> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    bare.map(|ip| SocketAddr::new(ip, port)).or_else(|_| text.parse::<SocketAddr>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_addresses_with_or_without_a_port() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                parse_server(text).ok().map(|server| server.to_string()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("9.9.9.9", Some("9.9.9.9:53"));
        check("127.0.0.1:5353", Some("127.0.0.1:5353"));
        check("2620:fe::fe", Some("[2620:fe::fe]:53"));
        check("[2620:fe::fe]:54", Some("[2620:fe::fe]:54"));
        check("9.9.9.9:0", None);
        check("9.9.9.9:70000", None);
        check("dns.example", None);
        check("", None);
    }

    #[test]
    fn resolvers_over_tls_and_https_are_named_with_their_address() {
        let dot =
            |text: &str| parse_dot(text).ok().map(|server| format!("{} {}", server.name, server.address));
        assert_eq!(dot("dns.quad9.net@9.9.9.9").as_deref(), Some("dns.quad9.net 9.9.9.9:853"));
        assert_eq!(dot("dns.example@[2620:fe::fe]:8853").as_deref(), Some("dns.example [2620:fe::fe]:8853"));
        assert_eq!(dot("9.9.9.9").as_deref(), Some("9.9.9.9 9.9.9.9:853"));
        assert_eq!(
            (dot("dns.quad9.net"), dot("a b@9.9.9.9"), dot("@9.9.9.9"), dot("")),
            (None, None, None, None)
        );
        let doh = |text: &str| {
            let server = parse_doh(text).ok()?;
            Some(format!("{} {} {}", server.named().name, server.url, server.address))
        };
        let quad9 = "https://dns.quad9.net/dns-query";
        assert_eq!(doh(&format!("{quad9}@9.9.9.9")), Some(format!("dns.quad9.net {quad9} 9.9.9.9:443")));
        let literal = "https://9.9.9.9:8443/q";
        assert_eq!(doh(literal), Some(format!("9.9.9.9 {literal} 9.9.9.9:8443")));
        assert_eq!((doh(quad9), doh("http://9.9.9.9/q"), doh("https://x.example/@y")), (None, None, None));
    }

    #[test]
    fn what_well_known_public_resolvers_offer_is_known_and_of_others_nothing() {
        let known = Matrix::of_public(PUBLIC_DEFAULT);
        assert_eq!(known.dot, parse_dot("dns.quad9.net@9.9.9.9").ok());
        assert_eq!(known.doh, parse_doh("https://dns.quad9.net/dns-query@9.9.9.9").ok());
        assert_eq!(known.nobody, Some(NOBODY_DEFAULT));
        for (other, nobody) in [("9.9.9.9:5353", Some(NOBODY_DEFAULT)), ("127.0.0.1:53", None)] {
            let other = Matrix::of_public(other.parse().unwrap());
            assert_eq!((other.dot, other.doh, other.nobody), (None, None, nobody));
        }
    }

    #[test]
    fn the_name_of_a_resolver_is_shown_three_times_in_a_minute_whoever_asks() {
        let matrix = Matrix::default();
        let shown = (0..5).filter(|_| matrix.clone().may_show("dns.example")).count();
        assert_eq!(shown, crate::budget::HANDSHAKES_MAX);
        assert!(matrix.may_show("other.example"));
    }
}
