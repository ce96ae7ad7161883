//! `zerkalo forecast`: how long mirrors live in each market, and how many domains the month will need.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use zerkalo_core::fold::Fold;
use zerkalo_core::market::{DEATHS_MIN, Estimate, Forecast, MONTH_DAYS};
use zerkalo_core::words::MarketId;
use zerkalo_proto::operator::forecast_from_wire;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::journal::read_journal;
use crate::table::{Format, draw, print, print_json};

/// What to forecast from.
#[derive(Debug, Args)]
pub struct ForecastArgs {
    /// Ask no collector: a collector's DIR/journal, or one segment of it (the first, unless nothing before it matters).
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// Only of this market.
    #[arg(long, value_name = "MARKET")]
    market: Option<MarketId>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Asks the collector.
pub async fn forecast(service: &mut Service, args: ForecastArgs) -> Result<()> {
    let market = args.market.map(String::from).unwrap_or_default();
    let found = answer("forecast", service.forecast(wire::ForecastRequest { market })).await?;
    let forecasts: Vec<Forecast> = found
        .markets
        .iter()
        .map(forecast_from_wire)
        .collect::<Result<_, _>>()
        .context("the collector sent a forecast that this program cannot read; upgrade it")?;
    show(&forecasts, args.format)
}

/// Folds the journal and prints what follows.
pub fn forecast_offline(args: &ForecastArgs) -> Result<()> {
    let journal = args.journal.as_deref().context("no journal is named")?;
    let mut fold = Fold::new();
    read_journal(journal, |entry| {
        fold.apply(&entry);
        Ok(ControlFlow::Continue(()))
    })?;
    let markets: Vec<MarketId> = match &args.market {
        Some(market) => vec![market.clone()],
        None => fold.catalogue().markets().iter().map(|market| market.id.clone()).collect(),
    };
    let forecasts: Vec<Forecast> = markets.iter().filter_map(|market| fold.forecast(market)).collect();
    if let Some(market) = args.market.as_ref().filter(|_| forecasts.is_empty()) {
        bail!("market {market} has no policy in this journal");
    }
    show(&forecasts, args.format)
}

fn show(forecasts: &[Forecast], format: Format) -> Result<()> {
    match format {
        Format::Json => print_json(&forecasts)?,
        Format::Table => forecasts.iter().try_for_each(|one| print(&text(one)))?,
    }
    Ok(())
}

fn text(forecast: &Forecast) -> String {
    let days =
        |estimate: &Option<Estimate>| estimate.as_ref().map_or_else(|| "not known".to_owned(), interval);
    let mut text = format!(
        "market {}: {} lives seen, {} ended by a block; {} serving, {} standing by\n",
        forecast.market, forecast.lives, forecast.deaths, forecast.serving, forecast.fresh
    );
    if forecast.deaths < DEATHS_MIN {
        text += &format!("fewer than {DEATHS_MIN} ended by a block: too few to forecast from\n");
    }
    let all = [["any cause".to_owned(), forecast.deaths.to_string(), days(&forecast.median_days)]];
    let by_cause = forecast.by_cause.iter();
    let by_cause =
        by_cause.map(|(cause, deaths, median)| [cause.to_string(), deaths.to_string(), days(median)]);
    text +=
        &draw(["ended by", "lives", "half live longer than (days, 95 %)"], all.into_iter().chain(by_cause));
    let left = forecast.left_days.iter().map(|(mirror, left)| [mirror.to_string(), days(left)]);
    let of_month = format!("days left of the next {MONTH_DAYS} (95 %)");
    text += &draw(["serving", of_month.as_str()], left);
    text + &format!("new domains needed in {MONTH_DAYS} days: {}\n", days(&forecast.needed))
}

fn interval(estimate: &Estimate) -> String {
    let high = estimate.high.map_or_else(|| "no bound".to_owned(), |high| format!("{high:.1}"));
    format!("{:.1} ({:.1} to {high})", estimate.value, estimate.low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_states_its_interval_and_the_lives_it_rests_on() {
        let forecast = Forecast {
            market: MarketId::parse("kz").unwrap(),
            lives: 7,
            deaths: 5,
            fresh: 2,
            serving: 1,
            median_days: Some(Estimate { value: 6.0, low: 3.5, high: None }),
            by_cause: vec![],
            left_days: vec![(
                "m1".parse().unwrap(),
                Some(Estimate { value: 4.0, low: 2.0, high: Some(9.25) }),
            )],
            needed: None,
        };
        let text = text(&forecast);
        for part in
            ["7 lives seen, 5 ended", "6.0 (3.5 to no bound)", "4.0 (2.0 to 9.2)", "30 days: not known"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
