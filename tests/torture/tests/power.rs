//! A few power cuts, failed writes and bad networks for every run of the tests; `make torture` does many.

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
    if is_possible() {
        run(arguments);
    }
}

fn run(arguments: &[&str]) {
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

#[test]
fn a_bad_network_and_restarts_lose_and_double_nothing() {
    run(&["network", "--seeds", "200"]);
}

#[test]
fn a_seed_repeats_its_network() {
    let work = tempfile::tempdir().unwrap();
    let play = |seed| {
        zerkalo_torture::network::play(seed, zerkalo_torture::network::Spools::Survive, work.path()).unwrap()
    };
    let tale = play(7);
    assert_eq!(play(7), tale);
    assert!(tale.records > 0 && play(8).digest != tale.digest);
}

#[test]
fn a_real_agent_s_backlog_goes_many_times_faster_than_it_measures_and_nothing_fresh_waits_for_it() {
    // Four records a second: ten times that is what the slowest box of a gate admits many times over.
    run(&["catch-up", "--records", "3000", "--pace-millis", "250"]);
    // Over connections of some four records each.
    run(&["catch-up", "--records", "250", "--pace-millis", "2000", "--short"]);
}
