//! Signed mirror lists, as they are put in force.

use tonic::{Code as Grpc, Status};
use zerkalo_core::evidence::{ListError, SignedList};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::MarketId;
use zerkalo_proto::evidence::list_from_wire;
use zerkalo_proto::operator_v1 as wire;

use super::Operator;
use crate::access::Bearing;
use crate::clock;
use crate::engine::{ChangeRefusal, OpenedList};

/// Largest list, in bytes: agents read messages of 4 MiB, and 1,000 mirrors of the usual size need a quarter of it.
const LIST_LEN_MAX: usize = 2 * 1024 * 1024;

/// How far a signer's clock may be ahead of the collector's.
const CLOCK_SLACK_SECS: u64 = 3_600;

impl Operator {
    /// Checks a list and puts it in force; gives its version.
    pub(super) async fn put_list(
        &self,
        bearing: &Bearing,
        request: wire::PutMirrorListRequest,
    ) -> Result<u64, Status> {
        let list = request.list.ok_or_else(|| self.bad("no list was sent"))?;
        let signed = list_from_wire(list).map_err(|error| self.bad(error.to_string()))?;
        let keys = self.keys_in_force();
        let list = signed.open(&keys).map_err(|error| match error {
            ListError::Signature { .. } => {
                self.refuse(Grpc::PermissionDenied, "bad_signature", error.to_string())
            }
            ListError::TooFew { .. } | ListError::NewKeys { .. } => {
                self.refuse(Grpc::PermissionDenied, "too_few_signatures", error.to_string())
            }
            ListError::Malformed(source) => self.bad(format!("the list cannot be read: {source}")),
            ListError::Target(source) => self.refuse(Grpc::InvalidArgument, "bad_list", source.to_string()),
        })?;
        self.check_list(&signed, &list)?;
        let about = vec![
            ("version", list.version.to_string()),
            ("mirrors", list.mirrors.len().to_string()),
            ("sha256", Sha256::of(&signed.bytes).to_string()),
        ];
        let opened = OpenedList { signed, list, operator: keys };
        let number = self.write_down(bearing, "mirror_list.put", about)?;
        let put = self.engine.put_list(opened).await;
        let version = put.map_err(|refusal| self.not_changed(&refusal));
        let version = self.or_taken_back(bearing, number, version)?;
        tracing::info!(version, by = bearing.person.0, "a mirror list is in force");
        Ok(version)
    }

    /// Whose lists are taken now.
    pub(super) fn keys_in_force(&self) -> OperatorKeys {
        self.engine.read(|fold| fold.operator_keys().cloned()).unwrap_or_else(|| self.operator_keys.clone())
    }

    /// What only the collector can refuse a list for.
    fn check_list(&self, signed: &SignedList, list: &MirrorList) -> Result<(), Status> {
        if signed.bytes.len() > LIST_LEN_MAX {
            return Err(self.not_changed(&ChangeRefusal::TooLarge { limit: LIST_LEN_MAX }));
        }
        let now = clock::now();
        if let Some(expires_at) = list.expires_at.filter(|expires_at| *expires_at <= now) {
            let detail = format!("the list ended at {expires_at}; sign it anew: `zerkalo mirrors sign`");
            return Err(self.refuse(Grpc::FailedPrecondition, "list_expired", detail));
        }
        if list.issued_at > now.plus_secs(CLOCK_SLACK_SECS) {
            let detail = format!(
                "the list was issued at {}, but here it is {now}; check the signer's clock, and this collector's",
                list.issued_at
            );
            return Err(self.refuse(Grpc::FailedPrecondition, "list_of_the_future", detail));
        }
        let unknown = |what: String, market: &MarketId| {
            let detail = format!("{what} is in market {market}, which the catalogue lacks");
            self.refuse(Grpc::InvalidArgument, "unknown_market", detail)
        };
        for mirror in &list.mirrors {
            mirror.url.require_public().map_err(|error| {
                let detail = format!("mirror {}: {error}", mirror.id);
                self.refuse(Grpc::InvalidArgument, "special_range", detail)
            })?;
            if let Some(market) = mirror.markets.iter().find(|market| !self.catalogue.has_market(market)) {
                return Err(unknown(format!("mirror {}", mirror.id), market));
            }
        }
        match list.references.iter().find(|reference| !self.catalogue.has_market(&reference.market)) {
            Some(reference) => Err(unknown(format!("reference {}", reference.url), &reference.market)),
            None => Ok(()),
        }
    }
}
