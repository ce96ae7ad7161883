//! A network of its own for tests of where the agent may go: one in which a public address is the test's, private ones
//! are baits, and no packet leaves. The test starts itself once more inside.

use std::process::Command;

/// Set inside: there the test does its work, elsewhere it starts itself once more.
const INSIDE: &str = "ZERKALO_EVIL_NAMESPACE";
/// Addresses that pass for public, at which the evil servers stand.
pub const PUBLIC: [[u8; 4]; 4] = [[9, 9, 9, 9], [9, 9, 9, 8], [9, 9, 9, 7], [9, 9, 9, 6]];
/// Makes the network: every special address that the tests name would be reached, if it were tried.
const SETUP: &str = "ip link set lo up && for last in 6 7 8 9; do ip addr add 9.9.9.$last/32 dev lo; done && ip addr add 10.0.0.1/32 dev lo && \
    ip addr add 169.254.169.254/32 dev lo && ip addr add 192.168.0.1/32 dev lo && \
    ip addr add 64:ff9b::a00:1/128 dev lo && ip addr add 2002:a00:1::1/128 dev lo && \
    ip addr add fd00::1/128 dev lo && ip addr add 100.64.0.1/32 dev lo";

/// Whether this process lives in the namespace.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test `name` once more, inside a namespace; says loudly where that cannot be.
pub fn run_inside(name: &str) {
    // Root has namespaces of its own; others where the kernel lets users map themselves.
    let Some(flags) = ["-n", "-rn"].into_iter().find(|flags| unshare(flags, "true").is_ok()) else {
        eprintln!("!!! SKIPPED: {name}: needs root, or user namespaces, and the commands unshare and ip");
        return;
    };
    unshare(flags, SETUP).expect("the namespace can be made where unshare works");
    let program = std::env::current_exe().unwrap();
    let script = format!("{SETUP} && exec '{}' --exact {name} --nocapture", program.display());
    match unshare(flags, &script) {
        Ok(said) => {
            assert!(said.contains("1 passed"), "the inner test did not run: {said}");
            println!("{said}");
        }
        Err(said) => panic!("{said}"),
    }
}

fn unshare(flags: &str, script: &str) -> Result<String, String> {
    let output = Command::new("unshare")
        .args([flags, "sh", "-e", "-c", script])
        .env(INSIDE, "1")
        .output()
        .map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}
