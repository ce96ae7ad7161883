//! `zerkalo outbox`: what executors have yet to carry out, and what they gave up.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// What can be done with deliveries.
#[derive(Debug, Subcommand)]
pub enum Outbox {
    /// List what was given up, then what waits.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Try one again, now.
    Retry {
        /// EXECUTOR/ID, as `zerkalo outbox ls` shows it.
        id: String,
    },
    /// Remove one for good: it will not be carried out.
    Drop {
        /// EXECUTOR/ID, as `zerkalo outbox ls` shows it.
        id: String,
    },
}

/// Carries out one command about deliveries.
pub async fn outbox(service: &mut Service, command: Outbox) -> Result<()> {
    match command {
        Outbox::Ls { format } => {
            let request = wire::ListDeliveriesRequest {};
            show(&answer("list the outbox", service.list_deliveries(request)).await?, format)
        }
        Outbox::Retry { id } => {
            let request = wire::RetryDeliveryRequest { id: id.clone() };
            answer("try it again", service.retry_delivery(request)).await?;
            print(&format!("{id} is tried again now; see `zerkalo outbox ls`\n"))?;
            Ok(())
        }
        Outbox::Drop { id } => {
            let request = wire::DropDeliveryRequest { id: id.clone() };
            answer("drop it", service.drop_delivery(request)).await?;
            print(&format!("{id} is dropped: it will not be carried out\n"))?;
            Ok(())
        }
    }
}

fn show(found: &wire::ListDeliveriesResponse, format: Format) -> Result<()> {
    if format == Format::Json {
        let deliveries: Vec<_> = found.deliveries.iter().map(to_json).collect();
        print_json(&json!({ "deliveries": deliveries, "left_out": found.left_out }))?;
        return Ok(());
    }
    if found.deliveries.is_empty() {
        print("nothing waits, and nothing was given up\n")?;
        return Ok(());
    }
    let headings = ["delivery", "what", "market", "mirror", "state", "tried", "last", "next", "last error"];
    let mut text = draw(headings, found.deliveries.iter().map(row));
    if found.left_out > 0 {
        text += &format!("and {} more\n", found.left_out);
    }
    let mut strangers: Vec<_> =
        found.deliveries.iter().filter(|one| !one.configured).map(|one| one.executor.as_str()).collect();
    strangers.sort_unstable();
    strangers.dedup();
    for executor in strangers {
        text += &format!("executor {executor} is configured no more: what waits for it is tried by nobody\n");
    }
    print(&text)?;
    Ok(())
}

fn row(one: &wire::Delivery) -> [String; 9] {
    [
        one.id.clone(),
        or_dash(&one.word),
        one.market.clone(),
        or_dash(&one.mirror),
        state(one),
        one.attempts.to_string(),
        instant(one.last_attempt_at_millis),
        next(one),
        or_dash(&one.last_error),
    ]
}

/// Where it stands, and why it was given up.
fn state(one: &wire::Delivery) -> String {
    let why = match one.given_up_because.as_str() {
        "refused" => format!(": refused {} times", one.refusals),
        "too_long" => ": failed too often".to_owned(),
        "superseded" => ": a newer decision was carried out".to_owned(),
        "hopeless" => ": no attempt can succeed".to_owned(),
        _ => String::new(),
    };
    if one.dead { format!("given up{why}") } else { "waits".to_owned() }
}

/// When it is tried next.
fn next(one: &wire::Delivery) -> String {
    match one.next_attempt_at_millis {
        _ if one.dead => "-".to_owned(),
        _ if !one.configured => "never".to_owned(),
        0 => "in its turn".to_owned(),
        at => instant(at),
    }
}

fn to_json(one: &wire::Delivery) -> serde_json::Value {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "id": one.id,
        "executor": one.executor,
        "configured": one.configured,
        "what": some(&one.word),
        "market": one.market,
        "mirror": some(&one.mirror),
        "state": if one.dead { "dead" } else { "waiting" },
        "attempts": one.attempts,
        "refusals": one.refusals,
        "given_up_because": some(&one.given_up_because),
        "last_attempt_at": Some(one.last_attempt_at_millis).filter(|at| *at > 0),
        "next_attempt_at": Some(one.next_attempt_at_millis).filter(|at| *at > 0),
        "last_error": some(&one.last_error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_why_it_was_given_up_and_when_it_is_tried_next() {
        let waiting =
            wire::Delivery { configured: true, next_attempt_at_millis: 1_000, ..wire::Delivery::default() };
        assert_eq!((state(&waiting).as_str(), next(&waiting)), ("waits", instant(1_000)));
        let behind = wire::Delivery { next_attempt_at_millis: 0, ..waiting.clone() };
        assert_eq!(next(&behind), "in its turn");
        assert_eq!(next(&wire::Delivery { configured: false, ..waiting.clone() }), "never");
        let dead = |why: &str| wire::Delivery {
            dead: true,
            refusals: 3,
            given_up_because: why.to_owned(),
            ..wire::Delivery::default()
        };
        for (why, expected) in [
            ("refused", "given up: refused 3 times"),
            ("too_long", "given up: failed too often"),
            ("superseded", "given up: a newer decision was carried out"),
            ("", "given up"),
        ] {
            assert_eq!((state(&dead(why)).as_str(), next(&dead(why)).as_str()), (expected, "-"));
        }
    }
}
