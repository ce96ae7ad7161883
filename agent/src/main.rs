//! The program: everything is in the library.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What asks for backtraces.
const BACKTRACE_VARIABLES: [&str; 2] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];

fn main() -> ExitCode {
    if cfg!(panic = "abort") {
        start_without_backtraces();
    }
    zerkalo_agent::cli::main()
}

/// The small build has no unwind tables: the C library ends whoever walks the stack without them, and an error would end
/// the program before it is told. Where the environment asks for backtraces, it is started once more without those words.
fn start_without_backtraces() {
    let is_asked = BACKTRACE_VARIABLES.iter().any(|name| std::env::var_os(name).is_some());
    let Ok(program) = std::env::current_exe() else { return };
    if is_asked {
        let mut anew = Command::new(program);
        anew.args(std::env::args_os().skip(1));
        for name in BACKTRACE_VARIABLES {
            anew.env_remove(name);
        }
        eprintln!("zerkalo-agent: {}", anew.exec());
    }
}
