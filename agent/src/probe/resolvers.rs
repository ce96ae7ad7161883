//! Which resolvers a probe asks: the operating system's, or those the host's settings name. Asks nothing itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_resolver::system_conf::read_system_conf;

/// The public resolver asked where the settings name none (Quad9): abroad, and of no interest to a censor by itself.
pub const PUBLIC_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), 53);
/// System resolvers asked, one after the other: stub resolvers use the second where the first is silent.
pub const SYSTEM_MAX: usize = 2;

/// Why no resolver is known.
#[derive(Debug, thiserror::Error)]
pub enum ResolversError {
    #[error("the system's resolvers cannot be read from /etc/resolv.conf; name one instead")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("/etc/resolv.conf names no resolver; name one instead")]
    None,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolvers {
    /// The carrier's, usually; at most [`SYSTEM_MAX`].
    pub system: Vec<SocketAddr>,
    pub public: Option<SocketAddr>,
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
        Self { system, public }
    }
}

/// `IP` or `IP:PORT`, port 53 where none is written.
pub fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let parsed = bare.map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse::<SocketAddr>());
    match parsed {
        Ok(server) if server.port() == 0 => Err(format!("{text:?} has port 0; ports go from 1 to 65535")),
        Ok(server) => Ok(server),
        Err(_) => Err(format!(
            "{text:?} is no resolver; write IP or IP:PORT, such as 9.9.9.9, 9.9.9.9:53 or [2620:fe::fe]:53 (ports go from 1 to 65535)"
        )),
    }
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
}
