//! The ways agents come by: QUIC, a relay, records and lists in parts.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use zerkalo_collector::relay::{Relay, RelayOptions};
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{Hello, Passage, RecordPart};
use zerkalo_proto::evidence::{list_from_bytes, record_to_bytes};

use crate::by_quic::QuicLine;
use crate::world::{Agent, Link, Site};

/// gRPC inside one stream of QUIC, as agents speak it. The endpoint lives as long as the connection is wanted.
async fn by_quic(site: &Site, port: u16, agent: Option<(&Agent, &str, &str)>) -> (Channel, quinn::Endpoint) {
    let identity = agent.map(|(_, certificate, key)| (certificate, key));
    let QuicLine { channel, endpoint, .. } = QuicLine::open(port, &site.ca_pem, identity).await;
    (channel, endpoint)
}

fn hello(passage: Option<Passage>, list_version: u64, held: (u64, u32)) -> Up {
    let (list_part_version, list_part_len) = held;
    Up::Hello(Hello {
        agent_version: "test".to_owned(),
        list_version,
        passage,
        list_part_version,
        list_part_len,
    })
}

fn short() -> Option<Passage> {
    let (transport, after) = ("tcp".to_owned(), "frozen".to_owned());
    Some(Passage { transport, after, bytes_max: 12_000, ..Passage::default() })
}

#[tokio::test]
async fn records_come_by_quic_under_the_certificate_of_their_agent_alone() {
    let site = Site::new();
    site.replace("#quic_listen = \"0.0.0.0:8445\"", "quic_listen = \"127.0.0.1:0\"");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let (mut agent, certificate, key) = collector.enrol_with_pems(&site, "anna", "kz-kcell").await;
    let by_name = Some((&agent, certificate.as_str(), key.as_str()));
    let (channel, _endpoint) = by_quic(&site, collector.quic, by_name).await;
    let mut link = Link::open(UplinkServiceClient::new(channel)).await.unwrap();
    let passage = Passage { transport: "quic".to_owned(), after: "first".to_owned(), ..Passage::default() };
    link.send(hello(Some(passage), u64::MAX, (0, 0))).await;
    let Some(Down::Welcome(welcome)) = link.next().await else { panic!("no welcome") };
    assert_eq!(welcome.peer_address, "127.0.0.1");
    assert!(welcome.takes_parts && !welcome.collector_urls.is_empty());
    let records: Vec<_> = (0..40).map(|_| agent.measure("m1")).collect();
    link.send_records(&records).await;
    link.acked_past_wishes(40).await;
    assert_eq!(collector.metric("zerkalo_streams_total{transport=\"quic\",after=\"first\"}").await, 1);
    // Without a certificate nobody speaks for an agent.
    let (channel, _endpoint) = by_quic(&site, collector.quic, None).await;
    let refused = Link::open(UplinkServiceClient::new(channel)).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    drop(link);
    collector.stop().await;
    assert_eq!(site.records().len(), 40);
}

#[tokio::test]
async fn a_record_in_parts_is_admitted_once_whole_over_however_many_streams() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let record = agent.measure("m1");
    let bytes = record_to_bytes(&record);
    let part = |from: usize, to: usize| {
        let (offset, total_len) = (u32::try_from(from).unwrap(), u32::try_from(bytes.len()).unwrap());
        let content = bytes[from..to].to_vec();
        Up::Part(RecordPart { epoch: record.epoch, sequence: record.sequence, offset, total_len, content })
    };
    let half = bytes.len() / 2;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!(welcome.part, None);
    link.send(part(0, half)).await;
    let Some(Down::Part(held)) = link.next().await else { panic!("no answer to a part") };
    assert_eq!(held.held_len as usize, half);
    drop(link);
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!(welcome.part.map(|held| held.held_len as usize), Some(half));
    assert_eq!(welcome.sequence, 0, "nothing is acknowledged before it is whole");
    link.send(part(half, bytes.len())).await;
    link.acked_past_wishes(1).await;
    // What is no record at all ends the stream, as in a batch.
    let content = vec![0xff; 40];
    let nonsense = RecordPart { epoch: 1, sequence: 2, offset: 0, total_len: 40, content };
    link.send(Up::Part(nonsense)).await;
    let refused = loop {
        match link.next().await {
            Some(Down::Rejection(refused)) => break refused,
            Some(_) => {}
            None => panic!("the stream ended without a word"),
        }
    };
    assert_eq!((refused.code.as_str(), refused.stops_stream), ("malformed", true));
    collector.stop().await;
    assert_eq!(site.records().len(), 1);
}

#[tokio::test]
async fn a_long_list_reaches_an_agent_whose_connections_must_stay_short() {
    let site = Site::new();
    let collector = site.serve().await;
    let names: Vec<String> = (0..150).map(|number| format!("m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    collector.put_list(&site, 3, &names).await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let client = collector.uplink(&site, Some(&agent.identity)).await;
        let mut link = Link::open(client).await.unwrap();
        let held_len = u32::try_from(held.len()).unwrap();
        link.send(hello(short(), 0, (if held.is_empty() { 0 } else { 3 }, held_len))).await;
        let Some(Down::Welcome(_)) = link.next().await else { panic!("no welcome") };
        let Some(Down::ListPart(part)) = link.next().await else { panic!("no part of the list") };
        assert!(part.content.len() <= 5_000, "{}", part.content.len());
        held.extend(part.content);
        if held.len() == part.total_len as usize {
            break;
        }
    }
    let list = list_from_bytes(&held).unwrap().open(site.signing_key.public()).unwrap();
    assert_eq!((list.version, list.mirrors.len()), (3, 150));
    collector.stop().await;
}

#[tokio::test]
async fn a_relay_passes_bytes_to_one_place_and_knows_its_limit() {
    let site = Site::new();
    site.replace("#relays = [\"192.0.2.30\"]", "relays = [\"127.0.0.1\"]");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let to = format!("localhost:{}", collector.agents);
    let options = RelayOptions { listen: any, to, quic: None, connections_max: 1 };
    let relay = Relay::bind(options).await.unwrap();
    let address = relay.addresses().0.unwrap();
    let running = tokio::spawn(relay.run());
    let channel = crate::world::channel(address.port(), &site.ca_pem, Some(&agent.identity)).await;
    let mut link = Link::open(UplinkServiceClient::new(channel)).await.unwrap();
    link.send(hello(None, u64::MAX, (0, 0))).await;
    let Some(Down::Welcome(welcome)) = link.next().await else { panic!("no welcome") };
    // Where a relay stands tells nothing of where its agent is.
    assert_eq!(welcome.peer_address, "");
    link.send_records(&[agent.measure("m1")]).await;
    link.acked_past_wishes(1).await;
    // One more than it was told to pass at once is closed without a byte.
    let mut second = TcpStream::connect(address).await.unwrap();
    let _ = second.write_all(b"anybody?").await;
    let mut answer = Vec::new();
    let _ = second.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    running.abort();
    drop(link);
    collector.stop().await;
    assert_eq!(site.records().len(), 1);
}

#[tokio::test]
async fn a_relay_passes_datagrams_both_ways() {
    let site = Site::new();
    site.replace("#quic_listen = \"0.0.0.0:8445\"", "quic_listen = \"127.0.0.1:0\"");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let (mut agent, certificate, key) = collector.enrol_with_pems(&site, "anna", "kz-kcell").await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let closed = TcpListener::bind(any).await.unwrap();
    let options = RelayOptions {
        listen: any,
        to: closed.local_addr().unwrap().to_string(),
        quic: Some((any, format!("127.0.0.1:{}", collector.quic))),
        connections_max: 4,
    };
    let relay = Relay::bind(options).await.unwrap();
    let port = relay.addresses().1.unwrap().port();
    let running = tokio::spawn(relay.run());
    let (channel, _endpoint) = by_quic(&site, port, Some((&agent, &certificate, &key))).await;
    let mut link = Link::open(UplinkServiceClient::new(channel)).await.unwrap();
    link.send(hello(None, u64::MAX, (0, 0))).await;
    let Some(Down::Welcome(_)) = link.next().await else { panic!("no welcome") };
    let records: Vec<_> = (0..40).map(|_| agent.measure("m1")).collect();
    link.send_records(&records).await;
    link.acked_past_wishes(40).await;
    running.abort();
    collector.stop().await;
}

#[tokio::test]
async fn a_relay_without_a_destination_says_what_to_correct() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let to = "no-port.invalid".to_owned();
    let error = Relay::bind(RelayOptions { listen: any, to, quic: None, connections_max: 1 }).await;
    let said = error.unwrap_err().to_string();
    assert!(said.contains("no-port.invalid") && said.contains("HOST:PORT"), "{said}");
}
