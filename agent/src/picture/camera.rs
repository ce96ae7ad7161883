//! Bounds the browser from outside: a process group of its own, so much time, so much memory; at the end, whatever the
//! end is, the group is killed and its profile removed. What goes on inside is `keeper.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zerkalo_core::record::PICTURE_LEN_MAX;

use super::{Order, PictureSettings, Sandbox, Shot, memory};

/// This program's own command that keeps the browser.
pub const KEEPER_COMMAND: &str = "picture-keeper";
/// This program, even where its file was replaced since.
const SELF: &str = "/proc/self/exe";
/// Bytes of what the keeper says before the picture.
const HEAD_LEN_MAX: u64 = 4_096;
/// How often the group's memory is looked at.
const MEMORY_WAIT: Duration = Duration::from_millis(200);

/// What a browser that was stopped is taken to have cost the line: what one connection may bring.
const LINE_BYTES_ASSUMED: u64 = super::relay::BYTES_MAX;
/// Longest wait for the killed to be gone, and between two looks at them.
const END_WAIT: Duration = Duration::from_secs(10);
/// See [`END_WAIT`].
const END_POLL: Duration = Duration::from_millis(20);

/// What one picture may cost the host.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the browser's start to its end.
    pub time: Duration,
    /// Of the whole process group, in bytes, what its processes share with the disk's cache apart. An address space limit
    /// would not do: Chromium reserves terabytes. A control group takes rights that an agent need not have.
    pub memory: u64,
}

impl Default for Limits {
    /// A cold start on a small box takes 5 s; a page at rest 400 MB.
    fn default() -> Self {
        Self { time: Duration::from_secs(20), memory: 1 << 30 }
    }
}

/// The keeper's task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub browser: PathBuf,
    pub sandbox: Sandbox,
    pub profile: PathBuf,
    pub time_millis: u64,
    pub order: Order,
}

/// What the keeper says before the picture's bytes, on a line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub len: u64,
    /// Bytes that passed the line, both ways.
    pub line_bytes: u64,
    pub failure: Option<String>,
}

/// Takes pictures.
#[derive(Debug, Clone)]
pub struct Camera {
    /// The agent's own program.
    pub program: PathBuf,
    pub browser: PathBuf,
    pub sandbox: Sandbox,
    /// Removed before and after each picture.
    pub profile: PathBuf,
    pub limits: Limits,
}

impl Camera {
    /// A camera, where the host has a browser and wants pictures.
    pub fn find(settings: &PictureSettings, profile: &Path) -> Option<Self> {
        let browser = settings.browser.clone().filter(|browser| browser.exists())?;
        let (program, profile) = (PathBuf::from(SELF), profile.to_owned());
        sweep(&profile);
        Some(Self { program, browser, sandbox: settings.sandbox, profile, limits: Limits::default() })
    }

    /// Takes a picture. Always ends within the limits; dropped before, it leaves no process behind either.
    pub async fn take(&self, order: &Order) -> Shot {
        sweep(&self.profile);
        let shot = match self.spawn() {
            Ok((child, group)) => self.watch(child, group, order).await,
            Err(error) => Shot::failed(format!("the keeper cannot be started: {error}"), 0),
        };
        sweep(&self.profile);
        shot
    }

    fn spawn(&self) -> io::Result<(Child, Group)> {
        let child = Command::new(&self.program)
            .arg(KEEPER_COMMAND)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok((child, Group(id.ok_or(io::ErrorKind::NotFound)?)))
    }

    async fn watch(&self, mut child: Child, group: Group, order: &Order) -> Shot {
        let conversation = converse(&mut child, self.task(order));
        let shot = tokio::select! {
            shot = conversation => shot.unwrap_or_else(|failure| Shot::failed(failure, LINE_BYTES_ASSUMED)),
            () = tokio::time::sleep(self.limits.time) => {
                let secs = self.limits.time.as_secs();
                Shot::failed(format!("stopped: no picture in {secs} s"), LINE_BYTES_ASSUMED)
            }
            () = too_much_memory(group.0, self.limits.memory) => {
                let mebibytes = self.limits.memory >> 20;
                let failure = format!("stopped: the browser took more than {mebibytes} MiB");
                Shot::failed(failure, LINE_BYTES_ASSUMED)
            }
        };
        // Before its leader is waited for: until then nobody else can have the group's number.
        let id = group.0;
        drop(group);
        let _ = tokio::time::timeout(END_WAIT, end_of(id, self.profile.clone())).await;
        let _ = child.wait().await;
        shot
    }

    fn task(&self, order: &Order) -> Task {
        // The keeper's own clock runs out first, so that the browser can close in order.
        let time = self.limits.time.mul_f64(0.9);
        Task {
            browser: self.browser.clone(),
            sandbox: self.sandbox,
            profile: self.profile.clone(),
            time_millis: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            order: order.clone(),
        }
    }
}

/// A process group that ends with this value.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// Hands the task over and reads the answer, no more of it than a picture may be.
async fn converse(child: &mut Child, task: Task) -> Result<Shot, String> {
    let broken = |error: io::Error| format!("the keeper broke off: {error}");
    let mut line = serde_json::to_vec(&task).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    // Stays open: its end is what tells the keeper that this agent is no more.
    let to = child.stdin.as_mut().ok_or_else(|| broken(io::ErrorKind::BrokenPipe.into()))?;
    to.write_all(&line).await.map_err(broken)?;
    to.flush().await.map_err(broken)?;
    let from = child.stdout.take().ok_or_else(|| broken(io::ErrorKind::BrokenPipe.into()))?;
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

/// Ends when the group holds more than `limit` bytes.
async fn too_much_memory(group: Pid, limit: u64) {
    loop {
        tokio::time::sleep(MEMORY_WAIT).await;
        let held = tokio::task::spawn_blocking(move || memory::of_group(group)).await;
        if held.is_ok_and(|held| held > limit) {
            return;
        }
    }
}

/// Waits until no process of a killed group is left, nor any that had left the group: what still dies may still write.
async fn end_of(group: Pid, profile: PathBuf) {
    let is_left = move || memory::kill_strays(group, &profile) || memory::lives(group);
    while tokio::task::spawn_blocking(is_left.clone()).await.unwrap_or(false) {
        tokio::time::sleep(END_POLL).await;
    }
}

fn sweep(profile: &Path) {
    match std::fs::remove_dir_all(profile) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "a browser's profile could not be removed");
        }
        _ => {}
    }
}
