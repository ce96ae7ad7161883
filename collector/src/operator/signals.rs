//! Tokens of the signal endpoints, as operators make and revoke them.

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Status};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::MarketId;
use zerkalo_proto::operator_v1 as wire;

use super::{Operator, truncated};
use crate::access::Bearing;
use crate::clock;
use crate::state::SignalToken;
use crate::token::TokenSecret;

/// Most signal tokens: each request looks at them all.
const SIGNAL_TOKENS_MAX: usize = 200;
/// Digits of a token's digest that name it.
const ID_LEN: usize = 12;

impl Operator {
    pub(super) fn make_signal_token(
        &self,
        bearing: &Bearing,
        request: &wire::CreateSignalTokenRequest,
    ) -> Result<wire::CreateSignalTokenResponse, Status> {
        let markets = request.markets.iter().map(|market| self.market(market));
        let mut markets: Vec<MarketId> = markets.collect::<Result<_, _>>()?;
        markets.sort();
        markets.dedup();
        if markets.is_empty() {
            return Err(self.bad("name at least one market that may be read with the token"));
        }
        if self.signals.len() >= SIGNAL_TOKENS_MAX {
            let detail = format!("{SIGNAL_TOKENS_MAX} signal tokens are the most; revoke one first");
            return Err(self.refuse(Grpc::ResourceExhausted, "too_many_tokens", detail));
        }
        let secret = TokenSecret::generate();
        let token = SignalToken { markets, made_at: clock::now(), made_by: bearing.person.0.clone() };
        let digest = secret.digest();
        tracing::info!(id = id_of(&digest), markets = ?token.markets, by = token.made_by, "made a signal token");
        let about = vec![("id", id_of(&digest)), ("markets", request.markets.join(" "))];
        self.audited(bearing, "signal_token.create", about, || {
            block_in_place(|| self.signals.put(digest, token)).map_err(|error| self.not_kept(&error))
        })?;
        Ok(wire::CreateSignalTokenResponse {
            token: secret.reveal().to_owned(),
            id: id_of(&digest),
            listen: self.signal_listen.map(|listen| listen.to_string()).unwrap_or_default(),
        })
    }

    pub(super) fn list_signals(&self) -> wire::ListSignalTokensResponse {
        let tokens = self.signals.all().into_iter().map(|(digest, token)| wire::SignalToken {
            id: id_of(&digest),
            markets: token.markets.iter().map(ToString::to_string).collect(),
            made_at_millis: token.made_at.0,
            made_by: token.made_by,
        });
        wire::ListSignalTokensResponse { tokens: tokens.collect() }
    }

    pub(super) fn revoke_signal(&self, bearing: &Bearing, id: &str) -> Result<(), Status> {
        let mut found = self.signals.all().into_iter().filter(|(digest, _)| id_of(digest) == id);
        let (digest, _) = found.next().ok_or_else(|| {
            let detail =
                format!("there is no signal token {:?}; `zerkalo signal ls` names them", truncated(id));
            self.refuse(Grpc::NotFound, "unknown_token", detail)
        })?;
        self.audited(bearing, "signal_token.revoke", vec![("id", id.to_owned())], || {
            block_in_place(|| self.signals.remove(&digest)).map_err(|error| self.not_kept(&error))
        })?;
        tracing::info!(id, by = bearing.person.0, "revoked a signal token");
        Ok(())
    }
}

fn id_of(digest: &Sha256) -> String {
    let mut id = digest.to_string();
    id.truncate(ID_LEN);
    id
}
