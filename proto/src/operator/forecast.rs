//! Forecasts across the wall, both ways: the command line prints one the same whether it asked or folded a journal.

use zerkalo_core::market::{EndCause, Estimate, Forecast};
use zerkalo_core::words::{MarketId, MirrorId};

use crate::operator_v1 as wire;
use crate::record::DecodeError;

/// A market's forecast.
pub fn forecast_to_wire(forecast: &Forecast) -> wire::MarketForecast {
    let of = |estimate: &Option<Estimate>| estimate.as_ref().map(to_wire);
    let causes = forecast.by_cause.iter().map(|(cause, deaths, median)| wire::CauseForecast {
        cause: cause.as_str().to_owned(),
        deaths: *deaths,
        median_days: of(median),
    });
    let left = forecast
        .left_days
        .iter()
        .map(|(mirror, days)| wire::LeftForecast { mirror: mirror.to_string(), days: of(days) });
    wire::MarketForecast {
        market: forecast.market.to_string(),
        lives: forecast.lives,
        deaths: forecast.deaths,
        fresh: forecast.fresh,
        serving: forecast.serving,
        median_days: of(&forecast.median_days),
        causes: causes.collect(),
        left: left.collect(),
        needed: of(&forecast.needed),
    }
}

/// The same, from the wire.
pub fn forecast_from_wire(forecast: &wire::MarketForecast) -> Result<Forecast, DecodeError> {
    let of = |estimate: &Option<wire::Estimate>| estimate.as_ref().map(from_wire);
    let cause = |text: &str| {
        let known = EndCause::ALL.iter().find(|cause| cause.as_str() == text);
        known.copied().ok_or_else(|| DecodeError::invalid("cause", text))
    };
    let by_cause =
        forecast.causes.iter().map(|one| Ok((cause(&one.cause)?, one.deaths, of(&one.median_days))));
    let left_days = forecast.left.iter().map(|one| {
        let mirror = MirrorId::parse(&one.mirror).map_err(|_| DecodeError::invalid("mirror", &one.mirror))?;
        Ok((mirror, of(&one.days)))
    });
    Ok(Forecast {
        market: MarketId::parse(&forecast.market)
            .map_err(|_| DecodeError::invalid("market", &forecast.market))?,
        lives: forecast.lives,
        deaths: forecast.deaths,
        fresh: forecast.fresh,
        serving: forecast.serving,
        median_days: of(&forecast.median_days),
        by_cause: by_cause.collect::<Result<_, DecodeError>>()?,
        left_days: left_days.collect::<Result<_, DecodeError>>()?,
        needed: of(&forecast.needed),
    })
}

fn to_wire(estimate: &Estimate) -> wire::Estimate {
    wire::Estimate { value: estimate.value, low: estimate.low, high: estimate.high }
}

fn from_wire(estimate: &wire::Estimate) -> Estimate {
    Estimate { value: estimate.value, low: estimate.low, high: estimate.high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_passes_the_wall_whole_and_nonsense_does_not() {
        let estimate = |value, high| Some(Estimate { value, low: 0.5, high });
        let forecast = Forecast {
            market: MarketId::parse("kz").unwrap(),
            lives: 7,
            deaths: 5,
            fresh: 2,
            serving: 1,
            median_days: estimate(6.0, None),
            by_cause: vec![(EndCause::Name, 4, estimate(6.5, Some(9.0))), (EndCause::Unknown, 1, None)],
            left_days: vec![(MirrorId::parse("m1").unwrap(), estimate(4.0, Some(9.25)))],
            needed: None,
        };
        let sent = forecast_to_wire(&forecast);
        assert_eq!(forecast_from_wire(&sent).unwrap(), forecast);
        let mut strange = sent.clone();
        strange.causes[0].cause = "boredom".to_owned();
        assert!(forecast_from_wire(&strange).is_err());
        let mut strange = sent;
        strange.market = "no market".to_owned();
        assert!(forecast_from_wire(&strange).is_err());
    }
}
