//! The questions that a failed visit asks for, all at once: the same of the same resolvers by roads that are harder to
//! forge, and of an address at which no resolver runs. A healthy visit does without: each road costs a connection, and
//! resolvers' names shown too often draw eyes.

use std::time::Duration;

use zerkalo_core::record::{DnsExchange, QueryType, ResolverKind};
use zerkalo_core::target::TargetUrl;

use super::ProbeSettings;
use super::clock::StepClock;
use super::dns::{self, Question, questions};
use super::{StepCaps, dns_https, dns_tls};

/// Longest wait for an answer in a connection of its own: a handshake or two, and a retransmission.
const ENCRYPTED_CAP: Duration = Duration::from_secs(4);
/// Longest wait for a word from where nobody lives: who answers there sits on the way, close by.
const NOBODY_CAP: Duration = Duration::from_secs(2);

/// Asks all; the hardest to forge first in the answer, after the public resolver by TCP.
pub async fn ask(settings: &ProbeSettings, url: &TargetUrl, clock: StepClock) -> Vec<DnsExchange> {
    if url.literal_address().is_some() {
        return Vec::new();
    }
    let host = &url.host();
    let (resolvers, trust, caps) = (&settings.resolvers, &settings.trust, settings.caps);
    let encrypted_cap = caps.dns.min(ENCRYPTED_CAP);
    let by_tcp = async |kind, server| match server {
        Some(server) => dns::ask_all_by_tcp(questions(kind, server, host).to_vec(), caps.dns, clock).await,
        None => Vec::new(),
    };
    let over_tls = async {
        let Some(server) = resolvers.matrix.dot.as_ref() else { return Vec::new() };
        if !resolvers.matrix.may_show(&server.name) {
            return Vec::new();
        }
        let asked = all_questions(server.address, host);
        dns_tls::ask_all(server, asked, trust, encrypted_cap, clock).await
    };
    let over_https = async {
        let Some(server) = resolvers.matrix.doh.as_ref() else { return Vec::new() };
        if !resolvers.matrix.may_show(&server.named().name) {
            return Vec::new();
        }
        let asked = all_questions(server.address, host);
        dns_https::ask_all(server, asked, trust, encrypted_cap, clock).await
    };
    let of_nobody = async {
        let Some(server) = resolvers.matrix.nobody else { return Vec::new() };
        let (resolver, name) = (ResolverKind::Nobody, host.clone());
        let question = Question { resolver, server, name, query: QueryType::A };
        let caps = StepCaps { dns: caps.dns.min(NOBODY_CAP), ..caps };
        vec![dns::ask(question, caps, clock).await.exchange]
    };
    let (public, https, tls, system, nobody) = tokio::join!(
        by_tcp(ResolverKind::Public, resolvers.public),
        over_https,
        over_tls,
        by_tcp(ResolverKind::System, resolvers.system.first().copied()),
        of_nobody,
    );
    [public, https, tls, system, nobody].concat()
}

/// What the public resolver is asked over a connection it alone can answer: addresses, and services.
fn all_questions(server: std::net::SocketAddr, host: &str) -> Vec<Question> {
    let mut asked = questions(ResolverKind::Public, server, host).to_vec();
    asked.push(dns::service_question(ResolverKind::Public, server, host));
    asked
}
