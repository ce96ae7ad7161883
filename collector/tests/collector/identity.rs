//! An agent's certificates over its life, copies of it, and its end.

use rcgen::KeyPair;
use tonic::Code as Grpc;
use tonic::transport::Identity;
use zerkalo_core::evidence::ChainLink;
use zerkalo_core::identity::{Purpose, Standing};
use zerkalo_core::journal::{Event, JournalEntry};
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::agent_v1::{RejoinRequest, RenewRequest};
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1 as operator;

use crate::world::{Agent, Collector, Link, Site};

/// The next certificate of an agent, as the agent asks for it.
async fn renewed(
    collector: &Collector,
    site: &Site,
    agent: &Agent,
    generation: u64,
    key: &KeyPair,
) -> Result<(String, u64), tonic::Status> {
    let own = (agent.certificate_pem.as_str(), agent.key_pem.as_str());
    let mut asking = collector.enrollment_as(site, Some(own)).await;
    let (certificate_request_pem, record_signature) =
        asking.next(Purpose::Renew, agent.id.as_str(), generation, (&agent.key, key));
    let id = agent.id.to_string();
    let request = RenewRequest { agent: id, generation, certificate_request_pem, record_signature };
    let answer = asking.client.renew(request).await?.into_inner();
    Ok((answer.certificate_pem, answer.generation))
}

async fn rejoined(
    collector: &Collector,
    site: &Site,
    agent: &Agent,
    generation: u64,
    key: &KeyPair,
) -> Result<(String, u64), tonic::Status> {
    let mut asking = collector.enrollment(site).await;
    let (certificate_request_pem, record_signature) =
        asking.next(Purpose::Rejoin, agent.id.as_str(), generation, (&agent.key, key));
    let id = agent.id.to_string();
    let request = RejoinRequest { agent: id, generation, certificate_request_pem, record_signature };
    let answer = asking.client.rejoin(request).await?.into_inner();
    Ok((answer.certificate_pem, answer.generation))
}

/// The same agent under another certificate.
fn with(agent: &Agent, certificate_pem: &str, key: &KeyPair) -> Agent {
    let key_pem = key.serialize_pem();
    Agent {
        id: agent.id.clone(),
        key: agent.key.clone(),
        identity: Identity::from_pem(certificate_pem, &key_pem),
        certificate_pem: certificate_pem.to_owned(),
        key_pem,
        last: agent.last,
    }
}

/// Whether the agent gets a stream; else the code.
async fn code_at_accept(collector: &Collector, site: &Site, agent: &Agent) -> Option<String> {
    let status = match Link::open(collector.uplink(site, Some(&agent.identity)).await).await {
        Ok(mut link) => link.status().await,
        Err(status) => Some(status),
    };
    code_of(&status?).map(str::to_owned)
}

async fn listed(collector: &Collector, site: &Site, agent: &Agent) -> operator::Agent {
    let mut client = collector.operator(site).await;
    let agents = client.list_agents(operator::ListAgentsRequest {}).await.unwrap().into_inner().agents;
    agents.into_iter().find(|known| known.agent == agent.id.as_str()).unwrap()
}

async fn revoke(collector: &Collector, site: &Site, agent: &str, reason: &str) -> Result<(), tonic::Status> {
    let request = operator::RevokeAgentRequest { agent: agent.to_owned(), reason: reason.to_owned() };
    collector.operator(site).await.revoke_agent(request).await.map(drop)
}

async fn unlock(collector: &Collector, site: &Site, agent: &str) -> Result<(), tonic::Status> {
    let request = operator::UnlockAgentRequest { agent: agent.to_owned(), reason: "mended".to_owned() };
    collector.operator(site).await.unlock_agent(request).await.map(drop)
}

fn code<T: std::fmt::Debug>(refused: Result<T, tonic::Status>) -> String {
    let status = refused.unwrap_err();
    code_of(&status).unwrap_or_else(|| panic!("{status}")).to_owned()
}

#[tokio::test]
async fn a_certificate_is_renewed_and_a_lost_answer_costs_nothing() {
    let site = Site::new();
    let collector = site.serve().await;
    let (agent, other) =
        (collector.enrol(&site, "anna", "kz-kcell").await, collector.enrol(&site, "boris", "kz-kcell").await);
    let key = KeyPair::generate().unwrap();
    let (first, generation) = renewed(&collector, &site, &agent, 1, &key).await.unwrap();
    assert_eq!(generation, 2);
    // The answer was lost: the same key gets the same generation, and the old certificate is good until the new is shown.
    let (again, generation) = renewed(&collector, &site, &agent, 1, &key).await.unwrap();
    assert_eq!((generation, first == again), (2, false));
    drop(collector.connect(&site, &agent).await);
    let newer = with(&agent, &again, &key);
    drop(collector.connect(&site, &newer).await);
    assert_eq!(collector.metric("zerkalo_certificates_total").await, 2);
    // Who asks in another's name, without a certificate, or with wrong proofs is refused, and nobody is locked.
    let own = (other.certificate_pem.as_str(), other.key_pem.as_str());
    let mut asking = collector.enrollment_as(&site, Some(own)).await;
    let mut anonymous = collector.enrollment(&site).await;
    let (csr, signature) = asking.next(Purpose::Renew, agent.id.as_str(), 2, (&agent.key, &key));
    let request = |agent: &Agent, generation, csr: &str, signature: &[u8]| RenewRequest {
        agent: agent.id.to_string(),
        generation,
        certificate_request_pem: csr.to_owned(),
        record_signature: signature.to_vec(),
    };
    let foreign = asking.client.renew(request(&agent, 2, &csr, &signature)).await;
    assert_eq!(code(foreign), "certificate_wrong_agent");
    let wrong_proof = asking.client.renew(request(&other, 1, &csr, &signature)).await;
    assert_eq!(code(wrong_proof), "record_proof_wrong");
    let no_request = asking.client.renew(request(&other, 1, "no request", &signature)).await;
    assert_eq!(code(no_request), "bad_request");
    let missing = anonymous.client.renew(request(&agent, 2, &csr, &signature)).await;
    assert_eq!(code(missing), "certificate_missing");
    for code in ["certificate_wrong_agent", "record_proof_wrong", "bad_request", "certificate_missing"] {
        let line = format!("zerkalo_certificates_refused_total{{code=\"{code}\"}}");
        assert_eq!(collector.metric(&line).await, 1, "{line}");
    }
    assert_eq!(collector.metric("zerkalo_agents_locked").await, 0);
    assert_eq!(listed(&collector, &site, &agent).await.generation, 2);
    collector.stop().await;
}

#[tokio::test]
async fn a_box_whose_certificate_is_over_rejoins_by_its_record_key() {
    let site = Site::new();
    let collector = site.serve().await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let over = certificate(&site, &agent, zerkalo_collector::clock::now().minus_millis(8 * 86_400_000));
    let late = with(&agent, &over.0, &over.1);
    assert_eq!(code_at_accept(&collector, &site, &late).await.as_deref(), Some("certificate_expired"));
    let key = KeyPair::generate().unwrap();
    assert_eq!(code(renewed(&collector, &site, &late, 1, &key).await), "certificate_expired");
    // Made by a clock that was ahead of this one: it gets past its time, and is found to be no certificate of this journal.
    let ahead = certificate(&site, &agent, zerkalo_collector::clock::now().plus_secs(5_400));
    let ahead = with(&agent, &ahead.0, &ahead.1);
    assert_eq!(code_at_accept(&collector, &site, &ahead).await.as_deref(), Some("agent_locked"));
    collector.stop().await;

    let site = Site::new();
    let collector = site.serve().await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let stranger = collector.enrol(&site, "boris", "kz-kcell").await;
    let thief = Agent { key: stranger.key.clone(), ..with(&agent, &agent.certificate_pem, &key) };
    assert_eq!(code(rejoined(&collector, &site, &thief, 1, &key).await), "record_proof_wrong");
    // A proof made on another connection is worth nothing.
    let mut elsewhere = collector.enrollment(&site).await;
    let (csr, signature) =
        collector.enrollment(&site).await.next(Purpose::Rejoin, agent.id.as_str(), 1, (&agent.key, &key));
    let request = RejoinRequest {
        agent: agent.id.to_string(),
        generation: 1,
        certificate_request_pem: csr,
        record_signature: signature,
    };
    assert_eq!(code(elsewhere.client.rejoin(request.clone()).await), "record_proof_wrong");
    let unknown = RejoinRequest { agent: "kz-kcell-00000000".to_owned(), ..request };
    assert_eq!(code(elsewhere.client.rejoin(unknown).await), "agent_unknown");
    let (certificate, generation) = rejoined(&collector, &site, &agent, 1, &key).await.unwrap();
    assert_eq!(generation, 2);
    let back = with(&agent, &certificate, &key);
    drop(collector.connect(&site, &back).await);
    collector.stop().await;
}

#[tokio::test]
async fn after_ninety_days_only_a_new_token_helps() {
    let site = Site::new();
    let collector = site.serve().await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    // The same journal, as if it were of a hundred days ago.
    let old: Vec<JournalEntry> = site.journal();
    std::fs::remove_dir_all(site.dir.join("journal")).unwrap();
    std::fs::create_dir(site.dir.join("journal")).unwrap();
    let past = |at: UnixMillis| at.minus_millis(100 * 86_400_000);
    let entries: Vec<_> = old.into_iter().map(|entry| JournalEntry { at: past(entry.at), ..entry }).collect();
    let mut journal = zerkalo_collector::journal::Journal::open(&site.dir.join("journal"), |_| {}).unwrap();
    journal.append(&entries).unwrap();
    drop(journal);
    let collector = site.serve().await;
    let refused = rejoined(&collector, &site, &agent, 1, &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (Grpc::Unauthenticated, Some("rejoin_too_late")));
    assert!(refused.message().contains("new token"), "{refused}");
    collector.stop().await;
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_and_stays_so() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(1).await;
    let own = (agent.certificate_pem.clone(), agent.key_pem.clone());
    let mut renewing = collector.enrollment_as(&site, Some((&own.0, &own.1))).await;
    assert_eq!(code(revoke(&collector, &site, "no agent!", "x").await), "unknown_agent");
    assert_eq!(code(revoke(&collector, &site, "kz-kcell-00000000", "x").await), "unknown_agent");
    assert_eq!(code(revoke(&collector, &site, agent.id.as_str(), " ").await), "bad_request");
    assert_eq!(code(unlock(&collector, &site, agent.id.as_str()).await), "agent_not_locked");
    let began = std::time::Instant::now();
    revoke(&collector, &site, agent.id.as_str(), "the box was sold").await.unwrap();
    let status = link.status().await.unwrap();
    assert_eq!((status.code(), code_of(&status)), (Grpc::Unauthenticated, Some("agent_revoked")));
    assert!(status.message().contains("the box was sold") && status.message().contains("new token"));
    println!("cut off after {} ms", began.elapsed().as_millis());
    // Revoked in the middle of a renewal, on a connection that stands since before.
    let key = KeyPair::generate().unwrap();
    let (csr, signature) = renewing.next(Purpose::Renew, agent.id.as_str(), 1, (&agent.key, &key));
    let request = RenewRequest {
        agent: agent.id.to_string(),
        generation: 1,
        certificate_request_pem: csr,
        record_signature: signature,
    };
    assert_eq!(code(renewing.client.renew(request).await), "agent_revoked");
    assert_eq!(code(rejoined(&collector, &site, &agent, 1, &key).await), "agent_revoked");
    // Twice is once, and nobody takes it back.
    revoke(&collector, &site, agent.id.as_str(), "again").await.unwrap();
    assert_eq!(code(unlock(&collector, &site, agent.id.as_str()).await), "agent_revoked");
    collector.stop().await;
    let collector = site.serve().await;
    assert_eq!(code_at_accept(&collector, &site, &agent).await.as_deref(), Some("agent_revoked"));
    assert_eq!(collector.metric("zerkalo_agents_revoked").await, 1);
    let shown = listed(&collector, &site, &agent).await;
    assert_eq!((shown.standing.as_str(), shown.standing_reason.as_str()), ("revoked", "the box was sold"));
    collector.stop().await;
    let said = site.journal().into_iter().filter_map(|entry| match entry.event {
        Event::Standing(change) => Some((change.standing, change.author, change.reason)),
        _ => None,
    });
    let expected = (Standing::Revoked, "operator".to_owned(), "the box was sold".to_owned());
    assert_eq!(said.collect::<Vec<_>>(), [expected]);
}

#[tokio::test]
async fn what_a_revoked_agent_said_leaves_the_cells() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(1).await;
    let owners = async || {
        let mut client = collector.operator(&site).await;
        let matrix = client.get_matrix(operator::GetMatrixRequest {}).await.unwrap().into_inner().matrix;
        let rows = matrix.unwrap().rows;
        let cells = rows.iter().flat_map(|row| &row.carriers).flat_map(|carrier| &carrier.cells);
        cells.map(|cell| cell.owners).sum::<u32>()
    };
    // A cell is shown for each market the mirror is in.
    assert!(owners().await > 0);
    revoke(&collector, &site, agent.id.as_str(), "sold").await.unwrap();
    assert_eq!(owners().await, 0);
    collector.stop().await;
}

#[tokio::test]
async fn other_bytes_under_a_number_used_before_lock_the_agent_until_a_person_unlocks_it() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(1).await;
    let mut copy = with(&agent, &agent.certificate_pem, &KeyPair::from_pem(&agent.key_pem).unwrap());
    copy.last = ChainLink::start(1);
    let other = copy.measure("m1");
    let (mut copied, _) = collector.connect(&site, &copy).await;
    copied.send_records(&[other]).await;
    assert_eq!(copied.rejected().await.code, "conflicting_key");
    collector.metric_becomes("zerkalo_agents_locked", 1).await;
    let shown = listed(&collector, &site, &agent).await;
    assert_eq!(shown.standing, "locked");
    assert!(shown.standing_reason.contains("number"), "{}", shown.standing_reason);
    collector.metric_becomes("zerkalo_alerts_total{market=\"kz\",kind=\"agent_locked\"}", 1).await;
    for _ in 0..2 {
        assert_eq!(code_at_accept(&collector, &site, &agent).await.as_deref(), Some("agent_locked"));
    }
    let key = KeyPair::generate().unwrap();
    assert_eq!(code(renewed(&collector, &site, &agent, 1, &key).await), "agent_locked");
    assert_eq!(code(rejoined(&collector, &site, &agent, 1, &key).await), "agent_locked");
    // It stays so over a restart, and a person ends it.
    collector.stop().await;
    let collector = site.serve().await;
    assert_eq!(code_at_accept(&collector, &site, &agent).await.as_deref(), Some("agent_locked"));
    unlock(&collector, &site, agent.id.as_str()).await.unwrap();
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.epoch, welcome.sequence), (1, 1));
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(2).await;
    assert_eq!(collector.metric("zerkalo_agents_locked").await, 0);
    collector.stop().await;
}

#[tokio::test]
async fn a_generation_seen_twice_locks_the_agent() {
    let site = Site::new();
    let collector = site.serve().await;
    // Two boxes renew the same certificate.
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (certificate, _) = renewed(&collector, &site, &agent, 1, &one).await.unwrap();
    assert_eq!(code(renewed(&collector, &site, &agent, 1, &two).await), "agent_locked");
    let newer = with(&agent, &certificate, &one);
    assert_eq!(code_at_accept(&collector, &site, &newer).await.as_deref(), Some("agent_locked"));
    // The older certificate comes after the newer was shown; whoever is on the line is cut off.
    let agent = collector.enrol(&site, "boris", "kz-kcell").await;
    let (certificate, _) = renewed(&collector, &site, &agent, 1, &one).await.unwrap();
    let newer = with(&agent, &certificate, &one);
    let (mut link, _) = collector.connect(&site, &newer).await;
    assert_eq!(code_at_accept(&collector, &site, &agent).await.as_deref(), Some("agent_locked"));
    let status = link.status().await.unwrap();
    assert_eq!(code_of(&status), Some("agent_locked"), "{status}");
    assert!(status.message().contains("agents unlock"), "{status}");
    collector.metric_becomes("zerkalo_agents_locked", 2).await;
    // Unlocked, the box with the newer one goes on; the copy is found out again.
    unlock(&collector, &site, agent.id.as_str()).await.unwrap();
    drop(collector.connect(&site, &newer).await);
    assert_eq!(code_at_accept(&collector, &site, &agent).await.as_deref(), Some("agent_locked"));
    collector.stop().await;
}

#[tokio::test]
async fn a_collector_that_forgot_takes_what_its_own_ca_signed() {
    let site = Site::new();
    let collector = site.serve().await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    let copy = site.dir.with_extension("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(site.dir.join("journal")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let collector = site.serve().await;
    let key = KeyPair::generate().unwrap();
    let (certificate, generation) = renewed(&collector, &site, &agent, 1, &key).await.unwrap();
    collector.stop().await;
    // The journal of before the renewal.
    std::fs::remove_dir_all(site.dir.join("journal")).unwrap();
    std::fs::rename(&copy, site.dir.join("journal")).unwrap();
    let collector = site.serve().await;
    assert_eq!(listed(&collector, &site, &agent).await.generation, 1);
    let newer = with(&agent, &certificate, &key);
    drop(collector.connect(&site, &newer).await);
    assert_eq!(listed(&collector, &site, &agent).await.generation, generation);
    collector.stop().await;
}

/// A certificate of the site's own CA, made at another time; and its key.
fn certificate(site: &Site, agent: &Agent, now: UnixMillis) -> (String, KeyPair) {
    use zerkalo_collector::authority::{Authority, Request};
    let read = |name: &str| std::fs::read_to_string(site.dir.join(name)).unwrap();
    let authority = Authority::load(&read("ca/ca.pem"), &read("ca/ca.key")).unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let pem = authority.agent_certificate(&agent.id, 1, &Request::parse(&csr).unwrap(), now).unwrap();
    (pem, key)
}
