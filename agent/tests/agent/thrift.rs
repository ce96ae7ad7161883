//! What a host's line gives: the day's bytes end large pages, over restarts too; a metered line never reads one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::sync::mpsc;
use zerkalo_agent::cost;
use zerkalo_core::record::{Arm, BODY_LEN_MAX};
use zerkalo_core::target::{Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

use crate::process::{Running, start, write_state};
use crate::world::*;

const LARGE_LEN: usize = 200_000;

/// A mirror whose large page always breaks off near its end: read again and again, as long as bytes allow.
struct Site {
    home: tempfile::TempDir,
    config: PathBuf,
    paths: mpsc::UnboundedReceiver<String>,
}

impl Site {
    async fn new(settings: &str) -> Self {
        let (seen, paths) = mpsc::unbounded_channel();
        let pages: Pages = Arc::new(move |path| {
            let _ = seen.send(path.to_owned());
            match path {
                "/large" => {
                    let mut bytes = page(&[b'x'; LARGE_LEN]);
                    bytes.pop();
                    (bytes, After::Close)
                }
                _ => (page(CANARY.as_bytes()), After::Continue),
            }
        });
        let address = http_server(pages).await;
        let nobody = resolver(&[]).await;
        let url = |path: &str| TargetUrl::parse(&format!("http://{address}{path}")).unwrap();
        let mirror = Mirror {
            large_page: Some(url("/large")),
            id: MirrorId::parse("m1").unwrap(),
            url: url("/"),
            markets: vec![MarketId::parse("kz").unwrap()],
            canary: Some(CANARY.to_owned()),
            key_pins: vec![],
            expected_addresses: vec![],
            standby: false,
            category: None,
        };
        let list = MirrorList { mirrors: vec![mirror], ..MirrorList::issued(1, UnixMillis(1)) };
        let home = tempfile::tempdir().unwrap();
        write_state(home.path(), &list);
        let config = home.path().join("agent.toml");
        let common = format!(
            "interval_secs = 1\nallow_special_ranges = true\n{settings}\n[resolvers]\nsystem = [\"{nobody}\"]\npublic = \"{nobody}\"\n"
        );
        std::fs::write(&config, common).unwrap();
        Self { home, config, paths }
    }

    fn start(&self) -> Running {
        start(self.home.path(), &self.config)
    }

    /// Waits until `row` visits in a row read no large page; how often one was read before.
    async fn large_pages_before(&mut self, row: usize) -> usize {
        let (mut large, mut without) = (0, 0);
        while without <= row {
            match self.paths.recv().await.unwrap().as_str() {
                "/large" => (large, without) = (large + 1, 0),
                _ => without += 1,
            }
        }
        large
    }
}

fn status(dir: &Path) -> String {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_zerkalo-agent"));
    let output = agent.args(["status", "--dir"]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_day_s_bytes_end_large_pages_and_a_restart_gives_no_second_day() {
    let mut site = Site::new("bytes_per_day = 1_500_000").await;
    assert!(status(site.home.path()).contains("nothing measured yet"));
    let child = site.start();
    let large = site.large_pages_before(2).await;
    let log = child.stop().log;
    // Each probe reads it twice, for it breaks off; half of the day's bytes are four of them.
    assert!((4..=6).contains(&large), "{large}\n{log}");
    assert!(log.contains("the day's bytes run out: large pages are no longer read today"), "{log}");
    let said = status(site.home.path());
    assert!(said.contains("of 1500000") && said.contains("large pages are no longer read"), "{said}");
    while site.paths.try_recv().is_ok() {}
    let child = site.start();
    assert_eq!(site.large_pages_before(2).await, 0);
    assert!(child.stop().log.contains("the day's bytes run out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metered_line_reads_no_large_page() {
    let mut site = Site::new("metered = true").await;
    let child = site.start();
    assert_eq!(site.large_pages_before(2).await, 0);
    child.stop();
    assert!(status(site.home.path()).contains("metered"));
}

#[tokio::test]
async fn a_probe_s_cost_is_what_went_over_the_line() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind((loopback(1), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let long = page(format!("{CANARY}{}", "y".repeat(100_000)).as_bytes());
    let pages = always(long, After::Continue);
    tls_server(listener, vec![(HOST, Front::Serve(authority.server(&[HOST]), pages))]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(1)]))]).await;
    let settings = settings(&authority, system, None);
    let url = format!("https://{HOST}:{port}/");
    let mut assigned = assignment(&url);
    assigned.flow.large_page = Some(TargetUrl::parse(&url).unwrap());
    let record = probe_as(&settings, &assigned).await.record;
    assert_eq!(record.http.iter().filter(|step| step.arm == Arm::LargePage).count(), 1);
    // Both pages over one connection, the handshake, the questions, and the headers of packets.
    let check = |cost: u64| assert!((205_000..=240_000).contains(&cost), "{cost}");
    check(cost::bytes_of(&record, 0));
    assert!(cost::bytes_of(&record, 5_000) >= cost::bytes_of(&record, 0) + 5_000);
    // Where the kernel tells nothing, as much.
    let mut silent = record.clone();
    silent.http.iter_mut().for_each(|step| step.transport = None);
    check(cost::bytes_of(&silent, 0));
    // What was sent beyond what was read was paid for too.
    let mut unread = record;
    let counted = unread.http[1].transport.as_mut().unwrap();
    counted.bytes_received += BODY_LEN_MAX;
    assert!(cost::bytes_of(&unread, 0) > 400_000);
}
