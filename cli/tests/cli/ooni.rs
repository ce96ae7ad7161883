//! OONI's measurements judged, and our journals in their format.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedRecord};
use zerkalo_core::fold::default_settings;
use zerkalo_core::journal::{Enrolment, Event, JournalEntry};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::words::{Access, AgentId, Station};

use super::records::{NOON, URL, reached, silenced};
use super::replay::{put, segment};
use super::{check, stdout, write, zerkalo};

/// A visit that met silence after its ClientHello, in one line.
const SILENCED: &str = r#"{"test_name": "web_connectivity", "input": "https://site.example/", "probe_cc": "KZ", "probe_asn": "AS9198", "measurement_start_time": "2026-11-21 09:30:00", "test_keys": {"queries": [{"engine": "system", "hostname": "site.example", "query_type": "A", "failure": null, "answers": [{"answer_type": "A", "ipv4": "192.0.2.1"}]}], "tcp_connect": [{"ip": "192.0.2.1", "port": 443, "status": {"success": true, "failure": null}}], "tls_handshakes": [{"server_name": "site.example", "failure": "generic_timeout_error"}], "requests": [{"failure": "generic_timeout_error", "request": {"url": "https://site.example/"}, "response": {"code": 0}}], "control": {"dns": {"addrs": ["192.0.2.1"]}, "http_request": {"status_code": 200, "body_length": 5, "failure": null}}, "blocking": "http-failure", "accessible": false}}"#;

fn judged(dir: &TempDir, args: &[&str]) -> Vec<Value> {
    let output = zerkalo(dir, &[&["import", "ooni", "-o", "json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// "outcome mechanism" of a judgement.
fn words(judgement: &Value) -> String {
    let verdict = &judgement["verdict"];
    let word = |key: &str| verdict[key].as_str().unwrap_or("-").to_owned();
    format!("{} {}", word("outcome"), word("mechanism"))
}

#[test]
fn a_measurement_is_judged_from_an_object_from_lines_and_from_gzip() {
    let dir = TempDir::new().unwrap();
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(SILENCED).unwrap()).unwrap();
    write(&dir, "one.json", format!("\n{pretty}\n"));
    write(&dir, "lines.jsonl", format!("{SILENCED}\n\n{SILENCED}"));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(format!("{SILENCED}\n{SILENCED}\n").as_bytes()).unwrap();
    write(&dir, "lines.jsonl.gz", gzip.finish().unwrap());
    let judgements = judged(&dir, &["one.json", "lines.jsonl", "lines.jsonl.gz"]);
    assert_eq!(judgements.len(), 5);
    for judgement in &judgements {
        assert_eq!(words(judgement), "blocked tls.timeout", "{judgement}");
        assert_eq!(
            (&judgement["country"], &judgement["asn"], &judgement["ooni"]),
            (&"KZ".into(), &"AS9198".into(), &"blocked (http-failure)".into())
        );
        let missing = judgement["missing"].to_string();
        assert!(missing.contains("the trigger could not be named"), "{missing}");
    }
    let table = stdout(&zerkalo(&dir, &["import", "ooni", "one.json"]));
    for part in
        ["https://site.example/", "KZ", "AS9198", "tls.timeout", "blocked (http-failure)", "? no page"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn what_cannot_be_judged_is_named_with_its_line_and_the_rest_is_judged() {
    let dir = TempDir::new().unwrap();
    write(&dir, "mixed.jsonl", format!("{SILENCED}\n{{\"test_name\": \"ndt\"}}\n{{\"test\n{SILENCED}\n"));
    let output = zerkalo(&dir, &["import", "ooni", "mixed.jsonl", "-o", "json"]);
    let (said, judgements) = (String::from_utf8_lossy(&output.stderr), stdout(&output));
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["mixed.jsonl line 2", "\"ndt\"", "mixed.jsonl line 3", "not JSON", "2 of 4"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(serde_json::from_str::<Vec<Value>>(&judgements).unwrap().len(), 2);
    write(&dir, "cut.json", "{\"test_name\":\n \"web");
    write(&dir, "empty.json", " \n");
    write(&dir, "cut.gz", [0x1f, 0x8b, 8, 0, 0]);
    write(&dir, "binary.json", [0xff, 0xfe, 0x00]);
    check(&dir, &["import", "ooni", "cut.json"], 1, &["cut.json line 1", "not JSON"]);
    check(&dir, &["import", "ooni", "empty.json"], 1, &["empty.json is empty"]);
    check(&dir, &["import", "ooni", "cut.gz"], 1, &["cannot read cut.gz", "line 1"]);
    check(&dir, &["import", "ooni", "binary.json"], 1, &["binary.json", "not UTF-8"]);
    check(&dir, &["import", "ooni", "none.json"], 1, &["none.json", "No such file"]);
}

#[test]
fn a_journal_is_exported_and_read_again_with_the_same_verdicts() {
    let dir = TempDir::new().unwrap();
    journal(&dir);
    let export = ["export", "--format", "ooni", "journal"];
    let output = zerkalo(&dir, &export);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = stdout(&output);
    // A resolver at home, and what it would tell of its home.
    assert!(!lines.contains("192.168.1.1"), "{lines}");
    write(&dir, "exported.jsonl", &lines);
    let judgements = judged(&dir, &["exported.jsonl"]);
    let found: Vec<String> = judgements.iter().map(words).collect();
    assert_eq!(found, ["blocked tls.timeout", "ok -", "insufficient -"], "{judgements:#?}");
    for line in lines.lines() {
        let measurement: Value = serde_json::from_str(line).unwrap();
        for (key, value) in [
            ("probe_asn", "AS29355"),
            ("probe_cc", "KZ"),
            ("probe_ip", "127.0.0.1"),
            ("test_name", "web_connectivity"),
            ("input", URL),
        ] {
            assert_eq!(measurement[key], value, "{key}");
        }
    }
    let count = |args: &[&str]| stdout(&zerkalo(&dir, &[&export[..], args].concat())).lines().count();
    assert_eq!((count(&["--limit", "1"]), count(&["--limit", "0"])), (1, 0));
    assert_eq!((count(&["--mirror", "m1"]), count(&["--mirror", "m2"])), (3, 0));
    check(&dir, &["export", "journal"], 2, &["--format"]);
    check(&dir, &["export", "--format", "ooni", "nowhere"], 1, &["nowhere", "No such file"]);
}

/// A box in Kcell's network and a control: silence with a control after it, a good visit, silence without a control.
fn journal(dir: &TempDir) {
    let key = SecretKey::from_bytes(&[5; 32]);
    let field = Station::Field { carrier: "kz-kcell".parse().unwrap(), access: Access::Mobile };
    let enrolled = |agent: &str, station| {
        let (agent, owner) = (AgentId::parse(agent).unwrap(), "me".parse().unwrap());
        Event::Enrolled(Enrolment { agent, owner, station, key: key.public() })
    };
    let record = |agent: &str, sequence, second: u64, facts: ProbeRecord| {
        let mut facts = ProbeRecord {
            mirror: Some("m1".parse().unwrap()),
            list_version: 1,
            started_at: NOON.plus_secs(second - 1),
            duration_micros: 1_000_000,
            ..facts
        };
        facts.dns[0].server = "192.168.1.1:53".parse().unwrap();
        let link = ChainLink { sequence, ..ChainLink::start(1) };
        let agent = AgentId::parse(agent).unwrap();
        let signed = SignedRecord::sign(&agent, link, zerkalo_proto::record::encode(&facts), &key);
        (second, Event::Record { signed, facts: Box::new(facts), is_ahead: false })
    };
    let entries = [
        (0, Event::Settings(default_settings())),
        (0, enrolled("f", field)),
        (0, enrolled("c", Station::Control)),
        record("c", 0, 5, silenced()),
        record("f", 0, 10, silenced()),
        record("c", 1, 12, reached()),
        record("f", 1, 60, reached()),
        record("c", 2, 61, reached()),
        record("f", 2, 100, silenced()),
        (10_000, Event::Tick),
        record("c", 3, 10_001, reached()),
    ];
    let dated = entries.map(|(second, event)| JournalEntry { at: NOON.plus_secs(second), event });
    let place = dir.path().join("journal");
    std::fs::create_dir(&place).unwrap();
    put(&place, "00000001.zkj", &segment(&dated));
}

#[test]
fn the_public_measurements_get_the_verdicts_of_a_careful_reader() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/ooni");
    let file = |name: &str| -> PathBuf { data.join("measurements").join(name) };
    if !file("ru-rutor-2020.json").exists() {
        eprintln!("skipped: OONI's measurements are not at {}", data.display());
        return;
    }
    let dir = TempDir::new().unwrap();
    let list = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let (http, dns) = (list("fingerprints_http.csv"), list("fingerprints_dns.csv"));
    let import = zerkalo(&dir, &["fingerprints", "import", &http, &dns, "--out", "lists.toml"]);
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let verdict = |name: &str, args: &[&str]| {
        let path = file(name);
        let judgements = judged(&dir, &[&[path.to_str().unwrap()], args].concat());
        format!("{} {}", words(&judgements[0]), judgements[0]["verdict"]["rule"].as_str().unwrap())
    };
    let check = |name: &str, built_in: &str, with_lists: &str| {
        assert_eq!(verdict(name, &[]), built_in, "{name}");
        assert_eq!(
            verdict(name, &["--fingerprints", "lists.toml"]),
            with_lists,
            "{name} with the public lists"
        );
    };
    check(
        "ru-rutor-2020.json",
        "blocked http.redirect http.stub_page",
        "blocked http.redirect http.stub_redirect",
    );
    check(
        "ir-wikipedia-dns.json",
        "blocked dns.injection.bogon dns.bogon",
        "blocked dns.injection.blockpage dns.stub_address",
    );
    check("it-nmrc-no-body.json", "ok - ooni.origin_answers", "ok - ooni.origin_answers");
    check("us-instagram-2023.json", "ok - ooni.same_page", "ok - ooni.same_page");
    check("ir-yooz-null.json", "down - control.failed", "down - control.failed");
}
