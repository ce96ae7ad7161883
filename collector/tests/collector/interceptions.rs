//! Interception on its way from agents to the operator, and where controls are sent when an agent fails.

use zerkalo_core::evidence::SignedList;
use zerkalo_core::record::{
    Arm, Certificate, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, ProbeRecord,
    QueryType, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};
use zerkalo_core::target::{Sha256, TargetUrl};
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::evidence::list_to_wire;
use zerkalo_proto::operator_v1::{ListInterceptionsRequest, ListInterceptionsResponse, PutMirrorListRequest};

use crate::world::{Agent, Collector, Link, Site, body, facts, list};

const STATE: &str = "C=KZ,O=ISCA,CN=Information Security Certification Authority";
const DAY_SECS: u64 = 86_400;
/// What the carrier's resolver gives.
const EDGE: &str = "9.9.9.10";

/// Puts the mirror `m1` in force, by HTTPS.
async fn put_https_mirror(collector: &Collector, site: &Site) {
    let mut list = list(1, &["m1"]);
    list.mirrors[0].url = url();
    let list = Some(list_to_wire(&SignedList::sign(&list, &site.signing_key)));
    collector.operator(site).await.put_mirror_list(PutMirrorListRequest { list }).await.unwrap();
}

fn url() -> TargetUrl {
    TargetUrl::parse("https://m1.example/").unwrap()
}

fn certificate(mark: u8, subject: &str, issuer: &str, until_day: u64) -> Certificate {
    Certificate {
        sha256: Sha256([mark; 32]),
        spki_sha256: Sha256([mark; 32]),
        subject: subject.to_owned(),
        issuer: issuer.to_owned(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0).plus_secs(until_day * DAY_SECS),
        der: vec![],
    }
}

/// A handshake that showed that chain, which browsers refuse; then the page was not asked for.
fn shown(chain: Vec<Certificate>) -> ProbeRecord {
    let mut record = lost_at_the_edge();
    record.tcp[0].outcome = TcpOutcome::Connected;
    record.tls = vec![TlsHandshake {
        arm: Arm::Main,
        address: record.tcp[0].address,
        sni: Some(url().host()),
        span: Span::default(),
        hello_shape: "pq".to_owned(),
        hello_len: 1_700,
        ja4: String::new(),
        ech: Ech::Absent,
        bytes_sent: 1_700,
        bytes_received: 3_000,
        outcome: TlsOutcome::Completed {
            version: "TLSv1_3".to_owned(),
            cipher_suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
            alpn: None,
        },
        transport: None,
        chain,
        chain_fault: Some(ChainFault::UnknownIssuer),
    }];
    record
}

/// A visit that ended at an address which does not answer.
fn lost_at_the_edge() -> ProbeRecord {
    let mut record = facts("m1");
    record.url = url();
    record.http.clear();
    record.dns = vec![DnsExchange {
        resolver: ResolverKind::System,
        server: "9.9.9.9:53".parse().unwrap(),
        transport: DnsTransport::Udp,
        name: url().host(),
        query: QueryType::A,
        span: Span::default(),
        outcome: DnsOutcome::Answer {
            rcode: 0,
            addresses: vec![EDGE.parse().unwrap()],
            cnames: vec![],
            ttl_min_secs: 60,
        },
        others: vec![],
        detail: DnsDetail::default(),
    }];
    record.tcp = vec![TcpConnect {
        arm: Arm::Main,
        address: format!("{EDGE}:443").parse().unwrap(),
        span: Span::default(),
        outcome: TcpOutcome::Timeout,
        transport: None,
    }];
    record
}

async fn send(collector: &Collector, site: &Site, agent: &mut Agent, record: &ProbeRecord) -> Link {
    let (mut link, _) = collector.connect(site, agent).await;
    let signed = agent.sign(body(record));
    let sequence = signed.sequence;
    link.send_records(&[signed]).await;
    link.acked_past_wishes(sequence).await;
    link
}

async fn listed(collector: &Collector, site: &Site, issuer: &str, since: u64) -> ListInterceptionsResponse {
    let request = ListInterceptionsRequest { issuer: issuer.to_owned(), since_millis: since };
    collector.operator(site).await.list_interceptions(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn an_intercepting_chain_is_listed_with_its_networks_and_survives_a_kill() {
    let site = Site::new();
    let collector = site.serve().await;
    put_https_mirror(&collector, &site).await;
    assert_eq!(listed(&collector, &site, "", 0).await, ListInterceptionsResponse::default());
    let authority = || certificate(9, STATE, "CN=State Root", 20);
    for (carrier, mark) in [("kz-kcell", 1), ("kz-beeline", 2)] {
        let mut agent = collector.enrol(&site, carrier, carrier).await;
        let chain = vec![certificate(mark, "CN=m1.example", STATE, 90), authority()];
        send(&collector, &site, &mut agent, &shown(chain)).await;
    }
    let all = listed(&collector, &site, "", 0).await;
    assert_eq!((all.certificates.len(), all.left_out, all.evicted), (3, 0, 0));
    let known = all.certificates.iter().find(|seen| seen.place == "authority").unwrap();
    assert_eq!((known.subject.as_str(), known.issuer.as_str()), (STATE, "CN=State Root"));
    assert_eq!((known.interceptor.as_str(), known.records), ("state_ca", 2));
    assert_eq!(known.validity.unwrap().until_millis, 20 * DAY_SECS * 1_000);
    assert_eq!(known.mirrors, ["m1"]);
    let networks: Vec<_> =
        known.networks.iter().map(|one| (one.carrier.as_str(), one.access.as_str())).collect();
    assert_eq!(networks, [("kz-beeline", "mobile"), ("kz-kcell", "mobile")]);
    assert!(known.first_seen_millis <= known.last_seen_millis && known.first_seen_millis > 0);
    let issuers: Vec<_> = all.issuers.iter().map(|one| (one.issuer.as_str(), one.certificates)).collect();
    assert_eq!(issuers, [(STATE, 2), ("CN=State Root", 1)]);
    // A part of the issuer's name, and a time.
    let some = listed(&collector, &site, "information security", 0).await;
    assert_eq!((some.certificates.len(), some.issuers.len()), (2, 1));
    let later = all.certificates.iter().map(|seen| seen.last_seen_millis).max().unwrap() + 1;
    assert_eq!(listed(&collector, &site, "", later).await, ListInterceptionsResponse::default());
    collector.kill().await;
    let collector = site.serve().await;
    assert_eq!(listed(&collector, &site, "", 0).await, all, "the journal says it again");
    collector.stop().await;
}

#[tokio::test]
async fn a_failure_sends_the_control_to_the_agent_s_addresses_and_neighbours_to_their_own() {
    let site = Site::new();
    let collector = site.serve().await;
    put_https_mirror(&collector, &site).await;
    let control = collector.enrol(&site, "house", "").await;
    let neighbour = collector.enrol(&site, "neighbour", "kz-kcell").await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut controls, _) = collector.connect(&site, &control).await;
    let (mut neighbours, _) = collector.connect(&site, &neighbour).await;
    send(&collector, &site, &mut agent, &lost_at_the_edge()).await;
    let Some(Down::ProbeNow(wish)) = controls.next().await else { panic!("the control is asked") };
    assert_eq!((wish.mirror.as_str(), wish.addresses), ("m1", vec![EDGE.to_owned()]));
    // Where they go is their own resolvers' word.
    let Some(Down::ProbeNow(wish)) = neighbours.next().await else { panic!("the neighbour is asked") };
    assert_eq!((wish.mirror.as_str(), wish.addresses), ("m1", vec![]));
    collector.stop().await;
}
