//! Policies in files: said in plain words, or refused with every fault and its place.

use tempfile::TempDir;
use zerkalo_core::policy::BUILT_IN;

use crate::{check, stdout, write, zerkalo};

#[test]
fn a_policy_is_explained_in_plain_words() {
    let dir = TempDir::new().unwrap();
    write(&dir, "kz.toml", BUILT_IN[1]);
    let said = stdout(&zerkalo(&dir, &["policy", "check", "kz.toml"]));
    for part in
        ["of market kz", "Kazakhtelecom usually falls first", "pause, at any hour", "4 min after a pause"]
    {
        assert!(said.contains(part), "{part:?} in\n{said}");
    }
    let json = stdout(&zerkalo(&dir, &["policy", "check", "kz.toml", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["market"], "kz");
    assert!(json["says"].as_array().unwrap().len() > 5);
}

#[test]
fn every_fault_of_a_policy_is_told_with_its_place() {
    let dir = TempDir::new().unwrap();
    let text = BUILT_IN[1]
        .replace("leave_red_carriers = 0", "leave_red_carriers = 2")
        .replace("pause_red_carriers = 2", "pause_red_carriers = 7")
        .replace("\"kz-kcell\"", "\"ru-mts\"");
    write(&dir, "bad.toml", &text);
    let line = |key: &str| text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let places = ["carriers", "pause_red_carriers", "leave_red_carriers"];
    let expected: Vec<String> =
        places.iter().map(|key| format!("line {}, column 1: {key}", line(key))).collect();
    let mut parts: Vec<&str> = expected.iter().map(String::as_str).collect();
    parts.extend(["bad.toml has 3 fault(s)", "ru-mts", "from 0 to 0"]);
    check(&dir, &["policy", "check", "bad.toml"], 1, &parts);
    write(&dir, "torn.toml", "market = \"kz\"\ncarriers = [");
    check(&dir, &["policy", "check", "torn.toml"], 1, &["torn.toml has 1 fault(s)", "line 2"]);
    check(&dir, &["policy", "check", "none.toml"], 1, &["cannot read none.toml"]);
    check(&dir, &["policy", "check"], 2, &["FILE"]);
}
