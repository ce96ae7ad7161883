//! Agents that do not read, or hardly, or hardly send, and one that sends far too much: no other waits for them.
//!
//! Their lines run through a valve of the test's own, which passes bytes as it is told: what is compared is what came, never
//! how long it took.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{Hello, RecordPart};

use crate::world::{Agent, Collector, Link, Site};

/// Records of the agent that nobody may slow.
const RECORDS: u64 = 60;
/// Batches that a slow agent tries to send meanwhile.
const SLOW_BATCHES: usize = 200;
/// Messages of the hasty agent between two looks at what the collector counts.
const PARTS_AT_ONCE: usize = 64;

/// How many bytes may pass, each way, in all.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    up: u64,
    down: u64,
}

const FREE: u64 = u64::MAX;

/// A line to the collector that passes no more bytes than it is allowed.
async fn valve(to: u16) -> (u16, watch::Sender<Allowance>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (allow, allowed) = watch::channel(Allowance { up: FREE, down: FREE });
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::join!(
            pass(near_read, far_write, allowed.clone(), |allowance| allowance.up),
            pass(far_read, near_write, allowed, |allowance| allowance.down)
        );
    });
    (port, allow)
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut allowed: watch::Receiver<Allowance>,
    of: fn(&Allowance) -> u64,
) {
    let (mut passed, mut buffer) = (0_u64, vec![0; 4_096]);
    loop {
        let Ok(allowance) = allowed.wait_for(|allowance| of(allowance) > passed).await.map(|now| of(&now))
        else {
            return;
        };
        let room = usize::try_from(allowance - passed).unwrap_or(usize::MAX).min(buffer.len());
        let Ok(len @ 1..) = from.read(&mut buffer[..room]).await else { return };
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        // What is free is not counted.
        passed += if allowance == FREE { 0 } else { len as u64 };
    }
}

/// Connects through a valve; the welcome has come.
async fn through_valve(
    collector: &Collector,
    site: &Site,
    agent: &Agent,
) -> (Link, watch::Sender<Allowance>) {
    let (port, allow) = valve(collector.agents).await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&site.ca_pem));
    let tls = tls.domain_name("localhost").identity(agent.identity.clone());
    let endpoint =
        Channel::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
    let client = UplinkServiceClient::new(endpoint.connect().await.unwrap());
    let mut link = Link::open(client).await.unwrap();
    let hello = Hello { agent_version: "test".to_owned(), list_version: u64::MAX, ..Hello::default() };
    link.send(Up::Hello(hello)).await;
    link.next().await.expect("a welcome");
    (link, allow)
}

/// Sends what the line takes, for as long as it lasts.
fn send_on(mut link: Link, mut agent: Agent) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for _ in 0..SLOW_BATCHES {
            let records: Vec<_> = (0..4).map(|_| agent.measure("m1")).collect();
            link.send_records(&records).await;
        }
        std::future::pending::<()>().await;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_do_not_read_or_send_byte_by_byte_slow_no_other() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut slow = Vec::new();
    for (owner, allowance) in [
        ("never-reads", Allowance { up: FREE, down: 0 }),
        ("reads-bytes", Allowance { up: FREE, down: 1 }),
        ("sends-bytes", Allowance { up: 1, down: FREE }),
    ] {
        let agent = collector.enrol(&site, owner, "kz-beeline").await;
        let (link, allow) = through_valve(&collector, &site, &agent).await;
        allow.send_replace(allowance);
        slow.push((send_on(link, agent), allow));
    }
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    for sequence in 1..=RECORDS {
        link.send_records(&[agent.measure("m1")]).await;
        link.acked_past_wishes(sequence).await;
        // A byte each for those that take or send bytes.
        for (_, allow) in &slow {
            allow.send_modify(|now| {
                now.up = if now.up == FREE { FREE } else { now.up + 1 };
                now.down = if now.down == FREE || now.down == 0 { now.down } else { now.down + 1 };
            });
        }
    }
    // Nobody was cut off for it either: they are slow, not gone.
    assert_eq!(collector.metric("zerkalo_agents_connected").await, 4);
    slow.iter().for_each(|(sending, _)| sending.abort());
    drop((slow, link));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_sends_too_fast_is_read_slowly_and_loses_nothing() {
    let site = Site::new();
    site.replace("#records_per_sec = 500", "records_per_sec = 50");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut hasty = collector.enrol(&site, "anna", "kz-kcell").await;
    let mut calm = collector.enrol(&site, "boris", "kz-beeline").await;
    let (mut hastys, _) = collector.connect(&site, &hasty).await;
    let (mut calms, _) = collector.connect(&site, &calm).await;
    // Parts count as much as records, are answered, and take no time to sign.
    let part = RecordPart { epoch: 1, sequence: 9, offset: 0, total_len: 100, content: Vec::new() };
    while collector.metric("zerkalo_agents_slowed_total").await == 0 {
        for _ in 0..PARTS_AT_ONCE {
            hastys.send(Up::Part(part.clone())).await;
        }
        for _ in 0..PARTS_AT_ONCE {
            while !matches!(hastys.next().await, Some(Down::Part(_))) {}
        }
    }
    let records: Vec<_> = (0..3).map(|_| hasty.measure("m1")).collect();
    hastys.send_records(&records).await;
    for sequence in 1..=20 {
        calms.send_records(&[calm.measure("m1")]).await;
        calms.acked_past_wishes(sequence).await;
    }
    hastys.acked_past_wishes(3).await;
    drop((hastys, calms));
    collector.stop().await;
    assert_eq!(site.records().len(), 23);
}
