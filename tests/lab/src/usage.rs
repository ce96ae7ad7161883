//! What a process takes of the machine, as the kernel tells it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors this program takes beside its agents' connections.
const OWN_DESCRIPTORS: u64 = 256;

/// Memory and time of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Processor time of all its threads.
    pub cpu: Duration,
}

/// Reads a process's usage.
pub fn of(pid: u32) -> Result<Usage> {
    read(&format!("/proc/{pid}"))
}

/// This process's own.
pub fn own() -> Result<Usage> {
    read("/proc/self")
}

/// Has the system allow as many connections as there will be agents, or says what to do.
pub fn allow_connections(agents: usize) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What it does not allow is found below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX);
    ensure!(
        agents as u64 + OWN_DESCRIPTORS <= allowed,
        "{agents} agents need as many descriptors and the limit on open files is {allowed}: raise it (ulimit -n) or name \
         fewer agents"
    );
    Ok(())
}

fn read(dir: &str) -> Result<Usage> {
    let text = |name: &str| {
        let path = format!("{dir}/{name}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let cpu = cpu_of(&text("stat")?).context("the kernel's line on the process is of no known form")?;
    let rss_kib = rss_of(&text("status")?).context("the process is gone")?;
    Ok(Usage { rss_kib, cpu })
}

/// Fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_memory_and_time() {
        let before = own().unwrap();
        assert!(before.rss_kib > 100, "{before:?}");
        assert!(of(std::process::id()).unwrap().rss_kib > 100);
        let mut sum = 0_u64;
        while own().unwrap().cpu == before.cpu {
            sum = std::hint::black_box((0..1_000_000).fold(sum, u64::wrapping_add));
        }
        assert!(own().unwrap().cpu > before.cpu);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 5 1 1";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_of(stat), Some(Duration::from_secs_f64(200.0 / ticks)));
        assert_eq!(rss_of("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1_234));
    }

    #[test]
    fn too_many_agents_for_the_descriptors_are_told_what_to_do() {
        allow_connections(1).unwrap();
        let error = allow_connections(usize::MAX >> 1).unwrap_err().to_string();
        assert!(error.contains("ulimit -n"), "{error}");
    }
}
