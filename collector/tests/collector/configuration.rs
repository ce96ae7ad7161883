//! What the configuration's faults look like to the person who made them.

use std::process::Command;

use crate::world::{COLLECTOR, Site};

#[tokio::test]
async fn every_fault_is_reported_at_once_with_its_key_and_a_remedy() {
    let site = Site::new();
    let path = site.dir.join("collector.toml");
    std::fs::write(
        &path,
        r#"
operator_key = "zz"
oprator = 1
[agents]
listen = "0.0.0.0:70000"
public_urls = ["http://plain.example"]
[operators]
listen = 8444
api_token = "plain"
[webhook]
url = "ftp://example.org"
secret_file = "nowhere.secret"
[data]
catalogue = "nowhere.toml"
[log]
format = "xml"
"#,
    )
    .unwrap();
    let said = site.serve_fails().await;
    for part in [
        "operator_key: ",
        "oprator: is no key",
        "agents.listen: \"0.0.0.0:70000\"",
        "agents.public_urls: \"http://plain.example\" is neither https://HOST:PORT nor quic://HOST:PORT",
        "operators.listen: is no text",
        "operators.api_token_sha256: is missing",
        "operators.api_token: is no key",
        "metrics.listen: is missing",
        "webhook.url: \"ftp://example.org\"",
        "webhook.secret_file: ",
        "nowhere.secret cannot be read",
        "data.catalogue: ",
        "log.format: \"xml\"",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert_eq!(said.matches(path.to_str().unwrap()).count(), 12, "{said}");
    std::fs::write(&path, "operator_key = \"a\"\noperator_key = \"b\"\n").unwrap();
    let said = site.serve_fails().await;
    assert!(said.contains("collector.toml") && said.contains("line 2"), "{said}");
}

#[tokio::test]
async fn executors_are_checked_before_anything_starts_each_fault_with_its_place() {
    let site = Site::new();
    site.configure(
        r#"
[signal]
listen = "everywhere"
[[executors]]
name = "Not A Name"
kind = "carrier pigeon"
[[executors]]
name = "switch"
kind = "program"
markets = ["xx"]
actions = ["dance"]
command = ["switch"]
timeout_secs = 0
attempts = 100000
[[executors]]
name = "switch"
kind = "program"
command = ["./collector.toml"]
colour = "red"
[[executors]]
name = "dns"
kind = "dns"
server = "ns.example:53"
zone = "example.org"
record = "go.example.com"
type = "A"
key_file = "collector.toml"
[executors.values]
m1 = "not an address"
m2 = ["192.0.2.1", "2001:db8::1"]
[[executors]]
name = "root"
kind = "dns"
zone = "example.org"
record = "example.org"
type = "CNAME"
"#,
    );
    let said = site.serve_fails().await;
    for part in [
        "signal.listen: \"everywhere\"",
        "executors[0].name: \"Not A Name\"",
        "executors[0].kind: \"carrier pigeon\"",
        "executors[1].markets: \"xx\" is no market",
        "executors[1].actions: \"dance\" is no action",
        "executors[1].command: names no program by its path",
        "executors[1].timeout_secs: ",
        "executors[1].attempts: ",
        "executors[2].command: ",
        "it is not executable",
        "executors[2].colour: is no key",
        "executors[3].server: \"ns.example:53\"",
        "executors[3].record: go.example.com. is not in zone example.org.",
        "executors[3].values.m1: is no value of a A record",
        "executors[3].values.m2: is no value of a A record",
        "executors[3].key_file: ",
        "holds no TSIG key",
        "executors[4].server: is missing",
        "executors[4].type: the zone's own name can be no CNAME",
        "executors[4].key_file: is missing",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!site.dir.join("collector.lock").exists(), "nothing was touched");
}

#[tokio::test]
async fn a_directory_that_is_none_of_ours_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let ended = Command::new(COLLECTOR).args(arguments).arg(temp.path()).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8(ended.stderr).unwrap()
    };
    let said = run(&["serve"]);
    assert!(said.contains("collector.toml") && said.contains("zerkalo-collector init"), "{said}");
    std::fs::write(temp.path().join("mine"), "precious").unwrap();
    let said = run(&["init"]);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn changed_data_files_are_journaled_and_faulty_ones_refused() {
    let site = Site::new();
    site.serve().await.stop().await;
    let built_in = zerkalo_core::policy::BUILT_IN;
    for (name, text) in ["ru.toml", "kz.toml"].iter().zip(built_in) {
        std::fs::write(site.dir.join(name), text.replace("rotate_hold_secs = 240", "rotate_hold_secs = 60"))
            .unwrap();
    }
    site.configure("[data]\npolicies = [\"ru.toml\", \"kz.toml\"]\n");
    site.serve().await.stop().await;
    site.serve().await.stop().await;
    assert_eq!(site.journal().len(), 2);
    std::fs::write(site.dir.join("kz.toml"), built_in[1].replace("\"kz-kcell\"", "\"kz-nobody\"")).unwrap();
    let bad = built_in[0].replace("rotate_hold_secs = 240", "rotate_hold_secs = 99999999");
    std::fs::write(site.dir.join("ru.toml"), bad.replace("owners_red_min = ", "owners_red_min = 1000"))
        .unwrap();
    let said = site.serve_fails().await;
    let fault = |file: &str, part: &str| {
        said.lines().any(|line| line.contains(&format!("{file}: ")) && line.contains(part))
    };
    assert!(fault("kz.toml", "kz-nobody"), "{said}");
    assert!(fault("ru.toml", "rotate_hold_secs"), "{said}");
    assert!(fault("ru.toml", "cell.owners_red_min"), "{said}");
    assert!(said.contains("3 fault(s)"), "{said}");
}

#[tokio::test]
async fn a_policy_of_one_market_leaves_the_built_in_ones_of_others_in_force() {
    use zerkalo_collector::config::Config;
    let site = Site::new();
    let [ru, kz] = zerkalo_core::policy::BUILT_IN;
    let kz = kz.replace("rotate_hold_secs = 240", "rotate_hold_secs = 60");
    std::fs::write(site.dir.join("kz.toml"), &kz).unwrap();
    site.configure("[data]\npolicies = [\"kz.toml\"]\n");
    assert_eq!(Config::load(&site.dir).unwrap().settings.policies, [kz.as_str(), ru]);
    site.replace("[\"kz.toml\"]", "[\"kz.toml\", \"again.toml\"]");
    std::fs::write(site.dir.join("again.toml"), &kz).unwrap();
    let said = Config::load(&site.dir).unwrap_err().to_string();
    assert!(said.contains("again.toml: ") && said.contains("two policies"), "{said}");
}

#[tokio::test]
async fn a_table_of_networks_is_cut_to_the_catalogues_carriers() {
    use zerkalo_collector::config::Config;
    let site = Site::new();
    let kcell = "44.128.0.0,44.128.0.255,29355\n";
    std::fs::write(
        site.dir.join("networks.csv"),
        format!("# 2026-11-20\nstart,end,asn\n9.9.9.0,9.9.9.255,19281\n{kcell}"),
    )
    .unwrap();
    site.configure("[data]\nnetworks = \"networks.csv\"\n");
    assert_eq!(Config::load(&site.dir).unwrap().settings.networks, format!("# 2026-11-20\n{kcell}"));
    for (table, part) in [
        ("9.9.9.0,9.9.9.255,19281\n", "holds no range of a carrier"),
        ("44.128.0.9,44.128.0.0,29355\n", "line 1: the range ends before it starts"),
    ] {
        std::fs::write(site.dir.join("networks.csv"), table).unwrap();
        let said = Config::load(&site.dir).unwrap_err().to_string();
        assert!(said.contains("data.networks: ") && said.contains(part), "{said}");
    }
}
