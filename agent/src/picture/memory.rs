//! How much memory a process group holds, as /proc tells everybody: what is its own and what its processes share among
//! themselves, without the files they have mapped. And who left the group.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Bytes held by all processes of `group`.
pub fn of_group(group: Pid) -> u64 {
    living(group)
        .map(|id| held_in(&fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default()))
        .sum()
}

/// Whether a process of `group` lives.
pub fn lives(group: Pid) -> bool {
    living(group).next().is_some()
}

/// Kills the processes outside of `group` whose home is `profile`: a browser's, started in a session of their own. Whether
/// there were any.
pub fn kill_strays(group: Pid, profile: &Path) -> bool {
    let home = [b"HOME=", profile.as_os_str().as_encoded_bytes()].concat();
    let is_at_home = |id: &String| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == home)
    };
    let strays =
        processes().filter(|(_, of)| *of != group.as_raw_nonzero().get()).filter(|(id, _)| is_at_home(id));
    // Gone in between is as good.
    strays
        .filter_map(|(id, _)| Pid::from_raw(id.parse().ok()?))
        .filter(|id| kill_process(*id, Signal::KILL).is_ok())
        .count()
        > 0
}

fn living(group: Pid) -> impl Iterator<Item = String> {
    processes().filter(move |(_, of)| *of == group.as_raw_nonzero().get()).map(|(id, _)| id)
}

/// Every process that lives, with its group.
fn processes() -> impl Iterator<Item = (String, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter_map(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        Some((id, group_in(&stat)?))
    })
}

/// The process group in the text of /proc/PID/stat, if the process lives: the third field after the name, which may hold
/// anything.
fn group_in(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let is_alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(1)?.parse().ok().filter(|_| is_alive)
}

/// Anonymous and shared memory in the text of /proc/PID/status.
fn held_in(status: &str) -> u64 {
    let kibibytes = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let counted = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssShmem:");
    status.lines().filter(counted).filter_map(kibibytes).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_no_group() {
        assert_eq!(group_in("7 (a) b) S 1 42 42 0 -1"), Some(42));
        assert_eq!(group_in("7 (dead) Z 1 42 42 0 -1"), None);
        assert_eq!(group_in("7 (cut"), None);
    }

    #[test]
    fn only_what_is_held_is_counted() {
        let status = "VmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t  750 kB\nRssShmem:\t  50 kB\n";
        assert_eq!(held_in(status), 150 * 1024);
        let own = rustix::process::getpgrp();
        assert!(lives(own) && of_group(own) > 100 * 1024);
    }

    #[test]
    fn who_left_the_group_is_known_by_its_home() {
        use std::os::unix::process::{CommandExt, ExitStatusExt};
        let profile = tempfile::tempdir().unwrap();
        let begin = |home: &Path| {
            let mut command = std::process::Command::new("sleep");
            command.arg("600").env("HOME", home).process_group(0).spawn().unwrap()
        };
        let (mut stray, mut other) = (begin(profile.path()), begin(&profile.path().join("elsewhere")));
        let own = rustix::process::getpgrp();
        // A child is seen under its parent's environment until it has become the new program.
        while !kill_strays(own, profile.path()) {
            std::thread::yield_now();
        }
        assert_eq!(stray.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        assert!(!kill_strays(own, profile.path()));
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
