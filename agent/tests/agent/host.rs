//! What the host of a box can say: agree, see what was touched, withdraw.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use zerkalo_core::target::{Category, Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

use crate::cli::agent;
use crate::process::{start, write_state};
use crate::world::*;

/// A mirror at `address`.
fn mirror(address: std::net::SocketAddr, name: &str, category: Option<Category>) -> Mirror {
    Mirror {
        large_page: None,
        id: MirrorId::parse(name).unwrap(),
        url: TargetUrl::parse(&format!("http://{address}/{name}")).unwrap(),
        markets: vec![MarketId::parse("kz").unwrap()],
        canary: None,
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category,
    }
}

/// A server that tells which pages are visited.
async fn server() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (seen, visits) = mpsc::unbounded_channel();
    let body = page(CANARY.as_bytes());
    let pages: Pages = Arc::new(move |path| {
        let _ = seen.send(path.to_owned());
        (body.clone(), After::Continue)
    });
    (http_server(pages).await, visits)
}

fn write_config(dir: &Path, nobody: std::net::SocketAddr) -> std::path::PathBuf {
    let config = dir.join("agent.toml");
    let settings = format!(
        "interval_secs = 1\nallow_special_ranges = true\n[resolvers]\nsystem = [\"{nobody}\"]\npublic = \"{nobody}\"\n"
    );
    std::fs::write(&config, settings).unwrap();
    config
}

#[test]
fn the_terms_are_shown_in_the_hosts_language_and_only_their_version_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state").display().to_string();
    for (language, part) in
        [("en", "WHAT YOU AGREE TO"), ("ru", "НА ЧТО ВЫ СОГЛАШАЕТЕСЬ"), ("kk", "СІЗ НЕГЕ КЕЛІСІМ")]
    {
        let (status, words) = agent(&["consent", "show", "--language", language]);
        assert!(status == 0 && words.contains(part), "{words}");
    }
    let check = |arguments: &[&str], status: i32, part: &str| {
        let (found, words) = agent(arguments);
        assert!(found == status && words.contains(part), "{arguments:?}: {found}: {words}");
    };
    check(&["consent", "show", "--language", "de"], 2, "en, ru and kk");
    check(&["consent", "accept", "0", "--dir", &dir], 1, "other_terms: ");
    check(&["consent", "accept", "0", "--dir", &dir], 1, "consent show");
    check(&["consent", "revoke", "--dir", &dir], 1, "consent_missing: ");
    check(&["consent", "accept", "1", "--dir", &dir, "--categories", "sports"], 2, "human_rights");
    check(&["consent", "revoke", "--dir", &dir], 1, "nobody has agreed");
    check(&["consent", "accept", "1", "--dir", &dir, "--categories", "news,culture"], 0, "for news, culture");
    check(&["touched", "--dir", &dir], 0, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_measured_without_consent_and_withdrawing_it_ends_the_agent() {
    let (address, mut visits) = server().await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let list = MirrorList {
        mirrors: vec![
            mirror(address, "news", Some(Category::News)),
            mirror(address, "shop", Some(Category::Commerce)),
            mirror(address, "plain", None),
        ],
        ..MirrorList::issued(4, UnixMillis(1))
    };
    write_state(dir, &list);
    std::fs::remove_file(dir.join("consent.toml")).unwrap();
    let config = write_config(dir, resolver(&[]).await);
    let without = start(dir, &config).ends();
    assert!(
        without.status.code() == Some(4)
            && without.log.contains("consent_missing: ")
            && without.log.contains("consent accept 1"),
        "{without:?}"
    );

    let state = dir.display().to_string();
    let (status, words) = agent(&["consent", "accept", "1", "--categories", "news", "--dir", &state]);
    assert_eq!(status, 0, "{words}");
    let child = start(dir, &config);
    for _ in 0..3 {
        assert_eq!(visits.recv().await.unwrap(), "/news", "only this was agreed to");
    }
    let (_, words) = agent(&["status", "--dir", &state]);
    assert!(words.contains("list version 4: 1 of 3 mirrors agreed to"), "{words}");
    let (_, words) = agent(&["touched", "--dir", &state]);
    assert!(words.contains(&address.to_string()) && words.contains("HTTP"), "{words}");
    let (_, json) = agent(&["touched", "--dir", &state, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let found = json["targets"].as_array().unwrap().iter().any(|line| {
        line["address"] == address.to_string().as_str()
            && line["manner"] == "http"
            && line["count"].as_u64() > Some(0)
    });
    assert!(found, "{json}");

    let (status, words) = agent(&["consent", "revoke", "--dir", &state]);
    assert!(status == 1 && words.contains("withdrawn: this box") && words.contains("NOT told"), "{words}");
    let ended = child.ends();
    assert!(ended.status.code() == Some(4) && ended.log.contains("consent_withdrawn: "), "{ended:?}");
    let again = start(dir, &config).ends();
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    let (_, words) = agent(&["status", "--dir", &state]);
    assert!(words.contains("measures nothing: consent_withdrawn: "), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_list_is_touched_by_nobody() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let (address, mut visits) = server().await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let list = MirrorList {
        mirrors: vec![mirror(address, "news", None)],
        stop: Some("a law suit".to_owned()),
        ..MirrorList::issued(4, UnixMillis(1))
    };
    write_state(dir, &list);
    let config = write_config(dir, resolver(&[]).await);
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_zerkalo-agent"))
        .args(["run", "--dir"])
        .arg(dir)
        .arg("--config")
        .arg(&config)
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lost = 0;
    // It goes on trying to reach its collector, more than once, and touches nothing else.
    while lost < 2 {
        let line = log.next_line().await.unwrap().expect("the agent ended");
        lost += usize::from(line.contains("uplink lost"));
    }
    child.kill().await.unwrap();
    assert!(visits.try_recv().is_err(), "the mirror was visited");
    let (_, words) = agent(&["status", "--dir", &dir.display().to_string()]);
    assert!(words.contains("STOPPED by the operator: a law suit"), "{words}");
}
