//! The programs under test, as `make test` built them, and the stage they take turns on.

use std::path::PathBuf;

use tokio::sync::{Mutex, MutexGuard};

/// Each journey fills two cores by itself.
static STAGE: Mutex<()> = Mutex::const_new(());

/// Every program a journey starts, directly or through the lab.
const PROGRAMS: [&str; 6] =
    ["zerkalo-collector", "zerkalo-agent", "zerkalo", "zerkalo-demo", "zerkalo-load", "zerkalo-latency"];

/// Waits for the journey before to end.
pub async fn stage() -> MutexGuard<'static, ()> {
    for name in PROGRAMS {
        program(name);
    }
    STAGE.lock().await
}

/// The path of a program.
///
/// # Panics
/// If it was not built.
pub fn program(name: &str) -> PathBuf {
    zerkalo_lab::process::program(name)
        .unwrap_or_else(|error| panic!("{error:#}\nrun make test (it builds the programs first)"))
}
