//! The command line without a collector: what judges and replays files, and what every wrong input says.
#![allow(clippy::unwrap_used)] // A test that cannot go on should stop.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::TargetUrl;

mod fingerprints;
mod ooni;
mod ownership;
mod policies;
mod records;
mod replay;
mod simulate;

use records::{URL, reached, silenced};

fn zerkalo(dir: &TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zerkalo"))
        .args(args)
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env_remove("ZERKALO_CONFIG")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs, and holds exit status and every part of the message.
fn check(dir: &TempDir, args: &[&str], status: i32, parts: &[&str]) {
    let output = zerkalo(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?} does not say {part:?}:\n{said}");
    }
}

fn write(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_why() {
    let dir = TempDir::new().unwrap();
    check(&dir, &["mirrors", "add", "no url", "--market", "ru"], 2, &["no URL", "https://mirror.example/"]);
    check(&dir, &["mirrors", "add", "ftp://mirror.example/", "--market", "ru"], 2, &["scheme \"ftp\""]);
    check(&dir, &["mirrors", "add", "https://mirror.example:70000/", "--market", "ru"], 2, &["invalid port"]);
    check(&dir, &["mirrors", "add", "https://mirror.example:0/", "--market", "ru"], 2, &["port 0", "65535"]);
    check(&dir, &["mirrors", "add", URL], 2, &["--market"]);
    check(&dir, &["mirrors", "add", URL, "--market", "ru", "--pin", "beef"], 2, &["64 hexadecimal digits"]);
    check(&dir, &["mirrors", "add", URL, "--market", "ru", "--expected-address", "1.2.3"], 2, &["1.2.3"]);
    check(&dir, &["tokens", "create", "--owner", "o"], 2, &["--carrier"]);
    check(&dir, &["tokens", "create", "--owner", "o", "--carrier", "kz-kcell"], 2, &["--access"]);
    let satellite = ["tokens", "create", "--owner", "o", "--carrier", "kz-kcell", "--access", "satellite"];
    check(&dir, &satellite, 2, &["\"fixed\" or \"mobile\""]);
    check(&dir, &["tokens", "create", "--owner", "o", "--control", "--valid-secs", "5"], 2, &["60"]);
    check(&dir, &["tokens", "create", "--owner", "../o", "--control"], 2, &["not an identifier"]);
    check(&dir, &["matrix", "-o", "xml"], 2, &["table", "json"]);
    check(&dir, &["mitm", "ls", "-o", "xml"], 2, &["table", "json"]);
    check(&dir, &["mitm", "ls", "--since-days", "0"], 2, &["--since-days", "1.."]);
    let asked = ["mitm", "ls", "--issuer", "ISCA", "--since-days", "7", "-o", "json"];
    check(&dir, &asked, 1, &["operator.toml"]);
    for change in [
        &["mirrors", "add", URL, "--market", "ru"][..],
        &["mirrors", "rm", "m"],
        &["mirrors", "reference", "add", URL, "--market", "ru", "--side", "domestic"],
        &["mirrors", "reference", "rm", URL, "--market", "ru"],
        &["mirrors", "set", "m", "--large-page", "none"],
        &["mirrors", "tools", "--whoami", "whoami.example"],
    ] {
        check(&dir, &[change, &["-o", "xml"]].concat(), 2, &["table", "json"]);
        // Understood; only the operator's file is missing.
        check(&dir, &[change, &["-o", "json"]].concat(), 1, &["operator.toml"]);
    }
}

#[test]
fn what_is_read_beside_the_page_is_refused_by_the_name_of_its_flag() {
    let dir = TempDir::new().unwrap();
    let elsewhere = ["mirrors", "add", URL, "--market", "ru", "--large-page", "https://elsewhere.example/"];
    check(&dir, &elsewhere, 1, &["--large-page https://elsewhere.example/", "mirror's own"]);
    check(&dir, &["mirrors", "set", "m", "--large-page", "large"], 2, &["--large-page", "no URL"]);
    check(&dir, &["mirrors", "set", "m"], 2, &["--large-page"]);
    check(&dir, &["mirrors", "tools"], 1, &["--control-address", "--reference-object", "--whoami"]);
    check(&dir, &["mirrors", "tools", "--control-address", "mirror"], 2, &["--control-address"]);
    check(
        &dir,
        &["mirrors", "tools", "--control-address", "10.0.0.1:1"],
        1,
        &["--control-address", "private"],
    );
    let object = ["mirrors", "tools", "--reference-object", "https://127.0.0.1/"];
    check(&dir, &object, 1, &["--reference-object", "loopback"]);
    check(&dir, &["mirrors", "tools", "--whoami", "a b"], 1, &["--whoami", "a b"]);
    check(&dir, &["mirrors", "tools", "--clear", "everything"], 2, &["--clear", "control-address"]);
}

#[test]
fn a_private_address_is_refused_before_anybody_is_asked() {
    let dir = TempDir::new().unwrap();
    check(
        &dir,
        &["mirrors", "add", "https://10.0.0.1/", "--market", "ru"],
        1,
        &["private 10.0.0.0/8", "refused"],
    );
    // No collector takes it, so there is no way around.
    let forced = ["mirrors", "add", "https://10.0.0.1/", "--market", "ru", "--allow-special-ranges"];
    check(&dir, &forced, 2, &["--allow-special-ranges"]);
}

#[test]
fn a_missing_or_faulty_operators_file_says_where_and_what_to_do() {
    let dir = TempDir::new().unwrap();
    check(
        &dir,
        &["matrix"],
        1,
        &[".config/zerkalo/operator.toml", "zerkalo-collector init", "ZERKALO_CONFIG"],
    );
    check(&dir, &["--config", "none.toml", "matrix"], 1, &["none.toml", "zerkalo-collector init"]);
    check(&dir, &["--config", ".", "matrix"], 1, &["cannot read", "Is a directory"]);
    write(&dir, "no.toml", "url = ");
    check(&dir, &["--config", "no.toml", "matrix"], 1, &["no.toml is not TOML", "line 1"]);
    write(&dir, "odd.toml", "url = \"collector.example\"\napi_tokn = \"x\"\nsigning_key = \"xyz\"\n");
    check(
        &dir,
        &["--config", "odd.toml", "matrix"],
        1,
        &[
            "odd.toml",
            "unknown key `api_tokn`",
            "`api_token` is missing",
            "`ca_pem` is missing",
            "64 hex",
            "https://",
        ],
    );
}

#[test]
fn a_collector_out_of_reach_is_named_with_the_remedy() {
    let dir = TempDir::new().unwrap();
    // A port that was free a moment ago: nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let operator = format!(
        "url = \"https://localhost:{}\"\napi_token = \"t\"\nsigning_key = \"{}\"\nca_pem = \"\"\"\n{ca}\"\"\"\n",
        free.port(),
        "07".repeat(32)
    );
    write(&dir, "operator.toml", operator);
    check(
        &dir,
        &["--config", "operator.toml", "agents", "ls"],
        1,
        &["cannot reach the collector at https://localhost", "zerkalo-collector serve", "operator.toml"],
    );
    let token =
        ["--config", "operator.toml", "tokens", "create", "--owner", "o", "--control", "--out", "t.token"];
    check(&dir, &token, 1, &["cannot reach"]);
    assert!(!dir.path().join("t.token").exists());
}

#[test]
fn records_in_files_are_judged_offline() {
    let dir = TempDir::new().unwrap();
    write(&dir, "good.json", zerkalo_proto::record::to_json(&reached()));
    write(&dir, "bad.json", zerkalo_proto::record::to_json(&silenced()));
    let judge = |args: &[&str]| -> serde_json::Value {
        let output = zerkalo(&dir, &[&["judge", "-o", "json"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let verdict = judge(&["--probe", "bad.json", "--control", "good.json"]);
    assert_eq!(
        (&verdict["outcome"], &verdict["mechanism"]),
        (&"blocked".into(), &"tls.timeout".into()),
        "{verdict}"
    );
    for key in ["trigger", "rule", "rules_version", "control"] {
        assert!(verdict[key].is_string(), "{key}: {verdict}");
    }
    assert!(!verdict["basis"].as_array().unwrap().is_empty());
    assert_eq!(judge(&["--probe", "bad.json"])["outcome"], "insufficient");
    assert_eq!(judge(&["--probe", "bad.json", "--control", "bad.json"])["outcome"], "down");
    assert_eq!(judge(&["--probe", "good.json", "--control", "good.json"])["outcome"], "ok");

    write(
        &dir,
        "m.toml",
        format!("id = \"m\"\nurl = \"{URL}\"\nmarkets = [\"kz\"]\ncanary = \"the real page\"\n"),
    );
    let with_mirror = ["--probe", "bad.json", "--control", "good.json", "--mirror", "m.toml"];
    assert_eq!(judge(&with_mirror)["mechanism"], "tls.timeout");
    // Measured without --canary, though the mirror has one.
    let mut unsearched = reached();
    unsearched.http[0].canary_found = None;
    write(&dir, "unsearched.json", zerkalo_proto::record::to_json(&unsearched));
    let of_both = ["--probe", "unsearched.json", "--control", "unsearched.json", "--mirror", "m.toml"];
    let verdict = judge(&of_both);
    assert_eq!(verdict["rule"], "canary.unsearched");
    assert!(verdict["basis"][0].as_str().unwrap().contains("measured without the canary"), "{verdict}");
    assert_eq!(judge(&of_both[..4])["outcome"], "ok");
    let table = zerkalo(&dir, &["judge", "--probe", "bad.json", "--control", "good.json"]);
    assert!(stdout(&table).contains("tls.timeout"), "{}", stdout(&table));
}

#[test]
fn files_that_are_no_records_say_so() {
    let dir = TempDir::new().unwrap();
    write(&dir, "good.json", zerkalo_proto::record::to_json(&reached()));
    write(&dir, "cut.json", "{\"schema\": ");
    let other = ProbeRecord { url: TargetUrl::parse("https://other.example/").unwrap(), ..reached() };
    write(&dir, "other.json", zerkalo_proto::record::to_json(&other));
    write(
        &dir,
        "m.toml",
        "id = \"m\"\nurl = \"https://mirror.example/\"\nmarkets = [\"kz\"]\ncanry = \"x\"\n",
    );
    check(&dir, &["judge", "--probe", "none.json"], 1, &["none.json", "No such file"]);
    check(&dir, &["judge", "--probe", "cut.json"], 1, &["cut.json is no record", "zerkalo-agent probe"]);
    check(&dir, &["judge", "--probe", "good.json", "--control", "other.json"], 1, &["one URL"]);
    let misspelt = ["judge", "--probe", "good.json", "--mirror", "m.toml"];
    check(&dir, &misspelt, 1, &["m.toml does not describe a mirror", "canry"]);
    write(&dir, "n.toml", "id = \"n\"\nurl = \"https://mirror.example/other\"\nmarkets = [\"kz\"]\n");
    let foreign = ["judge", "--probe", "good.json", "--mirror", "n.toml"];
    check(&dir, &foreign, 1, &["good.json measured https://mirror.example/", "https://mirror.example/other"]);
}

#[test]
fn the_samples_of_a_deployment_name_only_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let compose = std::fs::read_to_string(root.join("deploy/compose.yaml")).unwrap();
    assert!(compose.contains("deploy/Dockerfile") && root.join("deploy/Dockerfile").exists());
    for program in ["collector", "agent"] {
        let unit = std::fs::read_to_string(root.join(format!("systemd/zerkalo-{program}.service"))).unwrap();
        for line in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "MemoryDenyWriteExecute=yes",
            "CapabilityBoundingSet=\n",
        ] {
            assert!(unit.contains(line), "zerkalo-{program}.service lacks {line}");
        }
    }
}
