//! The sample in deploy/ is loaded as a person would use it: in a directory with its policies and a webhook secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zerkalo_collector::config::Config;

#[test]
fn the_shipped_sample_is_a_configuration() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    for file in ["collector.toml", "policies/ru.toml", "policies/kz.toml"] {
        std::fs::copy(deploy.join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("webhook.secret"), "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\n").unwrap();
    let key =
        "key \"zerkalo\" {\n\talgorithm hmac-sha256;\n\tsecret \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\";\n};\n";
    std::fs::write(dir.path().join("dns.key"), key).unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    let program = dir.path().join("bin/switch-sources");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let config = Config::load(dir.path()).unwrap();
    let names: Vec<_> = config.executors.iter().map(|executor| executor.name.as_str()).collect();
    assert_eq!(names, ["webhook", "ad-sources", "dns-kz"]);
    assert!(config.signal.is_some());
    assert!(config.settings.policies.iter().all(|policy| policy.contains("stale_after_secs = 900")));
    // And it can fail: one key misspelt.
    let path = dir.path().join("collector.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("[metrics]", "[metrix]");
    std::fs::write(&path, text).unwrap();
    assert!(Config::load(dir.path()).is_err());
}
