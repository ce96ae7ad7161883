//! Public lists into a fingerprint file, and what its rows say.

use std::path::Path;

use tempfile::TempDir;
use zerkalo_core::fingerprint::Fingerprints;

use super::{check, stdout, write, zerkalo};

const HEADING: &str = "name,scope,other_names,location_found,pattern_type,pattern,confidence_no_fp,\
    expected_countries,source,exp_url,notes\n";
const LIST: &str = "a_kz,isp,,body,contains,\"closed, by
order\",5,KZ,made up,,\n\
    a_ru,nat,,header.location,prefix,http://stub.example,5,\"RU,BY\",made up,,\n\
    a_none,isp,,body,regexp,site.*blocked,5,,made up,,\n\
    a_zz,prod,,dns,full,192.0.2.9,5,ZZ,made up,,\n\
    a_vague,vbw,,body,contains,denied,10,KZ,made up,,\n\
    a_false,fp,,body,contains,cache denied,5,,made up,,\n\
    bad_regexp,nat,,body,regexp,(closed,5,KZ,made up,,\n\
    bad_country,nat,,body,contains,closed,5,Kazakhstan,made up,,\n";

fn import(dir: &TempDir, args: &[&str]) -> String {
    write(dir, "list.csv", format!("{HEADING}{LIST}"));
    let output = zerkalo(dir, &[&["fingerprints", "import", "list.csv", "--out", "out.toml"], args].concat());
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{said}");
    // A field with a line break counts two lines.
    assert!(said.contains("list.csv line 9: the regular expression is refused"), "{said}");
    assert!(said.contains("list.csv line 10: \"Kazakhstan\" is no country"), "{said}");
    stdout(&output)
}

/// Weights and rows that speak of a sighting, as "weight row".
fn found(dir: &TempDir, args: &[&str]) -> Vec<String> {
    let output =
        zerkalo(dir, &[&["fingerprints", "test", "--fingerprints", "out.toml", "-o", "json"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = findings.as_array().unwrap().iter();
    findings.map(|finding| format!("{} {}", word(finding, "weight"), word(finding, "row"))).collect()
}

#[test]
fn a_list_becomes_a_fingerprint_file_and_says_which_row_matched() {
    let dir = TempDir::new().unwrap();
    let report = import(&dir, &[]);
    assert!(report.contains("8 rows read, 6 taken, 0 passed over"), "{report}");
    assert!(report.contains("2 bad ones skipped"), "{report}");
    assert!(report.contains("6 imported rows: 2 confirm"), "{report}");
    write(&dir, "page.html", "<p>cache denied: closed, by\norder; this site is blocked</p>");
    let page = ["--body", "page.html", "--country", "KZ"];
    assert_eq!(
        found(&dir, &page),
        ["suppressed a_false", "confirms a_kz", "suspicion a_none", "suspicion a_vague"]
    );
    write(&dir, "page.html", "closed, by\norder");
    assert_eq!(found(&dir, &page), ["confirms a_kz"]);
    assert_eq!(found(&dir, &["--body", "page.html", "--country", "ru"]), ["suspicion a_kz"]);
    assert_eq!(found(&dir, &["--body", "page.html"]), ["suspicion a_kz"]);
    let sent = ["--header", "Location: http://stub.example/x", "--country", "BY"];
    assert_eq!(found(&dir, &sent), ["confirms a_ru"]);
    assert_eq!(found(&dir, &["--url", "http://stub.example/x", "--country", "RU"]), ["confirms a_ru"]);
    assert_eq!(found(&dir, &["--address", "192.0.2.9", "--country", "KZ"]), ["suspicion a_zz"]);
    assert!(found(&dir, &["--address", "192.0.2.8"]).is_empty());
    let table =
        zerkalo(&dir, &["fingerprints", "test", "--fingerprints", "out.toml", "--address", "192.0.2.8"]);
    assert_eq!(stdout(&table), "no row matches\n");
}

#[test]
fn an_import_takes_what_was_asked_for_and_adds_to_a_base() {
    let dir = TempDir::new().unwrap();
    assert!(import(&dir, &["--country", "KZ"]).contains("5 taken, 1 passed over"));
    assert!(import(&dir, &["--dns"]).contains("1 taken, 5 passed over"));
    assert!(import(&dir, &["--http", "--country", "ru,kz"]).contains("5 taken, 1 passed over"));
    import(&dir, &["--dns", "--confirm-without-country"]);
    assert_eq!(found(&dir, &["--address", "192.0.2.9"]), ["confirms a_zz"]);
    // The base keeps its rows; the same list again adds none twice.
    assert!(import(&dir, &["--http", "--base", "out.toml"]).contains("6 imported rows"));
    assert_eq!(found(&dir, &["--address", "192.0.2.9"]), ["confirms a_zz"]);
    assert!(import(&dir, &["--base", "out.toml"]).contains("6 imported rows"));
    assert_eq!(found(&dir, &["--address", "192.0.2.9"]), ["suspicion a_zz"]);
    // Beside the rows stands all that was built in.
    assert_eq!(found(&dir, &["--address", "5.3.3.17"]), ["confirms built-in"]);
    assert_eq!(found(&dir, &["--url", "http://unblock.mts.ru/"]), ["suppressed built-in"]);
}

#[test]
fn what_is_no_list_says_where_and_why() {
    let dir = TempDir::new().unwrap();
    write(&dir, "list.csv", "name,scope\na,nat\n");
    write(&dir, "base.toml", "stub = 1\n");
    let import = |file: &'static str| ["fingerprints", "import", file, "--out", "out.toml"];
    check(&dir, &import("list.csv"), 1, &["list.csv line 1", "`location_found` is missing", "name, scope"]);
    check(&dir, &import("none.csv"), 1, &["none.csv", "No such file"]);
    check(
        &dir,
        &[&import("list.csv")[..], &["--base", "base.toml"]].concat(),
        1,
        &["base.toml is no", "line 1"],
    );
    check(&dir, &[&import("list.csv")[..], &["--country", "Kaz"]].concat(), 2, &["two letters such as KZ"]);
    check(&dir, &["fingerprints", "test"], 2, &["--url", "--body", "--address", "--header"]);
    check(&dir, &["fingerprints", "test", "--header", "Location"], 1, &["NAME:VALUE"]);
    check(&dir, &["fingerprints", "test", "--address", "1.2.3"], 2, &["1.2.3"]);
    check(&dir, &["fingerprints", "test", "--url", "stub"], 1, &["no URL"]);
    assert!(!dir.path().join("out.toml").exists());
}

#[test]
fn the_public_lists_make_a_file_the_collector_takes() {
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/ooni");
    let (http, dns) = (lists.join("fingerprints_http.csv"), lists.join("fingerprints_dns.csv"));
    if !http.exists() || !dns.exists() {
        eprintln!("skipped: the public lists are not at {}", lists.display());
        return;
    }
    let dir = TempDir::new().unwrap();
    let (http, dns) = (http.to_str().unwrap(), dns.to_str().unwrap());
    let output = zerkalo(&dir, &["fingerprints", "import", http, dns, "--out", "out.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = stdout(&output);
    assert!(report.contains("1729 rows read") && report.contains("226 rows read"), "{report}");
    let set = Fingerprints::parse(&std::fs::read_to_string(dir.path().join("out.toml")).unwrap()).unwrap();
    assert!(set.imported().len() > 1_900, "{report}");
    let known = ["--address", "10.10.34.36", "--country"];
    assert_eq!(found(&dir, &[&known[..], &["IR"]].concat()), ["confirms ooni.ir_10dot10_ipv4_1"]);
    assert_eq!(found(&dir, &[&known[..], &["KZ"]].concat()), ["suspicion ooni.ir_10dot10_ipv4_1"]);
}
