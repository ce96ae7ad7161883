//! Backups: made while the collector serves, checked, restored; and every kind of damage found.

use std::path::Path;

use tokio::process::Command;
use zerkalo_core::journal::{Event, JournalEntry};

use crate::world::{COLLECTOR, Site};

/// Runs a command of the collector; what it said, and whether it succeeded.
async fn ask(arguments: &[&str], paths: &[&Path]) -> (bool, String) {
    let ended = Command::new(COLLECTOR).args(arguments).args(paths).output().await.unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_backup_of_a_serving_collector_is_verified_and_restored_and_its_agents_go_on() {
    let mut site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let first = agent.measure("m1");
    link.send_records(std::slice::from_ref(&first)).await;
    link.acked(1).await;
    let copy = site.dir.with_extension("backup");
    let (done, said) = ask(&["backup"], &[&site.dir, &copy]).await;
    assert!(done, "{said}");
    let second = agent.measure("m1");
    link.send_records(std::slice::from_ref(&second)).await;
    link.acked(2).await;
    for dir in [&site.dir, &copy] {
        let (done, said) = ask(&["verify"], &[dir]).await;
        assert!(done && said.contains("every checksum, signature and chain holds"), "{said}");
    }
    assert!(!copy.join("operator").exists(), "the operator's secrets stay where they are");
    let (done, said) = ask(&["backup"], &[&site.dir, &copy]).await;
    assert!(!done && said.contains("not_empty: ") && said.contains("name a new directory"), "{said}");
    collector.kill().await;
    std::fs::remove_dir_all(&site.dir).unwrap();
    let (done, said) = ask(&["restore"], &[&copy, &site.dir]).await;
    assert!(done, "{said}");
    assert_eq!(site.records(), [first]);
    let collector = site.serve().await;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!(welcome.sequence, 1, "it says where it was set back to");
    link.send_records(&[second]).await;
    link.acked(2).await;
    collector.stop().await;
    site.dir = copy;
    assert_eq!(site.records().len(), 1, "the backup is as it was");
}

#[tokio::test]
async fn every_damage_is_found_and_named() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&[agent.measure("m1"), agent.measure("m1")]).await;
    link.acked(2).await;
    collector.stop().await;
    let copy = site.dir.with_extension("backup");
    assert!(ask(&["backup"], &[&site.dir, &copy]).await.0);
    let segment = copy.join("journal/00000001.zkj");
    let whole = std::fs::read(&segment).unwrap();
    for place in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        std::fs::write(&segment, &flipped).unwrap();
        let (done, said) = ask(&["verify"], &[&copy]).await;
        assert!(!done && said.contains("00000001.zkj"), "{place}: {said}");
    }
    let restored = site.dir.with_extension("restored");
    let (done, said) = ask(&["restore"], &[&copy, &restored]).await;
    assert!(!done && said.contains("backup_changed: ") && said.contains("use another backup"), "{said}");
    let (done, said) = ask(&["restore"], &[&site.dir.join("journal"), &restored]).await;
    assert!(!done && said.contains("no_backup: "), "{said}");
    std::fs::write(&segment, &whole).unwrap();
    assert!(ask(&["verify"], &[&copy]).await.0);
    // Whole frames around a record that nobody signed, and around one that is missing.
    let rewrite = |change: &dyn Fn(&mut Vec<JournalEntry>)| {
        let mut entries = site.journal();
        change(&mut entries);
        let dir = site.dir.with_extension("forged");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("state")).unwrap();
        let mut journal = zerkalo_collector::journal::Journal::open(&dir.join("journal"), |_| {}).unwrap();
        journal.append(&entries).unwrap();
        dir
    };
    let is_record = |entry: &JournalEntry| matches!(entry.event, Event::Record { .. });
    let forged = rewrite(&|entries| {
        let last = entries.iter_mut().rev().find(|entry| is_record(entry)).unwrap();
        if let Event::Record { signed, .. } = &mut last.event {
            signed.signature[3] ^= 1;
        }
    });
    let (done, said) = ask(&["verify"], &[&forged]).await;
    assert!(
        !done
            && said.contains("journal_faults: ")
            && said.contains("sequence 2")
            && said.contains("bad_signature"),
        "{said}"
    );
    let robbed = rewrite(&|entries| {
        let first = entries.iter().position(is_record).unwrap();
        entries.remove(first);
    });
    let (done, said) = ask(&["verify"], &[&robbed]).await;
    assert!(!done && said.contains("wrong_chain"), "{said}");
}
