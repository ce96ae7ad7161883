//! Files: those shipped with the programs, and such as the programs write.

use std::io::Write as _;

use zerkalo_core::audit::{Act, AuditHead};
use zerkalo_core::ooni::{Exported, export};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use super::Seed;
use super::statements::{list, record};

const CATALOGUE: &str = include_str!("../../../../shared/data/catalogue.toml");
const FINGERPRINTS: &str = include_str!("../../../../shared/data/fingerprints.toml");
const NOISE: &str = include_str!("../../../../shared/data/noise/default.toml");
const KZ: &str = include_str!("../../../../shared/data/policy/kz.toml");
const RU: &str = include_str!("../../../../shared/data/policy/ru.toml");
const AGENT: &str = include_str!("../../../../deploy/agent.toml");
const COLLECTOR: &str = include_str!("../../../../deploy/collector.toml");
const STATE: [(&str, &str); 6] = [
    ("identity", include_str!("../../data/identity.toml")),
    ("consent", include_str!("../../data/consent.toml")),
    ("touched", r#"{"targets":[],"forgotten":3}"#),
    ("standing", r#"{"code":"agent_locked","detail":"two boxes"}"#),
    ("paths", include_str!("../../data/paths.json")),
    ("key", "0707070707070707070707070707070707070707070707070707070707070707\n"),
];

pub fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |target, name, text: &str| seeds.push((target, name, text.as_bytes().to_vec()));
    add("policy", "kz", KZ);
    add("policy", "ru", RU);
    add("catalogue", "built_in", CATALOGUE);
    add("noise", "default", NOISE);
    add("fingerprints", "built_in", FINGERPRINTS);
    add("fingerprints", "imported", &format!("{FINGERPRINTS}{}", include_str!("../../data/imported.toml")));
    add("fingerprints_csv", "rows", include_str!("../../data/fingerprints.csv"));
    add("networks", "both", include_str!("../../data/networks.csv"));
    add("agent_config", "sample", AGENT);
    add(
        "agent_config",
        "resolvers",
        "9.9.9.9:53\n[2620:fe::fe]:53\ndns.quad9.net@9.9.9.9:853\nhttps://dns.quad9.net/dns-query@9.9.9.9\n",
    );
    add("collector_config", "sample", COLLECTOR);
    add("collector_config", "sound", include_str!("../../data/collector.toml"));
    add("collector_config", "operator", &format!("api_token_sha256 = \"{}\"\n", "5a".repeat(32)));
    add("operator_file", "first", include_str!("../../data/operator.toml"));
    add(
        "tsig_key",
        "clause",
        "key \"zerkalo\" {\n\talgorithm hmac-sha256;\n\tsecret \"C2FVsBQIhrscChlQIMV+b5sSYspob7oD\";\n};\n",
    );
    add("tsig_key", "one_line", "# hmac-sha256:zerkalo:C2FVsBQIhrscChlQIMV+b5sSYspob7oD\nkey:\n");
    add("tsig_key", "values", "192.0.2.7\n2001:db8::7\nM2.example.\n");
    STATE.iter().for_each(|(name, text)| add("agent_state", name, text));
    let signed = serde_json::json!({
        "list": serde_json::to_string(&list()).expect("a list is JSON"),
        "signature": "00".repeat(64),
    });
    add("agent_state", "list", &signed.to_string());
    add("audit", "lines", &audit());
    add(
        "audit",
        "delivery",
        r#"{"id":"kz-000001","market":"kz","attempts":2,"word":"pause","last_error":"HTTP 500"}"#,
    );
    add("audit", "alert", include_str!("../../data/alert.json"));
    add("backup", "one", &manifest("collector.toml"));
    add("backup", "outside", &manifest("../from/collector.toml"));
    let mut sample = record();
    sample.tls.truncate(3);
    sample.http.truncate(2);
    let ours = Exported { record: &sample, control: Some(&sample), asn: 9_198, country: None };
    let ooni = export(&ours).to_json();
    add("ooni", "one", &ooni);
    add("ooni", "lines", &format!("{ooni}\n\n{{\"test_name\":\"other\"}}\n"));
    seeds.push(("ooni", "gzip", zipped(ooni.as_bytes())));
    seeds
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(bytes).and_then(|()| writer.finish()).expect("memory takes any bytes")
}

fn audit() -> String {
    let (mut head, mut lines) = (AuditHead::default(), String::new());
    for (number, act) in ["order.freeze", "token.make"].into_iter().enumerate() {
        let act = Act { by: "anna".into(), token: "1a2b".into(), act, about: vec![("market", "kz".into())] };
        let (line, next) = head.append(UnixMillis(1_795_000_000_000 + number as u64), &act);
        lines += &format!("{line}\n");
        head = next;
    }
    lines
}

fn manifest(name: &str) -> String {
    let digest = Sha256::of(b"x = 1\n");
    serde_json::json!({"version": 1, "at": 1_795_000_000_000_u64, "files": {name: digest.to_string()}})
        .to_string()
}
