//! Enrolment: a one-time token against a certificate. The first call of an agent's life, without a client certificate.
//!
//! What the caller sent is parsed before its token is touched, so that a mistake does not cost a token. The certificate
//! is signed last, over an enrolment that is already in the journal.

use std::sync::Arc;

use tonic::{Code as Grpc, Request, Response, Status};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::words::Station;
use zerkalo_proto::agent_v1::enrollment_service_server::EnrollmentService;
use zerkalo_proto::agent_v1::{EnrollRequest, EnrollResponse};
use zerkalo_proto::code::status;
use zerkalo_proto::evidence::list_to_wire;

use crate::authority::{self, Authority};
use crate::clock;
use crate::engine::{ChangeRefusal, Claim, Engine};
use crate::metrics::{Metrics, count};
use crate::token::{self, Declared};

/// Longest secret looked at, in bytes; ours are shorter.
const SECRET_LEN_MAX: usize = 256;

/// The enrolment service.
pub struct Enrollment {
    pub engine: Engine,
    pub authority: Arc<Authority>,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        match self.admit(request.into_inner()).await {
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
}

type Refused = (Grpc, &'static str, String);

impl Enrollment {
    async fn admit(&self, request: EnrollRequest) -> Result<EnrollResponse, Refused> {
        let bad = |detail: String| (Grpc::InvalidArgument, "bad_request", detail);
        if request.token_secret.len() > SECRET_LEN_MAX {
            return Err(bad(format!("a token secret of {} bytes", request.token_secret.len())));
        }
        let record_key = PublicKey::from_bytes(&request.record_key)
            .map_err(|error| bad(format!("the record key is {error}")))?;
        let certificate_request = authority::Request::parse(&request.certificate_request_pem)
            .map_err(|error| bad(error.to_string()))?;
        let claim = Claim {
            token: token::digest(&request.token_secret),
            declared: Declared { carrier: request.carrier, access: request.access },
            record_key,
        };
        let enrolment = self.engine.enrol(claim).await.map_err(refused)?;
        let certificate_pem = self
            .authority
            .agent_certificate(&enrolment.agent, 1, &certificate_request, clock::now())
            .map_err(|error| (Grpc::Internal, "certificate_failed", error.to_string()))?;
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
            list: self.engine.read(|fold| fold.signed_list().map(list_to_wire)),
        })
    }
}

fn refused(refusal: ChangeRefusal) -> Refused {
    let grpc = match &refusal {
        ChangeRefusal::Token(token::TokenRefusal::WrongCarrier { .. }) => Grpc::FailedPrecondition,
        ChangeRefusal::Token(_) => Grpc::Unauthenticated,
        ChangeRefusal::VersionNotRising { .. } | ChangeRefusal::Order(_) => Grpc::FailedPrecondition,
        ChangeRefusal::StorageFull => Grpc::ResourceExhausted,
        ChangeRefusal::State => Grpc::Internal,
        ChangeRefusal::TooLarge { .. } => Grpc::InvalidArgument,
        ChangeRefusal::Stopping(_) => Grpc::Unavailable,
    };
    (grpc, refusal.code(), refusal.to_string())
}
