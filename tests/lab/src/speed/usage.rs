//! What the kernel says a process has used: CPU time and memory, read from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc`: fixed at 100 for user space on Linux.
const TICKS_PER_SEC: u64 = 100;
/// Fields of `/proc/PID/stat`, counted from the one after the name (state).
const UTIME: usize = 11;
const STIME: usize = 12;
const CUTIME: usize = 13;
const CSTIME: usize = 14;

/// CPU time, user and system, of a process and its threads.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let fields = stat(&format!("/proc/{pid}/stat"))?;
    Ok(ticks(fields[UTIME] + fields[STIME]))
}

/// CPU time of the children of this process that ended and were waited for.
pub fn cpu_of_ended_children() -> Result<Duration> {
    let fields = stat("/proc/self/stat")?;
    Ok(ticks(fields[CUTIME] + fields[CSTIME]))
}

/// Resident memory now, in bytes; file pages of the program counted where touched.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS without a number")?.parse()?;
    Ok(kib * 1024)
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / TICKS_PER_SEC)
}

/// The numbers of a stat file from the state on; the state itself counts as 0.
fn stat(path: &str) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(path)?;
    // The name may hold anything, parentheses too.
    let (_, rest) = text.rsplit_once(')').context("no name in the stat file")?;
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_its_children_cpu_time() {
        assert!(rss_bytes(std::process::id()).unwrap() > 100 * 1024);
        let before = cpu_of_ended_children().unwrap();
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("/bin/sh").args(["-c", spin]).status().unwrap().success());
        assert!(cpu_of_ended_children().unwrap() > before);
        assert!(cpu_of(u32::MAX).is_err());
    }
}
