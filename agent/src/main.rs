//! The program: everything is in the library.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What asks for backtraces. The small build has no unwind tables: the C library ends whoever walks the stack without
/// them, and an error would end the program before it is told.
const BACKTRACE_VARIABLES: [&str; 2] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];
/// The C library's settings, which it reads at a program's start alone.
const TUNABLES_VARIABLE: &str = "GLIBC_TUNABLES";
/// One heap for all threads: a heap each costs an agent that mostly waits half a megabyte.
const TUNABLES: &str = "glibc.malloc.arena_max=1";

fn main() -> ExitCode {
    if cfg!(panic = "abort") {
        start_anew();
    }
    zerkalo_agent::cli::main()
}

/// Starts the small build once more where the environment asks for backtraces, or says nothing of heaps.
fn start_anew() {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let Ok(program) = std::env::current_exe() else { return };
    if BACKTRACE_VARIABLES.into_iter().any(is_set) || !is_set(TUNABLES_VARIABLE) {
        let mut anew = Command::new(program);
        anew.args(std::env::args_os().skip(1));
        if !is_set(TUNABLES_VARIABLE) {
            anew.env(TUNABLES_VARIABLE, TUNABLES);
        }
        for name in BACKTRACE_VARIABLES {
            anew.env_remove(name);
        }
        eprintln!("zerkalo-agent: {}", anew.exec());
    }
}
