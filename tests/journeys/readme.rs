//! The README's deployment, run as it stands: what a stranger copies works.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use zerkalo_lab::process::program;

use crate::programs::stage;

/// Generous: debug builds on a busy machine.
const DEPLOYMENT_TIMEOUT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn the_deployment_in_the_readme_works_word_for_word() {
    let _stage = stage().await;
    let script = deployment();
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("stdout"), dir.path().join("stderr"));
    let programs = program("zerkalo").unwrap().parent().unwrap().to_owned();
    program("zerkalo-collector").and_then(|_| program("zerkalo-agent")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = bash(&script)
        .current_dir(dir.path())
        .env("PATH", path)
        .env_remove("ZERKALO_CONFIG")
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let group = shell.id().expect("the shell was not waited for yet");
    let status = tokio::time::timeout(DEPLOYMENT_TIMEOUT, shell.wait()).await;
    kill_group(group);
    let said = format!("{}\n{}", read(&out), read(&err));
    let status = status.unwrap_or_else(|_| panic!("not done in {DEPLOYMENT_TIMEOUT:?}:\n{said}")).unwrap();
    assert!(status.success(), "{status}:\n{said}");
    check_output(&read(&out));
}

#[test]
fn the_deployment_leaves_nothing_to_the_reader() {
    let script = deployment();
    for step in
        ["init", "serve", "mirrors add", "tokens create", "enroll", "run", "matrix", "decisions ls", "kill"]
    {
        assert!(script.contains(step), "the README's deployment lost its step {step:?}");
    }
}

/// In a network of its own where that may be: the ports in the README are somebody else's here now and then.
fn bash(script: &str) -> tokio::process::Command {
    const OWN_NETWORK: [&str; 5] = ["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", "bash"];
    let may = std::process::Command::new("unshare").args(&OWN_NETWORK[..4]).arg("true").output();
    let mut command = match may.is_ok_and(|ended| ended.status.success()) {
        true => tokio::process::Command::new("unshare"),
        false => tokio::process::Command::new("bash"),
    };
    if command.as_std().get_program() == "unshare" {
        command.args(OWN_NETWORK);
    }
    command.args(["-euo", "pipefail", "-c", script]);
    command
}

/// The fenced block between the markers.
fn deployment() -> String {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    let (_, rest) = readme.split_once("<!-- deployment:begin -->").unwrap();
    let (block, _) = rest.split_once("<!-- deployment:end -->").unwrap();
    block.trim().strip_prefix("```sh\n").unwrap().strip_suffix("```").unwrap().to_owned()
}

/// Tables for people, then the matrix and the decisions as JSON.
fn check_output(out: &str) {
    for part in ["aigerim", "kz-kcell", "control", "mirror.example", "Kcell", "RU", "KZ"] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
    let json = &out[out.find("\n{\n").unwrap_or_else(|| panic!("no JSON:\n{out}"))..];
    let documents: Vec<Value> =
        serde_json::Deserializer::from_str(json).into_iter().map(Result::unwrap).collect();
    let [matrix, decisions] = &documents[..] else { panic!("{} documents:\n{json}", documents.len()) };
    let markets: Vec<&str> =
        matrix["rows"].as_array().unwrap().iter().map(|row| row["market"].as_str().unwrap()).collect();
    assert_eq!(markets, ["ru", "kz"], "{matrix}");
    // One owner is not enough evidence, and the control fails too: nothing may be burned.
    for decision in decisions.as_array().unwrap() {
        assert!(!matches!(decision["action"].as_str(), Some("pause" | "rotate")), "{decision}");
    }
}

fn kill_group(group: u32) {
    // Gone already if all went well.
    let _ = std::process::Command::new("kill")
        .args(["-KILL", "--", &format!("-{group}")])
        .stderr(Stdio::null())
        .status();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
