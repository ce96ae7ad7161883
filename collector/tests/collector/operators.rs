//! What operators ask, and what they are refused.

use futures::StreamExt;
use tonic::Code as Grpc;
use zerkalo_core::evidence::{SecretKey, SignedList};
use zerkalo_core::target::{
    CANARY_LEN_MAX, MirrorList, PINS_MAX, Reference, ReferenceSide, Sha256, TargetUrl,
};
use zerkalo_core::words::MarketId;
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::list_to_wire;
use zerkalo_proto::operator_v1::{
    CreateTokenRequest, ExplainDecisionRequest, GetMatrixRequest, GetMirrorListRequest, ListAgentsRequest,
    ListDecisionsRequest, PutMirrorListRequest, WatchMatrixRequest,
};

use crate::world::{PATIENCE, Site, channel, list};

#[tokio::test]
async fn without_the_api_token_nothing_is_answered_but_health() {
    let site = Site::new();
    let collector = site.serve().await;
    let mut stranger = collector.operator_with(&site, "guess").await;
    let status = stranger.list_agents(ListAgentsRequest {}).await.unwrap_err();
    assert_eq!((status.code(), code_of(&status)), (Grpc::Unauthenticated, Some("unauthenticated")));
    let status = stranger.watch_matrix(WatchMatrixRequest {}).await.unwrap_err();
    assert_eq!(code_of(&status), Some("unauthenticated"));
    assert_eq!(collector.metric("zerkalo_requests_refused_total{code=\"unauthenticated\"}").await, 2);
    for port in [collector.agents, collector.operators] {
        let mut health =
            tonic_health::pb::health_client::HealthClient::new(channel(port, &site.ca_pem, None).await);
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    collector.stop().await;
}

#[tokio::test]
async fn a_list_needs_the_operators_key_a_higher_version_and_public_addresses() {
    let site = Site::new();
    let collector = site.serve().await;
    let mut operator = collector.operator(&site).await;
    let mut put = async |list: &MirrorList, key: &SecretKey| {
        let list = Some(list_to_wire(&SignedList::sign(list, key)));
        let answer = operator.put_mirror_list(PutMirrorListRequest { list }).await;
        answer
            .map(|answer| answer.into_inner().version)
            .map_err(|status| code_of(&status).unwrap().to_owned())
    };
    let key = &site.signing_key;
    let first = list(2, &["m1"]);
    assert_eq!(put(&first, key).await, Ok(2));
    assert_eq!(put(&list(9, &["m1"]), &SecretKey::from_bytes(&[3; 32])).await.unwrap_err(), "bad_signature");
    assert_eq!(put(&list(2, &["m2"]), key).await.unwrap_err(), "version_not_rising");
    assert_eq!(put(&list(1, &["m2"]), key).await.unwrap_err(), "version_not_rising");
    assert_eq!(put(&list(9, &["m1", "m1"]), key).await.unwrap_err(), "bad_list");
    for address in ["127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:192.168.0.1]", "169.254.169.254"] {
        let mut special = list(9, &["m1"]);
        special.mirrors[0].url = TargetUrl::parse(&format!("http://{address}/")).unwrap();
        assert_eq!(put(&special, key).await.unwrap_err(), "special_range", "{address}");
    }
    let mut elsewhere = list(9, &["m1"]);
    elsewhere.mirrors[0].markets = vec![MarketId::parse("xx").unwrap()];
    assert_eq!(put(&elsewhere, key).await.unwrap_err(), "unknown_market");
    let mut elsewhere = list(9, &["m1"]);
    elsewhere.references = vec![Reference {
        market: MarketId::parse("xx").unwrap(),
        side: ReferenceSide::Domestic,
        url: TargetUrl::parse("https://reference.example/").unwrap(),
    }];
    assert_eq!(put(&elsewhere, key).await.unwrap_err(), "unknown_market");
    // Within every limit of the types, and still more than agents read.
    let ids: Vec<_> = (0..1_000).map(|number| format!("m{number}")).collect();
    let mut large = list(9, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    large.mirrors.iter_mut().for_each(|mirror| mirror.key_pins = vec![Sha256::default(); PINS_MAX]);
    assert_eq!(put(&large, key).await.unwrap_err(), "too_large");
    large.mirrors.iter_mut().for_each(|mirror| mirror.canary = Some("c".repeat(CANARY_LEN_MAX)));
    large.mirrors.iter_mut().for_each(|mirror| mirror.url = long_url());
    assert_eq!(put(&large, key).await.unwrap_err(), "too_large");
    assert_eq!(collector.metric("zerkalo_requests_refused_total{code=\"special_range\"}").await, 5);
    let mut operator = collector.operator(&site).await;
    let status = operator.put_mirror_list(PutMirrorListRequest { list: None }).await.unwrap_err();
    assert_eq!(code_of(&status), Some("bad_request"));
    let kept = operator.get_mirror_list(GetMirrorListRequest {}).await.unwrap().into_inner().list;
    assert_eq!(kept, Some(list_to_wire(&SignedList::sign(&first, key))));
    collector.stop().await;
}

fn long_url() -> TargetUrl {
    TargetUrl::parse(&format!("https://mirror.example/{}", "p".repeat(2_000))).unwrap()
}

#[tokio::test]
async fn a_token_is_for_a_known_carrier_or_a_control() {
    let site = Site::new();
    let collector = site.serve().await;
    let mut operator = collector.operator(&site).await;
    let mut check = async |owner: &str, carrier: &str, access: &str, control, valid_secs, code| {
        let (owner, carrier, access) = (owner.to_owned(), carrier.to_owned(), access.to_owned());
        let request = CreateTokenRequest { owner, carrier, access, control, valid_secs };
        let answer = operator.create_token(request.clone()).await;
        let found = answer.as_ref().err().map(|status| code_of(status).unwrap());
        assert_eq!(found, code, "{request:?}");
    };
    check("anna", "kz-kcell", "mobile", false, 0, None).await;
    check("anna", "", "", true, 60, None).await;
    check("anna", "kz-nobody", "mobile", false, 0, Some("unknown_carrier")).await;
    check("anna", "../etc", "mobile", false, 0, Some("unknown_carrier")).await;
    check("anna", "kz-kcell", "mobile", true, 0, Some("bad_request")).await;
    check("anna", "", "", false, 0, Some("bad_request")).await;
    check("anna", "kz-kcell", "", false, 0, Some("bad_request")).await;
    check("anna", "kz-kcell", "dial-up", false, 0, Some("bad_request")).await;
    check("Anna!", "kz-kcell", "mobile", false, 0, Some("bad_request")).await;
    check("anna", "kz-kcell", "mobile", false, 59, Some("bad_request")).await;
    check("anna", "kz-kcell", "mobile", false, 2_592_001, Some("bad_request")).await;
    collector.stop().await;
}

#[tokio::test]
async fn the_matrix_and_the_decision_log_follow_the_records() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut operator = collector.operator(&site).await;
    let mut watch = operator.watch_matrix(WatchMatrixRequest {}).await.unwrap().into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("a matrix in time");
        next.unwrap().unwrap().matrix.unwrap()
    };
    let empty = next().await;
    assert_eq!(empty.rows.len(), 2, "one mirror in two markets: {empty:?}");
    for carrier in ["kz-kazakhtelecom", "kz-beeline", "kz-kcell"] {
        let mut agent = collector.enrol(&site, carrier, carrier).await;
        let (mut link, _) = collector.connect(&site, &agent).await;
        link.send_records(&[agent.measure("m1")]).await;
        link.acked(1).await;
    }
    let decided = loop {
        let matrix = next().await;
        // Two carriers of four are enough to decide; the third is still to come then.
        let is_whole = |row: &zerkalo_proto::operator_v1::MarketRow| {
            !row.action.is_empty()
                && row.carriers.iter().filter(|carrier| carrier.state == "green").count() == 3
        };
        if let Some(row) = matrix.rows.into_iter().find(is_whole) {
            break row;
        }
    };
    assert_eq!((decided.market.as_str(), decided.action.as_str()), ("kz", "keep"));
    let request = |market: &str, limit| ListDecisionsRequest { market: market.to_owned(), limit };
    let all = operator.list_decisions(request("", 0)).await.unwrap().into_inner().decisions;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].id, decided.decision_id);
    let kz = operator.list_decisions(request("kz", 1)).await.unwrap().into_inner().decisions;
    assert_eq!(kz, all);
    assert!(operator.list_decisions(request("ru", 0)).await.unwrap().into_inner().decisions.is_empty());
    let request = ExplainDecisionRequest { id: decided.decision_id.clone() };
    let explained = operator.explain_decision(request).await.unwrap().into_inner();
    assert_eq!(explained.decision.as_ref(), all.first());
    let status =
        operator.explain_decision(ExplainDecisionRequest { id: "kz-1".to_owned() }).await.unwrap_err();
    assert_eq!((status.code(), code_of(&status)), (Grpc::NotFound, Some("unknown_decision")));
    let matrix = operator.get_matrix(GetMatrixRequest {}).await.unwrap().into_inner().matrix.unwrap();
    // A carrier more may have been heard of since.
    let row = matrix.rows.iter().find(|row| row.decision_id == decided.decision_id).unwrap();
    assert_eq!((&row.market, &row.mirror, &row.action), (&decided.market, &decided.mirror, &decided.action));
    assert_eq!(collector.metric("zerkalo_decisions_total{market=\"kz\",action=\"keep\"}").await, 1);
    let bytes = all[0].json.clone();
    collector.kill().await;
    let collector = site.serve().await;
    let mut operator = collector.operator(&site).await;
    let request = ListDecisionsRequest::default();
    let again = operator.list_decisions(request).await.unwrap().into_inner().decisions;
    assert_eq!(again.iter().map(|decision| &decision.json).collect::<Vec<_>>(), [&bytes]);
    let log = collector.stop().await;
    assert!(!log.iter().any(|line| line.contains("superseded")), "{log:#?}");
}
