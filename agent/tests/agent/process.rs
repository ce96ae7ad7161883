//! `run` as a process: it measures without a collector, keeps what it measured, and stops when told.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use zerkalo_agent::consent;
use zerkalo_agent::spool::{DIR, Limits, Spool};
use zerkalo_core::evidence::{SecretKey, SignedList};
use zerkalo_core::record::{Cause, HttpOutcome};
use zerkalo_core::target::{Category, Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{AgentId, MarketId, MirrorId, UnixMillis};

use crate::world::*;

const AGENT: &str = "kz-kcell-00000001";

/// Writes what `enroll` would have written; nobody listens at the collector's address.
pub fn write_state(dir: &Path, list: &MirrorList) {
    let operator = SecretKey::from_bytes(&[1; 32]);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let signed = SignedList::sign(list, &operator);
    let stored = serde_json::json!({
        "list": String::from_utf8(signed.bytes).unwrap(),
        "signature": hex::encode(signed.signature),
    });
    let identity = format!(
        "agent = \"{AGENT}\"\nowner = \"o1\"\nmarket = \"kz\"\ncarrier = \"kz-kcell\"\naccess = \"fixed\"\n\
         collector_urls = [\"https://127.0.0.1:9\"]\noperator_key = \"{}\"\n",
        operator.public().to_hex()
    );
    for (name, text) in [
        ("identity.toml", identity),
        ("record.key", "07".repeat(32)),
        ("tls.key", key.serialize_pem()),
        ("tls.pem", certificate),
        ("ca.pem", Authority::new().pem),
        ("list.json", stored.to_string()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let state = zerkalo_agent::state::StateDir::existing(dir);
    consent::accept(&state, consent::VERSION, consent::Language::En, &Category::ALL, UnixMillis(1)).unwrap();
}

/// An agent at work; killed when dropped.
pub struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

/// How long an agent may take to say or do something.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn start(dir: &Path, config: &Path) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zerkalo-agent"))
        .args(["run", "--dir"])
        .arg(dir)
        .arg("--config")
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (log, lines) = (Arc::new(Mutex::new(String::new())), BufReader::new(child.stderr.take().unwrap()));
    let kept = log.clone();
    // Read all the time: a full pipe would stop it.
    let reader = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut log = kept.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    Running { child, log, reader: Some(reader) }
}

impl Running {
    /// Waits until it has said so; the whole line.
    pub fn says(&self, what: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(line) = log.lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "it does not say {what:?}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and its end.
    pub fn stop(self) -> Ended {
        let script = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        self.ends()
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.ends()
    }

    /// Waits for its end.
    pub fn ends(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        self.reader.take().expect("it is read to its end once").join().unwrap();
        let log = self.log.lock().unwrap().clone();
        Ended { status, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_measures_without_a_collector_and_keeps_the_records_when_stopped() {
    let (seen, mut visits) = mpsc::unbounded_channel();
    let body = page(CANARY.as_bytes());
    let pages: Pages = Arc::new(move |_| {
        let _ = seen.send(());
        (body.clone(), After::Continue)
    });
    let address = http_server(pages).await;
    let nobody = resolver(&[]).await;
    let mirror = |name: &str, market: &str| Mirror {
        large_page: None,
        id: MirrorId::parse(name).unwrap(),
        url: TargetUrl::parse(&format!("http://{address}/{name}")).unwrap(),
        markets: vec![MarketId::parse(market).unwrap()],
        canary: Some(CANARY.to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    };
    let list = MirrorList {
        mirrors: vec![mirror("m1", "kz"), mirror("other", "ru")],
        ..MirrorList::issued(4, UnixMillis(1))
    };
    let home = tempfile::tempdir().unwrap();
    let (dir, config) = (home.path().to_owned(), home.path().join("agent.toml"));
    write_state(&dir, &list);
    let settings = format!(
        "interval_secs = 1\nallow_special_ranges = true\n[resolvers]\nsystem = [\"{nobody}\"]\npublic = \"{nobody}\"\n"
    );
    std::fs::write(&config, settings).unwrap();
    let child = start(&dir, &config);
    // The third visit begins only after the first two records were appended.
    for _ in 0..3 {
        visits.recv().await.unwrap();
    }
    let second = start(&dir, &config).ends();
    assert!(!second.status.success() && second.log.contains("another zerkalo-agent"), "{second:?}");
    child.says("uplink lost");
    let ended = child.stop();
    assert!(ended.status.success() && ended.log.contains("agent stopped"), "{ended:?}");

    let agent = AgentId::parse(AGENT).unwrap();
    let key = SecretKey::from_bytes(&[7; 32]);
    let (mut spool, _) =
        Spool::open(&dir.join(DIR), &agent, key.clone(), Limits::default(), UnixMillis(1)).unwrap();
    let records = spool.after(0, 100, usize::MAX).unwrap();
    assert!(records.len() >= 2);
    for signed in &records {
        signed.verify(&key.public()).unwrap();
        let record = zerkalo_proto::record::decode(&signed.body).unwrap();
        assert_eq!(
            (record.mirror.unwrap().as_str(), record.list_version, record.cause),
            ("m1", 4, Cause::Scheduled)
        );
        assert_eq!(
            (&record.http[0].outcome, record.http[0].canary_found),
            (&HttpOutcome::Complete, Some(true))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_stalls_holds_up_no_other() {
    let (seen, mut visits) = mpsc::unbounded_channel();
    let body = page(CANARY.as_bytes());
    let pages: Pages = Arc::new(move |path| {
        let _ = seen.send(path.to_owned());
        let after = if path == "/slow" { After::Stall } else { After::Continue };
        (if path == "/slow" { vec![] } else { body.clone() }, after)
    });
    let address = http_server(pages).await;
    let names = ["slow.example", "fast.example"].map(|name| (name, Reply::Addresses(vec![address.ip()])));
    let resolver = resolver(&names).await;
    let mirror = |name: &str| Mirror {
        large_page: None,
        id: MirrorId::parse(name).unwrap(),
        url: TargetUrl::parse(&format!("http://{name}.example:{}/{name}", address.port())).unwrap(),
        markets: vec![MarketId::parse("kz").unwrap()],
        canary: None,
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    };
    let (mirrors, references) = (vec![mirror("slow"), mirror("fast")], vec![]);
    let list = MirrorList { mirrors, references, ..MirrorList::issued(1, UnixMillis(1)) };
    let home = tempfile::tempdir().unwrap();
    let (dir, config) = (home.path().to_owned(), home.path().join("agent.toml"));
    write_state(&dir, &list);
    let settings = format!(
        "interval_secs = 1\ntimeout_secs = 120\nallow_special_ranges = true\n[resolvers]\nsystem = [\"{resolver}\"]\npublic = \"{resolver}\"\n"
    );
    std::fs::write(&config, settings).unwrap();
    let child = start(&dir, &config);
    let (mut slow, mut fast) = (0, 0);
    while fast < 3 || slow < 1 {
        match visits.recv().await.unwrap().as_str() {
            "/slow" => slow += 1,
            _ => fast += 1,
        }
    }
    child.kill();
    assert_eq!(slow, 1, "the first visit to it stalls still, and none other may begin");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_measured_by_a_list_that_has_ended() {
    let body = page(CANARY.as_bytes());
    let address = http_server(Arc::new(move |_| (body.clone(), After::Continue))).await;
    let nobody = resolver(&[]).await;
    let mirror = Mirror {
        large_page: None,
        id: MirrorId::parse("m1").unwrap(),
        url: TargetUrl::parse(&format!("http://{address}/")).unwrap(),
        markets: vec![MarketId::parse("kz").unwrap()],
        canary: Some(CANARY.to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    };
    // It ends while the agent runs, or before it is up on a slow machine.
    let ends_at = zerkalo_agent::uplink::wall_clock().plus_secs(4);
    let list = MirrorList {
        version: 1,
        issued_at: UnixMillis(ends_at.0 - 60_000),
        expires_at: Some(ends_at),
        mirrors: vec![mirror],
        ..MirrorList::default()
    };
    let home = tempfile::tempdir().unwrap();
    let (dir, config) = (home.path().to_owned(), home.path().join("agent.toml"));
    write_state(&dir, &list);
    let settings = format!(
        "interval_secs = 1\nallow_special_ranges = true\n[resolvers]\nsystem = [\"{nobody}\"]\npublic = \"{nobody}\"\n"
    );
    std::fs::write(&config, settings).unwrap();
    let child = start(&dir, &config);
    let said = child.says("list_expired");
    assert!(said.contains("zerkalo mirrors sign"), "{said}");
    child.kill();
    let (agent, key) = (AgentId::parse(AGENT).unwrap(), SecretKey::from_bytes(&[7; 32]));
    let (mut spool, _) = Spool::open(&dir.join(DIR), &agent, key, Limits::default(), UnixMillis(1)).unwrap();
    for signed in spool.after(0, 100, usize::MAX).unwrap() {
        let record = zerkalo_proto::record::decode(&signed.body).unwrap();
        assert!(record.started_at < ends_at, "{record:?}");
    }
}
