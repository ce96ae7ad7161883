//! A simulated carrier: its own resolver, the way to a public one, and a front before every host of the lab.
//!
//! Carrier number `C` lives on 127.C.0.0/24; all of the lab shares one port, so that one URL works in every network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::sync::watch;
use zerkalo_core::words::UnixMillis;

use crate::exempt::Exempt;
use crate::front::{Front, FrontPlan};
use crate::interference::{FirstStrike, Interference};
use crate::resolver::{Resolver, Zone};

/// Last byte of a carrier's own resolver.
const RESOLVER_HOST: u8 = 53;
/// Last byte of the public resolver as reached through the carrier.
const PUBLIC_RESOLVER_HOST: u8 = 9;
/// Last byte of the first front; the others follow.
const FRONT_HOST_FIRST: u8 = 100;
/// Ports tried before giving up: a clash is rare and the next one is free.
const PORT_TRIES_MAX: usize = 20;

/// A host of the lab's internet.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    /// Where it really listens.
    pub upstream: SocketAddr,
    /// Whether the censors have it on their register.
    pub listed: bool,
    /// The network number whose subscribers see it as domestic; `None`: foreign everywhere.
    pub domestic_in: Vec<u8>,
}

/// A running network; stops when dropped.
#[derive(Debug)]
pub struct Carrier {
    number: u8,
    resolver: Resolver,
    public_resolver: Resolver,
    fronts: Vec<Front>,
    censor: watch::Sender<Interference>,
    first_strike: FirstStrike,
}

impl Carrier {
    /// The carrier's own resolver: what its subscribers' systems use.
    pub fn resolver(&self) -> SocketAddr {
        self.resolver.address()
    }

    /// A public resolver, reached through this carrier.
    pub fn public_resolver(&self) -> SocketAddr {
        self.public_resolver.address()
    }

    /// The addresses of this network's fronts, in the order of the hosts.
    pub fn fronts(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.fronts.iter().map(Front::address)
    }

    /// Its number `C` in 127.C.0.0/24.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Changes what the censor does from now on.
    pub fn interfere(&self, trick: Interference) {
        self.first_strike.forget();
        self.censor.send_replace(trick);
    }

    /// What the censor does now.
    pub fn interference(&self) -> Interference {
        *self.censor.borrow()
    }

    /// When the first connection was struck since the censor last changed its ways.
    pub fn first_strike(&self) -> Option<UnixMillis> {
        self.first_strike.at()
    }

    async fn start(number: u8, port: u16, hosts: &[Host], exempt: &Exempt) -> io::Result<Self> {
        let (censor, orders) = watch::channel(Interference::Pass);
        let address = |host: u8| Ipv4Addr::new(127, number, 0, host);
        let at = |host: u8| SocketAddr::from((address(host), port));
        let addresses = hosts
            .iter()
            .zip(FRONT_HOST_FIRST..)
            .map(|(host, last)| (host.name.clone(), address(last)))
            .collect::<std::collections::BTreeMap<_, _>>();
        let listed: Vec<String> =
            hosts.iter().filter(|host| host.listed).map(|host| host.name.clone()).collect();
        let zone = |foreign| Zone { addresses: addresses.clone(), listed: listed.clone(), foreign };
        let resolver = Resolver::start(at(RESOLVER_HOST), zone(false), orders.clone()).await?;
        let public_resolver = Resolver::start(at(PUBLIC_RESOLVER_HOST), zone(true), orders.clone()).await?;
        let mut fronts = Vec::with_capacity(hosts.len());
        let first_strike = FirstStrike::default();
        for (host, last) in hosts.iter().zip(FRONT_HOST_FIRST..) {
            let plan = FrontPlan {
                upstream: host.upstream,
                listed: listed.clone(),
                address_listed: host.listed,
                domestic: host.domestic_in.contains(&number),
                first_strike: first_strike.clone(),
                exempt: exempt.clone(),
            };
            fronts.push(Front::start(at(last), plan, orders.clone())?);
        }
        Ok(Self { number, resolver, public_resolver, fronts, censor, first_strike })
    }
}

/// The networks of the lab on one port, found free on all their addresses.
#[derive(Debug)]
pub struct Networks {
    port: u16,
    carriers: Vec<Carrier>,
    exempt: Exempt,
}

impl Networks {
    /// Starts the networks with these numbers, each with a front before every host `hosts` makes for the port chosen.
    pub async fn start(numbers: &[u8], hosts: &[Host]) -> io::Result<Self> {
        let mut last = io::Error::other("no network to start");
        for _ in 0..PORT_TRIES_MAX {
            match Self::start_on(free_port(numbers[0])?, numbers, hosts).await {
                Ok(networks) => return Ok(networks),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The port all of them share.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The networks, in the order asked for.
    pub fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    /// Has the connections of one process pass every front, whatever its censor does.
    pub fn exempt(&self, pid: u32) {
        self.exempt.name(pid);
    }

    async fn start_on(port: u16, numbers: &[u8], hosts: &[Host]) -> io::Result<Self> {
        let (mut carriers, exempt) = (Vec::with_capacity(numbers.len()), Exempt::default());
        for number in numbers {
            carriers.push(Carrier::start(*number, port, hosts, &exempt).await?);
        }
        Ok(Self { port, carriers, exempt })
    }
}

/// A port nobody listens on at the network's first front.
fn free_port(number: u8) -> io::Result<u16> {
    let probe = std::net::TcpListener::bind((Ipv4Addr::new(127, number, 0, FRONT_HOST_FIRST), 0))?;
    Ok(probe.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn one_port_reaches_every_host_in_every_network() {
        let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = origin.local_addr().unwrap();
        let host = |name: &str, domestic_in: &[u8]| Host {
            name: name.to_owned(),
            upstream,
            listed: false,
            domestic_in: domestic_in.to_vec(),
        };
        let hosts = [host("a.test", &[]), host("b.test", &[71])];
        let networks = Networks::start(&[71, 72], &hosts).await.unwrap();
        for carrier in networks.carriers() {
            assert_eq!(carrier.resolver().port(), networks.port());
            assert_eq!(carrier.public_resolver().port(), networks.port());
            for front in carrier.fronts() {
                assert_eq!(front.port(), networks.port());
                let mut client = tokio::net::TcpStream::connect(front).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut client, b"\x00hello").await.unwrap();
                let (mut stream, _) = origin.accept().await.unwrap();
                let mut seen = [0; 6];
                stream.read_exact(&mut seen).await.unwrap();
                assert_eq!(&seen, b"\x00hello");
            }
        }
    }
}
