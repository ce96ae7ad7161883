//! Tokens and what they open.

use tonic::Code as Grpc;
use zerkalo_core::journal::Event;
use zerkalo_core::words::Station;
use zerkalo_proto::agent_v1::EnrollRequest;
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::ListAgentsRequest;

use crate::world::{Keys, Link, Site, list, released};

#[tokio::test]
async fn a_token_enrols_one_box_and_the_journal_says_so() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 3, &["m1"]).await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    let mut asking = collector.enrollment(&site).await;
    let (request, keys) = asking.enroll_request(&secret);
    let answer = asking.client.enroll(request).await.unwrap().into_inner();
    assert_eq!(
        (answer.owner.as_str(), answer.market.as_str(), answer.carrier.as_str(), answer.access.as_str()),
        ("anna", "kz", "kz-kcell", "mobile")
    );
    assert!(answer.agent.starts_with("kz-kcell-"), "{}", answer.agent);
    let signed = zerkalo_proto::evidence::list_from_wire(answer.list.unwrap()).unwrap();
    assert_eq!(signed.open(site.signing_key.public()).unwrap().mirrors, list(3, &["m1"]).mirrors);
    let enrolled = site.journal().into_iter().find_map(|entry| match entry.event {
        Event::Enrolled(enrolment) => Some(enrolment),
        _ => None,
    });
    let enrolled = enrolled.unwrap();
    assert_eq!(enrolled.agent.as_str(), answer.agent);
    assert_eq!(enrolled.key, keys.record.public());
    assert!(matches!(enrolled.station, Station::Field { .. }));
    assert_eq!(collector.metric("zerkalo_enrollments_total").await, 1);
    let control = collector.enrol(&site, "olga", "").await;
    assert!(control.id.as_str().starts_with("control-"));
    let (_link, welcome) = collector.connect(&site, &control).await;
    assert_eq!((welcome.epoch, welcome.sequence), (0, 0));
    let agents =
        collector.operator(&site).await.list_agents(ListAgentsRequest {}).await.unwrap().into_inner();
    let connected: Vec<_> =
        agents.agents.iter().map(|agent| (agent.owner.as_str(), agent.connected)).collect();
    assert_eq!(connected, [("olga", true), ("anna", false)]);
    collector.stop().await;
}

#[tokio::test]
async fn each_refusal_has_its_code_and_costs_no_good_token() {
    let site = Site::new();
    let collector = site.serve().await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    let mut asking = collector.enrollment(&site).await;
    let (good, keys) = asking.enroll_request(&secret);
    let elsewhere = collector.enrollment(&site).await.request_with(&secret, &keys, ("", ""));
    let other_keys = asking.enroll_request(&secret).1;
    let with = |change: &dyn Fn(&mut EnrollRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let (unauthenticated, bad) = (Grpc::Unauthenticated, Grpc::InvalidArgument);
    let wrong_place = Grpc::FailedPrecondition;
    for (request, grpc, code) in [
        (asking.enroll_request("no such").0, unauthenticated, "token_unknown"),
        (with(&|r| r.token_id[0] ^= 1), unauthenticated, "token_unknown"),
        (with(&|r| r.token_id.clear()), bad, "bad_request"),
        (with(&|r| r.record_key = vec![0; 32]), bad, "bad_request"),
        (with(&|r| r.record_key.truncate(31)), bad, "bad_request"),
        (with(&|r| r.certificate_request_pem.insert(60, 'A')), bad, "bad_request"),
        (with(&|r| r.carrier = "x".repeat(300)), bad, "bad_request"),
        // As agents did that knew no better.
        (with(&|r| r.token_secret = secret.clone()), wrong_place, "token_in_clear"),
        // What was proved on another connection, or over another request, proves nothing here.
        (elsewhere.clone(), unauthenticated, "record_proof_wrong"),
        (with(&|r| r.token_mac[0] ^= 1), unauthenticated, "token_proof_wrong"),
        (with(&|r| r.token_mac.clear()), unauthenticated, "token_proof_wrong"),
        (with(&|r| r.token_mac = elsewhere.token_mac.clone()), unauthenticated, "token_proof_wrong"),
        (with(&|r| r.token_signature[0] ^= 1), unauthenticated, "token_proof_wrong"),
        (with(&|r| r.token_signature.clear()), unauthenticated, "token_proof_wrong"),
        (with(&|r| r.record_signature.clear()), unauthenticated, "record_proof_wrong"),
        (with(&|r| r.carrier = "kz-kcell".to_owned()), unauthenticated, "record_proof_wrong"),
        (
            with(&|r| r.record_key = other_keys.record.public().to_bytes().to_vec()),
            unauthenticated,
            "record_proof_wrong",
        ),
        (asking.enroll_request_for(&secret, "kz-beeline", "").0, wrong_place, "token_wrong_carrier"),
        (asking.enroll_request_for(&secret, "", "fixed").0, wrong_place, "token_wrong_carrier"),
    ] {
        let status = asking.client.enroll(request).await.unwrap_err();
        assert_eq!((status.code(), code_of(&status)), (grpc, Some(code)), "{status}");
        let line = format!("zerkalo_enrollments_refused_total{{code=\"{code}\"}}");
        assert!(collector.metric(&line).await > 0, "{line}");
    }
    let request = asking.request_with(&secret, &keys, ("kz-kcell", "mobile"));
    let answer = asking.client.enroll(request.clone()).await.unwrap().into_inner();
    // The same box again, for its answer may have been lost: it is the same agent, enrolled once.
    let again = asking.client.enroll(request).await.unwrap().into_inner();
    assert_eq!((again.agent, again.generation), (answer.agent.clone(), 1));
    // Another box, or the same under another key, is told that the token was used.
    for keys in [
        asking.enroll_request(&secret).1,
        Keys { record: keys.record, tls: rcgen::KeyPair::generate().unwrap() },
    ] {
        let request = asking.request_with(&secret, &keys, ("", ""));
        let status = asking.client.enroll(request).await.unwrap_err();
        assert_eq!(
            (status.code(), code_of(&status)),
            (Grpc::Unauthenticated, Some("token_used")),
            "{status}"
        );
    }
    collector.stop().await;
    let enrolled = site.journal().into_iter().filter(|entry| matches!(entry.event, Event::Enrolled(_)));
    assert_eq!(enrolled.count(), 1);
}

#[tokio::test]
async fn a_token_expires_and_only_its_digest_is_stored() {
    use zerkalo_collector::state::State;
    use zerkalo_collector::token::Token;
    use zerkalo_core::identity::TokenMacKey;
    let site = Site::new();
    let collector = site.serve().await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    {
        let state = State::open(&site.dir.join("state")).unwrap();
        let id = TokenMacKey::of(&secret).token_id();
        let token = state.token(&id).unwrap().unwrap();
        let expired = Token { expires_at: zerkalo_collector::clock::now(), ..token };
        state.put_token(&id, &expired).unwrap();
    }
    released(&site.dir.join("state")).await;
    for entry in std::fs::read_dir(site.dir.join("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the secret stands in {}", path.display());
        }
    }
    let collector = site.serve().await;
    let mut asking = collector.enrollment(&site).await;
    let request = asking.enroll_request(&secret).0;
    let status = asking.client.enroll(request).await.unwrap_err();
    assert_eq!(code_of(&status), Some("token_expired"), "{status}");
    collector.stop().await;
}

#[tokio::test]
async fn two_boxes_at_once_share_no_token() {
    let site = Site::new();
    let collector = site.serve().await;
    let secret = collector.token(&site, "anna", "kz-kcell").await;
    let attempts = (0..8).map(|_| async {
        let mut asking = collector.enrollment(&site).await;
        let request = asking.enroll_request(&secret).0;
        asking.client.enroll(request).await
    });
    let results = futures::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let codes: Vec<_> = results.iter().filter_map(|result| code_of(result.as_ref().err()?)).collect();
    assert_eq!(codes, ["token_used"; 7]);
    collector.stop().await;
}

#[tokio::test]
async fn the_uplink_takes_nobody_without_a_certificate_of_this_collector() {
    let (site, other) = (Site::new(), Site::new());
    let (collector, stranger) = (site.serve().await, other.serve().await);
    let status = Link::open(collector.uplink(&site, None).await).await.err().unwrap();
    assert_eq!(code_of(&status), Some("certificate_missing"), "{status}");
    assert_eq!(collector.metric("zerkalo_requests_refused_total{code=\"certificate_missing\"}").await, 1);
    // An agent whose enrolment this journal does not hold: the CA signed it, the collector does not know it.
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    std::fs::remove_dir_all(site.dir.join("journal")).unwrap();
    let collector = site.serve().await;
    let status = Link::open(collector.uplink(&site, Some(&agent.identity)).await).await.err().unwrap();
    assert_eq!(code_of(&status), Some("agent_unknown"), "{status}");
    // An agent of another collector does not get past the handshake.
    let foreign = stranger.enrol(&other, "boris", "kz-kcell").await;
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&site.ca_pem))
        .domain_name("localhost")
        .identity(foreign.identity.clone());
    let endpoint = tonic::transport::Channel::from_shared(format!("https://127.0.0.1:{}", collector.agents));
    let channel = endpoint.unwrap().tls_config(tls).unwrap().connect_lazy();
    let client = zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient::new(channel);
    let status = Link::open(client).await.err().unwrap();
    assert_eq!(code_of(&status), None, "{status}");
    stranger.stop().await;
    collector.stop().await;
}
