//! Identities: a one-time token against a certificate, a certificate against its next, and a record key against one where
//! the last one's time is over.
//!
//! Who asks proves what they hold over the session they ask in; nothing secret is sent. What the caller sent is parsed and
//! its proofs are checked before a token is touched, so that a mistake does not cost a token. A certificate is signed last,
//! over what is in the journal already.

use std::sync::Arc;

use tonic::{Code as Grpc, Extensions, Request, Response, Status};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::evidence::{PublicKey, SignedList};
use zerkalo_core::identity::{Asked, Binding, Purpose};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, Station};
use zerkalo_proto::agent_v1::enrollment_service_server::EnrollmentService;
use zerkalo_proto::agent_v1::{
    EnrollRequest, EnrollResponse, RejoinRequest, RejoinResponse, RenewRequest, RenewResponse,
};
use zerkalo_proto::code::status;
use zerkalo_proto::evidence::{list_to_bytes, list_to_wire};

use crate::authority::{self, Authority};
use crate::clock;
use crate::engine::{ChangeRefusal, Claim, Engine, Holding, IdentityRefusal};
use crate::metrics::{Metrics, count};
use crate::session::Session;
use crate::state::State;
use crate::token::{Declared, TokenRefusal};

/// Longest word about a line looked at, in bytes.
const DECLARED_LEN_MAX: usize = 256;
/// Longest list in the answer to an enrolment, in bytes; with handshake and certificate that is some 8 KB.
const LIST_LEN_MAX: usize = 4_000;
/// How long after it was last heard of an agent may come back by its record key.
const REJOIN_SECS_MAX: u64 = 90 * 86_400;

/// The service of identities.
pub struct Enrollment {
    pub engine: Engine,
    pub state: Arc<State>,
    pub authority: Arc<Authority>,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let session = session(request.extensions());
        match self.admit(&session, request.into_inner()).await {
            Ok(response) => {
                self.metrics.enrollments.inc();
                Ok(Response::new(response))
            }
            Err((grpc, code, detail)) => {
                count(&self.metrics.enrollments_refused, code);
                tracing::warn!(code, detail, "refused an enrolment");
                Err(status(grpc, code, detail))
            }
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let session = session(request.extensions());
        let RenewRequest { agent, generation, certificate_request_pem, record_signature } =
            request.into_inner();
        let next = Next { agent, generation, request_pem: certificate_request_pem, record_signature };
        let (certificate_pem, generation) = self.answer(self.renewed(&session, &next).await)?;
        Ok(Response::new(RenewResponse { certificate_pem, generation }))
    }

    async fn rejoin(&self, request: Request<RejoinRequest>) -> Result<Response<RejoinResponse>, Status> {
        let session = session(request.extensions());
        let RejoinRequest { agent, generation, certificate_request_pem, record_signature } =
            request.into_inner();
        let next = Next { agent, generation, request_pem: certificate_request_pem, record_signature };
        let (certificate_pem, generation) = self.answer(self.rejoined(&session, &next).await)?;
        Ok(Response::new(RejoinResponse { certificate_pem, generation }))
    }
}

type Refused = (Grpc, &'static str, String);

/// An agent that asks for its next certificate.
struct Next {
    agent: String,
    /// Of the last one.
    generation: u64,
    request_pem: String,
    record_signature: Vec<u8>,
}

impl Enrollment {
    async fn admit(&self, session: &Session, request: EnrollRequest) -> Result<EnrollResponse, Refused> {
        if !request.token_secret.is_empty() {
            let detail = "this agent shows its token where it should prove that it holds one: it is older than this \
                          collector. Update zerkalo-agent and enrol again; the token is still good";
            return Err((Grpc::FailedPrecondition, "token_in_clear", detail.to_owned()));
        }
        if request.carrier.len().max(request.access.len()) > DECLARED_LEN_MAX {
            return Err(bad("carrier or access is too long to be one"));
        }
        let record_key = PublicKey::from_bytes(&request.record_key)
            .map_err(|error| bad(format!("the record key is {error}")))?;
        let csr = authority::Request::parse(&request.certificate_request_pem).map_err(bad)?;
        let id = request.token_id.as_slice().try_into().map(Sha256);
        let id = id.map_err(|_| bad("the token's id is not of 32 bytes"))?;
        let asked = Asked {
            purpose: Purpose::Enrol,
            binding: binding(session)?,
            agent: "",
            generation: 0,
            request_pem: &request.certificate_request_pem,
            record_key: &record_key,
            carrier: &request.carrier,
            access: &request.access,
        };
        check_record_proof(&asked, &request.record_signature)?;
        self.check_token(id, &asked, &request)?;
        let declared = Declared { carrier: request.carrier.clone(), access: request.access.clone() };
        let claim = Claim { token: id, declared, record_key, tls_key: csr.key() };
        let enrolment = self.engine.enrol(claim).await.map_err(refused)?;
        // Anew only where the answer to the same box was lost: then it is the same.
        let generation = 1;
        let certificate_pem = self.certificate(&enrolment.agent, generation, &csr)?;
        let (carrier, access) = match &enrolment.station {
            Station::Field { carrier, access } => (Some(carrier), access.as_str()),
            Station::Control => (None, ""),
        };
        let market =
            carrier.and_then(|id| self.catalogue.carrier(id)).map(|carrier| carrier.market.to_string());
        let (agent, owner) = (enrolment.agent.to_string(), enrolment.owner.to_string());
        tracing::info!(agent, owner, carrier = carrier.map(tracing::field::display), access, "enrolled");
        Ok(EnrollResponse {
            agent,
            owner,
            market: market.unwrap_or_default(),
            carrier: carrier.map(ToString::to_string).unwrap_or_default(),
            access: access.to_owned(),
            certificate_pem,
            list: self.engine.read(|fold| fold.signed_list().filter(is_short).map(list_to_wire)),
            generation,
        })
    }

    /// Whether the box holds the token it names.
    fn check_token(&self, id: Sha256, asked: &Asked<'_>, request: &EnrollRequest) -> Result<(), Refused> {
        let found = tokio::task::block_in_place(|| self.state.token(&id)).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "an enrolment failed in the state");
            refused(ChangeRefusal::State)
        })?;
        let not = |refusal: TokenRefusal| refused(refusal.into());
        let token = found.ok_or_else(|| not(TokenRefusal::Unknown))?;
        token.check_proof(asked, &request.token_mac, &request.token_signature).map_err(not)?;
        let market = match &token.station {
            Station::Field { carrier, .. } => self.catalogue.carrier(carrier).map(|carrier| &carrier.market),
            Station::Control => None,
        };
        token.check_market(market).map_err(not)
    }

    /// By the certificate in force, on its own connection.
    async fn renewed(&self, session: &Session, next: &Next) -> Result<(String, u64), Refused> {
        let papers =
            session.papers(clock::now()).map_err(|(code, detail)| (Grpc::Unauthenticated, code, detail))?;
        if papers.agent.as_str() != next.agent {
            let detail = format!("the certificate is of {}; an agent renews its own", papers.agent);
            return Err((Grpc::Unauthenticated, "certificate_wrong_agent", detail));
        }
        self.next(session, Purpose::Renew, next).await
    }

    /// By the record key alone.
    async fn rejoined(&self, session: &Session, next: &Next) -> Result<(String, u64), Refused> {
        self.next(session, Purpose::Rejoin, next).await
    }

    async fn next(&self, session: &Session, purpose: Purpose, next: &Next) -> Result<(String, u64), Refused> {
        let unknown =
            || refused(IdentityRefusal::Unknown { agent: next.agent.chars().take(80).collect() }.into());
        let agent = AgentId::parse(&next.agent).map_err(|_| unknown())?;
        let csr = authority::Request::parse(&next.request_pem).map_err(bad)?;
        let known = self
            .engine
            .read(|fold| fold.agents().get(&agent).map(|known| (known.enrolment.key, known.last_known_at())));
        let (record_key, last_known_at) = known.ok_or_else(unknown)?;
        let asked = Asked {
            purpose,
            binding: binding(session)?,
            agent: &next.agent,
            generation: next.generation,
            request_pem: &next.request_pem,
            record_key: &record_key,
            carrier: "",
            access: "",
        };
        check_record_proof(&asked, &next.record_signature)?;
        if purpose == Purpose::Rejoin && last_known_at.plus_secs(REJOIN_SECS_MAX) <= clock::now() {
            let detail = format!(
                "{agent} was last heard of at {last_known_at}, too long ago to come back by its record key; ask the \
                 operator for a new token and enrol the box anew with `zerkalo-agent enroll --force`"
            );
            return Err((Grpc::Unauthenticated, "rejoin_too_late", detail));
        }
        let holding = Holding { agent: agent.clone(), generation: next.generation, key: csr.key() };
        let generation = self.engine.certify(holding).await.map_err(refused)?;
        let certificate_pem = self.certificate(&agent, generation, &csr)?;
        tracing::info!(%agent, generation, ?purpose, "made the next certificate");
        Ok((certificate_pem, generation))
    }

    fn certificate(
        &self,
        agent: &AgentId,
        generation: u64,
        csr: &authority::Request,
    ) -> Result<String, Refused> {
        self.authority
            .agent_certificate(agent, generation, csr, clock::now())
            .map_err(|error| (Grpc::Internal, "certificate_failed", error.to_string()))
    }

    fn answer(&self, answer: Result<(String, u64), Refused>) -> Result<(String, u64), Status> {
        match answer {
            Ok(made) => {
                self.metrics.certificates.inc();
                Ok(made)
            }
            Err((grpc, code, detail)) => {
                count(&self.metrics.certificates_refused, code);
                tracing::warn!(code, detail, "refused a certificate");
                Err(status(grpc, code, detail))
            }
        }
    }
}

/// Whether an answer has room for a list on a path that freezes longer connections: the uplink brings others in parts.
fn is_short(list: &&SignedList) -> bool {
    list_to_bytes(list).len() <= LIST_LEN_MAX
}

/// The session that a request came in.
fn session(extensions: &Extensions) -> Session {
    extensions.get::<Session>().cloned().unwrap_or_default()
}

fn binding(session: &Session) -> Result<&Binding, Refused> {
    session.binding.as_ref().ok_or_else(|| {
        let detail = "this connection has nothing to bind a proof to; connect by TLS 1.3 or 1.2 directly";
        (Grpc::FailedPrecondition, "no_binding", detail.to_owned())
    })
}

fn check_record_proof(asked: &Asked<'_>, signature: &[u8]) -> Result<(), Refused> {
    let held = signature.try_into().ok().and_then(|signature| asked.verify(asked.record_key, signature).ok());
    held.ok_or_else(|| {
        let detail = "the box does not show on this connection that it holds the record key it names; try again, and if \
                      it stays so ask the operator for a new token and enrol the box anew";
        (Grpc::Unauthenticated, "record_proof_wrong", detail.to_owned())
    })
}

fn bad(detail: impl ToString) -> Refused {
    (Grpc::InvalidArgument, "bad_request", detail.to_string())
}

fn refused(refusal: ChangeRefusal) -> Refused {
    let grpc = match &refusal {
        ChangeRefusal::Token(TokenRefusal::WrongCarrier { .. } | TokenRefusal::WrongMarket { .. }) => {
            Grpc::FailedPrecondition
        }
        ChangeRefusal::Token(_) | ChangeRefusal::Identity(_) => Grpc::Unauthenticated,
        ChangeRefusal::VersionNotRising { .. } | ChangeRefusal::KeysChanged | ChangeRefusal::Order(_) => {
            Grpc::FailedPrecondition
        }
        ChangeRefusal::StorageFull => Grpc::ResourceExhausted,
        ChangeRefusal::State => Grpc::Internal,
        ChangeRefusal::TooLarge { .. } => Grpc::InvalidArgument,
        ChangeRefusal::Stopping(_) => Grpc::Unavailable,
    };
    (grpc, refusal.code(), refusal.to_string())
}
