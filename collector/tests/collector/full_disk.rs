//! A disk without room: nothing is acknowledged that is not kept, and everything goes on once there is room again.

use std::path::PathBuf;

use tokio::process::Command;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::CreateTokenRequest;

use crate::world::{Agent, COLLECTOR, Collector, Site, read_journal};

/// Larger than any journal these tests fill, smaller than patience.
const RECORDS_MAX: usize = 400;

/// A refused record that fills the disk quickly: its body is no record.
fn large(agent: &mut Agent) -> SignedRecord {
    agent.sign(vec![0xff; 60_000])
}

/// Sends large records until one is answered by `storage_full`; gives how many were acked before.
async fn fill(site: &Site, collector: &Collector, agent: &mut Agent) -> u64 {
    use zerkalo_proto::agent_v1::stream_response::Message as Down;
    let (mut link, _) = collector.connect(site, agent).await;
    let mut acked = 0;
    for _ in 0..RECORDS_MAX {
        let before = agent.last;
        link.send_records(&[large(agent)]).await;
        loop {
            match link.next().await {
                Some(Down::Ack(ack)) => acked = ack.sequence,
                Some(Down::Rejection(rejection)) if rejection.code == "malformed" => break,
                Some(Down::Rejection(rejection)) => {
                    assert_eq!((rejection.code.as_str(), rejection.stops_stream), ("storage_full", true));
                    assert_eq!(rejection.sequence, before.sequence + 1);
                    assert!(link.next().await.is_none(), "the stream ends");
                    agent.last = before;
                    return acked;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("{RECORDS_MAX} records of 60 kB did not fill the disk");
}

/// Full: refused again and again, nothing lost. Room again: the same agent goes on.
async fn check(
    site: &Site,
    collector: Collector,
    agent: &mut Agent,
    journal: PathBuf,
    make_room: impl AsyncFnOnce(),
) {
    let acked = fill(site, &collector, agent).await;
    assert!(acked > 2, "{acked} records fitted");
    assert_eq!(fill(site, &collector, agent).await, 0, "a second try is refused too");
    assert!(collector.metric("zerkalo_journal_append_failures_total{code=\"storage_full\"}").await >= 2);
    assert!(collector.metric("zerkalo_records_refused_total{code=\"storage_full\"}").await >= 2);
    let kept = || {
        let entries = read_journal(&journal).into_iter();
        entries.filter(|entry| matches!(entry.event, zerkalo_core::journal::Event::Refused { .. })).count()
            as u64
    };
    assert_eq!(kept(), acked, "what was acked is kept, nothing else");
    make_room().await;
    let (mut link, welcome) = collector.connect(site, agent).await;
    assert_eq!(welcome.sequence, acked);
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(acked + 1).await;
    assert_eq!(kept(), acked);
    collector.stop().await;
}

#[tokio::test]
async fn a_full_file_system_loses_nothing_and_goes_on_once_there_is_room() {
    let may = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output().await;
    if !may.is_ok_and(|ended| ended.status.success()) {
        eprintln!(
            "SKIPPED: a file system of its own needs root and `unshare`; the limit on file sizes is tested instead"
        );
        return;
    }
    let site = Site::new();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=2m tmpfs \"$1/journal\" && exec \"$0\" serve \"$1\"";
    command.args(["-m", "sh", "-c", script, COLLECTOR]).arg(&site.dir);
    let collector = site.serve_by(command).await;
    // The mount is seen only by the process that made it, and through it.
    let root = PathBuf::from(format!("/proc/{}/root", collector.child.id().unwrap()));
    let journal = root.join(site.dir.join("journal").strip_prefix("/").unwrap());
    let ballast = journal.join("ballast");
    std::fs::write(&ballast, vec![0; 512 * 1024]).unwrap();
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    check(&site, collector, &mut agent, journal, async || std::fs::remove_file(ballast).unwrap()).await;
}

#[tokio::test]
async fn a_limit_on_file_sizes_is_met_the_same_way() {
    let site = Site::new();
    let mut command = Command::new("sh");
    // sh counts in blocks of 512 bytes; the signal is ignored so that the write fails instead.
    let script = "trap '' XFSZ; ulimit -S -f 4096; exec \"$0\" serve \"$1\"";
    command.args(["-c", script, COLLECTOR]).arg(&site.dir);
    let collector = site.serve_by(command).await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (pid, journal) = (collector.child.id().unwrap().to_string(), site.dir.join("journal"));
    check(&site, collector, &mut agent, journal, async || {
        let raised =
            Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().await.unwrap();
        assert!(raised.success());
    })
    .await;
}

#[tokio::test]
async fn a_state_without_room_refuses_tokens_and_enrolments_and_recovers() {
    let may = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output().await;
    if !may.is_ok_and(|ended| ended.status.success()) {
        eprintln!("SKIPPED: a file system of its own needs root and `unshare`");
        return;
    }
    let site = Site::new();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=4m tmpfs \"$1/state\" && exec \"$0\" serve \"$1\"";
    command.args(["-m", "sh", "-c", script, COLLECTOR]).arg(&site.dir);
    let collector = site.serve_by(command).await;
    let root = PathBuf::from(format!("/proc/{}/root", collector.child.id().unwrap()));
    let ballast = root.join(site.dir.join("state/ballast").strip_prefix("/").unwrap());
    let request = CreateTokenRequest {
        owner: "anna".to_owned(),
        carrier: "kz-kcell".to_owned(),
        access: "mobile".to_owned(),
        control: false,
        valid_secs: 0,
    };
    let mut operator = collector.operator(&site).await;
    operator.create_token(request.clone()).await.unwrap();
    // Fills what is left, to the last byte.
    let _ = std::fs::write(&ballast, vec![0; 8 * 1024 * 1024]);
    let mut refused = None;
    for _ in 0..20_000 {
        if let Err(status) = operator.create_token(request.clone()).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("the state fills up");
    assert_eq!(code_of(&refused), Some("storage_full"), "{refused}");
    std::fs::remove_file(&ballast).unwrap();
    if let Err(status) = operator.create_token(request).await {
        panic!("{status}: {:#?}", collector.stop().await);
    }
    collector.enrol(&site, "boris", "kz-kcell").await;
    collector.stop().await;
}
