//! The whole way: a block is measured, the market pauses and rotates, and everybody acts on it once; a clock jumps.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hickory_proto::rr::RecordType;
use tokio::process::Command;
use zerkalo_core::evidence::SignedList;
use zerkalo_core::market::{Action, Decision, Effect};
use zerkalo_core::policy::BUILT_IN;
use zerkalo_core::record::{
    DnsDetail, DnsExchange, DnsOutcome, DnsTransport, ProbeRecord, QueryType, ReferenceCheck, ResolverKind,
    Span,
};
use zerkalo_core::target::{ReferenceSide, TargetUrl};
use zerkalo_core::words::MarketId;
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::list_to_wire;
use zerkalo_proto::operator_v1::{
    Delivery, DropDeliveryRequest, ListDeliveriesRequest, PutMirrorListRequest, RetryDeliveryRequest,
};

use crate::dns::{Named, SECRET, key_text};
use crate::signals;
use crate::world::{Agent, COLLECTOR, Collector, Link, PATIENCE, Site, body, facts, list};

/// The shipped policy, but for the wait before a rotation.
fn policy() -> String {
    let shipped = BUILT_IN.iter().find(|text| text.contains("\nmarket = \"kz\"\n")).unwrap();
    let line = shipped.lines().find(|line| line.starts_with("rotate_hold_secs = ")).unwrap();
    shipped.replace(line, "rotate_hold_secs = 1")
}

/// A collector whose market rotates within seconds, with executors of the test's own.
fn site(executors: &str) -> Site {
    let site = Site::new();
    std::fs::write(site.dir.join("kz.toml"), policy()).unwrap();
    site.configure(&format!(
        "[data]\npolicies = [\"kz.toml\"]\n[signal]\nlisten = \"127.0.0.1:0\"\n{executors}"
    ));
    site
}

/// An executable script in the site's directory, put there at once.
fn script(site: &Site, name: &str, text: &str) {
    let draft = site.dir.join(format!("{name}.draft"));
    std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(draft, site.dir.join(name)).unwrap();
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What an agent finds: the page, or a resolver that denies the name.
fn visit(mirror: &str, blocked: bool) -> ProbeRecord {
    let mut record = facts(mirror);
    let check = |side| ReferenceCheck {
        side,
        url: TargetUrl::parse("https://reference.example/").unwrap(),
        checked_at: record.started_at,
        reached: true,
        failure: None,
    };
    record.references = [ReferenceSide::Domestic, ReferenceSide::Foreign].map(check).to_vec();
    let (rcode, addresses) = if blocked { (3, vec![]) } else { (0, vec!["192.0.2.1".parse().unwrap()]) };
    record.dns = vec![DnsExchange {
        detail: DnsDetail::default(),
        transport: DnsTransport::Udp,
        others: vec![],
        resolver: ResolverKind::System,
        server: "192.0.2.53:53".parse().unwrap(),
        name: format!("{mirror}.example"),
        query: QueryType::A,
        span: Span::default(),
        outcome: DnsOutcome::Answer { rcode, addresses, cnames: vec![], ttl_min_secs: 60 },
    }];
    if blocked {
        record.http.clear();
    }
    record
}

/// Boxes on the uplink of one collector process.
struct Boxes(Vec<(Agent, Link, bool)>);

impl Boxes {
    /// Two owners at each of two carriers that will block, one at each of two that will not, and a control.
    async fn connect(site: &Site, collector: &Collector) -> Self {
        let mut boxes = Vec::new();
        for (carrier, owners, blocks) in [
            ("kz-kazakhtelecom", 2, true),
            ("kz-beeline", 2, true),
            ("kz-kcell", 1, false),
            ("kz-tele2-altel", 1, false),
            ("", 1, false),
        ] {
            for owner in 0..owners {
                let agent = collector.enrol(site, &format!("owner-{carrier}{owner}"), carrier).await;
                let (link, _) = collector.connect(site, &agent).await;
                boxes.push((agent, link, blocks));
            }
        }
        Self(boxes)
    }

    /// Everybody visits both mirrors, the control last.
    async fn round(&mut self, is_blocked: bool) {
        for (agent, link, blocks) in &mut self.0 {
            let seen = [visit("m1", *blocks && is_blocked), visit("m2", false)];
            let records: Vec<_> = seen.iter().map(|facts| agent.sign(body(facts))).collect();
            let last = records[1].link().sequence;
            link.send_records(&records).await;
            link.acked_past_wishes(last).await;
        }
    }

    /// Rounds until the log says so.
    async fn until(
        &mut self,
        site: &Site,
        collector: &Collector,
        is_blocked: bool,
        done: impl Fn(&[Decision]) -> bool,
    ) -> Vec<Decision> {
        let rounds = async {
            loop {
                self.round(is_blocked).await;
                let log = collector.decisions(site).await;
                let log: Vec<Decision> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
                if done(&log) {
                    return log;
                }
            }
        };
        tokio::time::timeout(PATIENCE * 2, rounds).await.expect("it is decided in time")
    }
}

async fn put_list(site: &Site, collector: &Collector) {
    let mut list = list(1, &["m1", "m2"]);
    for mirror in &mut list.mirrors {
        mirror.markets = vec![MarketId::parse("kz").unwrap()];
    }
    list.mirrors[1].standby = true;
    let list = Some(list_to_wire(&SignedList::sign(&list, &site.signing_key)));
    collector.operator(site).await.put_mirror_list(PutMirrorListRequest { list }).await.unwrap();
}

fn has(log: &[Decision], action: Action) -> bool {
    log.iter().any(|decision| decision.action == action && decision.mirror.as_str() == "m1")
}

async fn deliveries(site: &Site, collector: &Collector) -> Vec<Delivery> {
    let answer = collector.operator(site).await.list_deliveries(ListDeliveriesRequest {}).await;
    answer.unwrap().into_inner().deliveries
}

#[tokio::test]
async fn a_block_ends_in_a_rotation_that_everybody_carries_out_once() {
    let Some(named) = Named::start().await else { return };
    let site = site(&format!(
        "[[executors]]\nname = \"switch\"\nkind = \"program\"\nactions = [\"pause\", \"rotate\"]\ncommand = [\"./switch\"]\n\
         [[executors]]\nname = \"dns\"\nkind = \"dns\"\nserver = \"{}\"\nzone = \"example.org\"\nrecord = \"go.example.org\"\n\
         type = \"CNAME\"\nkey_file = \"dns.key\"\n",
        named.address
    ));
    script(&site, "switch", "echo $ZERKALO_IDEMPOTENCY_KEY >> ran; cat > last");
    std::fs::write(site.dir.join("dns.key"), key_text("zerkalo", SECRET)).unwrap();
    let collector = site.serve().await;
    put_list(&site, &collector).await;
    let token = signals::token(&collector, &site, "kz").await;
    let live = async |collector: &Collector| {
        let answer = signals::ask(collector, &format!("/signal/{token}/kz.json?http=1"), "").await;
        (signals::status(&answer), signals::body(&answer).to_owned())
    };
    let mut boxes = Boxes::connect(&site, &collector).await;
    boxes.until(&site, &collector, false, |log| has(log, Action::Keep)).await;
    let (status, said) = live(&collector).await;
    assert!(status == 200 && said.contains("\"m1\""), "{said}");
    let log = boxes.until(&site, &collector, true, |log| has(log, Action::Rotate)).await;
    assert!(has(&log, Action::Pause), "a pause comes first");
    let rotation = log.iter().find(|decision| decision.action == Action::Rotate).unwrap();
    assert_eq!(rotation.effect, Effect::Act);
    assert_eq!(rotation.replacement.as_ref().unwrap().mirror.as_str(), "m2");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    let acted: Vec<_> = log
        .iter()
        .filter(|decision| {
            matches!(decision.action, Action::Pause | Action::Rotate) && decision.effect == Effect::Act
        })
        .map(|decision| decision.id.clone())
        .collect();
    assert_eq!(lines(&site.dir.join("ran")), acted, "each once, in order");
    let last: serde_json::Value =
        serde_json::from_slice(&std::fs::read(site.dir.join("last")).unwrap()).unwrap();
    assert_eq!(last["data"]["replacement"]["mirror"], "m2");
    assert_eq!(named.answers("go.example.org", RecordType::CNAME).await, ["m2.example."]);
    let (status, said) = live(&collector).await;
    assert!(status == 200 && said.contains("\"m2\"") && said.contains("http://m2.example/"), "{said}");
    collector.kill().await;
    let collector = site.serve().await;
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    assert!(live(&collector).await.1.contains("\"m2\""));
    collector.stop().await;
    assert_eq!(lines(&site.dir.join("ran")), acted, "a restart does nothing again");
}

#[tokio::test]
async fn what_an_executor_cannot_do_is_given_up_listed_and_done_when_a_person_asks() {
    let site = site(
        "[[executors]]\nname = \"switch\"\nkind = \"program\"\ncommand = [\"./switch\"]\nrefusals = 1\n",
    );
    script(&site, "switch", "echo the register is locked >&2; exit 3");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    collector.decide_to_keep(&site, &["m1"]).await;
    collector.metric_becomes("zerkalo_deliveries_total{executor=\"switch\",result=\"dead\"}", 1).await;
    collector.kill().await;
    let collector = site.serve().await;
    let dead = deliveries(&site, &collector).await;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].id.as_str(), dead[0].dead, dead[0].attempts), ("switch/kz-000001", true, 1));
    assert_eq!((dead[0].given_up_because.as_str(), dead[0].refusals), ("refused", 1));
    assert!(dead[0].last_error.contains("exit status: 3, saying \"the register is locked\""), "{dead:?}");
    let mut operator = collector.operator(&site).await;
    for id in ["switch/kz-000009", "nobody/kz-000001", "", "../"] {
        let id = id.to_owned();
        let status = operator.retry_delivery(RetryDeliveryRequest { id: id.clone() }).await.unwrap_err();
        assert_eq!(code_of(&status), Some("unknown_delivery"));
        let status = operator.drop_delivery(DropDeliveryRequest { id }).await.unwrap_err();
        assert_eq!(code_of(&status), Some("unknown_delivery"));
    }
    script(&site, "switch", "echo $ZERKALO_IDEMPOTENCY_KEY >> ran");
    operator.retry_delivery(RetryDeliveryRequest { id: dead[0].id.clone() }).await.unwrap();
    collector.metric_becomes("zerkalo_deliveries_total{executor=\"switch\",result=\"delivered\"}", 1).await;
    assert_eq!(lines(&site.dir.join("ran")), ["kz-000001"]);
    assert_eq!(deliveries(&site, &collector).await, []);
    collector.stop().await;
}

/// Less than any jump here, in seconds.
const HOURS_SECS: u64 = 4 * 3_600;

/// Serves under a clock that a file sets: seconds to add to the machine's. `None`, loudly, without libfaketime.
async fn serve_shifted(site: &Site) -> Option<Collector> {
    let found =
        Command::new("sh").args(["-c", "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null"]).output();
    let library = String::from_utf8(found.await.unwrap().stdout).unwrap().trim().to_owned();
    if library.is_empty() {
        eprintln!(
            "!!! SKIPPED: libfaketime is missing, so jumping clocks were NOT tested. Run tests/prepare as root."
        );
        return None;
    }
    let mut command = Command::new(COLLECTOR);
    command
        .arg("serve")
        .arg(&site.dir)
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", site.dir.join("clock"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Some(site.serve_by(command).await)
}

fn shift_clock(site: &Site, shift: &str) {
    let draft = site.dir.join("clock.draft");
    std::fs::write(&draft, format!("{shift}\n")).unwrap();
    std::fs::rename(draft, site.dir.join("clock")).unwrap();
}

/// What was decided before a jump, after it, and once the process was killed and started again.
async fn jump(shift: &str) -> Option<(Vec<String>, Vec<String>, Vec<String>)> {
    let site = site("[[executors]]\nname = \"switch\"\nkind = \"program\"\ncommand = [\"./switch\"]\n");
    script(&site, "switch", "echo $ZERKALO_IDEMPOTENCY_KEY >> ran");
    shift_clock(&site, "+0");
    let collector = serve_shifted(&site).await?;
    put_list(&site, &collector).await;
    let mut boxes = Boxes::connect(&site, &collector).await;
    boxes.until(&site, &collector, false, |log| has(log, Action::Keep)).await;
    let before = collector.decisions(&site).await;
    shift_clock(&site, shift);
    // The writer looks at the clock no more rarely than every ten seconds, and at each group.
    for _ in 0..3 {
        boxes.round(false).await;
    }
    let after = collector.decisions(&site).await;
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    let behind_secs = collector.metric("zerkalo_clock_behind_secs").await;
    assert_eq!(behind_secs > HOURS_SECS, shift.starts_with('-'), "{behind_secs} s behind after {shift}");
    collector.kill().await;
    // Whatever the clock says by then, the journal's last entry may be later than it.
    let restarted = site.serve_by({
        let mut command = Command::new(COLLECTOR);
        command.arg("serve").arg(&site.dir).arg("--accept-future-journal");
        command
    });
    let collector = restarted.await;
    let again = collector.decisions(&site).await;
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.stop().await;
    let instants: Vec<_> = site.journal().iter().map(|entry| entry.at).collect();
    assert!(instants.is_sorted(), "the journal's instants never fall");
    let is_ahead = instants.last().unwrap().0 > zerkalo_collector::clock::now().plus_secs(HOURS_SECS).0;
    assert_eq!(is_ahead, shift.starts_with('+'), "the collector saw the clock jump");
    let ran = lines(&site.dir.join("ran"));
    let once: std::collections::BTreeSet<_> = ran.iter().collect();
    assert_eq!(ran.len(), once.len(), "nothing was done twice: {ran:?}");
    Some((before, after, again))
}

#[tokio::test]
async fn a_clock_that_jumps_back_by_hours_decides_nothing_twice() {
    let Some((before, after, again)) = jump("-5h").await else { return };
    assert_eq!(after, before, "time stands still");
    assert_eq!(again, after, "the log is what the journal says");
}

#[tokio::test]
async fn a_clock_that_jumps_forward_by_hours_decides_nothing_twice_and_blocks_nothing() {
    let Some((before, after, again)) = jump("+5h").await else { return };
    assert!(after.starts_with(&before), "the log only grows");
    assert!(again.starts_with(&after), "and is what the journal says");
    let acts = |line: &String| {
        let decision: Decision = serde_json::from_str(line).unwrap();
        matches!(decision.action, Action::Pause | Action::Rotate | Action::Retire)
    };
    assert!(!after.iter().any(acts), "{after:#?}");
}
