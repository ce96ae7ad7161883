//! More want in than there is room for: those inside are served and acknowledged all the while, operators are heard, and
//! who comes later gets in.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::{Code, Status};
use zerkalo_proto::agent_v1::Hello;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::ListAgentsRequest;

use crate::world::{Agent, COLLECTOR, Collector, Link, PATIENCE, Site};

/// Descriptors of the collector under the flood.
const DESCRIPTORS: usize = 256;
/// Connections of the flood, all kept open: far more.
const FLOOD: usize = 600;
/// After so many of the flood an agent inside sends a record.
const RECORD_EVERY: usize = 20;
/// The first bytes of a ClientHello: TLS record, handshake, a length that never comes.
const HELLO_BEGUN: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
/// What says that connections are refused.
const REFUSED: &str = "connections are refused or had to give way";

/// Serves with so few descriptors.
async fn serve_with(site: &Site, descriptors: usize) -> Collector {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" serve \"$1\"")]);
    command.arg(COLLECTOR).arg(&site.dir);
    site.serve_by(command).await
}

/// One connection of the flood, as `number` would have it: silent, half a ClientHello, or no TLS at all.
async fn flood(port: u16, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let said: &[u8] = match number % 3 {
        0 => b"",
        1 => HELLO_BEGUN,
        _ => b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n",
    };
    // It may be closed already.
    let _ = stream.write_all(said).await;
    stream
}

async fn record(link: &mut Link, agent: &mut Agent) {
    let record = agent.measure("m1");
    let sequence = record.sequence;
    link.send_records(&[record]).await;
    link.acked_past_wishes(sequence).await;
}

#[tokio::test]
async fn under_a_flood_of_handshakes_those_inside_are_served_and_newcomers_get_in() {
    let site = Site::new();
    let collector = serve_with(&site, DESCRIPTORS).await;
    let began = Instant::now();
    collector.put_list(&site, 1, &["m1"]).await;
    let mut inside = collector.enrol(&site, "anna", "kz-kcell").await;
    let mut later = collector.enrol(&site, "boris", "kz-beeline").await;
    let (mut link, _) = collector.connect(&site, &inside).await;
    let mut crowd = Vec::with_capacity(FLOOD);
    for number in 0..FLOOD {
        crowd.push(flood(collector.agents, number).await);
        if number % RECORD_EVERY == 0 {
            record(&mut link, &mut inside).await;
        }
    }
    // All of them are still open at this end; at the other the oldest gave way.
    assert!(collector.metric("zerkalo_connections_refused_total{code=\"gave_way\"}").await > 0);
    collector
        .metric_becomes("zerkalo_connections_refused_total{code=\"handshake_failed\"}", FLOOD as u64 / 3)
        .await;
    assert_eq!(collector.metric("zerkalo_connections_refused_total{code=\"no_descriptor\"}").await, 0);
    // An operator asks, an agent comes in, another enrols.
    let agents = collector.operator(&site).await.list_agents(ListAgentsRequest {}).await.unwrap();
    assert_eq!(agents.into_inner().agents.len(), 2);
    let (mut newcomer, _) = collector.connect(&site, &later).await;
    record(&mut newcomer, &mut later).await;
    collector.enrol(&site, "vera", "kz-kcell").await;
    record(&mut link, &mut inside).await;
    // The oldest of the flood was closed, so reading it ends.
    let mut oldest = crowd.swap_remove(0);
    let ended = tokio::time::timeout(PATIENCE, oldest.read(&mut [0; 1])).await.expect("it was closed");
    assert_eq!(ended.unwrap_or(0), 0);
    drop((crowd, link, newcomer));
    let lines = collector.stop().await;
    let told = lines.iter().filter(|line| line.contains(REFUSED)).count();
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&told), "{told} lines in {:?}", began.elapsed());
    assert_eq!(site.records().len(), FLOOD / RECORD_EVERY + 2);
}

#[tokio::test]
async fn an_agent_beyond_the_places_is_told_what_to_do_and_comes_in_once_there_is_one() {
    let site = Site::new();
    site.replace("#connections_max = 10000", "connections_max = 2");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agents = Vec::new();
    for owner in ["anna", "boris", "vera"] {
        agents.push(collector.enrol(&site, owner, "kz-kcell").await);
    }
    let [mut anna, boris, mut vera] = <[Agent; 3]>::try_from(agents).ok().unwrap();
    let (mut annas, _) = collector.connect(&site, &anna).await;
    let (boriss, _) = collector.connect(&site, &boris).await;
    let client = collector.uplink(&site, Some(&vera.identity)).await;
    let refused = Link::open(client).await.err().unwrap();
    assert_eq!((refused.code(), code_of(&refused)), (Code::ResourceExhausted, Some("too_many_connections")));
    assert!(refused.message().contains("agents.connections_max"), "{refused:?}");
    assert!(collector.metric("zerkalo_connections_refused_total{code=\"too_many_connections\"}").await >= 1);
    record(&mut annas, &mut anna).await;
    drop(boriss);
    let mut veras = came_in(&collector, &site, &vera).await;
    record(&mut veras, &mut vera).await;
    drop((annas, veras));
    collector.stop().await;
}

/// Tries until there is a place.
async fn came_in(collector: &Collector, site: &Site, agent: &Agent) -> Link {
    let trying = async {
        loop {
            let client = collector.uplink(site, Some(&agent.identity)).await;
            match Link::open(client).await {
                Ok(mut link) => {
                    link.send(Up::Hello(Hello { list_version: u64::MAX, ..Hello::default() })).await;
                    link.next().await.expect("a welcome");
                    return link;
                }
                Err(refused) => assert_eq!(code_of(&refused), Some("too_many_connections")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("a place in time")
}

#[tokio::test]
async fn an_agent_that_opens_streams_without_end_is_refused_and_others_are_not() {
    let site = Site::new();
    let collector = site.serve().await;
    let (hasty, calm) =
        (collector.enrol(&site, "anna", "kz-kcell").await, collector.enrol(&site, "boris", "kz-kcell").await);
    let client = collector.uplink(&site, Some(&hasty.identity)).await;
    let opening = async {
        loop {
            // Each replaces the one before it.
            if let Err(refused) = Link::open(client.clone()).await {
                break refused;
            }
        }
    };
    let refused: Status = tokio::time::timeout(PATIENCE * 2, opening).await.expect("a limit");
    assert_eq!((refused.code(), code_of(&refused)), (Code::ResourceExhausted, Some("too_many_streams")));
    assert!(collector.metric("zerkalo_requests_refused_total{code=\"too_many_streams\"}").await >= 1);
    collector.connect(&site, &calm).await;
    drop(client);
    collector.stop().await;
}
