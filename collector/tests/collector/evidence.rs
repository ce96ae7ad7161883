//! The records behind a decision, fetched from the collector that keeps them: all of them, these alone, none but them.

use zerkalo_core::market::Decision;
use zerkalo_proto::evidence::record_from_wire;
use zerkalo_proto::operator_v1::{FetchEvidenceRequest, FetchEvidenceResponse, ListDecisionsRequest};

use crate::world::{OperatorClient, Site};

async fn fetch(
    operator: &mut OperatorClient,
    decision: &str,
    records: &[String],
) -> Result<FetchEvidenceResponse, String> {
    let request = FetchEvidenceRequest { decision_id: decision.to_owned(), records: records.to_vec() };
    let answer = operator.fetch_evidence(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        format!("{} {}", zerkalo_proto::code::code_of(&status).unwrap_or_default(), status.message())
    })
}

#[tokio::test]
async fn the_records_behind_a_decision_come_as_they_were_signed() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1", "m2"]).await;
    collector.decide_to_keep(&site, &["m1", "m2"]).await;
    let mut operator = collector.operator(&site).await;
    let decisions = operator.list_decisions(ListDecisionsRequest::default()).await.unwrap().into_inner();
    let decisions: Vec<Decision> =
        decisions.decisions.iter().map(|one| serde_json::from_str(&one.json).unwrap()).collect();
    let named = |decision: &Decision| -> Vec<String> {
        decision.evidence.iter().map(|item| item.record.to_string()).collect()
    };
    let (first, second) = (&decisions[0], &decisions[1]);
    assert!(named(first).len() >= 2, "{:?}", named(first));

    let found = fetch(&mut operator, &first.id, &[]).await.unwrap();
    let mut hashes: Vec<String> = found.records.iter().map(|one| one.sha256.clone()).collect();
    hashes.sort();
    let mut expected = named(first);
    expected.sort();
    assert_eq!((hashes, found.missing.len(), found.left_out.len()), (expected, 0, 0));
    let journal = site.records();
    for one in found.records {
        let signed = record_from_wire(one.record.unwrap()).unwrap();
        let key = zerkalo_core::evidence::PublicKey::from_bytes(&one.record_key).unwrap();
        assert_eq!((signed.hash().to_string(), signed.verify(&key)), (one.sha256, Ok(())));
        assert!(journal.contains(&signed), "as it stands in the journal");
    }

    let one = named(first)[..1].to_vec();
    let found = fetch(&mut operator, &first.id, &one).await.unwrap();
    assert_eq!(found.records.len(), 1);
    // Nobody reads anything else by asking for it.
    let strange = named(second)[..1].to_vec();
    let said = fetch(&mut operator, &first.id, &strange).await.unwrap_err();
    assert!(said.starts_with("unknown_record") && said.contains(&strange[0]), "{said}");
    let said = fetch(&mut operator, &first.id, &vec![one[0].clone(); 1_000]).await.unwrap_err();
    assert!(said.starts_with("bad_request"), "{said}");
    let said = fetch(&mut operator, "kz-000999", &[]).await.unwrap_err();
    assert!(said.starts_with("unknown_decision"), "{said}");

    // What the journal no longer holds is named, not passed over. The collector has the file open and goes on.
    std::fs::rename(site.dir.join("journal/00000001.zkj"), site.dir.join("journal/aside")).unwrap();
    let found = fetch(&mut operator, &first.id, &[]).await.unwrap();
    assert_eq!((found.records.len(), found.missing.len()), (0, named(first).len()));
    std::fs::rename(site.dir.join("journal/aside"), site.dir.join("journal/00000001.zkj")).unwrap();
    collector.stop().await;
}
