//! What a user types wrongly, and what the program says to it.

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::world::*;

/// Runs the program; the answer's status and its words.
pub fn agent(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_zerkalo-agent")).args(arguments).output().unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap_or(-1), words)
}

fn check(arguments: &[&str], status: i32, parts: &[&str]) {
    let (found, words) = agent(arguments);
    assert_eq!(found, status, "{arguments:?}: {words}");
    for part in parts {
        assert!(words.contains(part), "{part:?} is missing for {arguments:?} in: {words}");
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_cannot_be_probed_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (bad_pem, empty) = (write(dir.path(), "bad.pem", "nonsense"), dir.path().join("none.pem"));
    check(&["probe", "not a url"], 2, &["is no URL", "https://mirror.example/"]);
    check(&["probe", "ftp://mirror.example/"], 2, &["ftp", "https and http"]);
    check(&["probe", "https://mirror.example:70000/"], 2, &["port"]);
    check(&["probe", "https://mirror.example:0/"], 2, &["port 0"]);
    check(&["probe", "https://127.0.0.1/"], 2, &["loopback", "--allow-special-ranges"]);
    check(&["probe", "https://[::ffff:10.0.0.1]/"], 2, &["private"]);
    check(
        &["probe", "https://m.example/", "--resolver", "127.0.0.1:99999"],
        2,
        &["127.0.0.1:99999", "IP:PORT"],
    );
    check(&["probe", "https://m.example/", "--resolver", "dns.example"], 2, &["dns.example"]);
    check(&["probe", "https://m.example/", "--timeout", "0"], 2, &["--timeout"]);
    check(&["probe", "https://m.example/", "--canary", "short"], 2, &["canary"]);
    let unreadable = empty.to_str().unwrap();
    check(
        &["probe", "https://m.example/", "--ca-file", unreadable, "--resolver", "127.0.0.1"],
        2,
        &[unreadable, "cannot be read"],
    );
    check(
        &["probe", "https://m.example/", "--ca-file", &bad_pem, "--resolver", "127.0.0.1"],
        2,
        &[&bad_pem, "PEM"],
    );
    check(&["probe"], 2, &["<URL>"]);
}

#[test]
fn settings_with_faults_are_refused_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let state = state.to_str().unwrap();
    let faulty = write(dir.path(), "faulty.toml", "interval_sec = 5\ntimeout_secs = 0\n");
    check(
        &["run", "--dir", state, "--config", &faulty],
        2,
        &[&faulty, "interval_sec: unknown key", "timeout_secs: must be"],
    );
    let broken = write(dir.path(), "broken.toml", "interval_secs = = 5\n");
    check(&["run", "--dir", state, "--config", &broken], 2, &[&broken, "line 1"]);
    let absent = dir.path().join("absent.toml");
    check(
        &["run", "--dir", state, "--config", absent.to_str().unwrap()],
        2,
        &["absent.toml", "cannot be read"],
    );
    let good = write(dir.path(), "good.toml", "interval_secs = 5\n");
    check(&["run", "--dir", state, "--config", &good], 1, &["not enrolled", "zerkalo-agent enroll"]);
}

#[test]
fn enrolment_says_what_is_wrong_before_it_uses_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let state = state.to_str().unwrap();
    let url = "https://127.0.0.1:9";
    check(
        &["enroll", url, "--token-file", "/nowhere/token", "--dir", state],
        1,
        &["/nowhere/token", "cannot be read"],
    );
    let damaged = write(dir.path(), "damaged", "zk1.###");
    check(&["enroll", url, "--token-file", &damaged, "--dir", state], 1, &[&damaged, "damaged"]);
    let other = write(dir.path(), "other", "hello");
    check(&["enroll", url, "--token-file", &other, "--dir", state], 1, &["does not begin with"]);
    let key = zerkalo_core::evidence::SecretKey::from_bytes(&[7; 32]).public().to_hex();
    let pem = Authority::new().pem.replace('\n', "\\n");
    let json = format!(r#"{{"ca_pem":"{pem}","operator_key":"{key}","secret":"s","urls":[]}}"#);
    let token = write(dir.path(), "token", &format!("zk1.{}\n", URL_SAFE_NO_PAD.encode(json)));
    check(&["enroll", "http://127.0.0.1:9", "--token-file", &token, "--dir", state], 1, &["not https"]);
    check(&["enroll", "nonsense", "--token-file", &token, "--dir", state], 1, &["no URL"]);
    check(
        &["enroll", url, "--token-file", &token, "--dir", state],
        1,
        &["no connection to https://127.0.0.1:9"],
    );
    // Each may be said without the other; here nobody listens.
    for word in [["--carrier", "kz-kcell"], ["--access", "mobile"]] {
        let arguments = ["enroll", url, "--token-file", &token, "--dir", state, word[0], word[1]];
        check(&arguments, 1, &["no connection to https://127.0.0.1:9"]);
        let (_, words) = agent(&arguments);
        assert_eq!(words.matches("Connection refused").count(), 1, "{words}");
    }
    check(
        &["enroll", url, "--token-file", &token, "--dir", state, "--carrier", "KZ", "--access", "fixed"],
        2,
        &["not an identifier"],
    );
    std::fs::write(
        Path::new(state).join("identity.toml"),
        format!("agent = \"kz-1\"\nowner = \"o\"\ncollector_urls = []\noperator_key = \"{key}\"\n"),
    )
    .unwrap();
    check(
        &["enroll", url, "--token-file", &token, "--dir", state],
        1,
        &["already enrolled as kz-1", "--force"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_points_at_the_clock() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let key = zerkalo_core::evidence::SecretKey::from_bytes(&[7; 32]).public().to_hex();
    let pem = authority.pem.replace('\n', "\\n");
    let json = format!(r#"{{"ca_pem":"{pem}","operator_key":"{key}","secret":"s","urls":[]}}"#);
    let token = write(dir.path(), "token", &format!("zk1.{}\n", URL_SAFE_NO_PAD.encode(json)));
    // One that is not valid yet is taken: a box without a battery boots in 1970, and the CA is the token's.
    for (years, part) in [((2001, 2002), "expired")] {
        let server = authority.server_in(&["localhost"], years);
        let listener = tokio::net::TcpListener::bind((loopback(1), 0)).await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        tls_server(listener, vec![("", Front::Serve(server, real_page()))]).await;
        let (token, state) = (token.clone(), dir.path().join("state").display().to_string());
        let said = tokio::task::spawn_blocking(move || {
            agent(&["enroll", &url, "--token-file", &token, "--dir", &state])
        });
        let (status, words) = said.await.unwrap();
        assert!(status == 1 && words.contains(part) && words.contains("this machine's clock"), "{words}");
        assert!(!words.contains("transport error"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_prints_a_record_or_a_tree_and_succeeds_whatever_it_saw() {
    let address = http_server(real_page()).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![address.ip()]))]).await.to_string();
    let url = format!("http://{HOST}:{}/", address.port());
    let run = move |arguments: Vec<String>| async move {
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            agent(&arguments)
        })
        .await
        .unwrap()
    };
    let words = |extra: &[&str]| {
        let mut all = vec!["probe".to_owned(), url.clone(), "--resolver".to_owned(), system.clone()];
        all.extend(extra.iter().map(|word| (*word).to_owned()));
        all
    };
    let (status, json) = run(words(&["--json", "--allow-special-ranges", "--canary", CANARY])).await;
    let record = zerkalo_proto::record::from_json(&json).unwrap();
    assert_eq!((status, record.http[0].canary_found, record.dns.len()), (0, Some(true), 3));
    assert!(json.contains("zerkalo.record.v1"));
    let (status, tree) = run(words(&["--allow-special-ranges"])).await;
    assert_eq!(status, 0);
    for part in [HOST, "dns A", "tcp ", "200", "complete", "title: The mirror"] {
        assert!(tree.contains(part), "{part} is missing in {tree}");
    }
    assert!(!tree.contains('\u{1b}'), "colours are for terminals");
    let nobody = system.clone();
    let (status, tree) = run(words(&["--nobody", &nobody, "--dot", "dns.example@127.0.0.1:1"])).await;
    assert!(status == 0 && tree.contains("not tried: loopback"), "{status} {tree}");
    for part in ["@ nobody's", "by DoT  failed: TCP", "by TCP", "EDNS 1400, recursive", "service(s)"] {
        assert!(tree.contains(part), "{part} is missing in {tree}");
    }
}
