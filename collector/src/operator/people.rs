//! API tokens, as admins make and revoke them.

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Status};
use zerkalo_proto::operator_v1 as wire;

use super::Operator;
use crate::access::{AccessRefusal, Bearing};
use crate::clock;

impl Operator {
    pub(super) fn make_api_token(
        &self,
        bearing: &Bearing,
        request: &wire::CreateApiTokenRequest,
    ) -> Result<wire::CreateApiTokenResponse, Status> {
        let (name, scope, days) = (&request.name, &request.scope, request.valid_days);
        let made = block_in_place(|| self.access.create(bearing, name, scope, days));
        let (secret, expires_at) = made.map_err(|refusal| self.not_admitted(&refusal))?;
        tracing::info!(name, scope, %expires_at, by = bearing.person.0, "made an API token");
        let token = secret.reveal().to_owned();
        Ok(wire::CreateApiTokenResponse { token, expires_at_millis: expires_at.0 })
    }

    pub(super) fn list_people(&self) -> wire::ListApiTokensResponse {
        let now = clock::now();
        let tokens = self.access.all(now).into_iter().map(|one| {
            let (made_at, made_by) = one.made.unwrap_or_default();
            wire::ApiToken {
                name: one.name,
                scope: one.scope.word().to_owned(),
                made_at_millis: made_at.0,
                made_by,
                expires_at_millis: one.expires_at.map_or(0, |at| at.0),
                expired: one.expires_at.is_some_and(|at| at <= now),
            }
        });
        wire::ListApiTokensResponse { tokens: tokens.collect() }
    }

    pub(super) fn revoke_person(&self, bearing: &Bearing, name: &str) -> Result<(), Status> {
        let revoked = block_in_place(|| self.access.revoke(bearing, name));
        revoked.map_err(|refusal| self.not_admitted(&refusal))?;
        tracing::info!(name, by = bearing.person.0, "revoked an API token");
        Ok(())
    }

    fn not_admitted(&self, refusal: &AccessRefusal) -> Status {
        let grpc = match refusal {
            AccessRefusal::Unknown | AccessRefusal::Expired { .. } => Grpc::Unauthenticated,
            AccessRefusal::Name { .. } | AccessRefusal::Scope { .. } | AccessRefusal::Days { .. } => {
                Grpc::InvalidArgument
            }
            AccessRefusal::Taken { .. } => Grpc::AlreadyExists,
            AccessRefusal::Nobody { .. } => Grpc::NotFound,
            AccessRefusal::LastAdmin { .. } => Grpc::FailedPrecondition,
            AccessRefusal::TooMany => Grpc::ResourceExhausted,
            AccessRefusal::State(error) => return self.not_kept(error),
        };
        self.refuse(grpc, refusal.code(), refusal.to_string())
    }
}
