//! The real program against a hostile server: one process a behaviour, within the memory that is promised. What holds of
//! every run is checked here: it ends by itself, succeeds, says nothing of a panic, and writes a record that a
//! collector would admit.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::record::ProbeRecord;

/// Memory promised, with the program's own pages.
pub const RESIDENT_MAX_KIB: u64 = 64 * 1024;
/// What the kernel lets the process have of memory of its own (RLIMIT_DATA); the program's pages come on top. No moment
/// escapes this one, while the peak is only read now and then.
const DATA_MAX_KIB: u64 = 40 * 1024;
/// How often the peak is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(2);
/// No run may take longer, however slow the machine: several times all of the agent's own deadlines.
const WALL_MAX: Duration = Duration::from_secs(300);
/// The agent's own deadline for the main arm, in seconds: for all but busy machines.
pub const SHORT_SECS: u32 = 2;
/// The same where the first try brought another fact.
pub const LONG_SECS: u32 = 10;

/// What to probe, and with which words.
#[derive(Debug, Clone)]
pub struct Scene {
    pub url: String,
    pub resolver: SocketAddr,
    /// Roots to trust instead of the public ones.
    pub authority_pem: Option<String>,
    pub ranges: Reach,
}

/// Where the agent may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Special ranges too: the servers are on loopback.
    Anywhere,
    PublicOnly,
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    pub record: ProbeRecord,
    /// Highest resident size seen, in KiB.
    pub resident_kib: u64,
}

/// Probes and checks all that holds of every run. `Err` says what does not.
pub async fn probe(scene: &Scene, timeout_secs: u32) -> Result<Run, String> {
    let (output, resident_kib) = start(scene, &["--json"], timeout_secs, DATA_MAX_KIB).await?;
    let json = checked(output)?;
    let record = zerkalo_proto::record::from_json(&json).map_err(|error| format!("{error}: {json}"))?;
    let len = zerkalo_proto::record::encode(&record).len();
    if len > BODY_LEN_MAX || !record.is_bounded() {
        return Err(format!("no collector admits this record of {len} bytes: {json}"));
    }
    if resident_kib >= RESIDENT_MAX_KIB {
        return Err(format!("{resident_kib} KiB of memory"));
    }
    if let Some(hostile) = json.chars().find(|c| is_hostile(*c)) {
        return Err(format!("{hostile:?} would drive a terminal: {json}"));
    }
    Ok(Run { record, resident_kib })
}

/// Probes and gives what a person would read.
pub async fn tree(scene: &Scene) -> Result<String, String> {
    // It is over long before, wherever the server lets it.
    let (output, _) = start(scene, &[], LONG_SECS, DATA_MAX_KIB).await?;
    checked(output)
}

/// What a terminal obeys, or what turns the reading direction of all that follows.
pub fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a process with no more than `data_max_kib` of memory gets through.
pub async fn survives(scene: &Scene, data_max_kib: u64) -> bool {
    let ended = start(scene, &["--json"], SHORT_SECS, data_max_kib).await;
    ended.is_ok_and(|(output, _)| output.status.success())
}

fn checked(output: Output) -> Result<String, String> {
    let (said, stdout) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || said.contains("panicked") || !said.is_empty() {
        return Err(format!("{}: {said}", output.status));
    }
    Ok(stdout.into_owned())
}

async fn start(
    scene: &Scene,
    words: &[&str],
    timeout_secs: u32,
    data_max_kib: u64,
) -> Result<(Output, u64), String> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -d {data_max_kib} && exec \"$0\" \"$@\"")]);
    command.args([env!("CARGO_BIN_EXE_zerkalo-agent"), "probe", &scene.url]);
    command.args(["--timeout", &timeout_secs.to_string()]);
    command.args(["--resolver", &scene.resolver.to_string()]).args(words);
    if scene.ranges == Reach::Anywhere {
        command.arg("--allow-special-ranges");
    }
    let authority = scene.authority_pem.as_ref().map(|pem| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        file
    });
    if let Some(file) = &authority {
        command.arg("--ca-file").arg(file.path());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let output = child.wait_with_output();
    tokio::pin!(output);
    let ended = tokio::time::timeout(WALL_MAX, async {
        let mut peak_kib = peak(&status);
        loop {
            tokio::select! {
                output = &mut output => return (output.unwrap(), peak_kib),
                () = tokio::time::sleep(SAMPLE_EVERY) => {}
            }
            peak_kib = peak_kib.max(peak(&status));
        }
    });
    ended.await.map_err(|_| "did not end by itself".to_owned())
}

/// VmHWM in KiB; 0 once the process is gone.
fn peak(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
