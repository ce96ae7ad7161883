//! Lists with an end, and lists that several keys sign.

use tonic::Status;
use zerkalo_core::evidence::{SecretKey, SignedList};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::MirrorList;
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{self};
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::{list_from_wire, list_to_wire};
use zerkalo_proto::operator_v1::PutMirrorListRequest;

use crate::world::{Agent, Collector, Link, Site, list};

fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(since.as_millis() as u64)
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

async fn put(collector: &Collector, site: &Site, signed: &SignedList) -> String {
    let list = Some(list_to_wire(signed));
    let answer = collector.operator(site).await.put_mirror_list(PutMirrorListRequest { list }).await;
    code(answer)
}

fn code<T>(result: Result<T, Status>) -> String {
    result.map_or_else(|status| code_of(&status).unwrap_or("none").to_owned(), |_| "ok".to_owned())
}

/// The lists an agent gets that holds version `held`, until the newest.
async fn lists(collector: &Collector, site: &Site, agent: &Agent, held: u64, newest: u64) -> Vec<SignedList> {
    let mut link = Link::open(collector.uplink(site, Some(&agent.identity)).await).await.unwrap();
    let hello =
        agent_v1::Hello { agent_version: "test".to_owned(), list_version: held, ..Default::default() };
    link.send(Up::Hello(hello)).await;
    let mut got = Vec::new();
    loop {
        if let Down::List(list) = link.next().await.expect("a list") {
            let signed = list_from_wire(list).unwrap();
            let read: MirrorList = serde_json::from_slice(&signed.bytes).unwrap();
            got.push(signed);
            if read.version == newest {
                return got;
            }
        }
    }
}

#[tokio::test]
async fn a_list_that_has_ended_or_is_of_the_future_is_refused() {
    let site = Site::new();
    let collector = site.serve().await;
    let check = async |version, issued_at: UnixMillis, expires_at: Option<UnixMillis>, expected: &str| {
        let list = MirrorList { issued_at, expires_at, ..list(version, &["m1"]) };
        assert_eq!(put(&collector, &site, &SignedList::sign(&list, &site.signing_key)).await, expected);
    };
    let (day, now) = (86_400_000, now());
    check(1, now.minus_millis(2 * day), Some(now.minus_millis(day)), "list_expired").await;
    check(1, now.plus_millis(day), Some(now.plus_millis(2 * day)), "list_of_the_future").await;
    check(1, now, Some(now.plus_millis(15 * day)), "bad_list").await;
    check(1, now, Some(now), "bad_list").await;
    check(1, now, Some(now.plus_millis(14 * day)), "ok").await;
    // Of an older signer.
    check(2, UnixMillis(1), None, "ok").await;
    collector.stop().await;
}

#[tokio::test]
async fn keys_change_by_the_old_ones_and_agents_get_every_list_that_changed_them() {
    let site = Site::new();
    let collector = site.serve().await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let own = site.signing_key.clone();
    let keys = OperatorKeys::new(vec![own.public(), secret(2).public(), secret(3).public()], 2).unwrap();
    let sign = |version, keys: Option<&OperatorKeys>, by: &[&SecretKey]| {
        let list = MirrorList { keys: keys.cloned(), ..list(version, &["m1"]) };
        let mut signed = SignedList::sign(&list, by[0]);
        assert!(by[1..].iter().all(|key| signed.cosign(key)));
        signed
    };
    assert_eq!(put(&collector, &site, &sign(1, None, &[&own])).await, "ok");
    // By the new keys alone, or by too few of them.
    assert_eq!(
        put(&collector, &site, &sign(2, Some(&keys), &[&secret(2), &secret(3)])).await,
        "bad_signature"
    );
    assert_eq!(put(&collector, &site, &sign(2, Some(&keys), &[&own])).await, "too_few_signatures");
    let changing = sign(2, Some(&keys), &[&own, &secret(2)]);
    assert_eq!(put(&collector, &site, &changing).await, "ok");
    assert_eq!(put(&collector, &site, &sign(3, None, &[&own])).await, "too_few_signatures");
    let newest = sign(3, None, &[&secret(3), &secret(2)]);
    assert_eq!(put(&collector, &site, &newest).await, "ok");
    assert_eq!(lists(&collector, &site, &agent, 1, 3).await, [changing.clone(), newest.clone()]);
    assert_eq!(lists(&collector, &site, &agent, 2, 3).await, std::slice::from_ref(&newest));
    // After a restart too: the journal knows the keys.
    collector.stop().await;
    let collector = site.serve().await;
    assert_eq!(put(&collector, &site, &sign(4, None, &[&own])).await, "too_few_signatures");
    assert_eq!(lists(&collector, &site, &agent, 0, 3).await, [changing, newest]);
    collector.stop().await;
}

#[tokio::test]
async fn keys_of_the_configuration_hold_from_the_first_list_on() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.dir.join("collector.toml")).unwrap();
    let own = site.signing_key.public().to_hex();
    let several =
        format!("operator_keys = [\"{own}\", \"{}\"]\noperator_threshold = 2", secret(2).public().to_hex());
    let text = text.replace(&format!("operator_key = \"{own}\""), &several);
    std::fs::write(site.dir.join("collector.toml"), &text).unwrap();
    let collector = site.serve().await;
    let mut signed = SignedList::sign(&list(1, &["m1"]), &site.signing_key);
    assert_eq!(put(&collector, &site, &signed).await, "too_few_signatures");
    signed.cosign(&secret(2));
    assert_eq!(put(&collector, &site, &signed).await, "ok");
    collector.stop().await;
    std::fs::write(site.dir.join("collector.toml"), text.replace("threshold = 2", "threshold = 3")).unwrap();
    let said = site.serve_fails().await;
    assert!(said.contains("operator_keys") && said.contains("3 of 2"), "{said}");
}
