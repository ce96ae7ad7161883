//! A picture's whole way: asked for by the operator or due to a change, taken by a real Chromium, named by a signed
//! record, sent apart, kept by digest, fetched. Skipped, loudly, where there is no Chromium or no agent built for it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use zerkalo_core::target::Sha256;
use zerkalo_lab::fleet::{BROWSER, Browser, Fleet, crew};
use zerkalo_lab::interference::Interference;
use zerkalo_lab::internet::{Internet, MIRROR, PLACES};

use crate::programs::{program, stage};

/// How long anything may take before the journey is called stuck.
const STUCK: Duration = Duration::from_secs(300);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// The operator's command line on one collector.
struct Operator {
    config: String,
}

impl Operator {
    async fn run(&self, args: &[&str]) -> Value {
        let output = tokio::process::Command::new(program("zerkalo"))
            .args(["--config", &self.config])
            .args(args)
            .args(["-o", "json"])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "zerkalo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits for a picture of the mirror that is as wanted.
    async fn picture(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let pictures = self.run(&["pictures", "ls", "--mirror", MIRROR]).await;
            if let Some(found) = pictures.as_array().unwrap().iter().find(|picture| is_wanted(picture)) {
                return found.clone();
            }
            assert!(began.elapsed() < STUCK, "no such picture comes: {pictures:#}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks until a picture comes of it.
    async fn picture_asked_for(&self) -> Value {
        let mut last = Value::Null;
        loop {
            self.ask().await;
            // A busy machine's visits fail now and then, and what follows is a picture that nobody asked for.
            let is_done = |picture: &Value| picture["stored"] == true || picture["failure"] != "";
            let is_wanted = |picture: &Value| {
                picture["cause"] == "requested" && is_done(picture) && later(picture, &last)
            };
            let next = self.picture(is_wanted).await;
            if next["stored"] == true {
                return next;
            }
            assert!(gives_time(&next), "{next:#}");
            last = next;
        }
    }

    async fn ask(&self) {
        let asked = self.run(&["probe-now", MIRROR, "--picture"]).await;
        assert_eq!(asked["agents"].as_array().unwrap().len(), 2, "the agent and the control: {asked}");
    }
}

/// Whether one picture is of a later moment than another.
fn later(picture: &Value, earlier: &Value) -> bool {
    picture["at"].as_u64() > earlier["at"].as_u64()
}

/// Whether a picture failed for want of time alone: on a machine that does too much else.
fn gives_time(picture: &Value) -> bool {
    let failure = picture["failure"].as_str().unwrap_or_default();
    ["in time", "no picture in"].iter().any(|part| failure.contains(part))
}

/// Whether a process lives that was started for a directory.
fn runs_for(dir: &Path) -> bool {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let said = |path: &Path| std::fs::read(path.join("cmdline")).unwrap_or_default();
    processes.map(|path| said(&path)).any(|said| String::from_utf8_lossy(&said).contains(dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_asked_for_kept_fetched_and_follows_a_change() {
    let _stage = stage().await;
    let help =
        std::process::Command::new(program("zerkalo-agent")).args(["picture-keeper", "--help"]).output();
    if !Path::new(BROWSER).exists() || !help.unwrap().status.success() {
        eprintln!(
            "!!! SKIPPED: no picture was taken: that takes {BROWSER} (tests/prepare) and an agent that was"
        );
        eprintln!("!!! built with the feature `screenshot` (make test)");
        return;
    }
    let internet = Internet::start().await.unwrap();
    let mut hosts = crew(&PLACES[..1]);
    hosts.truncate(2);
    hosts[1].browser = Browser::Unsandboxed;
    let mut fleet = Fleet::start(&internet, None, &hosts).await.unwrap();
    let collector = fleet.collector();
    let operator = Operator { config: collector.dir().join("operator/operator.toml").display().to_string() };
    let began = Instant::now();
    while collector.operator().agents().await.unwrap().iter().any(|agent| agent.records == 0) {
        assert!(began.elapsed() < STUCK, "agents deliver nothing");
        tokio::time::sleep(POLL).await;
    }

    let asked = operator.picture_asked_for().await;
    assert_eq!(asked["failure"], "", "{asked:#}");
    let out = collector.home().join("picture.webp");
    let (hash, file) = (asked["record"].as_str().unwrap(), out.to_str().unwrap());
    let got = operator.run(&["pictures", "get", &hash[..16], "--out", file]).await;
    let content = std::fs::read(&out).unwrap();
    assert_eq!(Sha256::of(&content).to_string(), asked["sha256"].as_str().unwrap());
    assert!(content.starts_with(b"RIFF") && got["sha256"] == asked["sha256"], "{got}");

    // A visit that ends in the handshake leaves nothing to see; whoever asks is told so.
    let network = internet.carrier(PLACES[0].carrier).unwrap();
    network.interfere(Interference::ResetOnClientHello);
    let mut last = asked;
    let blind = loop {
        operator.ask().await;
        let next = operator.picture(|picture| later(picture, &last)).await;
        if next["failure"] != "" && !gives_time(&next) {
            break next;
        }
        // A visit was under way before the interference.
        last = next;
    };
    assert!(blind["failure"].as_str().unwrap().contains("anything to see"), "{blind:#}");
    // The mirror comes back: nobody asked for a picture of that, whoever asked for the visit.
    network.interfere(Interference::Pass);
    operator.picture(|picture| picture["stored"] == true && later(picture, &blind)).await;

    let homes = collector.home().join("agents");
    operator.ask().await;
    let began = Instant::now();
    while !runs_for(&homes.join(&hosts[1].owner).join("state/picture-profile")) {
        assert!(began.elapsed() < STUCK, "no browser starts");
        tokio::time::sleep(POLL / 10).await;
    }
    for agent in fleet.agents_mut() {
        agent.kill().await.unwrap();
    }
    let began = Instant::now();
    while runs_for(&homes) {
        assert!(began.elapsed() < STUCK, "a browser outlives its agent");
        tokio::time::sleep(POLL).await;
    }
}
