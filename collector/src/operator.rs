//! What operators ask: tokens, agents, mirror lists, the matrix, decisions; and what they order.
//!
//! Every call comes through the gate, which tells who it is. Every change goes into the audit log before it is made; one
//! that is refused after all is followed by a line that says so. Nothing here can sign a list: that takes the operator's key, which the collector
//! never has.

mod agents;
mod audit;
mod deliveries;
mod evidence;
mod interceptions;
mod lists;
mod orders;
mod people;
mod pictures;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code as Grpc, Request, Response, Status};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::identity::Standing;
use zerkalo_core::market::Decision;
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_proto::code::status;
use zerkalo_proto::evidence::list_to_wire;
use zerkalo_proto::operator::{agent_to_wire, decision_to_wire, evidence_to_wire, matrix_to_wire};
use zerkalo_proto::operator_v1::operator_service_server::OperatorService;
use zerkalo_proto::operator_v1::{self as wire};

use crate::access::{self, Bearing};
use crate::clock;
use crate::engine::{ChangeRefusal, Engine, IdentityRefusal};
use crate::executor::Route;
use crate::journal::Archive;
use crate::metrics::{Metrics, count};
use crate::outbox::Bell;
use crate::pictures::Pictures;
use crate::signal::SignalTokens;
use crate::state::{State, StateError, Topic};
use crate::stop::StopSignal;
use crate::uplink::Connected;

/// Decisions in one answer if nothing else is asked for, and at most.
const DECISIONS_MAX: u32 = 1_000;
/// Bytes of decisions in one answer: clients read 4 MiB.
const DECISIONS_LEN_MAX: usize = 1_500_000;
/// A watcher gets no more than five changes a second, however fast records come.
const WATCH_WAIT_MIN: Duration = Duration::from_millis(200);
/// A watcher's token is looked at again after this, whatever changes: it may have expired.
const WATCH_AGAIN: Duration = Duration::from_secs(60);

/// The operator service.
#[derive(Clone)]
pub struct Operator {
    pub engine: Engine,
    pub state: Arc<State>,
    pub archive: Arc<Archive>,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
    pub pictures: Arc<Pictures>,
    pub connected: Connected,
    pub access: Arc<access::Access>,
    pub signals: Arc<SignalTokens>,
    pub signal_listen: Option<SocketAddr>,
    pub routes: Arc<[Route]>,
    pub bell: Arc<Bell>,
    /// Whose lists are taken until one names other keys.
    pub operator_keys: OperatorKeys,
    /// What a token carries to the box.
    pub ca_pem: String,
    pub public_urls: Vec<String>,
    pub stopping: StopSignal,
}

#[tonic::async_trait]
impl OperatorService for Operator {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        self.make_token(&bearing(&request)?, request.get_ref()).map(Response::new)
    }

    async fn revoke_agent(
        &self,
        request: Request<wire::RevokeAgentRequest>,
    ) -> Result<Response<wire::RevokeAgentResponse>, Status> {
        let (bearing, request) = (bearing(&request)?, request.into_inner());
        self.change_standing(bearing, &request.agent, Standing::Revoked, request.reason).await?;
        Ok(Response::new(wire::RevokeAgentResponse {}))
    }

    async fn unlock_agent(
        &self,
        request: Request<wire::UnlockAgentRequest>,
    ) -> Result<Response<wire::UnlockAgentResponse>, Status> {
        let (bearing, request) = (bearing(&request)?, request.into_inner());
        self.change_standing(bearing, &request.agent, Standing::Good, request.reason).await?;
        Ok(Response::new(wire::UnlockAgentResponse {}))
    }

    async fn list_agents(
        &self,
        _: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let agents = self.engine.read(|fold| {
            let agents = fold.agents().iter();
            agents.map(|(id, agent)| agent_to_wire(agent, &self.catalogue, self.connected.has(id))).collect()
        });
        let networks_date = self.engine.read(|fold| fold.networks_date().to_owned());
        Ok(Response::new(wire::ListAgentsResponse { agents, networks_date }))
    }

    async fn put_mirror_list(
        &self,
        request: Request<wire::PutMirrorListRequest>,
    ) -> Result<Response<wire::PutMirrorListResponse>, Status> {
        let bearing = bearing(&request)?;
        let version = self.put_list(&bearing, request.into_inner()).await?;
        Ok(Response::new(wire::PutMirrorListResponse { version }))
    }

    async fn get_mirror_list(
        &self,
        _: Request<wire::GetMirrorListRequest>,
    ) -> Result<Response<wire::GetMirrorListResponse>, Status> {
        let list = self.engine.read(|fold| fold.signed_list().map(list_to_wire));
        Ok(Response::new(wire::GetMirrorListResponse { list }))
    }

    async fn get_matrix(
        &self,
        _: Request<wire::GetMatrixRequest>,
    ) -> Result<Response<wire::GetMatrixResponse>, Status> {
        Ok(Response::new(wire::GetMatrixResponse { matrix: Some(self.matrix()) }))
    }

    type WatchMatrixStream = ReceiverStream<Result<wire::WatchMatrixResponse, Status>>;

    async fn watch_matrix(
        &self,
        request: Request<wire::WatchMatrixRequest>,
    ) -> Result<Response<Self::WatchMatrixStream>, Status> {
        let bearing = bearing(&request)?;
        // One in flight: a slow watcher gets fewer matrices, each of them fresh.
        let (matrices, outbound) = mpsc::channel(1);
        let operator = self.clone();
        tokio::spawn(async move {
            let look = |operator: &Self| Ok(SameRows(operator.matrix()));
            let wrap = |SameRows(matrix)| wire::WatchMatrixResponse { matrix: Some(matrix) };
            operator.watch(bearing, matrices, look, wrap).await;
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn list_decisions(
        &self,
        request: Request<wire::ListDecisionsRequest>,
    ) -> Result<Response<wire::ListDecisionsResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { DECISIONS_MAX } else { request.limit.min(DECISIONS_MAX) };
        let decisions = block_in_place(|| self.newest(&request.market, limit as usize))?;
        Ok(Response::new(wire::ListDecisionsResponse { decisions }))
    }

    async fn explain_decision(
        &self,
        request: Request<wire::ExplainDecisionRequest>,
    ) -> Result<Response<wire::ExplainDecisionResponse>, Status> {
        let (decision, json) = self.logged(&request.get_ref().id)?;
        let evidence = decision.evidence.iter().map(evidence_to_wire).collect();
        let decision = Some(decision_to_wire(&decision, json));
        Ok(Response::new(wire::ExplainDecisionResponse { decision, evidence }))
    }

    async fn fetch_evidence(
        &self,
        request: Request<wire::FetchEvidenceRequest>,
    ) -> Result<Response<wire::FetchEvidenceResponse>, Status> {
        self.evidence(request.get_ref()).await.map(Response::new)
    }

    async fn forecast(
        &self,
        request: Request<wire::ForecastRequest>,
    ) -> Result<Response<wire::ForecastResponse>, Status> {
        self.forecasts(&request.get_ref().market).map(Response::new)
    }

    async fn list_interceptions(
        &self,
        request: Request<wire::ListInterceptionsRequest>,
    ) -> Result<Response<wire::ListInterceptionsResponse>, Status> {
        let request = request.into_inner();
        let ledger = self.engine.read(|fold| fold.ledger().clone());
        Ok(Response::new(interceptions::listed(&ledger, &request)))
    }

    async fn request_probe(
        &self,
        request: Request<wire::RequestProbeRequest>,
    ) -> Result<Response<wire::RequestProbeResponse>, Status> {
        self.ask_for_probe(request.get_ref())
    }

    async fn list_pictures(
        &self,
        request: Request<wire::ListPicturesRequest>,
    ) -> Result<Response<wire::ListPicturesResponse>, Status> {
        self.newest_pictures(request.get_ref())
    }

    async fn fetch_picture(
        &self,
        request: Request<wire::FetchPictureRequest>,
    ) -> Result<Response<wire::FetchPictureResponse>, Status> {
        self.picture(&request.get_ref().sha256)
    }

    async fn list_pool(
        &self,
        request: Request<wire::ListPoolRequest>,
    ) -> Result<Response<wire::ListPoolResponse>, Status> {
        self.pools(&request.get_ref().market).map(Response::new)
    }

    async fn give_order(
        &self,
        request: Request<wire::GiveOrderRequest>,
    ) -> Result<Response<wire::GiveOrderResponse>, Status> {
        self.order(bearing(&request)?, request.into_inner()).await
    }

    async fn list_alerts(
        &self,
        request: Request<wire::ListAlertsRequest>,
    ) -> Result<Response<wire::ListAlertsResponse>, Status> {
        let request = request.get_ref();
        let alerts = block_in_place(|| self.newest_alerts(&request.market, request.limit))?;
        Ok(Response::new(wire::ListAlertsResponse { alerts }))
    }

    async fn list_deliveries(
        &self,
        _: Request<wire::ListDeliveriesRequest>,
    ) -> Result<Response<wire::ListDeliveriesResponse>, Status> {
        self.deliveries().map(Response::new)
    }

    async fn retry_delivery(
        &self,
        request: Request<wire::RetryDeliveryRequest>,
    ) -> Result<Response<wire::RetryDeliveryResponse>, Status> {
        let (bearing, id) = (bearing(&request)?, &request.get_ref().id);
        self.audited(&bearing, "delivery.retry", vec![("id", id.clone())], || self.retry(id))?;
        tracing::info!(by = bearing.person.0, id, "a delivery is tried again");
        Ok(Response::new(wire::RetryDeliveryResponse {}))
    }

    async fn drop_delivery(
        &self,
        request: Request<wire::DropDeliveryRequest>,
    ) -> Result<Response<wire::DropDeliveryResponse>, Status> {
        let (bearing, id) = (bearing(&request)?, &request.get_ref().id);
        self.audited(&bearing, "delivery.drop", vec![("id", id.clone())], || self.drop_one(id))?;
        tracing::warn!(by = bearing.person.0, id, "a delivery was dropped");
        Ok(Response::new(wire::DropDeliveryResponse {}))
    }

    async fn active_mirror(
        &self,
        request: Request<wire::ActiveMirrorRequest>,
    ) -> Result<Response<wire::ActiveMirrorResponse>, Status> {
        let request = request.get_ref();
        let active = self.active(&request.market, &request.carrier)?;
        Ok(Response::new(wire::ActiveMirrorResponse { active }))
    }

    type WatchActiveMirrorStream = ReceiverStream<Result<wire::WatchActiveMirrorResponse, Status>>;

    async fn watch_active_mirror(
        &self,
        request: Request<wire::WatchActiveMirrorRequest>,
    ) -> Result<Response<Self::WatchActiveMirrorStream>, Status> {
        let bearing = bearing(&request)?;
        let wire::WatchActiveMirrorRequest { market, carrier } = request.into_inner();
        self.place(&market, &carrier)?;
        // One in flight, as with the matrix.
        let (changes, outbound) = mpsc::channel(1);
        let operator = self.clone();
        tokio::spawn(async move {
            let look = |operator: &Self| operator.active(&market, &carrier);
            let wrap = |active| wire::WatchActiveMirrorResponse { active };
            operator.watch(bearing, changes, look, wrap).await;
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn create_signal_token(
        &self,
        request: Request<wire::CreateSignalTokenRequest>,
    ) -> Result<Response<wire::CreateSignalTokenResponse>, Status> {
        self.make_signal_token(&bearing(&request)?, request.get_ref()).map(Response::new)
    }

    async fn list_signal_tokens(
        &self,
        _: Request<wire::ListSignalTokensRequest>,
    ) -> Result<Response<wire::ListSignalTokensResponse>, Status> {
        Ok(Response::new(self.list_signals()))
    }

    async fn revoke_signal_token(
        &self,
        request: Request<wire::RevokeSignalTokenRequest>,
    ) -> Result<Response<wire::RevokeSignalTokenResponse>, Status> {
        self.revoke_signal(&bearing(&request)?, &request.get_ref().id)?;
        Ok(Response::new(wire::RevokeSignalTokenResponse {}))
    }

    async fn create_api_token(
        &self,
        request: Request<wire::CreateApiTokenRequest>,
    ) -> Result<Response<wire::CreateApiTokenResponse>, Status> {
        self.make_api_token(&bearing(&request)?, request.get_ref()).map(Response::new)
    }

    async fn list_api_tokens(
        &self,
        _: Request<wire::ListApiTokensRequest>,
    ) -> Result<Response<wire::ListApiTokensResponse>, Status> {
        Ok(Response::new(self.list_people()))
    }

    async fn revoke_api_token(
        &self,
        request: Request<wire::RevokeApiTokenRequest>,
    ) -> Result<Response<wire::RevokeApiTokenResponse>, Status> {
        self.revoke_person(&bearing(&request)?, &request.get_ref().name)?;
        Ok(Response::new(wire::RevokeApiTokenResponse {}))
    }

    async fn list_audit(
        &self,
        request: Request<wire::ListAuditRequest>,
    ) -> Result<Response<wire::ListAuditResponse>, Status> {
        self.audit_after(request.get_ref()).map(Response::new)
    }
}

/// Matrices are the same while their rows are, whenever they were drawn.
#[derive(Clone)]
struct SameRows(wire::Matrix);

impl PartialEq for SameRows {
    fn eq(&self, other: &Self) -> bool {
        self.0.rows == other.0.rows
    }
}

/// Whose call it is.
fn bearing<T>(request: &Request<T>) -> Result<Bearing, Status> {
    // The gate lets nobody else in.
    request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated("nobody's token"))
}

impl Operator {
    fn matrix(&self) -> wire::Matrix {
        self.engine.read(|fold| matrix_to_wire(&fold.matrix(self.engine.now(fold))))
    }

    /// Sends what `look` sees at once, then whenever it is something else; ends where nothing can be seen, or with the
    /// watcher's token.
    async fn watch<T: PartialEq + Clone, M>(
        self,
        bearing: Bearing,
        watcher: mpsc::Sender<Result<M, Status>>,
        look: impl Fn(&Self) -> Result<T, Status>,
        wrap: impl Fn(T) -> M,
    ) {
        let mut changes = self.engine.changes();
        let mut revocations = self.access.revocations();
        let stopping = &self.stopping;
        let mut sent = None;
        loop {
            changes.mark_unchanged();
            revocations.mark_unchanged();
            if !self.access.is_live(&bearing, clock::now()) {
                let detail = "the token of this watch was revoked or expired; ask an admin for a new one";
                let ended = self.refuse(Grpc::Unauthenticated, "unauthenticated", detail);
                return drop(watcher.send(Err(ended)).await);
            }
            let Ok(seen) = look(&self) else { return };
            if sent.as_ref() != Some(&seen) {
                sent = Some(seen.clone());
                if watcher.send(Ok(wrap(seen))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                // It lives as long as this service does.
                _ = revocations.changed() => {}
                () = tokio::time::sleep(WATCH_AGAIN) => {}
                () = watcher.closed() => return,
                () = stopping.stopped() => return,
            }
            tokio::time::sleep(WATCH_WAIT_MIN).await;
        }
    }

    /// The newest decisions of a market (or all), oldest first.
    fn newest(&self, market: &str, limit: usize) -> Result<Vec<wire::Decision>, Status> {
        let mut kept = std::collections::VecDeque::new();
        let mut kept_len = 0;
        let last = self.state.last_line(Topic::Decision).map_err(|error| self.failed(&error))?;
        let start = if market.is_empty() { (last + 1).saturating_sub(limit as u64) } else { 0 };
        let mut failure = None;
        let scanned = self.state.lines(Topic::Decision, start, |bytes| match self.parse(bytes) {
            Err(error) => {
                failure = Some(error);
                false
            }
            Ok((decision, json)) => {
                if market.is_empty() || decision.market.as_str() == market {
                    kept_len += json.len();
                    kept.push_back(decision_to_wire(&decision, json));
                }
                while kept.len() > limit || (kept_len > DECISIONS_LEN_MAX && kept.len() > 1) {
                    kept_len -= kept.pop_front().map_or(0, |oldest: wire::Decision| oldest.json.len());
                }
                true
            }
        });
        scanned.map_err(|error| self.failed(&error))?;
        failure.map_or(Ok(kept.into()), Err)
    }

    fn parse(&self, bytes: &[u8]) -> Result<(Decision, String), Status> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let decision = serde_json::from_str(&text).map_err(|error| self.failed(&error))?;
        Ok((decision, text))
    }

    fn bad(&self, detail: impl Into<String>) -> Status {
        self.refuse(Grpc::InvalidArgument, "bad_request", detail)
    }

    fn refuse(&self, grpc: Grpc, code: &'static str, detail: impl Into<String>) -> Status {
        count(&self.metrics.requests_refused, code);
        status(grpc, code, detail)
    }

    fn not_changed(&self, refusal: &ChangeRefusal) -> Status {
        let grpc = match refusal {
            ChangeRefusal::StorageFull => Grpc::ResourceExhausted,
            ChangeRefusal::State => Grpc::Internal,
            ChangeRefusal::Stopping(_) => Grpc::Unavailable,
            ChangeRefusal::TooLarge { .. } => Grpc::InvalidArgument,
            ChangeRefusal::Identity(IdentityRefusal::NoSuch { .. }) => Grpc::NotFound,
            ChangeRefusal::VersionNotRising { .. }
            | ChangeRefusal::KeysChanged
            | ChangeRefusal::Token(_)
            | ChangeRefusal::Identity(_)
            | ChangeRefusal::Order(_) => Grpc::FailedPrecondition,
        };
        self.refuse(grpc, refusal.code(), refusal.to_string())
    }

    /// A change that the state did not keep.
    fn not_kept(&self, error: &StateError) -> Status {
        if error.is_full() { self.not_changed(&ChangeRefusal::StorageFull) } else { self.failed(error) }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Status {
        tracing::error!(error, "an operator's call failed");
        self.refuse(
            Grpc::Internal,
            "storage_failed",
            "the collector's state cannot be used; its log says why",
        )
    }
}

/// Enough of a peer's text to recognise it by.
fn truncated(text: &str) -> String {
    text.chars().take(80).collect()
}
