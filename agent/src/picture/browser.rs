//! One visit by Chromium: how it is started, what it may do, how the page becomes a picture that fits.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chromiumoxide::cdp::browser_protocol::browser::{SetDownloadBehaviorBehavior, SetDownloadBehaviorParams};
use chromiumoxide::cdp::browser_protocol::page::{
    CaptureScreenshotFormat, CaptureScreenshotParams, CreateIsolatedWorldParams,
    EventJavascriptDialogOpening, EventLoadEventFired, HandleJavaScriptDialogParams, NavigateParams,
    Viewport,
};
use chromiumoxide::cdp::js_protocol::runtime::EvaluateParams;
use chromiumoxide::error::CdpError;
use chromiumoxide::handler::HandlerConfig;
use chromiumoxide::handler::viewport::Viewport as Window;
use chromiumoxide::{Browser, Page};
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use zerkalo_core::record::PICTURE_LEN_MAX;
use zerkalo_core::target::TargetUrl;

use super::camera::Workplace;
use super::relay::Relay;
use super::{Order, Sandbox};

/// What a visitor's window shows.
const WIDTH: u32 = 1280;
/// See [`WIDTH`].
const HEIGHT: u32 = 800;
/// Longest wait for the page to call itself loaded; what is there by then is the picture.
const LOAD_WAIT: Duration = Duration::from_secs(7);
/// For what pages draw right after that.
const SETTLE_WAIT: Duration = Duration::from_millis(400);
/// Longest wait for one word of the page: one whose scripts never end gives none.
const WORD_WAIT: Duration = Duration::from_secs(4);
/// How long the browser gets to close in order.
const CLOSE_WAIT: Duration = Duration::from_millis(1_500);
/// Where a plain page most often sends on to.
const HTTPS: u16 = 443;
/// Quality and scale, in the order tried until the picture fits.
const SHAPES: [(i64, f64); 6] = [(70, 1.0), (45, 1.0), (25, 1.0), (40, 0.5), (20, 0.5), (10, 0.25)];
/// What Chromium says before the address at which it is steered.
const LISTENING: &str = "DevTools listening on ";
/// Addresses that a page shows of its visitor are masked, as `probe/echo.rs` does in texts. In a world of its own: the
/// page's scripts see none of it. Text drawn as an image stays.
const MASK_SCRIPT: &str = include_str!("mask.js");

/// What Chromium would do on its own account, and must not: it tells nobody anything and asks nobody.
const QUIET: [&str; 31] = [
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--no-pings",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-field-trial-config",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--dns-prefetch-disable",
    "--metrics-recording-only",
    "--safebrowsing-disable-auto-update",
    "--password-store=basic",
    "--deny-permission-prompts",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    // Datagrams of WebRTC ask no resolver.
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disk-cache-size=1048576",
    "--remote-debugging-port=0",
];
/// Features off: those that ask elsewhere, and the silent second try by https, which would show the name once more.
const FEATURES_OFF: &str = "--disable-features=MediaRouter,DialMediaRouteProvider,OptimizationHints,OptimizationGuideModelDownloading,\
     Translate,AutofillServerCommunication,CertificateTransparencyComponentUpdater,NetworkTimeServiceQuerying,\
     InterestFeedContentSuggestions,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,AsyncDns,DnsOverHttps,WebRtcHideLocalIpsWithMdns";

/// The picture of the task's page, or why there is none. Bytes that pass the line are counted as they pass.
pub(super) async fn picture(
    order: &Order,
    workplace: &Workplace,
    line_bytes: &Arc<AtomicU64>,
) -> Result<Vec<u8>, String> {
    let url = TargetUrl::parse(&order.url).map_err(|error| error.to_string())?;
    let relay = Relay::open(order.address.ip(), &ports(&url), order.connections_max, line_bytes)
        .await
        .map_err(|error| format!("the relay cannot listen: {error}"))?;
    let mut chromium = launch(order, workplace, &pattern(&url), &relay)?;
    let said = chromium.stderr.take().expect("it was asked for");
    let (steering, mut drain) = steering_url(said).await?;
    // By default a bad certificate is passed over in silence: here it is what the picture is about.
    let window = Window { width: WIDTH, height: HEIGHT, ..Window::default() };
    let config =
        HandlerConfig { ignore_https_errors: false, viewport: Some(window), ..HandlerConfig::default() };
    let (mut browser, mut handler) = Browser::connect_with_config(steering, config).await.map_err(words)?;
    drain.spawn(async move { while handler.next().await.is_some() {} });
    let picture = visit(&mut browser, order).await;
    let close = async {
        let _ = browser.close().await;
        let _ = chromium.wait().await;
    };
    // Whatever does not close in order is killed with the group.
    let _ = tokio::time::timeout(CLOSE_WAIT, close).await;
    picture
}

/// The URL's own port, and where a plain page sends its visitors.
fn ports(url: &TargetUrl) -> Vec<u16> {
    if url.is_https() || url.port() == HTTPS { vec![url.port()] } else { vec![url.port(), HTTPS] }
}

/// The host as Chromium's rules have it.
fn pattern(url: &TargetUrl) -> String {
    match url.literal_address() {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => url.host(),
    }
}

fn launch(order: &Order, workplace: &Workplace, host: &str, relay: &Relay) -> Result<Child, String> {
    let ways = relay.ports.iter().map(|(port, local)| format!("MAP {host}:{port} {local}, "));
    let rules: String = ways.collect();
    // Dies with this process even where nobody is left to kill the group.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(&workplace.browser).args(QUIET).arg(FEATURES_OFF);
    command.arg(format!("--host-resolver-rules={rules}MAP * ~NOTFOUND"));
    command.arg(format!("--window-size={WIDTH},{HEIGHT}"));
    command.arg(format!("--user-data-dir={}", workplace.profile.display()));
    if let Some(key) = order.trusted_key {
        command.arg(format!("--ignore-certificate-errors-spki-list={}", STANDARD.encode(key)));
    }
    if workplace.sandbox == Sandbox::Off {
        command.arg("--no-sandbox");
    }
    // By another way the same directory, which the keeper stands in: a socket's path has room for 107 bytes, and a state
    // directory may lie deep.
    command
        .env("HOME", &workplace.profile)
        .env("TMPDIR", format!("/proc/{}/cwd", std::process::id()))
        .env("XDG_RUNTIME_DIR", &workplace.profile)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().map_err(|error| format!("Chromium cannot be started: {error}"))
}

/// Where Chromium is steered from; what it says later is read and dropped by the tasks returned.
async fn steering_url(said: ChildStderr) -> Result<(String, JoinSet<()>), String> {
    let mut lines = BufReader::new(said).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(url) = line.strip_prefix(LISTENING) {
            let mut drain = JoinSet::new();
            drain.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok((url.trim().to_owned(), drain));
        }
        // Seen by who runs the keeper by hand; the agent does not listen.
        eprintln!("{line}");
    }
    Err("Chromium did not start".to_owned())
}

/// Goes to the page and looks at it, in a context that keeps nothing on the disk.
async fn visit(browser: &mut Browser, order: &Order) -> Result<Vec<u8>, String> {
    browser.start_incognito_context().await.map_err(words)?;
    let deny = SetDownloadBehaviorParams::new(SetDownloadBehaviorBehavior::Deny);
    browser.execute(deny).await.map_err(words)?;
    let page = browser.new_page("about:blank").await.map_err(words)?;
    let mut dialogs = page.event_listener::<EventJavascriptDialogOpening>().await.map_err(words)?;
    let mut loaded = page.event_listener::<EventLoadEventFired>().await.map_err(words)?;
    let dismiss = async {
        while dialogs.next().await.is_some() {
            let _ = page.execute(HandleJavaScriptDialogParams::new(false)).await;
        }
        std::future::pending().await
    };
    let look = async {
        let navigate = async {
            // Chromium's own page says what went wrong: that is a picture too.
            let _ = page.execute(NavigateParams::new(order.url.as_str())).await;
            loaded.next().await;
        };
        let _ = tokio::time::timeout(LOAD_WAIT, navigate).await;
        tokio::time::sleep(SETTLE_WAIT).await;
        mask_addresses(&page, order).await?;
        shoot(&page).await
    };
    tokio::select! {
        picture = look => picture,
        never = dismiss => never,
    }
}

async fn mask_addresses(page: &Page, order: &Order) -> Result<(), String> {
    let masked = async {
        let frame = page.mainframe().await?.ok_or(CdpError::NotFound)?;
        let world = page.execute(CreateIsolatedWorldParams::new(frame)).await?;
        let mut script = EvaluateParams::new(MASK_SCRIPT.replace("KNOWN", &order.address.ip().to_string()));
        script.context_id = Some(world.execution_context_id);
        script.return_by_value = Some(true);
        page.execute(script).await
    };
    match tokio::time::timeout(WORD_WAIT, masked).await {
        Ok(Ok(done)) if done.exception_details.is_none() => Ok(()),
        Ok(Ok(_)) => Err("the page's text could not be searched for addresses".to_owned()),
        Ok(Err(error)) => Err(words(error)),
        Err(_) => Err("the page's scripts do not end".to_owned()),
    }
}

/// The page as a picture, coarser until it fits.
async fn shoot(page: &Page) -> Result<Vec<u8>, String> {
    for (quality, scale) in SHAPES {
        let clip = Viewport { x: 0.0, y: 0.0, width: WIDTH.into(), height: HEIGHT.into(), scale };
        let shot = CaptureScreenshotParams::builder()
            .format(CaptureScreenshotFormat::Webp)
            .quality(quality)
            .clip(clip)
            .build();
        let answer = tokio::time::timeout(WORD_WAIT, page.execute(shot)).await;
        let answer = answer.map_err(|_| "the page cannot be drawn in time")?.map_err(words)?;
        let text: &str = answer.data.as_ref();
        let picture = STANDARD.decode(text).map_err(|error| error.to_string())?;
        if picture.len() as u64 <= PICTURE_LEN_MAX {
            return Ok(picture);
        }
    }
    Err(format!("the picture is over {PICTURE_LEN_MAX} bytes however coarse"))
}

/// The kind of an error alone: its text may quote what the page said, and the host's own paths.
fn words(error: CdpError) -> String {
    let text = format!("{error:?}");
    let kind = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    format!("Chromium cannot be steered: {kind}")
}
