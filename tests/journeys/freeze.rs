//! A path that freezes each connection after 16 KB either way, from the first one on: a list longer than that reaches the
//! box, and records longer than a short connection reach the collector, all of them once. Where there is nothing to send, only
//! the question whether the line lives finds out.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use zerkalo_core::target::MirrorList;
use zerkalo_lab::fleet::now;
use zerkalo_lab::stored;

use crate::clock::records;
use crate::identity::Place;
use crate::middlebox::{Carried, TcpBox, Trick};
use crate::mirror::{self, CANARY};
use crate::programs::program;

/// Bytes either way after which connections freeze.
const FREEZE_BYTES: u64 = 16_000;
/// What agents keep connections below, once they know.
const SHORT_BYTES: u64 = 12_000;
/// The question whether a connection lives is asked after 20 s and waits 10 s for its answer; the rest is for slow machines.
const STUCK: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(100);
/// Mirrors of another market, which make the list long.
const OTHERS: usize = 60;
const CANARY_LEN: usize = 200;
/// Redirects before the page, and bytes of each header on the way: what makes a record long.
const REDIRECTS: usize = 4;
const HEADER_LEN: usize = 500;
/// Records awaited.
const RECORDS: usize = 2;

/// Headers that are kept of an answer.
const HEADERS: [&str; 9] = [
    "alt-svc",
    "cache-control",
    "cf-ray",
    "content-language",
    "retry-after",
    "server",
    "via",
    "x-cache",
    "x-powered-by",
];

/// Its port.
async fn long_winded_mirror() -> u16 {
    let listener = mirror::listen().await;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((visitor, _)) = listener.accept().await {
            tokio::spawn(serve(visitor));
        }
    });
    port
}

/// Sends visitors from `/` by way of `/1`, `/2` and so on to a page.
async fn serve(mut visitor: TcpStream) {
    let Some(path) = mirror::path(&mut visitor).await else { return };
    let number: usize = path.trim_start_matches('/').parse().unwrap_or(0);
    let headers: String =
        HEADERS.iter().map(|name| format!("{name}: {}\r\n", "x".repeat(HEADER_LEN))).collect();
    let answer = match number < REDIRECTS {
        true => format!("HTTP/1.1 302 Found\r\nlocation: /{}\r\ncontent-length: 0\r\n", number + 1),
        false => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", CANARY.len()),
    };
    let body = if number < REDIRECTS { "" } else { CANARY };
    let answer = format!("{answer}{headers}connection: close\r\n\r\n{body}");
    let _ = visitor.write_all(answer.as_bytes()).await;
}

fn list(version: u64, port: u16) -> MirrorList {
    let canary = "c".repeat(CANARY_LEN);
    let others = (0..OTHERS).map(|number| mirror::elsewhere(number, &canary));
    let mirrors = std::iter::once(mirror::entry(port)).chain(others).collect();
    MirrorList { mirrors, ..MirrorList::issued(version, now()) }
}

/// The first list, short: nothing of it is measured.
fn idle_list() -> MirrorList {
    MirrorList { mirrors: vec![mirror::elsewhere(0, CANARY)], ..MirrorList::issued(1, now()) }
}

/// A box that has the first list, if there is one, gets the long one and delivers its long records. Takes no turn on the
/// stage: most of its time it waits.
async fn lists_and_records_pass(first: Option<MirrorList>) {
    program("zerkalo-agent");
    let mut middlebox = TcpBox::new().await;
    let place = Place::at(&[format!("https://{}", middlebox.address)], None).await;
    middlebox.open(place.agents_listen(), Trick::FreezeAfter(FREEZE_BYTES));
    let (_resolver, settings) = mirror::settings(5).await;
    std::fs::write(place.home.join("agent.toml"), settings).unwrap();
    let long = list(2, long_winded_mirror().await);
    let (agent, mut running);
    if let Some(first) = first {
        place.collector.operator().put_list(&first).await.unwrap();
        agent = place.enrolled("anna").await;
        running = place.run("anna");
        place.until(&agent, "it is on the line", |known| known.connected).await;
        place.collector.operator().put_list(&long).await.unwrap();
    } else {
        // It does not fit the answer to the enrolment.
        place.collector.operator().put_list(&long).await.unwrap();
        agent = place.enrolled("anna").await;
        running = place.run("anna");
    }
    let began = Instant::now();
    while records(&place.collector.dir()).len() < RECORDS {
        let log = std::fs::read_to_string(place.log("anna")).unwrap_or_default();
        assert!(began.elapsed() < STUCK, "{:?}: {log}", middlebox.connections());
        tokio::time::sleep(POLL).await;
    }
    let connections = middlebox.connections();
    println!("{connections:?}");
    let is_frozen = |passed: &Carried| passed.up.max(passed.down) >= FREEZE_BYTES;
    let frozen = connections.iter().filter(|passed| is_frozen(passed)).count();
    assert_eq!(frozen, 1, "one connection froze, and the path was known: {connections:?}");
    let after = &connections[connections.iter().position(is_frozen).unwrap() + 1..];
    assert!(after.len() > 4, "lists and records take several: {connections:?}");
    assert!(after.iter().all(|passed| passed.up.max(passed.down) < SHORT_BYTES), "{connections:?}");
    let up: u64 = after.iter().map(|passed| passed.up).sum();
    assert!(up > RECORDS as u64 * FREEZE_BYTES, "the records were long: {up}");
    place.says("anna", "this path freezes connections of that length").await;
    // Whole, and once.
    running.kill().await.unwrap();
    for record in records(&place.collector.dir()) {
        assert_eq!(record.http.len(), REDIRECTS + 1);
    }
    let stored = stored::read(&place.collector.dir().join("journal")).unwrap();
    assert_eq!(stored.double, 0);
    assert!(stored.records.iter().all(|(name, ..)| name.as_str() == agent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_box_gets_a_long_list_where_every_connection_freezes_after_16_kb() {
    lists_and_records_pass(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_at_rest_gets_a_long_list_where_every_connection_freezes_after_16_kb() {
    lists_and_records_pass(Some(idle_list())).await;
}
