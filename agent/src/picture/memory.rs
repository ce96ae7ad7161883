//! How much memory a process group holds, as /proc tells everybody: what is its own and what its processes share among
//! themselves, without the files they have mapped.

use std::fs;

use rustix::process::Pid;

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

fn living(group: Pid) -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let names = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(move |id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        group_in(&stat) == Some(group.as_raw_nonzero().get())
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
}
