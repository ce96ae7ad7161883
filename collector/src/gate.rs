//! Before the operator service: whose call it is, and whether its scope reaches so far.
//!
//! One table says the least scope of every call; what is not in it is refused. Failures are counted by where they come
//! from. A right token is never locked out by others' failures: no secret of 256 bits is guessed, and behind one address
//! may sit everybody who has a tunnel to the collector.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{Either, Ready, ready};
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code as Grpc, Status};
use zerkalo_proto::code::status;

use crate::access::{Access, AccessRefusal, Bearing};
use crate::clock;
use crate::metrics::{Metrics, count};
use crate::people::Scope;

/// The service all calls are of, as paths begin.
const SERVICE: &str = "/zerkalo.operator.v1.OperatorService/";
/// The least scope of every call. Whoever adds a call says here who may make it.
const SCOPES: &[(&str, Scope)] = &[
    ("ActiveMirror", Scope::Viewer),
    ("CreateApiToken", Scope::Admin),
    ("CreateSignalToken", Scope::Operator),
    ("CreateToken", Scope::Operator),
    ("DropDelivery", Scope::Operator),
    ("ExplainDecision", Scope::Viewer),
    ("FetchEvidence", Scope::Viewer),
    ("FetchPicture", Scope::Viewer),
    ("Forecast", Scope::Viewer),
    ("GetMatrix", Scope::Viewer),
    ("GetMirrorList", Scope::Viewer),
    ("GiveOrder", Scope::Operator),
    ("ListAgents", Scope::Viewer),
    ("ListAlerts", Scope::Viewer),
    ("ListApiTokens", Scope::Admin),
    ("ListAudit", Scope::Operator),
    ("ListDecisions", Scope::Viewer),
    ("ListDeliveries", Scope::Viewer),
    ("ListInterceptions", Scope::Viewer),
    ("ListPictures", Scope::Viewer),
    ("ListPool", Scope::Viewer),
    ("ListSignalTokens", Scope::Operator),
    ("PutMirrorList", Scope::Operator),
    ("RequestProbe", Scope::Operator),
    ("RetryDelivery", Scope::Operator),
    ("RevokeAgent", Scope::Operator),
    ("RevokeApiToken", Scope::Admin),
    ("RevokeSignalToken", Scope::Operator),
    ("UnlockAgent", Scope::Operator),
    ("WatchActiveMirror", Scope::Viewer),
    ("WatchMatrix", Scope::Viewer),
];
/// Failures of one address within [`FAILURES_WINDOW`] before it is told to wait.
const FAILURES_MAX: u32 = 20;
/// See [`FAILURES_MAX`].
const FAILURES_WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted apart; the others share one count.
const ADDRESSES_MAX: usize = 4_096;

/// Lets calls through to the operator service with the bearer noted in them.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    access: Arc<Access>,
    metrics: Arc<Metrics>,
    failures: Arc<Mutex<Failures>>,
}

impl<S> Gate<S> {
    /// Stands before `inner`.
    pub fn new(inner: S, access: Arc<Access>, metrics: Arc<Metrics>) -> Self {
        Self { inner, access, metrics, failures: Arc::default() }
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<Bearing, Status> {
        let value = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let bearing =
            self.access.bearer(token, clock::now()).map_err(|refusal| self.failed(request, &refusal))?;
        let call = request.uri().path().strip_prefix(SERVICE).unwrap_or_default();
        let Some(least) = least_scope(call) else {
            count(&self.metrics.requests_refused, "unknown_call");
            let detail = "this collector knows no such call; upgrade it, or use the version of `zerkalo` that came with it";
            return Err(status(Grpc::Unimplemented, "unknown_call", detail));
        };
        if bearing.scope >= least {
            return Ok(bearing);
        }
        count(&self.metrics.requests_refused, "scope_too_narrow");
        let detail = format!(
            "{call} needs the scope {}, and the token of {} has {}; ask an admin for one: `zerkalo tokens create --name \
             NAME --scope {}`",
            least.word(),
            bearing.person.0,
            bearing.scope.word(),
            least.word()
        );
        Err(status(Grpc::PermissionDenied, "scope_too_narrow", detail))
    }

    fn failed<B>(&self, request: &http::Request<B>, refusal: &AccessRefusal) -> Status {
        let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let address = info.and_then(|info| info.get_ref().remote_addr()).map(|address| address.ip());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.note(address, Instant::now()) {
            Ok(()) => {
                count(&self.metrics.requests_refused, refusal.code());
                status(Grpc::Unauthenticated, refusal.code(), refusal.to_string())
            }
            Err(wait) => {
                count(&self.metrics.requests_refused, "too_many_failures");
                let detail = format!(
                    "{refusal}; and there were more than {FAILURES_MAX} wrong tokens from this address: wait {} s",
                    wait.as_secs() + 1
                );
                status(Grpc::ResourceExhausted, "too_many_failures", detail)
            }
        }
    }
}

fn least_scope(call: &str) -> Option<Scope> {
    SCOPES.iter().find(|(known, _)| *known == call).map(|(_, scope)| *scope)
}

impl<S, B> Service<http::Request<B>> for Gate<S>
where
    S: Service<http::Request<B>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<S::Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match self.admit(&request) {
            Ok(bearing) => {
                request.extensions_mut().insert(bearing.person.clone());
                request.extensions_mut().insert(bearing);
                Either::Right(self.inner.call(request))
            }
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

/// Failed calls of late, by address. Addresses stay in memory and go nowhere.
#[derive(Debug, Default)]
struct Failures(BTreeMap<IpAddr, (Instant, u32)>);

impl Failures {
    /// Counts a failure, or says how long its address is to wait.
    fn note(&mut self, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let key = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), whose);
        if !self.0.contains_key(&key) && self.0.len() >= ADDRESSES_MAX {
            self.0.retain(|_, (since, _)| now.saturating_duration_since(*since) < FAILURES_WINDOW);
        }
        let is_full = !self.0.contains_key(&key) && self.0.len() >= ADDRESSES_MAX;
        let key = if is_full { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { key };
        let (since, failures) = self.0.entry(key).or_insert((now, 0));
        let age = now.saturating_duration_since(*since);
        if age >= FAILURES_WINDOW {
            (*since, *failures) = (now, 0);
        }
        *failures = failures.saturating_add(1);
        let wait = FAILURES_WINDOW.saturating_sub(now.saturating_duration_since(*since));
        if *failures > FAILURES_MAX { Err(wait) } else { Ok(()) }
    }
}

/// Whoever has one address of an IPv6 network has its /64.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_service_has_a_least_scope_and_nothing_else_has() {
        let mut calls = zerkalo_proto::OPERATOR_CALLS.to_vec();
        calls.sort_unstable();
        let known: Vec<_> = SCOPES.iter().map(|(call, _)| *call).collect();
        assert_eq!(known, calls, "gate.rs must say who may make each call, in the order of the alphabet");
        assert_eq!(least_scope("ListAgents"), Some(Scope::Viewer));
        assert_eq!(least_scope("Nonsense"), None);
        assert!(Scope::Viewer < Scope::Operator && Scope::Operator < Scope::Admin);
    }

    #[test]
    fn failures_of_one_address_are_counted_apart_and_forgotten() {
        let mut failures = Failures::default();
        let began = Instant::now();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for _ in 0..FAILURES_MAX {
            assert_eq!(failures.note(address("192.0.2.1"), began), Ok(()));
        }
        assert_eq!(failures.note(address("192.0.2.1"), began), Err(FAILURES_WINDOW));
        assert_eq!(failures.note(address("::ffff:192.0.2.1"), began), Err(FAILURES_WINDOW));
        assert_eq!(failures.note(address("192.0.2.2"), began), Ok(()));
        assert_eq!(failures.note(address("192.0.2.1"), began + FAILURES_WINDOW), Ok(()));
        assert_eq!(whose("2001:db8::1".parse().unwrap()), whose("2001:db8::ffff".parse().unwrap()));
        for number in 0..2 * ADDRESSES_MAX as u32 {
            let _ = failures.note(Some(IpAddr::V4(number.into())), began + FAILURES_WINDOW);
        }
        assert!(failures.0.len() <= ADDRESSES_MAX + 1);
    }
}
