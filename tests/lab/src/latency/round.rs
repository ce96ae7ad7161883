//! One round: a fleet in one market settles, a censor begins, and the clock runs from the first packet it drops to the
//! webhook of the decision awaited.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use zerkalo_core::market::{Action, Alert, AlertKind, Decision};
use zerkalo_core::words::UnixMillis;

use super::LatencyPlan;
use super::journal;
use super::parts::{Parts, Word};
use crate::fleet::{Fleet, WebhookTarget, crew};
use crate::interference::Interference;
use crate::internet::{Internet, MIRROR, PLACES, Place};
use crate::process::program;
use crate::webhook::{Received, Receiver};

/// The market under attack: where one carrier leads.
const MARKET: &str = "kz";
/// The carrier that leads it.
const LEADER: &str = "kz-kazakhtelecom";
/// The webhook key of this lab: no secret.
const WEBHOOK_KEY: &[u8] = b"the laboratory's webhook secret!";
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Turns of the schedule after which every carrier should have been seen to work, and after which a decision should
/// have fallen; and what a busy machine may add to either.
const TURNS_MAX: u64 = 15;
const BUSY_SECS_MAX: u64 = 120;

/// Plays the round with this number: rounds begin at different moments of an agent's turn, spread evenly.
pub async fn play(plan: &LatencyPlan, number: u32) -> Result<Parts> {
    let internet = Internet::start().await?;
    let receiver = Receiver::start(WEBHOOK_KEY).await?;
    let webhook = WebhookTarget { url: receiver.url(), secret: receiver.secret() };
    let places: Vec<Place> = PLACES.into_iter().filter(|place| place.market == MARKET).collect();
    let agent = program("zerkalo-agent")?;
    let mut fleet = Fleet::start_with(&agent, plan.tempo, &internet, Some(webhook), &crew(&places)).await?;
    internet.exempt(fleet.control().context("the control has ended")?);
    let limit = Duration::from_secs(TURNS_MAX * plan.tempo.interval_secs + BUSY_SECS_MAX);
    settle(&mut fleet, limit).await?;
    let turn = Duration::from_secs(plan.tempo.interval_secs);
    tokio::time::sleep(turn * number / plan.rounds.max(1)).await;

    let struck: Vec<&str> = match plan.awaited {
        Action::Prepare => vec![LEADER],
        _ => places.iter().map(|place| place.carrier).collect(),
    };
    let before = receiver.received().len();
    interfere(&internet, &struck, plan.trick)?;
    let told = await_webhook(&mut fleet, &receiver, before, plan.awaited, limit).await?;

    let strikes = struck.iter().filter_map(|carrier| internet.carrier(carrier)?.first_strike());
    let struck_at = strikes.min().context("the censor met nothing it could strike at")?;
    let word = word_of(&fleet, &told).await?;
    let lines = journal::lines(&fleet.collector().dir().join("journal"), MIRROR)?;
    Parts::of(struck_at, &lines, &word, told.at)
}

/// Waits until every carrier of the market is green for the mirror, and the market keeps it.
async fn settle(fleet: &mut Fleet, limit: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        fleet.require_running()?;
        let matrix = fleet.collector().operator().matrix().await?;
        let row = matrix.rows.into_iter().find(|row| row.market == MARKET && row.mirror == MIRROR);
        let is_green = |row: &zerkalo_proto::operator_v1::MarketRow| {
            row.carriers.iter().all(|column| column.state == "green")
        };
        if row.as_ref().is_some_and(|row| row.action == Action::Keep.as_str() && is_green(row)) {
            return Ok(());
        }
        if began.elapsed() > limit {
            bail!("the market did not settle within {} s: {row:?}", limit.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn interfere(internet: &Internet, carriers: &[&str], trick: Interference) -> Result<()> {
    for carrier in carriers {
        internet.carrier(carrier).with_context(|| format!("no carrier {carrier}"))?.interfere(trick);
    }
    Ok(())
}

/// The first webhook beyond those `before` that tells of the action awaited; where a warning is, a first word is one.
async fn await_webhook(
    fleet: &mut Fleet,
    receiver: &Receiver,
    before: usize,
    awaited: Action,
    limit: Duration,
) -> Result<Received> {
    let is_awaited = |hook: &Received| {
        let data = &hook.body["data"];
        hook.verified
            && (&data["market"], &data["mirror"]) == (&MARKET.into(), &MIRROR.into())
            && (data["action"] == awaited.as_str()
                || awaited == Action::Prepare && data["kind"] == AlertKind::BlockSuspected.as_str())
    };
    let mut arrivals = receiver.arrivals();
    let began = Instant::now();
    loop {
        if let Some(hook) = receiver.received().into_iter().skip(before).find(is_awaited) {
            return Ok(hook);
        }
        fleet.require_running()?;
        if began.elapsed() > limit {
            bail!("no webhook told of {awaited} within {} s", limit.as_secs());
        }
        // Wakes at an arrival; else looks again whether everybody is alive.
        let _arrived = tokio::time::timeout(LOOK_EVERY, arrivals.changed()).await;
    }
}

/// What the collector logged of it: an alert is delivered as it was logged, a decision is asked for.
async fn word_of(fleet: &Fleet, told: &Received) -> Result<Word> {
    if told.body["type"] == "zerkalo.alert" {
        let alert: Alert = serde_json::from_value(told.body["data"].clone())?;
        return Ok(Word { at: alert.at, evidence: alert.evidence });
    }
    let decisions = fleet.collector().operator().decisions().await?;
    let mut decisions = decisions.into_iter().map(|(decision, _)| decision);
    let decision: Decision =
        decisions.find(|decision| decision.id == told.id).context("the webhook's decision is not logged")?;
    if decision.at == UnixMillis::default() {
        bail!("the decision {} has no time", decision.id);
    }
    Ok(Word { at: decision.at, evidence: decision.evidence })
}
