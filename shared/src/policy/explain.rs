//! A policy in plain words, for who must answer for it.

use super::Policy;
use crate::catalogue::Catalogue;
use crate::words::CarrierId;

impl Policy {
    /// What the policy does, a sentence each.
    pub fn explain(&self, catalogue: &Catalogue) -> Vec<String> {
        let name = |id: &CarrierId| {
            let name = catalogue.carrier(id).map_or(id.as_str(), |carrier| &carrier.name);
            match self.weight(id) {
                1 => name.to_owned(),
                weight => format!("{name} (counts {weight})"),
            }
        };
        let names = |ids: &[CarrierId]| ids.iter().map(name).collect::<Vec<_>>().join(", ");
        let known = catalogue.markets().iter().find(|market| market.id == self.market);
        let market = known.map_or(self.market.as_str(), |market| &market.name);
        let mut said = vec![format!(
            "{market} is decided by {} carriers: {}.",
            self.carriers.len(),
            names(&self.carriers)
        )];
        if !self.leaders.is_empty() {
            let lag = span(self.usual_lag_secs);
            said.push(format!(
                "{} usually {} first; until history tells, the others are expected within {lag}.",
                names(&self.leaders),
                fall(&self.leaders)
            ));
        }
        if !self.laggards.is_empty() {
            let (lags, fall) = (names(&self.laggards), fall(&self.laggards));
            said.push(format!("{lags} usually {fall} last: while green, the block may still be spreading."));
        }
        said.extend(self.explain_thresholds());
        said.push(self.suspicion.explain(&self.cell));
        said.extend(self.explain_rotation());
        said.extend(self.explain_pool());
        said
    }

    fn explain_thresholds(&self) -> Vec<String> {
        let unit = if self.weights.is_empty() { "" } else { ", counted by weight" };
        let mut said = vec![
            format!(
                "With {} or more carriers red{unit}: prepare, have the next mirror ready.",
                self.prepare_red_carriers
            ),
            format!(
                "With {} or more carriers red{unit}, {} different ones at least: pause, at any hour, with nobody asked.",
                self.pause_red_carriers,
                self.pause_carriers_min()
            ),
            format!(
                "A warning ends when no more than {} stay red for {}.",
                self.leave_red_carriers,
                span(self.leave_dwell_secs)
            ),
        ];
        said.push(format!(
            "A carrier is red by at least {} owners, and by their majority; an owner is forgotten after {} of silence.",
            self.cell.owners_red_min,
            span(self.cell.stale_after_secs)
        ));
        said.extend(self.explain_liars());
        said
    }

    fn explain_liars(&self) -> Vec<String> {
        let cell = &self.cell;
        let mut said = vec![match cell.bare_majority_secs {
            0 => "A bare majority turns it at once: liars one short of that turn it with one honest owner's mistake."
                .to_owned(),
            secs => format!(
                "It turns at once where owners are a majority even without the loudest, one fewer than it takes; a bare \
                 majority must stand for {}, so that liars or ill lines that few never turn it.",
                span(secs)
            ),
        }];
        if cell.apart_after_secs > 0 {
            said.push(format!(
                "An owner that sees a block for {} while the majority sees none has no voice until others join it.",
                span(cell.apart_after_secs)
            ));
        }
        said
    }

    fn explain_rotation(&self) -> Vec<String> {
        let confirming = match self.cell.confirm_by_majority {
            true => "the majority".to_owned(),
            false => format!("at least {} owners", self.cell.owners_red_min),
        };
        let mut said = vec![format!(
            "{} after a pause, if the carriers are still red and {confirming} of each said so within the last {}: \
             the remedy that fits the cause. A listed name is rotated; blocked addresses, QUIC or ECH are not.",
            span(self.rotate_hold_secs),
            span(self.confirm_age_max_secs())
        )];
        said.push(match self.approval.people() {
            0 => "A rotation is carried out by itself.".to_owned(),
            1 => "A rotation waits for one person's yes.".to_owned(),
            people => format!("A rotation waits for the yes of {people} people."),
        });
        if let Some(quiet) = &self.quiet_hours {
            said.push(format!(
                "From {} to {} (UTC{}) a rotation waits for a person's yes or for the end of these hours.",
                quiet.from, quiet.until, quiet.utc_offset
            ));
        }
        if self.cool_down_secs > 0 {
            said.push(format!("Within {} of a rotation the next one waits.", span(self.cool_down_secs)));
        }
        if let Some(max) = self.rotations_a_day_max {
            said.push(format!("More than {max} rotations in 24 hours need a person's yes."));
        }
        if self.dry_run {
            said.push("Dry run: everything is decided and told, nothing is carried out.".to_owned());
        }
        said
    }

    fn explain_pool(&self) -> Vec<String> {
        let mut said = vec![
            format!(
                "A standby is measured by at most {} owners of a carrier; an alert warns when {} or fewer are left.",
                self.standby.owners_max, self.standby.low
            ),
            format!(
                "A burned mirror that is green everywhere for {} is offered back, never put back by itself.",
                span(self.unblock_dwell_secs)
            ),
        ];
        if self.one_market_a_mirror {
            said.push("A mirror that serves or served another market is no standby here.".to_owned());
        }
        said
    }
}

fn fall(carriers: &[CarrierId]) -> &'static str {
    if carriers.len() == 1 { "falls" } else { "fall" }
}

/// A time in the largest unit that divides it.
fn span(secs: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    let whole = units.iter().find(|(unit, _)| secs >= *unit && secs.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{secs} s"), |(unit, name)| format!("{} {name}", secs / unit))
}

#[cfg(test)]
mod tests {
    use super::super::BUILT_IN;
    use super::*;

    #[test]
    fn a_policy_is_explained_by_its_numbers() {
        let catalogue = Catalogue::built_in();
        let text = BUILT_IN[1].replace(
            "[standby]",
            "[weights]\nkz-kcell = 2\n[quiet_hours]\nfrom = \"23:00\"\nuntil = \"07:00\"\nutc_offset = \"+05:00\"\n[standby]",
        );
        let said = Policy::parse(&text, &catalogue).unwrap().explain(&catalogue).join("\n");
        for part in [
            "Kazakhtelecom usually falls first",
            "Kcell (counts 2)",
            "With 2 or more carriers red, counted by weight, 2 different ones at least: pause",
            "a bare majority must stand for 15 min",
            "for 1 h while the majority sees none has no voice",
            "a first word, on which nothing acts: when 6 owners on 2 carriers or more",
            "4 min after a pause",
            "the majority of each said so within",
            "within the last 90 s",
            "From 23:00 to 07:00 (UTC+05:00)",
            "Within 15 min of a rotation",
            "More than 4 rotations",
        ] {
            assert!(said.contains(part), "{part:?} in\n{said}");
        }
    }
}
