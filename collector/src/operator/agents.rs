//! Agents as operators see them, and what people order about their say; the tokens that make new ones.

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Status};
use zerkalo_core::identity::{Standing, StandingChange};
use zerkalo_core::words::{Access, AgentId, CarrierId, OwnerId, Station};
use zerkalo_proto::operator_v1 as wire;

use super::{Operator, truncated};
use crate::access::Bearing;
use crate::clock;
use crate::engine::IdentityRefusal;
use crate::token::{Token, TokenSecret};

/// Bounds of a token's life, and what it is if nothing is asked for.
const TOKEN_SECS_MIN: u32 = 60;
/// See [`TOKEN_SECS_MIN`].
const TOKEN_SECS_MAX: u32 = 30 * 86_400;
/// See [`TOKEN_SECS_MIN`].
const TOKEN_SECS_DEFAULT: u32 = 86_400;
/// Tokens remembered at once, used or not: far more than boxes are enrolled in two months.
const TOKENS_MAX: usize = 10_000;
/// Longest reason, in characters.
const REASON_LEN_MAX: usize = 500;

impl Operator {
    pub(super) fn make_token(
        &self,
        bearing: &Bearing,
        request: &wire::CreateTokenRequest,
    ) -> Result<wire::CreateTokenResponse, Status> {
        let owner = OwnerId::parse(&request.owner).map_err(|error| self.bad(error.to_string()))?;
        let station = self.station(request)?;
        let secs = if request.valid_secs == 0 { TOKEN_SECS_DEFAULT } else { request.valid_secs };
        if !(TOKEN_SECS_MIN..=TOKEN_SECS_MAX).contains(&secs) {
            return Err(
                self.bad(format!("valid_secs {secs} is not between {TOKEN_SECS_MIN} and {TOKEN_SECS_MAX}"))
            );
        }
        let market = match &station {
            Station::Field { carrier, .. } => {
                self.catalogue.carrier(carrier).map(|carrier| carrier.market.clone())
            }
            Station::Control => None,
        };
        let (now, secret) = (clock::now(), TokenSecret::generate());
        let token = Token::new(&secret, owner, station, market, now.plus_secs(secs.into()));
        let has_room = block_in_place(|| self.state.has_room_for_token(now, TOKENS_MAX));
        if !has_room.map_err(|error| self.not_kept(&error))? {
            let detail = format!(
                "{TOKENS_MAX} tokens are the most; one is forgotten 30 days after its time, so make shorter-lived ones"
            );
            return Err(self.refuse(Grpc::ResourceExhausted, "too_many_tokens", detail));
        }
        let (carrier, access) = (request.carrier.clone(), request.access.clone());
        let about = vec![("owner", token.owner.to_string()), ("carrier", carrier), ("access", access)];
        let act = bearing.act("token.create", about);
        block_in_place(|| self.state.put_new_token(&secret.id(), &token, &act))
            .map_err(|error| self.not_kept(&error))?;
        let text = secret.token_text(&token, &self.ca_pem, &self.keys_in_force(), &self.public_urls);
        let expires_at = token.expires_at;
        tracing::info!(owner = %token.owner, station = ?token.station, %expires_at, "made a token");
        Ok(wire::CreateTokenResponse { token: text, expires_at_millis: expires_at.0 })
    }

    /// Revokes or unlocks an agent in a person's name.
    pub(super) async fn change_standing(
        &self,
        bearing: Bearing,
        agent: &str,
        standing: Standing,
        reason: String,
    ) -> Result<(), Status> {
        let length = reason.chars().count();
        if reason.trim().is_empty() || length > REASON_LEN_MAX {
            return Err(self.bad(format!("say why, in 1 to {REASON_LEN_MAX} characters")));
        }
        let id = AgentId::parse(agent).map_err(|_| {
            let refusal = IdentityRefusal::NoSuch { agent: truncated(agent) };
            self.not_changed(&refusal.into())
        })?;
        let author = bearing.person.0.clone();
        let act = if standing == Standing::Good { "agent.unlock" } else { "agent.revoke" };
        let about = vec![("agent", id.to_string()), ("reason", reason.clone())];
        let number = self.write_down(&bearing, act, about)?;
        let change = StandingChange { agent: id, standing, author: author.clone(), reason: reason.clone() };
        let made = self.engine.stand(change).await.map_err(|refusal| self.not_changed(&refusal));
        self.or_taken_back(&bearing, number, made)?;
        tracing::warn!(by = author, agent, %standing, reason, "changed an agent's standing");
        Ok(())
    }

    fn station(&self, request: &wire::CreateTokenRequest) -> Result<Station, Status> {
        match (request.control, request.carrier.as_str(), request.access.as_str()) {
            (true, "", "") => Ok(Station::Control),
            (true, _, _) => Err(self.bad("a control has no carrier and no access; name one or the other")),
            (false, "", _) => Err(self.bad("name a carrier, or say that it is a control")),
            (false, carrier, access) => {
                let access: Access = access.parse().map_err(|error| self.bad(format!("{error}")))?;
                let known = CarrierId::parse(carrier).ok().filter(|id| self.catalogue.carrier(id).is_some());
                let carrier = known.ok_or_else(|| {
                    let ids: Vec<_> =
                        self.catalogue.carriers().iter().map(|known| known.id.as_str()).collect();
                    let known = ids.join(", ");
                    let detail = format!("{:?} is no carrier of the catalogue ({known})", truncated(carrier));
                    self.refuse(Grpc::InvalidArgument, "unknown_carrier", detail)
                })?;
                Ok(Station::Field { carrier, access })
            }
        }
    }
}
