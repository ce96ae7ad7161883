//! The records behind a decision as their agents signed them, so that whoever asked can check what was made of them.

use std::collections::BTreeSet;

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Status};
use zerkalo_core::market::Decision;
use zerkalo_core::target::Sha256;
use zerkalo_proto::evidence::record_to_wire;
use zerkalo_proto::operator_v1 as wire;

use super::{Operator, truncated};
use crate::journal::Span;

/// Bytes of bodies in one answer: clients read 4 MiB.
const BODIES_LEN_MAX: usize = 3_000_000;
/// How much earlier than the oldest evidence of a decision a record behind it can have been written down: that of a
/// control, or one whose agent's clock was ahead.
const WRITTEN_BEFORE_SECS: u64 = 3_600;

impl Operator {
    /// A logged decision, and its bytes.
    pub(super) fn logged(&self, id: &str) -> Result<(Decision, String), Status> {
        let bytes = block_in_place(|| self.state.decision(id)).map_err(|error| self.failed(&error))?;
        let bytes = bytes.ok_or_else(|| {
            let detail =
                format!("there is no decision {:?}; `zerkalo decisions ls` names them", truncated(id));
            self.refuse(Grpc::NotFound, "unknown_decision", detail)
        })?;
        self.parse(&bytes)
    }

    pub(super) async fn evidence(
        &self,
        request: &wire::FetchEvidenceRequest,
    ) -> Result<wire::FetchEvidenceResponse, Status> {
        let (decision, _) = self.logged(&request.decision_id)?;
        let asked = self.asked(&decision, &request.records)?;
        let oldest = decision.evidence.iter().map(|item| item.at).min().unwrap_or(decision.at);
        let from = oldest.min(decision.at).minus_millis(WRITTEN_BEFORE_SECS * 1_000);
        let found = self.archive.find(asked.clone(), Span { from, until: decision.at }).await;
        let found = found.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the journal could not be searched");
            let detail = "the collector's journal cannot be read; its log says why";
            self.refuse(Grpc::Internal, "storage_failed", detail)
        })?;
        let mut answer = wire::FetchEvidenceResponse::default();
        let mut len = 0;
        for hash in asked {
            let Some(record) = found.get(&hash) else {
                answer.missing.push(hash.to_string());
                continue;
            };
            len += record.body.len();
            if len > BODIES_LEN_MAX && !answer.records.is_empty() {
                answer.left_out.push(hash.to_string());
                continue;
            }
            let key = self
                .engine
                .read(|fold| fold.agents().get(&record.agent).map(|agent| agent.enrolment.key.to_bytes()));
            answer.records.push(wire::SignedEvidence {
                sha256: hash.to_string(),
                record: Some(record_to_wire(record)),
                record_key: key.map(|key| key.to_vec()).unwrap_or_default(),
            });
        }
        Ok(answer)
    }

    /// The hashes asked for, which are no others than the decision's own.
    fn asked(&self, decision: &Decision, records: &[String]) -> Result<BTreeSet<Sha256>, Status> {
        let items = decision.evidence.iter();
        let named: BTreeSet<Sha256> =
            items.flat_map(|item| [Some(item.record), item.verdict.control]).flatten().collect();
        if records.is_empty() {
            return Ok(named);
        }
        if records.len() > named.len() {
            return Err(self.bad(format!(
                "{} records were asked for; it names {}",
                records.len(),
                named.len()
            )));
        }
        let asked = records.iter().map(|text| {
            let hash = Sha256::from_hex(text).filter(|hash| named.contains(hash));
            hash.ok_or_else(|| {
                let detail = format!("decision {} names no record {:?}", decision.id, truncated(text));
                self.refuse(Grpc::NotFound, "unknown_record", detail)
            })
        });
        asked.collect()
    }
}
