//! The program: everything is in the library.

fn main() -> std::process::ExitCode {
    zerkalo_agent::cli::main()
}
