//! The process between agent and browser: `zerkalo-agent picture-keeper`, started by `camera.rs` and by nobody else.
//!
//! It leads the process group that the browser joins. When the agent is gone, its standard input ends, and it kills the
//! whole group, itself too. What a page may make the browser say is read here, not in the agent: it counts as the
//! group's memory, and a fault it causes ends the picture alone.

use std::io::{self, BufRead, BufReader, Read, Stdin, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getpgrp, getpid, kill_current_process_group, nice, setrlimit,
};

use super::camera::{Head, Task};
use super::{browser, memory};

/// Bytes of the task.
const TASK_LEN_MAX: u64 = 64 * 1024;
/// The longest file the browser may write: what it keeps lies in memory, its caches are small.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Probes go first: a picture may take a little longer, a measured time may not.
const NICENESS: i32 = 10;

/// Takes one picture and writes it to standard output.
pub fn main() -> ExitCode {
    // Run by hand from a script, it would end the script.
    if getpgrp() != getpid() {
        eprintln!("zerkalo-agent: this command is the agent's own");
        return ExitCode::FAILURE;
    }
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn keep() -> io::Result<()> {
    bound(Resource::Core, 0)?;
    bound(Resource::Fsize, FILE_LEN_MAX)?;
    nice(NICENESS)?;
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    (&mut input).take(TASK_LEN_MAX).read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    std::fs::create_dir_all(&task.profile)?;
    std::env::set_current_dir(&task.profile)?;
    let profile = task.profile.clone();
    std::thread::Builder::new().spawn(move || die_with_the_agent(input, &profile))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let line_bytes = Arc::new(AtomicU64::new(0));
    let shot = runtime.block_on(async {
        let time = Duration::from_millis(task.time_millis);
        let picture = tokio::time::timeout(time, browser::picture(&task, &line_bytes)).await;
        picture.unwrap_or_else(|_| Err("the page gave no picture in time".to_owned()))
    });
    let (content, failure) = match shot {
        Ok(content) => (content, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let line_bytes = line_bytes.load(Ordering::Relaxed);
    let head = Head { len: content.len() as u64, line_bytes, failure };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &head)?;
    out.write_all(b"\n")?;
    out.write_all(&content)?;
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
