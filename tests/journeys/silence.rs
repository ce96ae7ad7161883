//! No datagram of the uplink leaves a box while it probes, and the probe's record says so.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use zerkalo_core::record::UplinkTransport;
use zerkalo_core::target::MirrorList;
use zerkalo_lab::fleet::now;

use crate::clock::records;
use crate::identity::Place;
use crate::middlebox::{Passed, Tap, free_udp};
use crate::mirror::{self, CANARY};
use crate::programs::stage;

const STUCK: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Datagrams of a collector that hears no answer, and asks again.
const UNANSWERED_MIN: usize = 4;

/// A mirror that keeps its visitors waiting until it is told to answer.
struct SlowMirror {
    port: u16,
    asked: mpsc::Receiver<()>,
    answer: watch::Sender<bool>,
}

impl SlowMirror {
    async fn open() -> Self {
        let listener = mirror::listen().await;
        let port = listener.local_addr().unwrap().port();
        let (ask, asked) = mpsc::channel(64);
        let (answer, told) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((visitor, _)) = listener.accept().await {
                tokio::spawn(serve(visitor, ask.clone(), told.clone()));
            }
        });
        Self { port, asked, answer }
    }
}

async fn serve(mut visitor: TcpStream, ask: mpsc::Sender<()>, mut told: watch::Receiver<bool>) {
    if mirror::path(&mut visitor).await.is_none() {
        return;
    }
    let _ = ask.try_send(());
    let _ = told.wait_for(|is_told| *is_told).await;
    let len = CANARY.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{CANARY}");
    let _ = visitor.write_all(answer.as_bytes()).await;
}

fn list(version: u64, port: u16) -> MirrorList {
    MirrorList { mirrors: vec![mirror::entry(port)], ..MirrorList::issued(version, now()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_datagram_leaves_while_a_probe_runs_and_its_record_says_so() {
    let _stage = stage().await;
    let quic = free_udp(81);
    let tap = Tap::before(quic).await;
    let place = Place::at(&[format!("quic://{}", tap.address)], Some(quic)).await;
    let (_resolver, settings) = mirror::settings(1).await;
    std::fs::write(place.home.join("agent.toml"), settings).unwrap();
    let mut slow = SlowMirror::open().await;
    let agent = place.enrolled("anna").await;
    let _running = place.run("anna");
    place.until(&agent, "it is on the line", |known| known.connected).await;
    // With the list it begins to probe, and the mirror does not answer.
    place.collector.operator().put_list(&list(1, slow.port)).await.unwrap();
    tokio::time::timeout(STUCK, slow.asked.recv()).await.expect("the mirror is visited").unwrap();
    tap.mark(1).await;
    // What comes now wants an answer, and gets none.
    place.collector.operator().put_list(&list(2, slow.port)).await.unwrap();
    let after = |passed: &[Passed], mark| {
        let at = passed.iter().position(|one| *one == Passed::Mark(mark)).unwrap();
        passed[at..].to_vec()
    };
    let count = |passed: &[Passed], kind| passed.iter().filter(|one| **one == kind).count();
    tap.until("the collector asks again", |passed| count(&after(passed, 1), Passed::Down) >= UNANSWERED_MIN)
        .await;
    tap.mark(2).await;
    let passed = tap.passed();
    assert!(count(&passed, Passed::Up) > 0, "the tap sees what the box sends");
    let while_probing = after(&passed, 1);
    assert_eq!(count(&while_probing, Passed::Up), 0, "{while_probing:?}");
    slow.answer.send_replace(true);
    // It speaks again, and its record tells of the silence.
    let began = Instant::now();
    let record = loop {
        if let Some(record) = records(&place.collector.dir()).into_iter().next() {
            break record;
        }
        assert!(began.elapsed() < STUCK, "no record came");
        tokio::time::sleep(POLL).await;
    };
    assert!(count(&after(&tap.passed(), 2), Passed::Up) > 0);
    let activity = record.uplink.unwrap();
    assert_eq!((activity.transport, activity.bytes_sent), (Some(UplinkTransport::Quic), 0), "{activity:?}");
    assert!(activity.bytes_received > 0 && !activity.is_switched, "{activity:?}");
    assert_eq!(record.list_version, 1);
}
