//! What operators are shown, for the wire: matrix, agents, decisions.

mod forecast;

pub use forecast::{forecast_from_wire, forecast_to_wire};

use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::cell::{CarrierView, CellView, Share};
use zerkalo_core::fold::{AgentState, Matrix, MatrixRow, NamedPicture};
use zerkalo_core::ledger::{IssuerView, Period, Sighting};
use zerkalo_core::market::{Action, Active, Alert, Decision, EvidenceItem, PoolEntry};
use zerkalo_core::record::Cause;
use zerkalo_core::words::Station;

use crate::operator_v1 as wire;

/// The matrix.
pub fn matrix_to_wire(matrix: &Matrix) -> wire::Matrix {
    wire::Matrix { at_millis: matrix.at.0, rows: matrix.rows.iter().map(row).collect() }
}

/// An agent; whether it is connected is known to the caller alone.
pub fn agent_to_wire(agent: &AgentState, catalogue: &Catalogue, connected: bool) -> wire::Agent {
    let (carrier, access) = match &agent.enrolment.station {
        Station::Field { carrier, access } => (Some(carrier), access.as_str()),
        Station::Control => (None, ""),
    };
    let market = carrier.and_then(|id| catalogue.carrier(id)).map(|carrier| carrier.market.to_string());
    wire::Agent {
        agent: agent.enrolment.agent.to_string(),
        owner: agent.enrolment.owner.to_string(),
        market: market.unwrap_or_default(),
        carrier: carrier.map(ToString::to_string).unwrap_or_default(),
        access: access.to_owned(),
        connected,
        last_record_at_millis: agent.last_record_at.map_or(0, |at| at.0),
        records: agent.records,
        asn: agent.whereabouts.asn.unwrap_or_default(),
        elsewhere: agent.elsewhere(catalogue).is_some(),
        clock_ahead_millis: agent.clock_ahead_millis,
        dropped: agent.dropped,
        standing: agent.standing.as_str().to_owned(),
        standing_since_millis: agent.standing_since.0,
        standing_reason: agent.standing_reason.clone(),
        generation: agent.generations.current,
    }
}

/// A decision, with the logged bytes themselves.
pub fn decision_to_wire(decision: &Decision, json: String) -> wire::Decision {
    wire::Decision {
        id: decision.id.clone(),
        at_millis: decision.at.0,
        market: decision.market.to_string(),
        mirror: decision.mirror.to_string(),
        action: decision.action.as_str().to_owned(),
        reasons: decision.reasons.clone(),
        json,
    }
}

/// An alert, with the logged bytes themselves.
pub fn alert_to_wire(alert: &Alert, json: String) -> wire::Alert {
    wire::Alert {
        id: alert.id.clone(),
        at_millis: alert.at.0,
        market: alert.market.to_string(),
        kind: alert.kind.as_str().to_owned(),
        mirror: alert.mirror.as_ref().map(ToString::to_string).unwrap_or_default(),
        texts: alert.texts.en.clone(),
        json,
    }
}

/// One mirror of a pool, with the decision in force.
pub fn pool_mirror_to_wire(
    entry: &PoolEntry,
    active: bool,
    decided: Option<(Action, &str)>,
) -> wire::PoolMirror {
    wire::PoolMirror {
        market: entry.market.to_string(),
        mirror: entry.mirror.to_string(),
        url: entry.url.to_string(),
        state: entry.state.as_str().to_owned(),
        since_millis: entry.since.0,
        by: entry.decision.clone().unwrap_or_default(),
        active,
        action: decided.map(|(action, _)| action.as_str().to_owned()).unwrap_or_default(),
        decision_id: decided.map(|(_, id)| id.to_owned()).unwrap_or_default(),
    }
}

/// The mirror to send visitors to.
pub fn active_to_wire(active: &Active) -> wire::ActiveMirror {
    wire::ActiveMirror {
        market: active.market.to_string(),
        carrier: active.carrier.as_ref().map(ToString::to_string).unwrap_or_default(),
        mirror: active.mirror.to_string(),
        url: active.url.to_string(),
        state: active.state.as_str().to_owned(),
    }
}

/// One record a decision rests on.
pub fn evidence_to_wire(item: &EvidenceItem) -> wire::Evidence {
    wire::Evidence {
        record: item.record.to_string(),
        agent: item.agent.to_string(),
        owner: item.owner.to_string(),
        carrier: item.carrier.to_string(),
        access: item.access.to_string(),
        at_millis: item.at.0,
        verdict_json: serde_json::to_string(&item.verdict).expect("a verdict is texts only"),
    }
}

/// One certificate of the ledger.
pub fn sighting_to_wire(sighting: &Sighting) -> wire::InterceptingCertificate {
    let networks = sighting.networks.iter();
    wire::InterceptingCertificate {
        sha256: sighting.sha256.to_string(),
        subject: sighting.subject.clone(),
        issuer: sighting.issuer.clone(),
        validity: Some(period(&sighting.validity)),
        interceptor: sighting.interceptor.as_str().to_owned(),
        place: sighting.place.as_str().to_owned(),
        networks: networks
            .map(|(carrier, access)| wire::Network {
                carrier: carrier.to_string(),
                access: access.to_string(),
            })
            .collect(),
        mirrors: sighting.mirrors.iter().map(ToString::to_string).collect(),
        first_seen_millis: sighting.first_seen.0,
        last_seen_millis: sighting.last_seen.0,
        records: sighting.records,
    }
}

/// One issuer of the ledger.
pub fn issuer_to_wire(view: &IssuerView) -> wire::InterceptingIssuer {
    wire::InterceptingIssuer {
        issuer: view.issuer.clone(),
        interceptor: view.interceptor.as_str().to_owned(),
        certificates: view.certificates,
        first_seen_millis: view.first_seen.0,
        last_seen_millis: view.last_seen.0,
        gaps: view.gaps.iter().map(period).collect(),
        own_gaps: view.own_gaps.iter().map(period).collect(),
    }
}

fn period(period: &Period) -> wire::Period {
    wire::Period { from_millis: period.from.0, until_millis: period.until.0 }
}

/// A picture; whether its bytes are kept is known to the caller alone.
pub fn picture_to_wire(picture: &NamedPicture, agent: Option<&AgentState>, stored: bool) -> wire::Picture {
    let enrolment = agent.map(|agent| &agent.enrolment);
    let (carrier, access) = match enrolment.map(|enrolment| &enrolment.station) {
        Some(Station::Field { carrier, access }) => (carrier.to_string(), access.to_string()),
        Some(Station::Control) | None => Default::default(),
    };
    let shot = &picture.screenshot;
    wire::Picture {
        sha256: if shot.failure.is_none() { shot.sha256.to_string() } else { String::new() },
        record: picture.record.to_string(),
        agent: picture.agent.to_string(),
        owner: enrolment.map(|enrolment| enrolment.owner.to_string()).unwrap_or_default(),
        carrier,
        access,
        mirror: picture.mirror.to_string(),
        url: picture.url.to_string(),
        at_millis: picture.at.0,
        address: shot.address.to_string(),
        media_type: shot.media_type.clone(),
        len: shot.len,
        cause: match picture.cause {
            Cause::Scheduled => "scheduled",
            Cause::Requested => "requested",
            Cause::Manual => "manual",
        }
        .to_owned(),
        failure: shot.failure.clone().unwrap_or_default(),
        stored,
    }
}

fn row(row: &MatrixRow) -> wire::MarketRow {
    wire::MarketRow {
        market: row.market.to_string(),
        mirror: row.mirror.to_string(),
        url: row.url.to_string(),
        action: row.action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
        decision_id: row.decision.clone().unwrap_or_default(),
        carriers: row.carriers.iter().map(column).collect(),
    }
}

fn column(view: &CarrierView) -> wire::CarrierColumn {
    wire::CarrierColumn {
        carrier: view.carrier.to_string(),
        name: view.name.clone(),
        state: view.state.as_str().to_owned(),
        cells: view.cells.iter().map(cell).collect(),
        shutdown_suspected_since_millis: view.shutdown_suspected_since.map_or(0, |since| since.0),
    }
}

fn cell(view: &CellView) -> wire::Cell {
    wire::Cell {
        access: view.access.to_string(),
        state: view.state.as_str().to_owned(),
        owners: view.owners,
        flagged: view.flagged,
        mechanisms: view.mechanisms.iter().map(|mechanism| mechanism.as_str().to_owned()).collect(),
        red_since_millis: view.red_since.map_or(0, |since| since.0),
        owners_share: Some(share(&view.shares.owners)),
        visits_share: Some(share(&view.shares.verdicts)),
        addresses_share: view.shares.addresses.as_ref().map(share),
        too_late: view.too_late,
        apart: view.apart,
    }
}

fn share(share: &Share) -> wire::Share {
    let Share { blocked, of, permille, low_permille, high_permille } = *share;
    wire::Share { blocked, of, permille, low_permille, high_permille }
}
