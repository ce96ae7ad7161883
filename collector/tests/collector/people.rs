//! People's tokens: what each scope may, how a token ends, and the audit log of it all.

use futures::StreamExt;
use tonic::Status;
use zerkalo_core::audit::{AuditHead, AuditLine};
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::{
    CreateApiTokenRequest, CreateSignalTokenRequest, CreateTokenRequest, GiveOrderRequest, ListAgentsRequest,
    ListApiTokensRequest, ListAuditRequest, RevokeApiTokenRequest, RevokeSignalTokenRequest,
    WatchMatrixRequest,
};

use crate::orders::order;
use crate::world::{Collector, OperatorClient, PATIENCE, Site};

async fn create(client: &mut OperatorClient, name: &str, scope: &str) -> Result<String, Status> {
    let request = CreateApiTokenRequest { name: name.to_owned(), scope: scope.to_owned(), valid_days: 1 };
    client.create_api_token(request).await.map(|made| made.into_inner().token)
}

async fn revoke(client: &mut OperatorClient, name: &str) -> Result<(), Status> {
    client.revoke_api_token(RevokeApiTokenRequest { name: name.to_owned() }).await.map(drop)
}

async fn agents(client: &mut OperatorClient) -> Result<(), Status> {
    client.list_agents(ListAgentsRequest {}).await.map(drop)
}

fn code<T>(result: Result<T, Status>) -> String {
    result.map_or_else(|status| code_of(&status).unwrap_or("none").to_owned(), |_| "ok".to_owned())
}

async fn lines(collector: &Collector, site: &Site) -> Vec<AuditLine> {
    let mut operator = collector.operator(site).await;
    let request = ListAuditRequest { after: 0, limit: 0 };
    let answer = operator.list_audit(request).await.unwrap().into_inner();
    let mut head = AuditHead::default();
    let lines = answer.lines.iter().map(|text| {
        let (line, next) = head.follow(text).unwrap();
        head = next;
        line
    });
    let lines: Vec<_> = lines.collect();
    assert_eq!((head.number, head.sha256.to_string()), (answer.head_number, answer.head_sha256));
    lines
}

#[tokio::test]
async fn each_scope_may_what_it_says_and_no_more() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut admin = collector.operator(&site).await;
    let viewer = create(&mut admin, "vera", "viewer").await.unwrap();
    let operator = create(&mut admin, "olga", "operator").await.unwrap();
    let mut vera = collector.operator_with(&site, &viewer).await;
    let mut olga = collector.operator_with(&site, &operator).await;
    let freeze = || GiveOrderRequest { order: Some(order("freeze", "kz", "")) };
    assert_eq!(code(agents(&mut vera).await), "ok");
    assert_eq!(code(vera.give_order(freeze()).await), "scope_too_narrow");
    assert_eq!(code(vera.list_audit(ListAuditRequest::default()).await), "scope_too_narrow");
    assert_eq!(code(create(&mut vera, "eve", "viewer").await), "scope_too_narrow");
    assert_eq!(olga.give_order(freeze()).await.unwrap().into_inner().author, "olga");
    assert_eq!(code(olga.list_audit(ListAuditRequest::default()).await), "ok");
    assert_eq!(code(create(&mut olga, "eve", "viewer").await), "scope_too_narrow");
    assert_eq!(code(revoke(&mut olga, "vera").await), "scope_too_narrow");
    assert_eq!(code(revoke(&mut admin, "operator").await), "last_admin");
    assert_eq!(code(create(&mut admin, "vera", "admin").await), "name_taken");
    assert_eq!(code(create(&mut admin, "eve", "root").await), "bad_request");
    let listed = admin.list_api_tokens(ListApiTokensRequest {}).await.unwrap().into_inner().tokens;
    let listed: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.scope.as_str())).collect();
    assert!(listed.contains(&("operator", "admin")) && listed.contains(&("vera", "viewer")), "{listed:?}");
    // The secret is nowhere on the disk.
    let state = std::fs::read_dir(site.dir.join("state")).unwrap().flatten();
    for file in state.filter(|entry| entry.file_type().unwrap().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(viewer.len()).any(|window| window == viewer.as_bytes()));
    }
    collector.stop().await;
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_and_what_it_watches_ends() {
    let site = Site::new();
    let collector = site.serve().await;
    let mut admin = collector.operator(&site).await;
    let token = create(&mut admin, "anna", "viewer").await.unwrap();
    let mut anna = collector.operator_with(&site, &token).await;
    let mut watch = anna.watch_matrix(WatchMatrixRequest {}).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    revoke(&mut admin, "anna").await.unwrap();
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch ends").unwrap();
    assert_eq!(code(end), "unauthenticated");
    assert_eq!(code(agents(&mut anna).await), "unauthenticated");
    assert_eq!(code(revoke(&mut admin, "anna").await), "unknown_person");
    collector.stop().await;
    let collector = site.serve().await;
    let mut anna = collector.operator_with(&site, &token).await;
    assert_eq!(code(agents(&mut anna).await), "unauthenticated");
    collector.stop().await;
}

#[tokio::test]
async fn whoever_guesses_is_told_to_wait_and_who_knows_is_not() {
    let site = Site::new();
    let collector = site.serve().await;
    let mut stranger = collector.operator_with(&site, "guess").await;
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(code(agents(&mut stranger).await));
    }
    assert_eq!((codes[0].as_str(), codes[29].as_str()), ("unauthenticated", "too_many_failures"));
    assert_eq!(code(agents(&mut collector.operator(&site).await).await), "ok");
    collector.stop().await;
}

#[tokio::test]
async fn every_change_is_a_line_of_the_audit_log_and_the_chain_survives_a_kill() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    collector.token(&site, "anna", "kz-kcell").await;
    let mut admin = collector.operator(&site).await;
    let give = |kind: &str| GiveOrderRequest { order: Some(order(kind, "kz", "")) };
    admin.give_order(give("freeze")).await.unwrap();
    assert_eq!(code(admin.give_order(give("freeze")).await), "already_frozen");
    let request =
        CreateTokenRequest { owner: "x".to_owned(), carrier: "kz-nobody".to_owned(), ..Default::default() };
    assert_eq!(code(admin.create_token(request).await), "bad_request");
    create(&mut admin, "vera", "viewer").await.unwrap();
    let made = admin.create_signal_token(CreateSignalTokenRequest { markets: vec!["kz".to_owned()] }).await;
    let id = made.unwrap().into_inner().id;
    admin.revoke_signal_token(RevokeSignalTokenRequest { id }).await.unwrap();
    revoke(&mut admin, "vera").await.unwrap();
    collector.kill().await;
    let collector = site.serve().await;
    let lines = lines(&collector, &site).await;
    let acts: Vec<&str> = lines.iter().map(|line| line.act.as_str()).collect();
    assert_eq!(
        acts,
        [
            "settings.change",
            "operators.change",
            "mirror_list.put",
            "token.create",
            "order",
            "order",
            "refused",
            "api_token.create",
            "signal_token.create",
            "signal_token.revoke",
            "api_token.revoke",
        ]
    );
    assert_eq!(lines[6].about["code"], "already_frozen");
    assert_eq!(lines[6].about["line"], lines[5].number.to_string());
    assert_eq!(
        (lines[4].by.as_str(), lines[4].about["reason"].as_str()),
        ("operator", "a register lists it")
    );
    assert!(lines[2..].iter().all(|line| line.token.len() == 12), "{lines:?}");
    collector.stop().await;
}
