//! People's orders, the pools they concern, and the alerts that call for them.

use tonic::{Code as Grpc, Response, Status};
use zerkalo_core::market::{Alert, OrderError};
use zerkalo_core::words::{CarrierId, MarketId, UnixMillis};
use zerkalo_proto::journal_v1::Ordered;
use zerkalo_proto::operator::{
    active_to_wire, alert_to_wire, decision_to_wire, forecast_to_wire, pool_mirror_to_wire,
};
use zerkalo_proto::operator_v1 as wire;
use zerkalo_proto::order::order_from_wire;

use super::{Operator, truncated};
use crate::access::Bearing;
use crate::engine::ChangeRefusal;
use crate::state::Topic;

/// Alerts in one answer if nothing else is asked for, and at most.
const ALERTS_MAX: u32 = 1_000;
/// Bytes of alerts in one answer: clients read 4 MiB.
const ALERTS_LEN_MAX: usize = 1_500_000;

impl Operator {
    pub(super) async fn order(
        &self,
        bearing: Bearing,
        request: wire::GiveOrderRequest,
    ) -> Result<Response<wire::GiveOrderResponse>, Status> {
        let mut order = request.order.ok_or_else(|| self.bad("no order was sent"))?;
        let author = bearing.person.0.clone();
        order.author = author.clone();
        let about = about(&order);
        let order = order_from_wire(order).map_err(|error| self.bad(error.to_string()))?;
        let number = self.write_down(&bearing, "order", about)?;
        let given = self.engine.order(order).await.map_err(|refusal| self.not_ordered(&refusal));
        let decisions = self.or_taken_back(&bearing, number, given)?;
        let decisions = decisions.iter().map(|decision| decision_to_wire(decision, decision.to_json()));
        Ok(Response::new(wire::GiveOrderResponse { author, decisions: decisions.collect() }))
    }

    fn not_ordered(&self, refusal: &ChangeRefusal) -> Status {
        let ChangeRefusal::Order(error) = refusal else { return self.not_changed(refusal) };
        let grpc = match error {
            OrderError::Text { .. } | OrderError::NotOverridable { .. } | OrderError::Past { .. } => {
                Grpc::InvalidArgument
            }
            OrderError::UnknownMarket { .. }
            | OrderError::UnknownMirror { .. }
            | OrderError::NothingWaits { .. } => Grpc::NotFound,
            _ => Grpc::FailedPrecondition,
        };
        self.refuse(grpc, error.code(), error.to_string())
    }

    pub(super) fn pools(&self, market: &str) -> Result<wire::ListPoolResponse, Status> {
        let only = if market.is_empty() { None } else { Some(self.market(market)?) };
        let markets = self.catalogue.markets().iter().map(|market| &market.id);
        let markets: Vec<_> = markets.filter(|id| only.as_ref().is_none_or(|only| only == *id)).collect();
        Ok(self.engine.read(|fold| {
            let mut mirrors = Vec::new();
            for market in &markets {
                let active = fold.active_mirror(market, None);
                mirrors.extend(fold.pool(market).iter().map(|entry| {
                    let is_active = active.as_ref().is_some_and(|active| active.mirror == entry.mirror);
                    pool_mirror_to_wire(entry, is_active, fold.decided(market, &entry.mirror))
                }));
            }
            let frozen = markets.iter().filter(|market| fold.is_frozen(market));
            wire::ListPoolResponse { mirrors, frozen: frozen.map(ToString::to_string).collect() }
        }))
    }

    pub(super) fn forecasts(&self, market: &str) -> Result<wire::ForecastResponse, Status> {
        let markets = match market {
            "" => self.catalogue.markets().iter().map(|market| market.id.clone()).collect(),
            market => vec![self.market(market)?],
        };
        let forecasts: Vec<_> =
            self.engine.read(|fold| markets.iter().filter_map(|market| fold.forecast(market)).collect());
        if forecasts.is_empty() && !market.is_empty() {
            let detail =
                format!("market {} has no policy; without one nothing is decided there", truncated(market));
            return Err(self.refuse(Grpc::NotFound, "no_policy", detail));
        }
        Ok(wire::ForecastResponse { markets: forecasts.iter().map(forecast_to_wire).collect() })
    }

    pub(super) fn active(&self, market: &str, carrier: &str) -> Result<Option<wire::ActiveMirror>, Status> {
        let (market, carrier) = self.place(market, carrier)?;
        let active = self.engine.read(|fold| fold.active_mirror(&market, carrier.as_ref()));
        Ok(active.as_ref().map(active_to_wire))
    }

    /// A market, and a carrier of it where one is named.
    pub(super) fn place(&self, market: &str, carrier: &str) -> Result<(MarketId, Option<CarrierId>), Status> {
        let market = self.market(market)?;
        if carrier.is_empty() {
            return Ok((market, None));
        }
        let known = CarrierId::parse(carrier).ok().and_then(|id| self.catalogue.carrier(&id));
        let known = known.filter(|known| known.market == market).ok_or_else(|| {
            let detail = format!("{:?} is no carrier of market {market}", truncated(carrier));
            self.refuse(Grpc::NotFound, "unknown_carrier", detail)
        })?;
        Ok((market, Some(known.id.clone())))
    }

    pub(super) fn market(&self, market: &str) -> Result<MarketId, Status> {
        let known = MarketId::parse(market).ok().filter(|id| self.catalogue.has_market(id));
        known.ok_or_else(|| {
            let detail = format!("{:?} is no market of the catalogue", truncated(market));
            self.refuse(Grpc::NotFound, "unknown_market", detail)
        })
    }

    /// The newest alerts of a market (or all), oldest first.
    pub(super) fn newest_alerts(&self, market: &str, limit: u32) -> Result<Vec<wire::Alert>, Status> {
        let limit = if limit == 0 { ALERTS_MAX } else { limit.min(ALERTS_MAX) } as usize;
        let (mut kept, mut kept_len, mut failure) = (std::collections::VecDeque::new(), 0, None);
        let last = self.state.last_line(Topic::Alert).map_err(|error| self.failed(&error))?;
        let start = if market.is_empty() { (last + 1).saturating_sub(limit as u64) } else { 0 };
        let scanned = self.state.lines(Topic::Alert, start, |bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            match serde_json::from_str::<Alert>(&text) {
                Err(error) => {
                    failure = Some(error);
                    return false;
                }
                Ok(alert) if market.is_empty() || alert.market.as_str() == market => {
                    kept_len += text.len();
                    kept.push_back(alert_to_wire(&alert, text));
                }
                Ok(_) => {}
            }
            while kept.len() > limit || (kept_len > ALERTS_LEN_MAX && kept.len() > 1) {
                kept_len -= kept.pop_front().map_or(0, |oldest: wire::Alert| oldest.json.len());
            }
            true
        });
        scanned.map_err(|error| self.failed(&error))?;
        failure.map_or(Ok(kept.into()), |error| Err(self.failed(&error)))
    }
}

/// An order's parts that say something.
fn about(order: &Ordered) -> Vec<(&'static str, String)> {
    let until =
        if order.until_millis == 0 { String::new() } else { UnixMillis(order.until_millis).to_string() };
    let parts = [
        ("kind", order.kind.clone()),
        ("market", order.market.clone()),
        ("mirror", order.mirror.clone()),
        ("action", order.action.clone()),
        ("until", until),
        ("decision", order.decision.clone()),
        ("state", order.state.clone()),
        ("reason", order.reason.clone()),
    ];
    parts.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}
