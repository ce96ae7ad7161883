//! Who takes the pictures: a service of another user behind a socket (systemd/zerkalo-pictures.socket), who cannot read this
//! agent's keys; or, in laboratories and where the host says so, a browser of this agent's own user (`camera.rs`).

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use zerkalo_core::record::PICTURE_LEN_MAX;

use super::camera::{Camera, Limits, Task};
use super::{BrowserUser, Order, PictureSettings, Shot};

/// Bytes of what the keeper says before the picture.
const HEAD_LEN_MAX: u64 = 4_096;
/// What a browser that was stopped is taken to have cost the line: what one connection may bring.
pub(super) const LINE_BYTES_ASSUMED: u64 = super::relay::BYTES_MAX;

/// Takes pictures.
#[derive(Debug, Clone)]
pub enum Photographer {
    /// Behind this socket.
    Service { socket: PathBuf, limits: Limits },
    /// A browser of this agent's own user.
    Own(Camera),
}

/// What the keeper says before the picture's bytes, on a line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub len: u64,
    /// Bytes that passed the line, both ways.
    pub line_bytes: u64,
    pub failure: Option<String>,
}

impl Photographer {
    /// Whoever there is, where the host wants pictures.
    pub fn find(settings: &PictureSettings, profile: &Path) -> Option<Self> {
        let browser = settings.browser.as_ref()?;
        if settings.socket.exists() {
            return Some(Self::Service { socket: settings.socket.clone(), limits: Limits::default() });
        }
        if !browser.exists() {
            return None;
        }
        if settings.user == BrowserUser::Another {
            tracing::warn!(
                code = "pictures_same_user",
                socket = %settings.socket.display(),
                "no pictures are taken: the browser would run as this agent's user, who reads its keys; start \
                 zerkalo-pictures.socket, or say browser = \"none\" or same_user = true under [pictures] in agent.toml"
            );
            return None;
        }
        Some(Self::Own(Camera::new(browser, settings.sandbox, profile)))
    }

    /// Takes a picture. Always ends within the limits.
    pub async fn take(&self, order: &Order) -> Shot {
        match self {
            Self::Own(camera) => camera.take(order).await,
            Self::Service { socket, limits } => ask(socket, limits, order).await,
        }
    }
}

/// Asks the service; when the connection ends, so does what it started.
async fn ask(socket: &Path, limits: &Limits, order: &Order) -> Shot {
    let asking = async {
        let mut stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) => {
                let why = format!("the picture service cannot be reached at {}: {error}", socket.display());
                return Shot::failed(why + "; start zerkalo-pictures.socket", 0);
            }
        };
        let (mut from, mut to) = stream.split();
        let task = Task::new(order, limits.time, None);
        let shot = converse(&mut to, &mut from, &task).await;
        shot.unwrap_or_else(|failure| Shot::failed(failure, LINE_BYTES_ASSUMED))
    };
    let secs = limits.time.as_secs();
    let late = || Shot::failed(format!("stopped: no picture in {secs} s"), LINE_BYTES_ASSUMED);
    tokio::time::timeout(limits.time, asking).await.unwrap_or_else(|_| late())
}

/// Hands the task over and reads the answer, no more of it than a picture may be.
pub(super) async fn converse(
    to: &mut (impl AsyncWrite + Unpin),
    from: &mut (impl AsyncRead + Unpin),
    task: &Task,
) -> Result<Shot, String> {
    let broken = |error: io::Error| format!("the keeper broke off: {error}");
    let mut line = serde_json::to_vec(task).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    to.write_all(&line).await.map_err(broken)?;
    to.flush().await.map_err(broken)?;
    let mut said = Vec::new();
    from.take(HEAD_LEN_MAX + PICTURE_LEN_MAX + 1).read_to_end(&mut said).await.map_err(broken)?;
    let end = said.iter().position(|byte| *byte == b'\n').ok_or("the keeper died")?;
    let picture = said.split_off(end + 1);
    let head: Head = serde_json::from_slice(&said).map_err(|error| broken(error.into()))?;
    let Head { len, line_bytes, failure } = head;
    match failure {
        Some(failure) => Ok(Shot::failed(failure, line_bytes)),
        None if picture.len() as u64 == len && len <= PICTURE_LEN_MAX => {
            Ok(Shot { picture: Ok(picture), line_bytes })
        }
        None => Err("the keeper died over the picture".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Sandbox;

    fn settings(socket: &Path, sandbox: Sandbox, user: BrowserUser) -> PictureSettings {
        // Any file that is there.
        let browser = Some("/proc/self/exe".into());
        PictureSettings { browser, sandbox, socket: socket.to_owned(), user }
    }

    #[test]
    fn without_a_service_no_browser_runs_as_the_agents_user_unless_the_host_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, profile) = (dir.path().join("socket"), dir.path().join("profile"));
        let find = |settings: PictureSettings| Photographer::find(&settings, &profile);
        assert!(find(settings(&socket, Sandbox::On, BrowserUser::Another)).is_none());
        let own = find(settings(&socket, Sandbox::On, BrowserUser::Any));
        assert!(matches!(own, Some(Photographer::Own(_))));
        let _service = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for user in [BrowserUser::Another, BrowserUser::Any] {
            let found = find(settings(&socket, Sandbox::On, user));
            assert!(matches!(found, Some(Photographer::Service { .. })), "{found:?}");
        }
        let none = PictureSettings { browser: None, ..settings(&socket, Sandbox::On, BrowserUser::Any) };
        assert!(find(none).is_none());
    }

    #[test]
    fn as_shipped_the_browser_is_another_users() {
        assert_eq!(PictureSettings::default().user, BrowserUser::Another);
        let of = |sandbox, same_user| PictureSettings::new(None, sandbox, None, same_user).user;
        assert_eq!(of(Some(true), None), BrowserUser::Another);
        assert_eq!(of(Some(false), None), BrowserUser::Any, "a laboratory");
        assert_eq!(of(Some(false), Some(false)), BrowserUser::Another);
        assert_eq!(of(None, Some(true)), BrowserUser::Any);
    }

    #[tokio::test]
    async fn a_service_that_is_gone_or_says_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let photographer = Photographer::Service { socket: socket.clone(), limits: Limits::default() };
        let url = "https://mirror.example/".to_owned();
        let address = "192.0.2.1:443".parse().unwrap();
        let order = Order { url, address, connections_max: 1, trusted_key: None };
        let failure = photographer.take(&order).await.picture.unwrap_err();
        assert!(failure.contains("start zerkalo-pictures.socket"), "{failure}");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (shot, _) = tokio::join!(photographer.take(&order), async {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream);
        });
        let failure = shot.picture.unwrap_err();
        assert!(failure.contains("the keeper"), "{failure}");
    }
}
