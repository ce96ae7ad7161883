//! Real Chromium on loopback: what it shows, what it cannot reach, what stops it. One browser at a time; skipped, loudly,
//! where there is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image_webp::WebPDecoder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Mutex, MutexGuard, mpsc};
use zerkalo_agent::picture::camera::{Camera, Limits};
use zerkalo_agent::picture::{Order, Sandbox, Shot};
use zerkalo_core::record::PICTURE_LEN_MAX;
use zerkalo_core::target::Sha256;

use crate::world::*;

pub const BROWSER: &str = "/usr/bin/chromium";
/// On a busy machine with two cores.
const TIME: Duration = Duration::from_secs(60);
pub const GREEN: [u8; 3] = [0, 160, 64];
const BLUE: [u8; 3] = [0, 64, 192];

pub static STAGE: Mutex<()> = Mutex::const_new(());

/// A camera with a state directory of its own, alone on the stage.
struct Studio {
    camera: Camera,
    home: tempfile::TempDir,
    _stage: MutexGuard<'static, ()>,
}

async fn studio() -> Option<Studio> {
    if !Path::new(BROWSER).exists() {
        eprintln!("!!! SKIPPED: no Chromium at {BROWSER}: no picture was taken (tests/prepare installs it)");
        return None;
    }
    let (stage, home) = (STAGE.lock().await, tempfile::tempdir().unwrap());
    let camera = Camera {
        program: env!("CARGO_BIN_EXE_zerkalo-agent").into(),
        browser: BROWSER.into(),
        // As root there is no other way.
        sandbox: Sandbox::Off,
        profile: home.path().join("profile"),
        limits: Limits { time: TIME, ..Limits::default() },
    };
    Some(Studio { camera, home, _stage: stage })
}

impl Studio {
    async fn take(&self, order: &Order) -> Result<Vec<u8>, String> {
        let Shot { picture: shot, line_bytes } = self.camera.take(order).await;
        assert!(shot.is_err() || line_bytes > 0);
        let left = browsers_in(self.home.path());
        let said = left.iter().map(|path| std::fs::read_to_string(path.join("status")).unwrap_or_default());
        assert!(left.is_empty(), "a process outlives its picture: {:?}", said.collect::<Vec<_>>());
        assert!(!self.camera.profile.exists(), "no profile outlives its picture");
        if let Ok(picture) = &shot {
            assert!(picture.len() as u64 <= PICTURE_LEN_MAX);
        }
        shot
    }
}

/// Processes that were started with a profile in `dir`.
fn browsers_in(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let said = |path: &PathBuf, file: &str| std::fs::read(path.join(file)).unwrap_or_default();
    // The environment names it where the command line does not.
    processes
        .filter(|path| {
            ["cmdline", "environ"].iter().any(|file| String::from_utf8_lossy(&said(path, file)).contains(dir))
        })
        .collect()
}

fn order(url: String, address: std::net::SocketAddr) -> Order {
    Order { url, address, connections_max: 2, trusted_key: None }
}

/// The most frequent colour, and the width.
pub fn look(picture: &[u8]) -> ([u8; 3], u32) {
    let mut decoder = WebPDecoder::new(std::io::Cursor::new(picture)).unwrap();
    let mut pixels = vec![0; decoder.output_buffer_size().unwrap()];
    decoder.read_image(&mut pixels).unwrap();
    let mut counts = std::collections::HashMap::new();
    for pixel in pixels.chunks_exact(if decoder.has_alpha() { 4 } else { 3 }) {
        *counts.entry([pixel[0], pixel[1], pixel[2]]).or_insert(0) += 1;
    }
    let (colour, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
    (colour, decoder.dimensions().0)
}

pub fn is_near(seen: [u8; 3], expected: [u8; 3]) -> bool {
    seen.iter().zip(expected).all(|(seen, expected)| seen.abs_diff(expected) <= 8)
}

pub fn coloured([red, green, blue]: [u8; 3], rest: &str) -> Vec<u8> {
    page(format!("<html><body style='background:rgb({red},{green},{blue})'>{rest}</body></html>").as_bytes())
}

#[tokio::test]
async fn the_pinned_address_is_shown_and_so_is_its_bad_certificate() {
    let Some(studio) = studio().await else { return };
    let [pinned, other] = two_listeners().await;
    let address = pinned.local_addr().unwrap();
    let authority = Authority::new();
    let config = authority.server(&[HOST]);
    // The page turns blue once the visitor's address in it is masked; green, it was seen unmasked.
    let shown = coloured(
        GREEN,
        "<p id=p>You are 198.51.100.7.</p><script>new MutationObserver(() => {\
         if (p.textContent == 'You are [address].') document.body.style.background = 'rgb(0,64,192)'\
         }).observe(p, {characterData: true, subtree: true, childList: true})</script>",
    );
    tls_server(pinned, vec![(HOST, Front::Serve(config.clone(), always(shown, After::Continue)))]).await;
    let wrong = always(coloured([255, 0, 0], ""), After::Continue);
    tls_server(other, vec![(HOST, Front::Serve(config, wrong))]).await;
    let url = format!("https://{HOST}:{}/", address.port());
    let resolver = resolver(&[(HOST, Reply::Addresses(vec![address.ip()]))]).await;
    let visit = probe(&settings(&authority, resolver, None), &url).await.record;
    let key = visit.tls[0].chain[0].spki_sha256;
    let order = order(url, address);
    let interstitial = studio.take(&order).await.unwrap();
    let seen = look(&interstitial).0;
    assert!(!is_near(seen, BLUE) && !is_near(seen, GREEN), "{seen:?}");
    let trusting = Order { trusted_key: Some(key.0), ..order };
    let picture = studio.take(&trusting).await.unwrap();
    assert!(is_near(look(&picture).0, BLUE), "{:?}", look(&picture));
    assert_ne!(Sha256::of(&picture), Sha256::of(&interstitial));
}

#[tokio::test]
async fn a_page_of_noise_shrinks_until_it_fits() {
    let Some(studio) = studio().await else { return };
    let noise = "<canvas id=c width=1280 height=800 style='position:fixed;left:0;top:0'></canvas><script>\
        const x = c.getContext('2d'), d = x.createImageData(1280, 800); \
        for (let i = 0; i < d.data.length; i++) d.data[i] = i % 4 == 3 ? 255 : Math.random() * 256;\
        x.putImageData(d, 0, 0)</script>";
    let address = http_server(always(coloured(GREEN, noise), After::Continue)).await;
    let picture = studio.take(&order(format!("http://{HOST}:{}/", address.port()), address)).await.unwrap();
    let (colour, width) = look(&picture);
    assert!(width < 1280 && !is_near(colour, GREEN), "{width} {colour:?}");
}

/// What a page may try against the host it is shown on.
fn burglary(port: u16) -> String {
    format!(
        "<img src='http://127.0.0.1:{port}/'><iframe src='http://127.0.0.1:{port}/'></iframe>\
         <link rel=preconnect href='http://127.0.0.1:{port}'><a id=d download href='data:x,y'>x</a><script>\
         alert(1); confirm(2); prompt(3); d.click(); open('http://127.0.0.1:{port}/');\
         fetch('http://localhost:{port}/').catch(() => 0); new WebSocket('ws://127.0.0.1:{port}/');\
         const r = new RTCPeerConnection({{iceServers: [{{urls: 'stun:127.0.0.1:{port}'}}]}});\
         r.createDataChannel('x'); r.createOffer().then(o => r.setLocalDescription(o));\
         const big = document.createDocumentFragment();\
         for (let i = 0; i < 100000; i++) big.append(document.createElement('div'));\
         document.body.append(big);\
         setTimeout(() => location = 'file:///etc/passwd', 10)</script>"
    )
}

#[tokio::test]
async fn a_hostile_page_reaches_nothing_else_and_is_still_pictured() {
    let Some(studio) = studio().await else { return };
    let (trap, datagrams) = loop {
        let trap = TcpListener::bind((loopback(1), 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(trap.local_addr().unwrap()).await {
            break (trap, udp);
        }
    };
    let port = trap.local_addr().unwrap().port();
    let body = coloured(GREEN, &burglary(port));
    let address = http_server(Arc::new(move |path| match path {
        "/away" => {
            let text = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n"
            );
            (text.into_bytes(), After::Continue)
        }
        _ => (body.clone(), After::Continue),
    }))
    .await;
    let url = |path: &str| format!("http://{HOST}:{}{path}", address.port());
    let picture = studio.take(&order(url("/"), address)).await.unwrap();
    assert!(is_near(look(&picture).0, GREEN), "{:?}", look(&picture));
    let away = studio.take(&order(url("/away"), address)).await.unwrap();
    assert!(!is_near(look(&away).0, GREEN));
    // What was sent to the traps lies in their queues.
    let nobody = Duration::from_millis(1);
    assert!(tokio::time::timeout(nobody, trap.accept()).await.is_err(), "a private address was reached");
    assert!(tokio::time::timeout(nobody, datagrams.recv(&mut [0; 9])).await.is_err(), "by a datagram");
}

#[tokio::test]
async fn scripts_without_end_and_without_measure_are_stopped() {
    let Some(mut studio) = studio().await else { return };
    let endless = coloured(GREEN, "<script>setTimeout(() => { for (;;); }, 50)</script>");
    let greedy = coloured(
        GREEN,
        // Not loaded before the picture that never comes: there is time enough to be greedy.
        "<img src='/never'><script>const a = []; setInterval(() => { for (let i = 0; i < 40; i++)\
        a.push(new Uint8Array(1 << 20).fill(7)) }, 1)</script>",
    );
    let address = http_server(Arc::new(move |path| match path {
        "/never" => (Vec::new(), After::Stall),
        "/greedy" => (greedy.clone(), After::Continue),
        _ => (endless.clone(), After::Continue),
    }))
    .await;
    let url = |path: &str| format!("http://{HOST}:{}{path}", address.port());
    let failure = studio.take(&order(url("/"), address)).await.unwrap_err();
    assert!(failure.contains("do not end"), "{failure}");
    studio.camera.limits.memory = 600 << 20;
    let failure = studio.take(&order(url("/greedy"), address)).await.unwrap_err();
    assert!(failure.contains("more than 600 MiB"), "{failure}");
    studio.camera.limits = Limits { time: Duration::from_millis(300), ..studio.camera.limits };
    let failure = studio.take(&order(url("/"), address)).await.unwrap_err();
    assert!(failure.contains("no picture"), "{failure}");
}

#[tokio::test]
async fn an_agent_killed_in_the_midst_leaves_no_browser() {
    let Some(studio) = studio().await else { return };
    let (seen, mut visits) = mpsc::unbounded_channel();
    let address = http_server(Arc::new(move |_| {
        let _ = seen.send(());
        (Vec::new(), After::Stall)
    }))
    .await;
    // The keeper's agent is whoever holds its standard input: here a process that can be killed without a word.
    let task = serde_json::json!({
        "browser": BROWSER, "sandbox": "Off", "profile": studio.camera.profile, "time_millis": 600_000,
        "order": order(format!("http://{HOST}:{}/", address.port()), address),
    });
    let keeper = env!("CARGO_BIN_EXE_zerkalo-agent");
    let script = format!("(echo '{task}'; exec sleep 600) | setsid {keeper} picture-keeper");
    let mut agent = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .env("HOME", studio.home.path())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    visits.recv().await.unwrap();
    assert!(browsers_in(&studio.camera.profile).len() > 3, "the browser runs");
    let group = format!("-{}", agent.id().unwrap());
    let killed = tokio::process::Command::new("kill").args(["-KILL", "--", &group]).status().await.unwrap();
    assert!(killed.success());
    agent.wait().await.unwrap();
    let began = Instant::now();
    while !browsers_in(&studio.camera.profile).is_empty() {
        assert!(began.elapsed() < TIME, "a browser outlives its agent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
