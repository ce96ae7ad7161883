//! What the collector counts, and the page Prometheus reads it from.
//!
//! Names and labels are a promise to dashboards: only ever added. No label carries an agent, an owner or an address.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use zerkalo_core::admission::RejectionCode;

use crate::pictures::PictureRefusal;

/// A count by stable code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    pub code: &'static str,
}

/// A count of decisions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabels {
    pub market: String,
    pub action: &'static str,
}

/// A count of webhooks by what became of them: `delivered`, `retried`, `dead`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    pub result: &'static str,
}

/// A count of deliveries by executor and by what became of them: `delivered`, `retried`, `dead`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabels {
    pub executor: String,
    pub result: &'static str,
}

/// A count of alerts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlertLabels {
    pub market: String,
    pub kind: &'static str,
}

/// A count of streams by what carries them and by how the stream before ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassageLabels {
    pub transport: &'static str,
    pub after: &'static str,
}
/// Why a box may not enrol.
const ENROLLMENT_CODES: [&str; 10] = [
    "token_unknown",
    "token_used",
    "token_expired",
    "token_wrong_carrier",
    "token_wrong_market",
    "token_in_clear",
    "token_proof_wrong",
    "record_proof_wrong",
    "no_binding",
    "bad_request",
];
/// Why an agent may get no further certificate.
const CERTIFICATE_CODES: [&str; 10] = [
    "certificate_missing",
    "certificate_foreign",
    "certificate_expired",
    "certificate_wrong_agent",
    "record_proof_wrong",
    "agent_unknown",
    "agent_locked",
    "agent_revoked",
    "rejoin_too_late",
    "bad_request",
];

type Codes = Family<Code, Counter<u64, AtomicU64>>;

/// Everything counted, shared by all parts.
#[derive(Debug, Default)]
pub struct Metrics {
    pub records_admitted: Counter,
    pub records_ahead: Counter,
    /// By agents, before they could be sent.
    pub records_dropped: Counter,
    pub records_duplicate: Counter,
    pub records_refused: Codes,
    pub enrollments: Counter,
    pub enrollments_refused: Codes,
    pub requests_refused: Codes,
    pub connections_refused: Codes,
    pub agents_slowed: Counter,
    pub journal_syncs: Counter,
    pub journal_bytes: Counter,
    pub journal_append_failures: Codes,
    pub agents_connected: Gauge,
    pub agents_elsewhere: Gauge,
    pub agents_locked: Gauge,
    pub agents_revoked: Gauge,
    pub certificates: Counter,
    pub certificates_refused: Codes,
    pub decisions: Family<DecisionLabels, Counter>,
    pub alerts: Family<AlertLabels, Counter>,
    pub orders: Family<Code, Counter>,
    pub signals: Family<Code, Counter>,
    pub operators_reloads: Family<Code, Counter>,
    pub webhooks: Family<WebhookLabels, Counter>,
    pub deliveries: Family<DeliveryLabels, Counter>,
    pub outbox_pending: Gauge,
    pub clock_behind_secs: Gauge,
    pub pictures_stored: Counter,
    pub pictures_refused: Codes,
    pub pictures_removed: Counter,
    pub picture_store_bytes: Gauge,
    pub streams: Family<PassageLabels, Counter>,
    pub uplink_interceptions: Codes,
}

impl Metrics {
    /// Counters at zero; the codes known beforehand show as zero, so that an alert can watch them.
    pub fn new() -> (Arc<Self>, Registry) {
        let metrics = Arc::new(Self::default());
        let mut registry = Registry::with_prefix("zerkalo");
        metrics.register(&mut registry);
        for code in RejectionCode::ALL {
            metrics.records_refused.get_or_create(&Code { code: code.as_str() }).inc_by(0);
        }
        for code in ENROLLMENT_CODES {
            metrics.enrollments_refused.get_or_create(&Code { code }).inc_by(0);
        }
        for code in CERTIFICATE_CODES {
            metrics.certificates_refused.get_or_create(&Code { code }).inc_by(0);
        }
        for code in ["unauthenticated", crate::uplink::TOO_MANY_STREAMS] {
            metrics.requests_refused.get_or_create(&Code { code }).inc_by(0);
        }
        for code in crate::door::CODES {
            metrics.connections_refused.get_or_create(&Code { code }).inc_by(0);
        }
        for codes in [&metrics.records_refused, &metrics.journal_append_failures] {
            codes.get_or_create(&Code { code: "storage_full" }).inc_by(0);
        }
        for code in PictureRefusal::CODES {
            metrics.pictures_refused.get_or_create(&Code { code }).inc_by(0);
        }
        for code in ["state_ca", "other"] {
            metrics.uplink_interceptions.get_or_create(&Code { code }).inc_by(0);
        }
        for result in ["delivered", "retried", "dead"] {
            metrics.webhooks.get_or_create(&WebhookLabels { result }).inc_by(0);
        }
        (metrics, registry)
    }

    fn register(&self, to: &mut Registry) {
        to.register("records_admitted", "Records admitted to the journal", self.records_admitted.clone());
        to.register(
            "records_ahead",
            "Records admitted before those that they follow, of agents with a backlog",
            self.records_ahead.clone(),
        );
        to.register("records_duplicate", "Records sent again, acked again", self.records_duplicate.clone());
        to.register(
            "records_dropped",
            "Records that agents signed and could not keep, by their own word",
            self.records_dropped.clone(),
        );
        to.register("records_refused", "Records refused", self.records_refused.clone());
        to.register("enrollments", "Agents enrolled", self.enrollments.clone());
        to.register("enrollments_refused", "Enrolments refused", self.enrollments_refused.clone());
        to.register("requests_refused", "Calls and streams refused", self.requests_refused.clone());
        let help = "Connections that found no place, gave theirs up to another, or failed at the handshake";
        to.register("connections_refused", help, self.connections_refused.clone());
        let help = "Times an agent sent faster than it may and was read more slowly";
        to.register("agents_slowed", help, self.agents_slowed.clone());
        to.register("journal_syncs", "Syncs of the journal", self.journal_syncs.clone());
        to.register("journal_bytes", "Bytes written to the journal", self.journal_bytes.clone());
        let help = "Writes to the journal that failed";
        to.register("journal_append_failures", help, self.journal_append_failures.clone());
        to.register("agents_connected", "Agents on the uplink now", self.agents_connected.clone());
        let help = "Agents whose streams come from another network than they were enrolled for";
        to.register("agents_elsewhere", help, self.agents_elsewhere.clone());
        let help = "Agents whose name two boxes use: they wait for a person";
        to.register("agents_locked", help, self.agents_locked.clone());
        to.register("agents_revoked", "Agents revoked", self.agents_revoked.clone());
        to.register("certificates", "Certificates renewed", self.certificates.clone());
        let help = "Certificates not renewed";
        to.register("certificates_refused", help, self.certificates_refused.clone());
        to.register("decisions", "Decisions logged", self.decisions.clone());
        to.register("alerts", "Alerts logged", self.alerts.clone());
        to.register("orders", "Orders of operators taken, by kind", self.orders.clone());
        to.register(
            "operators_reloads",
            "Times the operators were to be read anew, by what came of it",
            self.operators_reloads.clone(),
        );
        to.register("signals", "Requests for a market's active mirror, by answer", self.signals.clone());
        to.register("webhooks", "Webhooks by result", self.webhooks.clone());
        to.register("deliveries", "Attempts of executors by result", self.deliveries.clone());
        let help = "Seconds the clock stands behind the journal's last entry";
        to.register("clock_behind_secs", help, self.clock_behind_secs.clone());
        to.register("pictures_stored", "Pictures taken in", self.pictures_stored.clone());
        to.register("pictures_refused", "Pictures refused", self.pictures_refused.clone());
        let help = "Old pictures that gave way to newer ones";
        to.register("pictures_removed", help, self.pictures_removed.clone());
        to.register("picture_store_bytes", "Bytes of all pictures kept", self.picture_store_bytes.clone());
        let help = "Streams opened by agents, by transport and by how the one before ended";
        to.register("streams", help, self.streams.clone());
        let help = "Certificates of others that agents were shown on their way here, and refused";
        to.register("uplink_interceptions", help, self.uplink_interceptions.clone());
        to.register(
            "outbox_pending",
            "Deliveries not yet made, over all executors",
            self.outbox_pending.clone(),
        );
    }
}

/// Counts one under `code`.
pub fn count(codes: &Codes, code: &'static str) {
    codes.get_or_create(&Code { code }).inc();
}

/// `/metrics` and `/healthz`.
pub fn routes(registry: Registry) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Arc::new(registry))
}

async fn page(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
