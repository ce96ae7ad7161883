//! Who asks in the system resolver's name: the operator's whoami name, whose authoritative server answers with the address
//! that asked it. Where the host resolves for itself, that address is its own: what may be so never leaves this file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use zerkalo_core::address::{require_public, unwrap_embedded};
use zerkalo_core::record::RESOLVER_IDENTITIES_MAX;

use super::connect::source_towards;
use super::dns::DATAGRAM_LEN_MAX;
use super::late::{Heard, heard};

/// Longest wait for an answer; nothing rests on it.
const CAP: Duration = Duration::from_secs(3);
/// When an unanswered question is sent once more.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// What stands where an address of the host's may have stood.
const MASK: &str = "[address]";
/// Networks in which a neighbour may be the host itself: what carriers give one line, by family.
const V4_PREFIX: u32 = 24;
/// See [`V4_PREFIX`].
const V6_PREFIX: u32 = 48;

/// Addresses under which the host may appear outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own(Vec<IpAddr>);

impl Own {
    /// Those by which the host would go out to `outside`, and the one the collector sees.
    pub fn of_host(outside: &[SocketAddr], seen_as: Option<IpAddr>) -> Self {
        let by_route = outside.iter().filter_map(|address| source_towards(*address));
        // Behind NAT the way out bears an address that says nothing.
        let by_route = by_route.filter(|address| require_public(*address).is_ok());
        Self(by_route.chain(seen_as).map(unwrap_embedded).collect())
    }

    /// An answer as a record may hold it: where nobody knows the host's own address of that family, it may be it.
    fn told(&self, address: IpAddr) -> String {
        let mut own = self.0.iter().filter(|own| own.is_ipv4() == address.is_ipv4()).peekable();
        let is_another = own.peek().is_some() && own.all(|own| !is_near(*own, address));
        if is_another { address.to_string() } else { MASK.to_owned() }
    }
}

/// Asks `name` of the first resolver that answers; addresses in the order of their texts, each once.
pub async fn ask(servers: &[SocketAddr], name: &str, own: &Own) -> Vec<String> {
    for server in servers {
        let asked =
            [RecordType::TXT, RecordType::A, RecordType::AAAA].map(|kind| ask_one(*server, name, kind));
        let answers: Vec<Message> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        if answers.is_empty() {
            continue;
        }
        let found: BTreeSet<IpAddr> =
            answers.iter().flat_map(|answer| &answer.answers).flat_map(|r| said(&r.data)).collect();
        let told: BTreeSet<String> =
            found.into_iter().map(|address| own.told(unwrap_embedded(address))).collect();
        return told.into_iter().take(RESOLVER_IDENTITIES_MAX).collect();
    }
    Vec::new()
}

async fn ask_one(server: SocketAddr, name: &str, kind: RecordType) -> Option<Message> {
    timeout(CAP, exchange(server, name, kind)).await.ok()?
}

async fn exchange(server: SocketAddr, name: &str, kind: RecordType) -> Option<Message> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, kind));
    let bytes = query.to_vec().ok()?;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(&bytes).await.ok()?;
    let resend = async {
        sleep(RESEND_AFTER).await;
        // A failure to send again shows as silence.
        let _ = socket.send(&bytes).await;
        std::future::pending().await
    };
    let receive = async {
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        loop {
            let len = socket.recv(&mut buffer).await.ok()?;
            if let Heard::Answer(answer) = heard(&buffer[..len], &query) {
                return Some(answer);
            }
        }
    };
    tokio::select! {
        answer = receive => answer,
        answer = resend => answer,
    }
}

/// The addresses a record names. Texts may name networks too, such as the client's: those are not read.
fn said(data: &RData) -> Vec<IpAddr> {
    match data {
        RData::A(a) => vec![IpAddr::V4(a.0)],
        RData::AAAA(aaaa) => vec![IpAddr::V6(aaaa.0)],
        RData::TXT(txt) => {
            let texts = txt.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned());
            let words: Vec<String> = texts.collect();
            words
                .iter()
                .flat_map(|text| text.split_whitespace())
                .filter_map(|word| word.parse().ok())
                .collect()
        }
        _ => Vec::new(),
    }
}

fn is_near(left: IpAddr, right: IpAddr) -> bool {
    match (left, right) {
        (IpAddr::V4(left), IpAddr::V4(right)) => {
            (u32::from(left) ^ u32::from(right)) >> (u32::BITS - V4_PREFIX) == 0
        }
        (IpAddr::V6(left), IpAddr::V6(right)) => {
            (u128::from(left) ^ u128::from(right)) >> (u128::BITS - V6_PREFIX) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_host_itself_is_masked() {
        let own = |texts: &[&str]| Own(texts.iter().map(|text| text.parse().unwrap()).collect());
        let check = |own: &Own, address: &str, is_told: bool| {
            let expected = if is_told { address } else { MASK };
            assert_eq!(own.told(address.parse().unwrap()), expected, "{own:?}");
        };
        let known = own(&["203.0.113.77", "2001:db8:7:1::5"]);
        check(&known, "192.0.2.53", true);
        check(&known, "203.0.113.77", false);
        check(&known, "203.0.113.1", false);
        check(&known, "2001:db8:8::53", true);
        check(&known, "2001:db8:7:ff::53", false);
        // One family says nothing of the other.
        check(&own(&["203.0.113.77"]), "2001:db8:8::53", false);
        check(&own(&["2001:db8:7:1::5"]), "192.0.2.53", false);
        check(&Own::default(), "192.0.2.53", false);
    }
}
