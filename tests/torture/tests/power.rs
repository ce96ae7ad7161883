//! A few power cuts and failed writes for every run of the tests; `make torture` does a thousand.

// All of it is tests.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

/// Says loudly why nothing can be tried here.
fn is_possible() -> bool {
    let has = |path: &str| Path::new(path).exists();
    let may = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let is_possible = has("/dev/fuse")
        && has("/dev/loop-control")
        && may.is_ok_and(|ended| ended.status.success())
        && Command::new("mkfs.ext4").arg("-V").output().is_ok();
    if !is_possible {
        eprintln!("!!! SKIPPED: power cuts need root, FUSE, loop devices and mkfs.ext4 (package e2fsprogs)");
    }
    is_possible
}

fn torture(arguments: &[&str]) {
    if !is_possible() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_zerkalo-torture")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_agent_s_spool_survives_power_cuts_and_only_because_it_syncs() {
    torture(&["power", "spool", "--cuts", "50"]);
}

#[test]
fn the_collector_s_stores_survive_power_cuts_and_only_because_they_sync() {
    torture(&["power", "collector", "--cuts", "50"]);
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing_promised() {
    torture(&["fail", "spool", "--runs", "1"]);
    torture(&["fail", "collector", "--runs", "1"]);
}
