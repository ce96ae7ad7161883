//! `zerkalo alerts`: what people must hear that is no decision about a mirror.

use anyhow::Result;
use clap::Args;
use zerkalo_core::words::MarketId;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{LogFormat, draw, instant, or_dash, print};

/// Most alerts asked for at once: the newest.
const ALERTS_MAX: u32 = 1_000;

/// Which alerts, and how they are shown.
#[derive(Debug, Args)]
pub struct AlertsArgs {
    /// Only of this market.
    #[arg(long, value_name = "MARKET")]
    market: Option<MarketId>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=ALERTS_MAX as i64))]
    limit: u32,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = LogFormat::Table)]
    format: LogFormat,
}

/// Lists the alerts, oldest first.
pub async fn alerts(service: &mut Service, args: AlertsArgs) -> Result<()> {
    let market = args.market.map(String::from).unwrap_or_default();
    let request = wire::ListAlertsRequest { market, limit: args.limit };
    let found = answer("list the alerts", service.list_alerts(request)).await?.alerts;
    let lines = || found.iter().map(|alert| alert.json.as_str());
    let text = match args.format {
        LogFormat::Jsonl => lines().map(|line| format!("{line}\n")).collect(),
        LogFormat::Json if found.is_empty() => "[]\n".to_owned(),
        LogFormat::Json => format!("[\n{}\n]\n", lines().collect::<Vec<_>>().join(",\n")),
        LogFormat::Table if found.is_empty() => "no alerts\n".to_owned(),
        LogFormat::Table => {
            draw(["at", "market", "what", "mirror", "in words", "alert"], found.iter().map(row))
        }
    };
    print(&text)?;
    Ok(())
}

fn row(alert: &wire::Alert) -> [String; 6] {
    [
        instant(alert.at_millis),
        alert.market.clone(),
        alert.kind.clone(),
        or_dash(&alert.mirror),
        alert.texts.join("\n"),
        alert.id.clone(),
    ]
}
