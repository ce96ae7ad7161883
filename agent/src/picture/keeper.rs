//! The process between agent and browser: `zerkalo-agent picture-keeper`, started by `camera.rs`, or as a service of another
//! user, one process a picture, with the agent's connection as its standard input and output
//! (systemd/zerkalo-pictures@.service).
//!
//! It leads the process group that the browser joins. When the agent is gone, its standard input ends, and it kills the
//! whole group, itself too. What a page may make the browser say is read here, not in the agent: it counts as the
//! group's memory, and a fault it causes ends the picture alone.

use std::io::{self, BufRead, BufReader, Read, Stdin, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getpgrp, getpid, getuid, kill_current_process_group, nice, setrlimit,
};

use super::camera::{Limits, Task, Workplace, sweep, too_much_memory};
use super::photographer::Head;
use super::{BROWSER_DEFAULT, Sandbox, browser, memory};

/// Bytes of the task.
const TASK_LEN_MAX: u64 = 64 * 1024;
/// The longest file the browser may write: what it keeps lies in memory, its caches are small.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Probes go first: a picture may take a little longer, a measured time may not.
const NICENESS: i32 = 10;

/// What a service is told; the agent's own keeper gets it with its task.
#[derive(Debug, Clone, clap::Args)]
pub struct KeeperArgs {
    /// Serve the agent at the other end of standard input, a socket, under another user.
    #[arg(long)]
    service: bool,
    /// The Chromium of the service.
    #[arg(long, value_name = "FILE", default_value = BROWSER_DEFAULT)]
    browser: PathBuf,
    /// For laboratories.
    #[arg(long, hide = true)]
    no_sandbox: bool,
    /// For busy laboratories: the longest that a picture may take, in seconds.
    #[arg(long, hide = true, value_name = "SECS", default_value_t = Limits::default().time.as_secs())]
    time_max: u64,
}

/// Takes one picture and writes it to standard output.
pub fn main(args: &KeeperArgs) -> ExitCode {
    // Run by hand from a script, it would end the script.
    if getpgrp() != getpid() {
        eprintln!("zerkalo-agent: this command is the agent's own");
        return ExitCode::FAILURE;
    }
    // Its own keeper the agent bounds from outside.
    let kept = if args.service { serve(args) } else { keep(|task| task.workplace.clone(), None) };
    match kept {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The agent hears no more than that it is over; a service's journal tells.
            eprintln!("zerkalo-agent: no picture was kept: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves one agent, never one of its own user: who runs as the agent reads the agent's keys.
fn serve(args: &KeeperArgs) -> io::Result<()> {
    if agent_user()? == getuid().as_raw() {
        // What was sent and not read would take the answer along.
        let _ = io::stdin().lock().take(TASK_LEN_MAX).read_until(b'\n', &mut Vec::new());
        let failure = "pictures_same_user: the picture service runs as the agent's own user; give it one of its own \
                       (systemd/zerkalo-pictures@.service)";
        return say(&Head { failure: Some(failure.to_owned()), ..Head::default() }, &[]);
    }
    let profile = std::env::temp_dir().join(format!("zerkalo-picture-{}", std::process::id()));
    let sandbox = if args.no_sandbox { Sandbox::Off } else { Sandbox::On };
    let workplace = Workplace { browser: args.browser.clone(), sandbox, profile };
    let limits = Limits { time: Duration::from_secs(args.time_max), ..Limits::default() };
    let kept = keep(|_| Some(workplace.clone()), Some(limits));
    memory::kill_strays(getpgrp(), &workplace.profile);
    sweep(&workplace.profile);
    kept
}

/// Whose agent is at the other end.
fn agent_user() -> io::Result<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What is read of it later is waited for.
    socket.set_nonblocking(true)?;
    let agent = tokio::net::UnixStream::from_std(socket)?;
    let user = agent.peer_cred()?.uid();
    agent.into_std()?.set_nonblocking(false)?;
    Ok(user)
}

fn keep(workplace: impl FnOnce(&Task) -> Option<Workplace>, limits: Option<Limits>) -> io::Result<()> {
    bound(Resource::Core, 0)?;
    bound(Resource::Fsize, FILE_LEN_MAX)?;
    nice(NICENESS)?;
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    (&mut input).take(TASK_LEN_MAX).read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    let workplace = workplace(&task).ok_or(io::ErrorKind::InvalidData)?;
    std::fs::create_dir_all(&workplace.profile)?;
    std::env::set_current_dir(&workplace.profile)?;
    let profile = workplace.profile.clone();
    std::thread::Builder::new().spawn(move || die_with_the_agent(input, &profile))?;
    let line_bytes = Arc::new(AtomicU64::new(0));
    let time = Duration::from_millis(task.time_millis);
    let time = limits.map_or(time, |limits| time.min(limits.time));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shot = runtime.block_on(async {
        tokio::select! {
            picture = browser::picture(&task.order, &workplace, &line_bytes) => picture,
            () = tokio::time::sleep(time) => Err("the page gave no picture in time".to_owned()),
            failure = too_large(limits) => Err(failure),
        }
    });
    let (content, failure) = match shot {
        Ok(content) => (content, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let line_bytes = line_bytes.load(Ordering::Relaxed);
    say(&Head { len: content.len() as u64, line_bytes, failure }, &content)
}

/// Ends once the group holds more memory than it may.
async fn too_large(limits: Option<Limits>) -> String {
    let Some(Limits { memory, .. }) = limits else { std::future::pending().await };
    too_much_memory(getpgrp(), memory).await;
    format!("stopped: the browser took more than {} MiB", memory >> 20)
}

fn say(head: &Head, content: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, head)?;
    out.write_all(b"\n")?;
    out.write_all(content)?;
    out.flush()
}

fn die_with_the_agent(mut input: BufReader<Stdin>, profile: &Path) {
    // Nothing more is ever said; the end is the agent's own.
    let _ = io::copy(&mut input, &mut io::sink());
    memory::kill_strays(getpgrp(), profile);
    let _ = kill_current_process_group(Signal::KILL);
}

fn bound(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}
