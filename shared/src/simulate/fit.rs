//! Noise read off judged visits. What stands alone is the base rate, what follows itself closely on one agent is a burst,
//! what befalls a carrier's agents together is an outage; what lasts too long for that is taken for a block and left out.

use std::collections::{BTreeMap, BTreeSet};

use super::noise::{Noise, Spell, Spread};
use crate::fold::JudgedVisit;
use crate::verdict::Outcome;
use crate::words::{AgentId, CarrierId, MarketId, MirrorId, UnixMillis};

/// Blocked verdicts of one agent no further apart than this belong together: five turns of a minute.
const GAP_MILLIS: u64 = 300_000;
/// Blocked verdicts, and their part of all verdicts meanwhile, that make a row of them a burst.
const BURST_VERDICTS_MIN: usize = 3;
const BURST_SHARE_MIN: f64 = 0.5;
/// Blocked verdicts of one agent that count towards its carrier's outage: the shortest outage worth the name spoils two turns.
const OUTAGE_VERDICTS_MIN: usize = 2;
/// What befalls a whole carrier for longer is no outage.
const OUTAGE_MILLIS_MAX: u64 = 3_600_000;
/// An agent silent for longer was off, and nothing is known of the time.
const SILENCE_MILLIS_MAX: u64 = 600_000;
/// Durations a spread is fitted to at least.
const DURATIONS_MIN: usize = 20;

/// Noise, and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub noise: Noise,
    pub basis: Basis,
}

/// What a fit rests on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Basis {
    pub visits: u64,
    pub agents: u64,
    pub carriers: u64,
    /// Time watched, agent by agent.
    pub agent_hours: f64,
    /// Blocked verdicts that stand alone.
    pub lone_blocked: u64,
    pub bursts: u64,
    pub carrier_outages: u64,
    pub market_outages: u64,
    /// Blocked verdicts left out: they last too long for an outage.
    pub left_out: u64,
}

/// A row of blocked verdicts.
#[derive(Debug, Clone)]
struct Row {
    place: (MarketId, CarrierId, MirrorId),
    agent: AgentId,
    from: UnixMillis,
    until: UnixMillis,
    blocked: usize,
    all: usize,
}

/// Rows that coincide.
#[derive(Debug)]
struct Group {
    rows: Vec<Row>,
    from: UnixMillis,
    until: UnixMillis,
}

/// Fits noise to judged visits; what they tell nothing of is `sample`'s.
pub fn fit(visits: &[JudgedVisit], sample: &Noise) -> Fitted {
    let mut chains: BTreeMap<(&MirrorId, &AgentId), Vec<&JudgedVisit>> = BTreeMap::new();
    for visit in visits {
        chains.entry((&visit.mirror, &visit.agent)).or_default().push(visit);
    }
    let agents_of = agents_by_carrier(visits);
    let mut basis = Basis {
        visits: visits.len() as u64,
        agents: agents_of.values().map(|agents| agents.len() as u64).sum(),
        carriers: agents_of.len() as u64,
        ..Basis::default()
    };
    let (mut rows, mut telling) = (Vec::new(), 0);
    for chain in chains.values_mut() {
        chain.sort_by_key(|visit| visit.at);
        let pairs = chain.windows(2).map(|pair| pair[1].at.since_millis(pair[0].at).min(SILENCE_MILLIS_MAX));
        basis.agent_hours += pairs.sum::<u64>() as f64 / 3_600_000.0;
        telling += chain.iter().filter(|visit| tells(visit.outcome)).count() as u64;
        rows.extend(rows_of(chain));
    }
    rows.sort_by(|a, b| a.place.cmp(&b.place).then(a.from.cmp(&b.from)).then(a.agent.cmp(&b.agent)));
    let mut noise = sample.clone();
    let mut found = Found::default();
    for group in groups(rows) {
        found.take(group, &agents_of, &mut basis);
    }
    let market_outages = found.join_market_outages(&agents_of, &mut basis);
    let in_spells = found.spell_verdicts + basis.left_out;
    let calm = telling.saturating_sub(in_spells).max(1);
    if telling > 0 {
        noise.verdict.false_blocked = rounded(basis.lone_blocked as f64 / calm as f64);
    }
    let carrier_hours = basis.agent_hours / basis.agents.max(1) as f64 * basis.carriers as f64;
    let market_hours = basis.agent_hours / basis.agents.max(1) as f64;
    noise.burst = spell(&found.bursts, basis.agent_hours).or(noise.burst);
    noise.carrier_outage = spell(&found.outages, carrier_hours).or(noise.carrier_outage);
    noise.market_outage = spell(&market_outages, market_hours).or(noise.market_outage);
    let durations = |wanted: Outcome| {
        let durations =
            visits.iter().filter(|visit| visit.outcome == wanted).map(|visit| visit.duration_millis);
        spread(durations.collect())
    };
    noise.probe.ok_millis = durations(Outcome::Ok).unwrap_or(noise.probe.ok_millis);
    noise.probe.blocked_millis = durations(Outcome::Blocked).unwrap_or(noise.probe.blocked_millis);
    Fitted { noise, basis }
}

impl Fitted {
    /// The noise as a file, with what it rests on.
    pub fn to_file(&self) -> String {
        let basis = &self.basis;
        let seen = |count: u64, name: &str| match count {
            0 => format!("# No {name} seen: the sample's number stands.\n"),
            count => format!("# {name}s seen: {count}\n"),
        };
        format!(
            "# Fitted to {} judged visits of {} agents on {} carriers, {:.1} agent-hours.\n\
             # Blocked verdicts that stand alone: {}; left out as parts of a block: {}.\n{}{}{}\
             # Control, road, restriction, block and handshakes: the sample's.\n\n{}",
            basis.visits,
            basis.agents,
            basis.carriers,
            basis.agent_hours,
            basis.lone_blocked,
            basis.left_out,
            seen(basis.bursts, "burst"),
            seen(basis.carrier_outages, "carrier outage"),
            seen(basis.market_outages, "market outage"),
            self.noise.to_toml()
        )
    }
}

type Agents<'a> = BTreeMap<(&'a MarketId, &'a CarrierId), BTreeSet<&'a AgentId>>;

fn agents_by_carrier(visits: &[JudgedVisit]) -> Agents<'_> {
    let mut agents: Agents<'_> = BTreeMap::new();
    for visit in visits {
        agents.entry((&visit.market, &visit.carrier)).or_default().insert(&visit.agent);
    }
    agents
}

fn tells(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Ok | Outcome::Impaired | Outcome::Refused | Outcome::Blocked)
}

/// Rows of blocked verdicts of one agent about one mirror.
fn rows_of(chain: &[&JudgedVisit]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for visit in chain.iter().filter(|visit| visit.outcome == Outcome::Blocked) {
        match rows.last_mut().filter(|row| visit.at.since_millis(row.until) <= GAP_MILLIS) {
            Some(row) => (row.until, row.blocked) = (visit.at, row.blocked + 1),
            None => rows.push(Row {
                place: (visit.market.clone(), visit.carrier.clone(), visit.mirror.clone()),
                agent: visit.agent.clone(),
                from: visit.at,
                until: visit.at,
                blocked: 1,
                all: 0,
            }),
        }
    }
    for row in &mut rows {
        let meanwhile = chain.iter().filter(|visit| (row.from..=row.until).contains(&visit.at));
        row.all = meanwhile.filter(|visit| tells(visit.outcome)).count();
    }
    rows
}

/// Rows of one place that overlap, or nearly.
fn groups(rows: Vec<Row>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let near = |group: &&mut Group| {
            group.rows[0].place == row.place && row.from.0 <= group.until.0 + GAP_MILLIS / 5
        };
        match groups.last_mut().filter(near) {
            Some(group) => {
                group.until = group.until.max(row.until);
                group.rows.push(row);
            }
            None => groups.push(Group { from: row.from, until: row.until, rows: vec![row] }),
        }
    }
    groups
}

/// A spell as seen: how long, and what part of visits it spoilt.
#[derive(Debug, Clone)]
struct Seen {
    market: MarketId,
    carrier: CarrierId,
    mirror: MirrorId,
    from: UnixMillis,
    until: UnixMillis,
    share: f64,
}

#[derive(Debug, Default)]
struct Found {
    bursts: Vec<Seen>,
    outages: Vec<Seen>,
    spell_verdicts: u64,
}

impl Found {
    fn take(&mut self, group: Group, agents_of: &Agents<'_>, basis: &mut Basis) {
        let (market, carrier, _) = &group.rows[0].place;
        let agents = agents_of.get(&(market, carrier)).map_or(1, BTreeSet::len);
        // Lone verdicts coincide by chance.
        let repeated = group.rows.iter().filter(|row| row.blocked >= OUTAGE_VERDICTS_MIN);
        let hit: BTreeSet<&AgentId> = repeated.map(|row| &row.agent).collect();
        let (blocked, all) =
            group.rows.iter().fold((0, 0), |(blocked, all), row| (blocked + row.blocked, all + row.all));
        let is_dense = blocked as f64 >= all as f64 * BURST_SHARE_MIN;
        if hit.len() >= 2 && hit.len() * 2 > agents && is_dense {
            if group.until.since_millis(group.from) > OUTAGE_MILLIS_MAX {
                basis.left_out += blocked as u64;
            } else {
                basis.carrier_outages += 1;
                self.spell_verdicts += all as u64;
                self.outages.push(seen(&group.rows[0].place, group.from, group.until, blocked, all));
            }
            return;
        }
        for row in &group.rows {
            let is_burst =
                row.blocked >= BURST_VERDICTS_MIN && row.blocked as f64 >= row.all as f64 * BURST_SHARE_MIN;
            if is_burst {
                basis.bursts += 1;
                self.spell_verdicts += row.all as u64;
                self.bursts.push(seen(&row.place, row.from, row.until, row.blocked, row.all));
            } else {
                basis.lone_blocked += row.blocked as u64;
            }
        }
    }

    /// Outages of most carriers at once are the market's.
    fn join_market_outages(&mut self, agents_of: &Agents<'_>, basis: &mut Basis) -> Vec<Seen> {
        self.outages.sort_by(|a, b| (&a.market, &a.mirror, a.from).cmp(&(&b.market, &b.mirror, b.from)));
        let (mut own, mut joint) = (Vec::new(), Vec::new());
        let mut rest = std::mem::take(&mut self.outages).into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut together = vec![first];
            while let Some(next) = rest.next_if(|next| {
                let first = &together[0];
                let is_same = next.market == first.market && next.mirror == first.mirror;
                is_same && next.from.0 <= first.until.0 + GAP_MILLIS / 5
            }) {
                together.push(next);
            }
            let carriers: BTreeSet<_> = together.iter().map(|seen| &seen.carrier).collect();
            let all = agents_of.keys().filter(|(market, _)| **market == together[0].market).count();
            if carriers.len() >= 2 && carriers.len() * 2 > all {
                basis.market_outages += 1;
                basis.carrier_outages -= together.len() as u64;
                let until = together.iter().map(|seen| seen.until).max().unwrap_or_default();
                joint.push(Seen { until, ..together[0].clone() });
            } else {
                own.extend(together);
            }
        }
        self.outages = own;
        joint
    }
}

fn seen(
    (market, carrier, mirror): &(MarketId, CarrierId, MirrorId),
    from: UnixMillis,
    until: UnixMillis,
    blocked: usize,
    all: usize,
) -> Seen {
    let share = blocked as f64 / all.max(blocked).max(1) as f64;
    Seen { market: market.clone(), carrier: carrier.clone(), mirror: mirror.clone(), from, until, share }
}

fn spell(seen: &[Seen], hours: f64) -> Option<Spell> {
    let mut lengths: Vec<u64> = seen.iter().map(|seen| seen.until.since_millis(seen.from)).collect();
    lengths.sort_unstable();
    let median = *lengths.get(lengths.len() / 2)?;
    let share = seen.iter().map(|seen| seen.share).sum::<f64>() / seen.len() as f64;
    Some(Spell {
        every_hours: rounded(hours.max(1.0) / seen.len() as f64),
        // From the first spoilt visit to the last; the turn before and the one behind were well.
        secs: (median / 1_000 + 60).min(OUTAGE_MILLIS_MAX / 1_000),
        blocked: rounded(share),
    })
}

fn spread(mut durations: Vec<u64>) -> Option<Spread> {
    durations.sort_unstable();
    let at = |hundredths: usize| durations.get((durations.len() - 1) * hundredths / 100).copied();
    (durations.len() >= DURATIONS_MIN).then_some(())?;
    Some(Spread { least: at(0)?, median: at(50)?, p95: at(95)?, most: at(100)? })
}

fn rounded(number: f64) -> f64 {
    libm::round(number * 10_000.0) / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::chance::Chance;

    const HOURS: u64 = 48;
    const CARRIERS: u64 = 4;
    const OWNERS: u64 = 5;

    /// Two days of twenty agents who look every minute; `is_ill` tells what goes wrong, by agent, carrier and minute.
    fn visits(base: f64, is_ill: impl Fn(u64, u64, u64) -> bool) -> Vec<JudgedVisit> {
        let mut chance = Chance::new(11, 0, 0);
        let mut visits = Vec::new();
        for minute in 0..HOURS * 60 {
            for agent in 0..CARRIERS * OWNERS {
                let carrier = agent / OWNERS;
                let is_blocked = chance.flips(base) || is_ill(agent, carrier, minute);
                visits.push(JudgedVisit {
                    agent: AgentId::parse(&format!("a{agent}")).unwrap(),
                    market: MarketId::parse("kz").unwrap(),
                    carrier: CarrierId::parse(&format!("c{carrier}")).unwrap(),
                    mirror: MirrorId::parse("m").unwrap(),
                    at: UnixMillis(1_800_000_000_000 + minute * 60_000 + agent * 2_900),
                    outcome: if is_blocked { Outcome::Blocked } else { Outcome::Ok },
                    duration_millis: if is_blocked { 12_000 } else { 800 },
                });
            }
        }
        visits
    }

    #[test]
    fn the_base_rate_comes_back() {
        let Fitted { noise, basis } = fit(&visits(0.01, |_, _, _| false), &Noise::built_in());
        assert!((0.008..0.012).contains(&noise.verdict.false_blocked), "{noise:?}");
        assert_eq!((basis.agents, basis.carriers, basis.carrier_outages), (20, 4, 0));
        assert!((950.0..961.0).contains(&basis.agent_hours), "{basis:?}");
        assert_eq!(noise.market_outage, Noise::built_in().market_outage, "nothing seen, nothing learned");
        assert_eq!(noise.probe.blocked_millis.median, 12_000);
    }

    #[test]
    fn bursts_outages_and_blocks_are_told_apart() {
        let is_ill = |agent: u64, carrier: u64, minute: u64| {
            let burst =
                (agent == 3 && (100..110).contains(&minute)) || (agent == 17 && (900..910).contains(&minute));
            let outage = carrier == 2 && (500..504).contains(&minute);
            let market = (1_500..1_504).contains(&minute);
            let block = carrier == 0 && (2_000..2_300).contains(&minute);
            burst || outage || market || block
        };
        let Fitted { noise, basis } = fit(&visits(0.0, is_ill), &Noise::built_in());
        assert_eq!((basis.bursts, basis.carrier_outages, basis.market_outages), (2, 1, 1));
        assert_eq!((basis.lone_blocked, basis.left_out), (0, 5 * 300));
        assert_eq!(noise.verdict.false_blocked, 0.0);
        let burst = noise.burst.clone().unwrap();
        assert_eq!((burst.secs, burst.blocked), (600, 1.0));
        assert!((475.0..481.0).contains(&burst.every_hours), "{burst:?}");
        let market = noise.market_outage.clone().unwrap();
        assert!((47.0..49.0).contains(&market.every_hours) && market.secs <= 300, "{market:?}");
        let fitted = Fitted { noise: noise.clone(), basis };
        assert_eq!(Noise::parse(&fitted.to_file()).unwrap(), noise);
        assert!(fitted.to_file().contains("57600 judged visits of 20 agents"), "{}", fitted.to_file());
    }
}
