//! What people order, each under the name of their own token; and what they are refused, by code.

use std::process::Command;

use zerkalo_core::journal::Event;
use zerkalo_proto::code::code_of;
use zerkalo_proto::journal_v1::Ordered;
use zerkalo_proto::operator_v1::{
    ActiveMirrorRequest, ForecastRequest, GiveOrderRequest, ListAlertsRequest, ListPoolRequest,
    ListPoolResponse,
};

use crate::webhook;
use crate::world::{COLLECTOR, Collector, Site};

pub fn order(kind: &str, market: &str, mirror: &str) -> Ordered {
    Ordered {
        // Not theirs to say.
        author: "somebody else".to_owned(),
        reason: "a register lists it".to_owned(),
        kind: kind.to_owned(),
        market: market.to_owned(),
        mirror: mirror.to_owned(),
        ..Ordered::default()
    }
}

pub async fn give(collector: &Collector, site: &Site, order: Ordered) -> Result<String, String> {
    let answer = collector.operator(site).await.give_order(GiveOrderRequest { order: Some(order) }).await;
    answer
        .map(|answer| answer.into_inner().author)
        .map_err(|status| code_of(&status).unwrap_or_else(|| panic!("{status}")).to_owned())
}

async fn pool(collector: &Collector, site: &Site, market: &str) -> ListPoolResponse {
    let request = ListPoolRequest { market: market.to_owned() };
    collector.operator(site).await.list_pool(request).await.unwrap().into_inner()
}

/// Adds an operator and gives the token from the file to be handed over.
fn add(site: &Site, name: &str) -> String {
    let made = Command::new(COLLECTOR).args(["operator", "add"]).arg(&site.dir).arg(name).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.contains(&format!("operator/{name}.toml")), "{said}");
    let text = std::fs::read_to_string(site.dir.join(format!("operator/{name}.toml"))).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert!(!text.contains("signing_key =") && table.contains_key("operator_key"), "{text}");
    table["api_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn orders_are_journaled_under_the_name_of_the_tokens_owner() {
    let site = Site::new();
    let anna = add(&site, "anna");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1", "m2"]).await;
    assert_eq!(give(&collector, &site, order("freeze", "kz", "")).await.as_deref(), Ok("operator"));
    assert_eq!(pool(&collector, &site, "").await.frozen, ["kz"]);
    let mut hers = collector.operator_with(&site, &anna).await;
    let set = Ordered { state: "burned".to_owned(), ..order("set_state", "kz", "m1") };
    let given = hers.give_order(GiveOrderRequest { order: Some(set) }).await.unwrap().into_inner();
    assert_eq!(given.author, "anna");
    let before = pool(&collector, &site, "kz").await;
    let shown: Vec<_> = before
        .mirrors
        .iter()
        .map(|mirror| (mirror.mirror.as_str(), mirror.state.as_str(), mirror.active, mirror.by.as_str()))
        .collect();
    assert_eq!(shown, [("m1", "burned", false, "anna"), ("m2", "live", true, "")]);
    assert_eq!(pool(&collector, &site, "ru").await.mirrors[0].state, "live", "each market has its own");
    collector.kill().await;
    let collector = site.serve().await;
    assert_eq!(pool(&collector, &site, "kz").await, before, "the journal remembers");
    collector.stop().await;
    let authors: Vec<_> = site
        .journal()
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Ordered(order) => Some((order.author, order.kind.word())),
            _ => None,
        })
        .collect();
    assert_eq!(authors, [("operator".to_owned(), "freeze"), ("anna".to_owned(), "set_state")]);
}

#[tokio::test]
async fn an_alert_is_delivered_under_one_id_and_made_again_from_the_journal() {
    // Nobody listens there while the alert is made.
    let site = webhook::site(1);
    let anna = add(&site, "anna");
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let everything = GiveOrderRequest { order: Some(order("rotate_all", "kz", "")) };
    let given = collector.operator(&site).await.give_order(everything).await.unwrap().into_inner();
    let waiting = given.decisions[0].id.clone();
    let approve = Ordered { decision: waiting, ..order("approve", "", "") };
    assert_eq!(give(&collector, &site, approve.clone()).await, Err("same_author".to_owned()));
    let alerts = async |collector: &Collector| {
        let answer = collector.operator(&site).await.list_alerts(ListAlertsRequest::default()).await;
        answer.unwrap().into_inner().alerts
    };
    let listed = alerts(&collector).await;
    assert_eq!((listed[0].id.as_str(), listed[0].kind.as_str()), ("kz-alert-000001", "approval_needed"));
    collector.kill().await;
    // Not a trace of it but in the journal.
    std::fs::remove_dir_all(site.dir.join("state")).unwrap();
    let mut receiver = webhook::Receiver::start(&[]).await;
    site.replace("http://127.0.0.1:1/", &format!("http://127.0.0.1:{}/", receiver.port));
    let collector = site.serve().await;
    assert_eq!(alerts(&collector).await, listed, "the same bytes");
    let mut next_alert = async || {
        loop {
            let (id, json, body) = receiver.next_call().await;
            if json["type"] == "zerkalo.alert" {
                return (id, body);
            }
            assert_eq!(json["type"], "zerkalo.decision");
        }
    };
    let (id, body) = next_alert().await;
    assert_eq!(id, listed[0].id);
    assert!(body.ends_with(format!("{}}}", listed[0].json).as_bytes()), "the logged bytes themselves");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.kill().await;
    // What was told is told no more; what another person's yes brings is new.
    let collector = site.serve().await;
    let mut hers = collector.operator_with(&site, &anna).await;
    let given = hers.give_order(GiveOrderRequest { order: Some(approve) }).await.unwrap().into_inner();
    assert!(given.decisions[0].json.contains("\"effect\":\"act\""), "{given:?}");
    assert_eq!(alerts(&collector).await[1].kind, "pool_empty");
    assert_eq!(next_alert().await.0, "kz-alert-000002");
    collector.stop().await;
}

#[tokio::test]
async fn what_cannot_be_obeyed_is_refused_by_code_and_not_journaled() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let check = async |order: Ordered, code: &str| {
        let shown = format!("{order:?}");
        assert_eq!(give(&collector, &site, order).await, Err(code.to_owned()), "{shown}");
    };
    check(order("freeze", "xx", ""), "unknown_market").await;
    check(order("freeze", "../", ""), "bad_request").await;
    check(order("dance", "kz", ""), "bad_request").await;
    check(Ordered { reason: String::new(), ..order("freeze", "kz", "") }, "bad_order_text").await;
    check(Ordered { reason: "two\nlines".to_owned(), ..order("freeze", "kz", "") }, "bad_order_text").await;
    check(Ordered { reason: "x".repeat(501), ..order("freeze", "kz", "") }, "bad_order_text").await;
    check(order("thaw", "kz", ""), "not_frozen").await;
    check(Ordered { state: "burned".to_owned(), ..order("set_state", "kz", "m9") }, "unknown_mirror").await;
    check(Ordered { state: "on fire".to_owned(), ..order("set_state", "kz", "m1") }, "bad_request").await;
    check(Ordered { decision: "kz-000009".to_owned(), ..order("approve", "", "") }, "nothing_waits").await;
    check(order("release", "kz", "m1"), "no_override").await;
    give(&collector, &site, order("freeze", "kz", "")).await.unwrap();
    check(order("freeze", "kz", ""), "already_frozen").await;
    let status = collector.operator(&site).await.give_order(GiveOrderRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&status), Some("bad_request"));
    collector.stop().await;
    let ordered = site.journal().into_iter().filter(|entry| matches!(entry.event, Event::Ordered(_)));
    assert_eq!(ordered.count(), 1);
}

#[tokio::test]
async fn operators_are_added_named_and_removed_and_the_first_stays() {
    let site = Site::new();
    let run = |arguments: &[&str]| {
        let (command, rest) = arguments.split_first().unwrap();
        let ended =
            Command::new(COLLECTOR).args(["operator", command]).arg(&site.dir).args(rest).output().unwrap();
        (ended.status.success(), String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap())
    };
    let anna = add(&site, "anna");
    assert_eq!(run(&["ls"]), (true, "operator\nanna\n".to_owned()));
    for (arguments, part) in [
        (["add", "anna"], "an operator anna already"),
        (["add", "operator"], "an operator operator already"),
        (["add", "../evil"], "is no operator's name"),
        (["rm", "operator"], "the operator of collector.toml"),
        (["rm", "nobody"], "no operator nobody"),
        (["rm", "../collector"], "no operator ../collector"),
    ] {
        let (done, said) = run(&arguments);
        assert!(!done && said.contains(part), "{arguments:?}: {said}");
    }
    assert!(run(&["rm", "anna"]).0);
    let collector = site.serve().await;
    let mut hers = collector.operator_with(&site, &anna).await;
    let status = hers.list_pool(ListPoolRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&status), Some("unauthenticated"));
    collector.stop().await;
    std::fs::write(site.dir.join("operators/boris.toml"), "api_token_sha256 = \"zz\"\nmore = 1\n").unwrap();
    let said = site.serve_fails().await;
    assert!(said.contains("boris.toml: api_token_sha256") && said.contains("more: is no key"), "{said}");
}

/// SIGHUP.
async fn reload(collector: &Collector) {
    let pid = collector.child.id().unwrap().to_string();
    let sent = tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await.unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn operators_are_read_anew_at_a_hangup_and_a_faulty_file_changes_nothing() {
    let site = Site::new();
    let collector = site.serve().await;
    let asks = async |token: &str| {
        let answer = collector.operator_with(&site, token).await.list_pool(ListPoolRequest::default()).await;
        answer.map(drop).map_err(|status| code_of(&status).unwrap_or_default().to_owned())
    };
    let reloads = |word: &str| format!("zerkalo_operators_reloads_total{{code=\"{word}\"}}");
    let anna = add(&site, "anna");
    assert_eq!(asks(&anna).await, Err("unauthenticated".to_owned()), "not before it is told");
    reload(&collector).await;
    collector.metric_becomes(&reloads("ok"), 1).await;
    assert_eq!(asks(&anna).await, Ok(()));
    // One faulty file of two: neither newcomer is let in, and nobody is shut out.
    let boris = add(&site, "boris");
    let faulty = site.dir.join("operators/celia.toml");
    std::fs::write(&faulty, "api_token_sha256 = \"none\"\n").unwrap();
    reload(&collector).await;
    collector.metric_becomes(&reloads("refused"), 1).await;
    assert_eq!((asks(&anna).await, asks(&site.api_token).await), (Ok(()), Ok(())));
    assert_eq!(asks(&boris).await, Err("unauthenticated".to_owned()));
    std::fs::remove_file(&faulty).unwrap();
    std::fs::remove_file(site.dir.join("operators/anna.toml")).unwrap();
    reload(&collector).await;
    collector.metric_becomes(&reloads("ok"), 2).await;
    assert_eq!(asks(&boris).await, Ok(()));
    assert_eq!(asks(&anna).await, Err("unauthenticated".to_owned()), "who was removed is let in no more");
    let log = collector.stop().await;
    let told: Vec<_> = log.iter().filter(|line| line.contains("NOT read anew")).collect();
    assert!(told.len() == 1 && told[0].contains("celia.toml") && told[0].contains("\"ERROR\""), "{told:#?}");
}

#[tokio::test]
async fn a_market_without_mirrors_is_told_as_such_and_nothing_is_done() {
    let site = Site::new();
    site.configure("[signal]\nlisten = \"127.0.0.1:0\"\n");
    let collector = site.serve().await;
    for version in [0, 1] {
        if version > 0 {
            // A list without a single mirror: everything was taken down.
            collector.put_list(&site, version, &[]).await;
        }
        assert!(pool(&collector, &site, "kz").await.mirrors.is_empty());
        assert_eq!(
            give(&collector, &site, order("rotate_all", "kz", "")).await,
            Err("nothing_live".to_owned())
        );
        let state = Ordered { state: "live".to_owned(), ..order("set_state", "kz", "m1") };
        assert_eq!(give(&collector, &site, state).await, Err("unknown_mirror".to_owned()));
        let active = ActiveMirrorRequest { market: "kz".to_owned(), carrier: String::new() };
        let active = collector.operator(&site).await.active_mirror(active).await.unwrap().into_inner();
        assert_eq!(active.active, None);
        let forecast = ForecastRequest { market: "kz".to_owned() };
        let forecast = collector.operator(&site).await.forecast(forecast).await.unwrap().into_inner();
        assert_eq!((forecast.markets[0].serving, forecast.markets[0].lives), (0, 0));
    }
    let token = crate::signals::token(&collector, &site, "kz").await;
    let answer = crate::signals::ask(&collector, &format!("/signal/{token}/kz.json?http=1"), "").await;
    assert_eq!(crate::signals::status(&answer), 503);
    assert!(collector.decisions(&site).await.is_empty());
    collector.stop().await;
}
