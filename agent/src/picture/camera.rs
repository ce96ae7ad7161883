//! Bounds a browser of this agent's own user from outside: a process group of its own, so much time, so much memory; at the
//! end, whatever the end is, the group is killed and its profile removed. What goes on inside is `keeper.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::photographer::{LINE_BYTES_ASSUMED, converse};
use super::{Order, Sandbox, Shot, memory};

/// This program's own command that keeps the browser.
pub const KEEPER_COMMAND: &str = "picture-keeper";
/// This program, even where its file was replaced since.
const SELF: &str = "/proc/self/exe";
/// How often the group's memory is looked at.
const MEMORY_WAIT: Duration = Duration::from_millis(200);

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
    /// A service has its own, and heeds nobody's.
    #[serde(flatten)]
    pub workplace: Option<Workplace>,
    pub time_millis: u64,
    pub order: Order,
}

/// With what, and where, the keeper works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Workplace {
    pub browser: PathBuf,
    pub sandbox: Sandbox,
    pub profile: PathBuf,
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
    /// A camera with this browser.
    pub fn new(browser: &Path, sandbox: Sandbox, profile: &Path) -> Self {
        let (program, browser, profile) = (PathBuf::from(SELF), browser.to_owned(), profile.to_owned());
        sweep(&profile);
        Self { program, browser, sandbox, profile, limits: Limits::default() }
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
        let conversation = talk(&mut child, self.task(order));
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
        let Self { browser, sandbox, profile, .. } = self.clone();
        Task::new(order, self.limits.time, Some(Workplace { browser, sandbox, profile }))
    }
}

impl Task {
    /// A task for a keeper that is given so much time.
    pub(super) fn new(order: &Order, time: Duration, workplace: Option<Workplace>) -> Self {
        // The keeper's own clock runs out first, so that the browser can close in order.
        let time_millis = u64::try_from(time.mul_f64(0.9).as_millis()).unwrap_or(u64::MAX);
        Self { workplace, time_millis, order: order.clone() }
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

/// Hands the task over and reads the answer.
async fn talk(child: &mut Child, task: Task) -> Result<Shot, String> {
    let (to, from) = (child.stdin.as_mut(), child.stdout.as_mut());
    let (to, from) = to.zip(from).ok_or("the keeper broke off: it has no pipes")?;
    // The pipe stays open: its end is what tells the keeper that this agent is no more.
    converse(to, from, &task).await
}

/// Ends when the group holds more than `limit` bytes.
pub(super) async fn too_much_memory(group: Pid, limit: u64) {
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

pub(super) fn sweep(profile: &Path) {
    match std::fs::remove_dir_all(profile) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "a browser's profile could not be removed");
        }
        _ => {}
    }
}
