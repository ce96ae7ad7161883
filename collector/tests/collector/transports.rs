//! What a box proves, by every transport; and the end of a stream whose certificate is over, on each of them.

use std::net::SocketAddr;

use rcgen::KeyPair;
use tokio::net::TcpListener;
use tonic::transport::Identity;
use zerkalo_collector::authority::{Authority, Request};
use zerkalo_collector::clock;
use zerkalo_collector::relay::{Relay, RelayOptions};
use zerkalo_core::identity::Purpose;
use zerkalo_core::words::AgentId;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{Hello, RejoinRequest, RenewRequest};
use zerkalo_proto::code::code_of;

use crate::by_quic::QuicLine;
use crate::world::{Agent, Asking, Collector, Keys, Link, Site};

/// How long an agent's certificate lasts.
const CERTIFICATE_MILLIS: u64 = 7 * 86_400_000;
/// How long the short-lived ones of these tests do: a handshake on a busy machine is far shorter.
const SHORT_LIVED_MILLIS: u64 = 6_000;

async fn served(site: &Site) -> Collector {
    site.replace("#quic_listen = \"0.0.0.0:8445\"", "quic_listen = \"127.0.0.1:0\"");
    site.serve().await
}

/// Enrols, renews and rejoins by QUIC at `port`, where nothing listens by TCP.
async fn lives(site: &Site, port: u16, secret: &str) -> (AgentId, Keys) {
    let mut asking = Asking::by_quic(port, &site.ca_pem, None).await;
    let (request, keys) = asking.enroll_request(secret);
    let enrolled = asking.client.enroll(request).await.unwrap().into_inner();
    let agent = enrolled.agent;
    // The certificate is in force by the same transport.
    let own = (enrolled.certificate_pem.as_str(), keys.tls.serialize_pem());
    let own = Some((own.0, own.1.as_str()));
    let mut asking = Asking::by_quic(port, &site.ca_pem, own).await;
    let next = KeyPair::generate().unwrap();
    let (certificate_request_pem, record_signature) =
        asking.next(Purpose::Renew, &agent, 1, (&keys.record, &next));
    let request =
        RenewRequest { agent: agent.clone(), generation: 1, certificate_request_pem, record_signature };
    assert_eq!(asking.client.renew(request).await.unwrap().into_inner().generation, 2);
    let mut asking = Asking::by_quic(port, &site.ca_pem, None).await;
    let after = KeyPair::generate().unwrap();
    let (certificate_request_pem, record_signature) =
        asking.next(Purpose::Rejoin, &agent, 2, (&keys.record, &after));
    let request =
        RejoinRequest { agent: agent.clone(), generation: 2, certificate_request_pem, record_signature };
    let rejoined = asking.client.rejoin(request).await.unwrap().into_inner();
    assert_eq!(rejoined.generation, 3);
    let own = Some((rejoined.certificate_pem, after.serialize_pem()));
    let own = own.as_ref().map(|(certificate, key)| (certificate.as_str(), key.as_str()));
    let line = QuicLine::open(port, &site.ca_pem, own).await;
    let mut link = Link::open(UplinkServiceClient::new(line.channel)).await.unwrap();
    link.send(Up::Hello(Hello { list_version: u64::MAX, ..Hello::default() })).await;
    assert!(matches!(link.next().await, Some(Down::Welcome(_))));
    (AgentId::parse(&agent).unwrap(), Keys { record: keys.record, tls: after })
}

#[tokio::test]
async fn a_box_enrols_renews_and_rejoins_by_quic_alone() {
    let site = Site::new();
    let collector = served(&site).await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    let (agent, keys) = lives(&site, collector.quic, &secret).await;
    // What was proved in a session of TCP proves nothing in one of QUIC.
    let mut by_quic = Asking::by_quic(collector.quic, &site.ca_pem, None).await;
    let by_tcp = collector.enrollment(&site).await;
    let (certificate_request_pem, record_signature) =
        by_tcp.next(Purpose::Rejoin, agent.as_str(), 3, (&keys.record, &keys.tls));
    let agent = agent.to_string();
    let request = RejoinRequest { agent, generation: 3, certificate_request_pem, record_signature };
    let refused = by_quic.client.rejoin(request.clone()).await.unwrap_err();
    assert_eq!(code_of(&refused), Some("record_proof_wrong"), "{refused}");
    // Without a certificate nothing else is served there.
    let RejoinRequest { agent, certificate_request_pem, record_signature, .. } = request;
    let request = RenewRequest { agent, generation: 3, certificate_request_pem, record_signature };
    let refused = by_quic.client.renew(request).await.unwrap_err();
    assert_eq!(code_of(&refused), Some("certificate_missing"), "{refused}");
    let line = QuicLine::open(collector.quic, &site.ca_pem, None).await;
    let mut uplink = UplinkServiceClient::new(line.channel);
    let refused = uplink.leave(zerkalo_proto::agent_v1::LeaveRequest {}).await.unwrap_err();
    assert_eq!(code_of(&refused), Some("certificate_missing"), "{refused}");
    let refused = Link::open(uplink).await.err().unwrap();
    assert_eq!(code_of(&refused), Some("certificate_missing"), "{refused}");
    collector.stop().await;
}

#[tokio::test]
async fn a_relay_passes_enrolment_renewal_and_return_by_quic() {
    let site = Site::new();
    let collector = served(&site).await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let closed = TcpListener::bind(any).await.unwrap().local_addr().unwrap();
    let options = RelayOptions {
        listen: any,
        to: closed.to_string(),
        quic: Some((any, format!("127.0.0.1:{}", collector.quic))),
        connections_max: 4,
    };
    let relay = Relay::bind(options).await.unwrap();
    let port = relay.addresses().1.unwrap().port();
    let running = tokio::spawn(relay.run());
    lives(&site, port, &secret).await;
    running.abort();
    collector.stop().await;
}

/// The agent with a certificate whose time is over in a moment.
fn short_lived(site: &Site, agent: Agent) -> Agent {
    let read = |name: &str| std::fs::read_to_string(site.dir.join(name)).unwrap();
    let authority = Authority::load(&read("ca/ca.pem"), &read("ca/ca.key")).unwrap();
    let key = KeyPair::from_pem(&agent.key_pem).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let made = clock::now().minus_millis(CERTIFICATE_MILLIS - SHORT_LIVED_MILLIS);
    let certificate_pem =
        authority.agent_certificate(&agent.id, 1, &Request::parse(&csr).unwrap(), made).unwrap();
    Agent { identity: Identity::from_pem(&certificate_pem, &agent.key_pem), certificate_pem, ..agent }
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate_by_every_transport() {
    let site = Site::new();
    let collector = served(&site).await;
    collector.put_list(&site, 1, &["m1"]).await;
    let (by_tcp, by_quic, long_lived) = (
        collector.enrol(&site, "anna", "kz-kcell").await,
        collector.enrol(&site, "boris", "kz-kcell").await,
        collector.enrol(&site, "carl", "kz-kcell").await,
    );
    let (mut other, _) = collector.connect(&site, &long_lived).await;
    let (mut by_tcp, by_quic) = (short_lived(&site, by_tcp), short_lived(&site, by_quic));
    let own = Some((by_quic.certificate_pem.as_str(), by_quic.key_pem.as_str()));
    let line = QuicLine::open(collector.quic, &site.ca_pem, own).await;
    let mut quic_link = Link::open(UplinkServiceClient::new(line.channel)).await.unwrap();
    quic_link.send(Up::Hello(Hello { list_version: u64::MAX, ..Hello::default() })).await;
    let (mut tcp_link, _) = collector.connect(&site, &by_tcp).await;
    tcp_link.send_records(&[by_tcp.measure("m1")]).await;
    tcp_link.acked_past_wishes(1).await;
    for link in [&mut tcp_link, &mut quic_link] {
        let status = link.status().await.unwrap();
        assert_eq!(code_of(&status), Some("certificate_expired"), "{status}");
        assert!(status.message().contains("record key"), "{status}");
    }
    let line = "zerkalo_requests_refused_total{code=\"certificate_expired\"}";
    assert_eq!(collector.metric(line).await, 2);
    // Whoever's is not over stays.
    let mut long_lived = long_lived;
    other.send_records(&[long_lived.measure("m1")]).await;
    other.acked_past_wishes(1).await;
    collector.stop().await;
}
