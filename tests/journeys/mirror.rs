//! A mirror of a journey's own: its name, its resolver, what a box is told to measure it, and what visitors ask.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use zerkalo_core::target::{Mirror, TargetUrl};
use zerkalo_core::words::{MarketId, MirrorId};
use zerkalo_lab::interference::Interference;
use zerkalo_lab::resolver::{Resolver, Zone};

/// The text of the page.
pub const CANARY: &str = "canary-of-the-journeys";
const NAME: &str = "mirror.lab.test";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 83);

/// Where visitors come in.
pub async fn listen() -> TcpListener {
    TcpListener::bind((ADDRESS, 0)).await.unwrap()
}

/// The mirror at that port, to be put into a list.
pub fn entry(port: u16) -> Mirror {
    named("m1", &format!("http://{NAME}:{port}/"), CANARY)
}

/// One of another market: no box of this one visits it.
pub fn elsewhere(number: usize, canary: &str) -> Mirror {
    let (id, url) = (format!("elsewhere-{number}"), format!("https://elsewhere-{number}.lab.test/"));
    Mirror { markets: vec![MarketId::parse("ru").unwrap()], ..named(&id, &url, canary) }
}

fn named(id: &str, url: &str, canary: &str) -> Mirror {
    Mirror {
        large_page: None,
        id: MirrorId::parse(id).unwrap(),
        url: TargetUrl::parse(url).unwrap(),
        markets: vec![MarketId::parse("kz").unwrap()],
        canary: Some(canary.to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    }
}

/// A resolver that knows the mirror, and an agent's settings that name it.
pub async fn settings(interval_secs: u64) -> (Resolver, String) {
    let addresses = BTreeMap::from([(NAME.to_owned(), ADDRESS)]);
    let zone = Zone { addresses, listed: vec![], foreign: false };
    let (_, censor) = watch::channel(Interference::Pass);
    let any = SocketAddr::from((ADDRESS, 0));
    let resolver = Resolver::start(any, zone, censor).await.unwrap();
    let settings = format!(
        "interval_secs = {interval_secs}\ntimeout_secs = 60\nallow_special_ranges = true\n\
         [resolvers]\nsystem = [\"{0}\"]\npublic = \"{0}\"\npublic_dot = \"none\"\npublic_doh = \"none\"\n\
         [pictures]\nbrowser = \"none\"\n",
        resolver.address()
    );
    (resolver, settings)
}

/// What a visitor asks for; `None` where it goes before.
pub async fn path(visitor: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(visitor.read_u8().await.ok()?);
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).map(str::to_owned)
}
