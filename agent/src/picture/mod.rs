//! The evidence picture: what a visitor sees of a mirror, taken by the host's own Chromium, and its way to the collector.
//!
//! A picture never delays the record of the visit: it gets a small record of its own, which follows. Who may have one and
//! when is `turns.rs`; who takes it is `photographer.rs`: a service of another user, who cannot read this agent's keys, or
//! in laboratories `camera.rs`. Either way the browser runs in a process group of its own under `keeper.rs`, bounded in time
//! and memory; the bytes wait in `pending.rs`. Built without the feature `screenshot`, an agent takes none.

mod turns;
pub mod courier;
pub mod pending;
pub mod studio;

#[cfg(feature = "screenshot")]
mod browser;
#[cfg(feature = "screenshot")]
pub mod camera;
#[cfg(feature = "screenshot")]
pub mod keeper;
#[cfg(feature = "screenshot")]
mod memory;
#[cfg(feature = "screenshot")]
pub mod photographer;
#[cfg(feature = "screenshot")]
mod relay;

#[cfg(not(feature = "screenshot"))]
#[path = "without.rs"]
pub mod photographer;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where Debian's package puts it.
const BROWSER_DEFAULT: &str = "/usr/bin/chromium";
/// What stands in agent.toml in the place of a browser where no picture is wanted.
const BROWSER_NONE: &str = "none";
/// Where systemd/zerkalo-pictures.socket listens.
const SOCKET_DEFAULT: &str = "/run/zerkalo-pictures/socket";

/// How this host takes pictures; nothing remote can change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureSettings {
    /// A Chromium; `None` where the host wants no pictures.
    pub browser: Option<PathBuf>,
    pub sandbox: Sandbox,
    /// Where a service of another user takes pictures.
    pub socket: PathBuf,
    pub user: BrowserUser,
}

/// Under whom the browser may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrowserUser {
    /// Another user's alone, behind the socket: a page that breaks out of its browser reads no key of this agent.
    Another,
    /// This agent's too, where there is no such service: the host says so, or it is a laboratory.
    Any,
}

/// Chromium's own sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sandbox {
    On,
    /// For laboratories alone: as root Chromium runs no other way.
    Off,
}

impl Default for PictureSettings {
    fn default() -> Self {
        Self::new(None, None, None, None)
    }
}

impl PictureSettings {
    /// The settings as agent.toml has them.
    pub fn new(
        browser: Option<String>,
        sandbox: Option<bool>,
        socket: Option<String>,
        same_user: Option<bool>,
    ) -> Self {
        let browser = browser.unwrap_or_else(|| BROWSER_DEFAULT.to_owned());
        let socket = socket.unwrap_or_else(|| SOCKET_DEFAULT.to_owned()).into();
        let sandbox = if sandbox.unwrap_or(true) { Sandbox::On } else { Sandbox::Off };
        // Without the sandbox it is a laboratory.
        let is_any = same_user.unwrap_or(sandbox == Sandbox::Off);
        let user = if is_any { BrowserUser::Any } else { BrowserUser::Another };
        Self { browser: (browser != BROWSER_NONE).then(|| browser.into()), sandbox, socket, user }
    }
}

/// One picture to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub url: String,
    /// Whom alone the browser may reach.
    pub address: SocketAddr,
    /// Handshakes the host name's budget has room for.
    pub connections_max: usize,
    /// SHA-256 of the one key this host trusts by its own `ca_file`, which the browser does not know.
    pub trusted_key: Option<[u8; 32]>,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// Or why there is none.
    pub picture: Result<Vec<u8>, String>,
    /// Bytes that passed the host's line, both ways.
    pub line_bytes: u64,
}

impl Shot {
    /// No picture.
    pub fn failed(why: String, line_bytes: u64) -> Self {
        Self { picture: Err(why), line_bytes }
    }
}

/// The browser's profile in the state directory; one picture at a time, so one name, which the next start sweeps.
pub const PROFILE: &str = "picture-profile";

/// The media type of every picture taken.
pub const MEDIA_TYPE: &str = "image/webp";
