//! `zerkalo pool`, `freeze`, `thaw`, `override`, `release`, `approve`, `decline`, `rotate-all`: pools, and orders about
//! them. Each order is journaled under the name of who holds the operator's file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::market::{Action, Order, OrderKind, PoolState};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};
use zerkalo_proto::operator_v1 as wire;
use zerkalo_proto::order::order_to_wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// Longest time an override may be given by `--for`: a year; without an end it lasts until it is released.
const OVERRIDE_SECS_MAX: u64 = 366 * 86_400;

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub enum Pool {
    /// List the mirrors of each market with what they are there.
    Ls {
        /// Only of this market.
        #[arg(long, value_name = "MARKET")]
        market: Option<MarketId>,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Order that a mirror is fresh, live, suspect, burned or retired in a market.
    Set {
        mirror: MirrorId,
        #[arg(value_parser = state)]
        state: PoolState,
        #[arg(long, value_name = "MARKET")]
        market: MarketId,
        #[command(flatten)]
        why: Why,
    },
}

/// Why an order is given.
#[derive(Debug, Args)]
pub struct Why {
    /// Why: it is journaled beside the order.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// An order about a whole market.
#[derive(Debug, Args)]
pub struct MarketOrder {
    market: MarketId,
    #[command(flatten)]
    why: Why,
}

/// An action in force whatever is measured.
#[derive(Debug, Args)]
pub struct Override {
    mirror: MirrorId,
    /// What is in force, such as keep, pause or hold.
    #[arg(value_parser = action)]
    action: Action,
    #[arg(long, value_name = "MARKET")]
    market: MarketId,
    /// Until this instant (RFC 3339, such as 2026-11-22T18:00:00Z); without it and --for: until it is released.
    #[arg(long, value_name = "TIME", conflicts_with = "duration", value_parser = rfc3339)]
    until: Option<UnixMillis>,
    /// For so long, such as 90m, 12h or 3d.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    why: Why,
}

/// The end of an override.
#[derive(Debug, Args)]
pub struct Release {
    mirror: MirrorId,
    #[arg(long, value_name = "MARKET")]
    market: MarketId,
    #[command(flatten)]
    why: Why,
}

/// One person's word on a decision that waits.
#[derive(Debug, Args)]
pub struct Word {
    /// As `zerkalo decisions ls` shows it.
    decision: String,
    #[command(flatten)]
    why: Why,
}

/// Carries out one command about pools.
pub async fn pool(service: &mut Service, command: Pool) -> Result<()> {
    match command {
        Pool::Ls { market, format } => {
            let market = market.map(String::from).unwrap_or_default();
            let request = wire::ListPoolRequest { market };
            show(&answer("list the pool", service.list_pool(request)).await?, format)
        }
        Pool::Set { mirror, state, market, why } => {
            give(service, OrderKind::SetState { market, mirror, state }, why).await
        }
    }
}

/// Freezes a market.
pub async fn freeze(service: &mut Service, order: MarketOrder) -> Result<()> {
    give(service, OrderKind::Freeze { market: order.market }, order.why).await
}

/// Ends a freeze.
pub async fn thaw(service: &mut Service, order: MarketOrder) -> Result<()> {
    give(service, OrderKind::Thaw { market: order.market }, order.why).await
}

/// Asks for every live mirror of a market to be rotated.
pub async fn rotate_all(service: &mut Service, order: MarketOrder) -> Result<()> {
    give(service, OrderKind::RotateAll { market: order.market }, order.why).await
}

/// Puts an action in force.
pub async fn override_action(service: &mut Service, order: Override) -> Result<()> {
    let Override { mirror, action, market, until, duration, why } = order;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ends =
        duration.map(|length| UnixMillis(u64::try_from((now + length).as_millis()).unwrap_or(u64::MAX)));
    give(service, OrderKind::Override { market, mirror, action, until: until.or(ends) }, why).await
}

/// Ends an override.
pub async fn release(service: &mut Service, order: Release) -> Result<()> {
    give(service, OrderKind::Release { market: order.market, mirror: order.mirror }, order.why).await
}

/// Says yes to a decision that waits.
pub async fn approve(service: &mut Service, word: Word) -> Result<()> {
    give(service, OrderKind::Approve { decision: word.decision }, word.why).await
}

/// Says no to one.
pub async fn decline(service: &mut Service, word: Word) -> Result<()> {
    give(service, OrderKind::Decline { decision: word.decision }, word.why).await
}

async fn give(service: &mut Service, kind: OrderKind, why: Why) -> Result<()> {
    // Who it is, the token tells.
    let order = Order { author: String::new(), reason: why.reason, kind };
    let request = wire::GiveOrderRequest { order: Some(order_to_wire(&order)) };
    let given = answer("give the order", service.give_order(request)).await?;
    if why.format == Format::Json {
        let decisions: Vec<serde_json::Value> =
            given.decisions.iter().filter_map(|decision| serde_json::from_str(&decision.json).ok()).collect();
        print_json(&json!({ "author": given.author, "order": order.kind.word(), "decisions": decisions }))?;
        return Ok(());
    }
    let mut text = format!("ordered by {}: {}\n", given.author, said(&order.kind));
    for decision in &given.decisions {
        let effect = serde_json::from_str::<serde_json::Value>(&decision.json).ok();
        let effect = effect.as_ref().and_then(|json| json["effect"].as_str()).unwrap_or_default();
        text += &format!(
            "decision {}: {} {} in {}{}\n",
            decision.id,
            decision.action,
            decision.mirror,
            decision.market,
            match effect {
                "act" | "" => String::new(),
                "awaiting_approval" => format!(
                    " waits for approval, each yes from another person: zerkalo approve {} --reason TEXT",
                    decision.id
                ),
                other => format!(" is not carried out ({})", other.replace('_', " ")),
            }
        );
    }
    print(&text)?;
    Ok(())
}

fn said(kind: &OrderKind) -> String {
    match kind {
        OrderKind::Freeze { market } => {
            format!(
                "market {market} is frozen: nothing decided there is carried out until `zerkalo thaw {market}`"
            )
        }
        OrderKind::Thaw { market } => format!("market {market} is frozen no more"),
        OrderKind::Override { market, mirror, action, until } => {
            let end = until.map_or("until it is released".to_owned(), |at| format!("until {at}"));
            format!("{action} is in force for {mirror} in {market} {end}, whatever is measured")
        }
        OrderKind::Release { market, mirror } => format!("no override for {mirror} in {market} any more"),
        OrderKind::Approve { decision } => format!("approved {decision}"),
        OrderKind::Decline { decision } => format!("declined {decision}"),
        OrderKind::SetState { market, mirror, state } => format!("{mirror} is {state} in {market}"),
        OrderKind::RotateAll { market } => format!("rotate every live mirror of {market}"),
    }
}

fn show(found: &wire::ListPoolResponse, format: Format) -> Result<()> {
    if format == Format::Json {
        let mirrors: Vec<_> = found.mirrors.iter().map(to_json).collect();
        print_json(&json!({ "mirrors": mirrors, "frozen": found.frozen }))?;
        return Ok(());
    }
    let headings = ["market", "mirror", "state", "active", "since", "by", "action", "url"];
    let mut text = draw(headings, found.mirrors.iter().map(row));
    for market in &found.frozen {
        text += &format!("market {market} is frozen: nothing decided there is carried out\n");
    }
    print(&text)?;
    Ok(())
}

fn row(mirror: &wire::PoolMirror) -> [String; 8] {
    [
        mirror.market.clone(),
        mirror.mirror.clone(),
        mirror.state.clone(),
        if mirror.active { "yes" } else { "-" }.to_owned(),
        instant(mirror.since_millis),
        if mirror.by.is_empty() { "list".to_owned() } else { mirror.by.clone() },
        or_dash(&mirror.action),
        mirror.url.clone(),
    ]
}

fn to_json(mirror: &wire::PoolMirror) -> serde_json::Value {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "market": mirror.market,
        "mirror": mirror.mirror,
        "url": mirror.url,
        "state": mirror.state,
        "active": mirror.active,
        "since": mirror.since_millis,
        "by": some(&mirror.by),
        "action": some(&mirror.action),
        "decision": some(&mirror.decision_id),
    })
}

fn state(text: &str) -> Result<PoolState> {
    one_of(PoolState::ALL, PoolState::as_str, text)
}

fn action(text: &str) -> Result<Action> {
    one_of(Action::ALL, Action::as_str, text)
}

fn one_of<T: Copy>(all: &[T], as_str: impl Fn(T) -> &'static str, text: &str) -> Result<T> {
    match all.iter().find(|word| as_str(**word) == text) {
        Some(word) => Ok(*word),
        None => {
            bail!("it is none of {}", all.iter().map(|word| as_str(*word)).collect::<Vec<_>>().join(", "))
        }
    }
}

/// An instant in UTC, seconds left out or not.
fn rfc3339(text: &str) -> Result<UnixMillis> {
    let whole = |text: &str| {
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        // Days since 1970 in the Gregorian calendar, the year begun in March so that its odd day comes last.
        let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days =
            years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 719_469;
        let secs = days * 86_400 + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
        let at = UnixMillis(u64::try_from(secs).ok()?.checked_mul(1_000)?);
        // What comes out again as it went in was a time.
        at.to_rfc3339().starts_with(text.strip_suffix('Z')?).then_some(at)
    };
    let minutes = text.strip_suffix('Z').filter(|text| text.len() == 16).map(|text| format!("{text}:00Z"));
    match whole(minutes.as_deref().unwrap_or(text)) {
        Some(at) if text.is_ascii() => Ok(at),
        _ => bail!("it is no time in UTC such as 2026-11-22T18:00:00Z"),
    }
}

fn duration(text: &str) -> Result<Duration> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse::<u64>().ok());
    let secs = number.and_then(|number| number.checked_mul(unit));
    match secs.filter(|secs| (1..=OVERRIDE_SECS_MAX).contains(secs)) {
        Some(secs) => Ok(Duration::from_secs(secs)),
        None => bail!("it is no time span such as 90m, 12h or 3d, of at most a year"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_words_are_read_or_refused_in_words() {
        let check = |text: &str, secs: Option<u64>| {
            assert_eq!(duration(text).ok().map(|span| span.as_secs()), secs, "{text}");
        };
        check("90m", Some(5_400));
        check("12h", Some(43_200));
        check("3d", Some(259_200));
        for text in ["", "3", "0m", "-1h", "h", "1y", "9999999999999999999d", "367d", "1 h", "ж"] {
            check(text, None);
        }
        for text in
            ["2026-11-22T18:00:00Z", "2024-02-29T23:59:59Z", "1970-01-01T00:00:00Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(rfc3339(text).unwrap().to_rfc3339()[..19], text[..19]);
        }
        assert_eq!(rfc3339("2026-11-22T18:00Z").unwrap(), rfc3339("2026-11-22T18:00:00Z").unwrap());
        for text in [
            "",
            "Z",
            "2026-11-22",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-22T18:00:00",
            "1969-12-31T00:00:00Z",
        ] {
            assert!(rfc3339(text).is_err(), "{text}");
        }
        assert_eq!(action("pause").unwrap(), Action::Pause);
        assert!(action("paws").unwrap_err().to_string().contains("keep, prepare, pause"));
        assert_eq!(state("burned").unwrap(), PoolState::Burned);
    }
}
