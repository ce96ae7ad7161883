//! One network namespace, and the servers that live in it. Its name carries our process id: what a dead run left is
//! known by that, and removed at the next start. Knows nothing of what it is used for.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Where iproute2 keeps namespaces.
const NAMESPACES_DIR: &str = "/run/netns";
/// How ours begin; the process id follows.
const PREFIX: &str = "zkl-";

/// A namespace; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `role` tells it from our others.
    pub fn create(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.shell("ip link set lo up")?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script inside; fails with what it said.
    pub fn shell(&self, script: &str) -> Result<String> {
        run(Command::new("ip").args(["netns", "exec", &self.name, "sh", "-e", "-c", script]))
            .with_context(|| format!("in the namespace {}: {script}", self.name))
    }

    /// Has a thread move in and run what `open` starts; returns once `open` is done.
    pub async fn inhabit<F, O>(&self, open: F) -> Result<Inhabitants>
    where
        F: FnOnce() -> O + Send + 'static,
        O: Future<Output = io::Result<JoinSet<()>>>,
    {
        let door = File::open(Path::new(NAMESPACES_DIR).join(&self.name))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (opened, is_open) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.clone()).spawn(move || {
            let runtime = move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error))),
            };
            runtime.block_on(async {
                match open().await {
                    Ok(_servers) => {
                        let _waiting = opened.send(Ok(()));
                        // Ends when the owner drops its end.
                        let _dropped = stopped.await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
        })?;
        let inhabitants = Inhabitants { stop: Some(stop), thread: Some(thread) };
        match is_open.await {
            Ok(Ok(())) => Ok(inhabitants),
            Ok(Err(error)) => Err(error).with_context(|| format!("servers in {}", self.name)),
            Err(_) => bail!("the servers in {} panicked", self.name),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("zerkalo-netlab: {error:#}");
        }
    }
}

/// Servers in a namespace; stop when dropped.
#[derive(Debug)]
pub struct Inhabitants {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Inhabitants {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic inside has been printed already.
            let _panicked = thread.join();
        }
    }
}

/// Removes the namespaces of runs that are no more.
pub fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(NAMESPACES_DIR) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name)?;
        }
    }
    Ok(())
}

/// The process that made a namespace of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn remove(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "del", name])).map(drop)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{} ({})", String::from_utf8_lossy(&output.stderr).trim(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_tells_whose_it_is() {
        assert_eq!(owner("zkl-4711-0-censor"), Some(4711));
        assert_eq!(owner("zkl-x-censor"), None);
        assert_eq!(owner("other-4711-censor"), None);
    }
}
