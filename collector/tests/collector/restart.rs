//! What a start finds: the whole journal, a torn end, damage, or a store in use.

use zerkalo_core::journal::Event;
use zerkalo_proto::operator_v1::ListAgentsRequest;

use crate::world::{COLLECTOR, Site, released};

#[tokio::test]
async fn a_killed_collector_comes_back_with_heads_list_and_agents() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 4, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let records: Vec<_> = (0..5).map(|_| agent.measure("m1")).collect();
    link.send_records(&records).await;
    link.acked(5).await;
    collector.kill().await;
    let collector = site.serve().await;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.epoch, welcome.sequence), (1, 5));
    assert_eq!(welcome.hash, agent.last.hash.0.to_vec());
    link.send_records(&records).await;
    link.acked(5).await;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(6).await;
    let agents =
        collector.operator(&site).await.list_agents(ListAgentsRequest {}).await.unwrap().into_inner();
    assert_eq!(agents.agents[0].records, 6);
    assert_eq!(site.records().len(), 6);
    let settings = site.journal().iter().filter(|entry| matches!(entry.event, Event::Settings(_))).count();
    assert_eq!(settings, 1, "settings are journaled when they change, not at each start");
    collector.stop().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_the_acked_part_stays() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let kept = agent.measure("m1");
    link.send_records(std::slice::from_ref(&kept)).await;
    link.acked(1).await;
    let last = agent.last;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(2).await;
    collector.kill().await;
    let path = site.dir.join("journal/00000001.zkj");
    let whole = std::fs::read(&path).unwrap();
    // The mark of a clean end, and a part of the last record.
    std::fs::write(&path, &whole[..whole.len() - 23]).unwrap();
    let collector = site.serve().await;
    let (_link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.sequence, welcome.hash), (1, last.hash.0.to_vec()));
    assert_eq!(site.records(), [kept]);
    let log = collector.stop().await;
    assert!(log.iter().any(|line| line.contains("torn end") && line.contains("00000001.zkj")), "{log:#?}");
}

#[tokio::test]
async fn damage_in_the_middle_is_refused_naming_file_and_offset() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    collector.enrol(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    let path = site.dir.join("journal/00000001.zkj");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let said = site.serve_fails().await;
    assert!(said.contains("journal/00000001.zkj") && said.contains("byte 40"), "{said}");
    assert!(said.contains("zerkalo-collector mend") && said.contains("restore this file"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
}

#[tokio::test]
async fn two_collectors_never_share_a_store() {
    let site = Site::new();
    let collector = site.serve().await;
    let said = site.serve_fails().await;
    let pid = collector.child.id().unwrap();
    assert!(said.contains(&format!("served by another collector already (process {pid})")), "{said}");
    // By another name of the same directory too, and although its ports are free.
    let alias = site.dir.with_file_name("alias");
    std::os::unix::fs::symlink(&site.dir, &alias).unwrap();
    let ended = std::process::Command::new(COLLECTOR).arg("serve").arg(&alias).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains(&format!("(process {pid})")), "{said}");
    // What the first one holds is whole.
    collector.put_list(&site, 1, &["m1"]).await;
    collector.kill().await;
    site.serve().await.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() {
    let site = Site::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}", other.local_addr().unwrap().port());
    site.replace("127.0.0.1:0", &taken);
    let said = site.serve_fails().await;
    assert!(said.contains(&taken) && said.contains("agents.listen"), "{said}");
}

#[tokio::test]
async fn the_log_of_decisions_is_what_the_journal_says_and_nothing_of_it_is_destroyed() {
    use zerkalo_core::market::Decision;
    use zerkalo_durable::store::{Batch, Store, Table};
    const LOG: Table = Table("decision");
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1", "m2"]).await;
    collector.decide_to_keep(&site, &["m1", "m2"]).await;
    let first = collector.decisions(&site).await;
    assert_eq!(first.len(), 2);
    collector.stop().await;
    let mut changed: Decision = serde_json::from_str(&first[0]).unwrap();
    changed.reasons = vec!["as an older version of the rules said".to_owned()];
    {
        let store = Store::open(&site.dir.join("state")).unwrap();
        let mut batch = Batch::default();
        batch.put(LOG, &1u64.to_be_bytes(), changed.to_json().as_bytes());
        batch.delete(LOG, &2u64.to_be_bytes());
        store.commit(batch).unwrap();
    }
    released(&site.dir.join("state")).await;
    let collector = site.serve().await;
    assert_eq!(collector.decisions(&site).await, first);
    let log = collector.stop().await;
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("superseded")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("\"decisions\":1"), "{log:#?}");
    {
        let store = Store::open(&site.dir.join("state")).unwrap();
        let kept: Vec<_> =
            store.scan(Table("decision-superseded"), &[]).map(|found| found.unwrap().1).collect();
        let kept: serde_json::Value = serde_json::from_slice(&kept[0]).unwrap();
        assert_eq!(kept["json"], changed.to_json());
    }
    released(&site.dir.join("state")).await;
    std::fs::remove_dir_all(site.dir.join("state")).unwrap();
    let collector = site.serve().await;
    assert_eq!(collector.decisions(&site).await, first, "the journal alone gives the same bytes again");
    collector.stop().await;
}

#[tokio::test]
async fn a_journal_from_the_future_is_refused_and_accepted_only_when_told_to() {
    use zerkalo_collector::journal::Journal;
    use zerkalo_core::journal::JournalEntry;
    let site = Site::new();
    site.serve().await.stop().await;
    let ahead = |secs| {
        let mut journal = Journal::open(&site.dir.join("journal"), |_| {}).unwrap();
        let at = zerkalo_collector::clock::now().plus_secs(secs);
        journal.append(&[JournalEntry { at, event: Event::Tick }]).unwrap();
        at.to_rfc3339()
    };
    ahead(30);
    site.serve().await.stop().await;
    let at = ahead(3_600);
    let said = site.serve_fails().await;
    assert!(said.contains(&at) && said.contains("--accept-future-journal"), "{said}");
    let mut command = tokio::process::Command::new(crate::world::COLLECTOR);
    command.args(["serve", "--accept-future-journal"]).arg(&site.dir);
    let collector = site.serve_by(command).await;
    collector.put_list(&site, 1, &["m1"]).await;
    collector.put_list(&site, 2, &["m1"]).await;
    // Less what this took.
    assert!((1_800..=3_600).contains(&collector.metric("zerkalo_clock_behind_secs").await));
    let log = collector.stop().await;
    let errors = log.iter().filter(|line| line.contains("behind the journal")).count();
    assert_eq!(errors, 1, "{log:#?}");
}

#[tokio::test]
async fn an_agent_with_a_newer_list_than_ours_is_spoken_of() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 4, &["m1"]).await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    // The agents of these tests say they hold the newest list there can be.
    let _ = collector.connect(&site, &agent).await;
    let log = collector.stop().await;
    let of_lists: Vec<_> = log.iter().filter(|line| line.contains("holds a newer list")).collect();
    let parts = [agent.id.as_str(), &u64::MAX.to_string(), "\"in_force\":4", "zerkalo mirrors"];
    assert!(of_lists.len() == 1 && parts.iter().all(|part| of_lists[0].contains(part)), "{log:#?}");
}

#[tokio::test]
async fn time_alone_moves_a_decision_and_the_journal_says_when() {
    /// Longer than a slow machine takes for three carriers' records.
    const STALE_SECS: u64 = 5;
    let site = Site::new();
    let [ru, kz] = zerkalo_core::policy::BUILT_IN;
    let quick = kz
        .replace("confirm_age_max_secs = 90", &format!("confirm_age_max_secs = {STALE_SECS}"))
        .replace("stale_after_secs = 180", &format!("stale_after_secs = {STALE_SECS}"))
        .replace("\nage_max_secs = 60", &format!("\nage_max_secs = {STALE_SECS}"))
        .replace("every_secs = 120", &format!("every_secs = {STALE_SECS}"))
        .replace("control_wait_secs = 90", &format!("control_wait_secs = {STALE_SECS}"));
    std::fs::write(site.dir.join("ru.toml"), ru).unwrap();
    std::fs::write(site.dir.join("kz.toml"), quick).unwrap();
    site.configure("[data]\npolicies = [\"ru.toml\", \"kz.toml\"]\n");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    collector.decide_to_keep(&site, &["m1"]).await;
    collector.metric_becomes("zerkalo_decisions_total{market=\"kz\",action=\"hold\"}", 1).await;
    collector.stop().await;
    assert!(site.journal().iter().any(|entry| entry.event == Event::Tick));
}
