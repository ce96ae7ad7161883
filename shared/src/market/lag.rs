//! How soon carriers follow one another: the lags between their first reds of the same mirror.

use std::collections::{BTreeMap, VecDeque};

use super::CarrierInput;
use crate::cell::CellState;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

/// Lags kept for one pair of carriers, the newest: carriers change their ways.
const LAGS_MAX: usize = 64;

/// One fall of a mirror in a market: who turned red when, from the first red until none is.
type Fall = BTreeMap<CarrierId, UnixMillis>;

/// The lags seen so far.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    falls: BTreeMap<(MarketId, MirrorId), Fall>,
    /// In seconds, by who fell first and who followed.
    seen: BTreeMap<(CarrierId, CarrierId), VecDeque<u64>>,
}

/// How soon one carrier usually follows another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsualLag {
    pub(crate) follower: CarrierId,
    /// Median, in seconds.
    pub(crate) secs: u64,
    /// On how many falls it rests.
    pub(crate) falls: u32,
}

impl Lags {
    /// Notes which carriers are red now.
    pub(crate) fn note(
        &mut self,
        market: &MarketId,
        mirror: &MirrorId,
        now: UnixMillis,
        carriers: &[CarrierInput],
    ) {
        let key = (market.clone(), mirror.clone());
        let mut red = carriers.iter().filter(|carrier| carrier.is(CellState::Red)).peekable();
        if red.peek().is_none() {
            self.falls.remove(&key);
            return;
        }
        let fall = self.falls.entry(key).or_default();
        for carrier in red.map(|carrier| &carrier.view.carrier) {
            if fall.contains_key(carrier) {
                continue;
            }
            for (earlier, at) in &*fall {
                let lags = self.seen.entry((earlier.clone(), carrier.clone())).or_default();
                lags.push_back(now.since_millis(*at) / 1000);
                if lags.len() > LAGS_MAX {
                    lags.pop_front();
                }
            }
            fall.insert(carrier.clone(), now);
        }
    }

    /// Forgets what was going on with mirrors that went; what was learnt stays.
    pub(crate) fn retain(&mut self, keep: impl Fn(&MarketId, &MirrorId) -> bool) {
        self.falls.retain(|(market, mirror), _| keep(market, mirror));
    }

    /// Who of `others` usually follows `leader` first, and how soon.
    pub(crate) fn next_after<'a>(
        &self,
        leader: &CarrierId,
        others: impl Iterator<Item = &'a CarrierId>,
    ) -> Option<UsualLag> {
        let usual = |follower: &CarrierId| {
            let lags = self.seen.get(&(leader.clone(), follower.clone()))?;
            let mut sorted: Vec<u64> = lags.iter().copied().collect();
            sorted.sort_unstable();
            // The lower of the two in the middle: a warning had better come early.
            let secs = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
            Some(UsualLag { follower: follower.clone(), secs, falls: sorted.len() as u32 })
        };
        others.filter_map(usual).min_by_key(|lag| lag.secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::CarrierView;

    #[test]
    fn the_usual_lag_is_the_median_of_the_falls_seen() {
        let id = |name: &str| CarrierId::parse(name).unwrap();
        let (market, mirror) = (MarketId::parse("kz").unwrap(), MirrorId::parse("m").unwrap());
        let mut lags = Lags::default();
        let mut note = |secs: u64, states: &str| {
            let carriers: Vec<_> = ["a", "b", "c"]
                .iter()
                .zip(states.chars())
                .map(|(name, letter)| {
                    let state = if letter == 'R' { CellState::Red } else { CellState::Green };
                    let view = CarrierView { state, ..CarrierView::of(id(name), String::new(), Vec::new()) };
                    CarrierInput::of_view(view)
                })
                .collect();
            lags.note(&market, &mirror, UnixMillis(secs * 1000), &carriers);
        };
        // Three falls: b follows a after 10, 30 and 20 s; a carrier that flickers counts once.
        for (start, lag) in [(0, 10), (1_000, 30), (2_000, 20)] {
            note(start, "Rgg");
            note(start + lag, "RRg");
            note(start + lag + 1, "Rgg");
            note(start + lag + 2, "RRg");
            note(start + 900, "ggg");
        }
        let (b, c) = (id("b"), id("c"));
        let expected = UsualLag { follower: b.clone(), secs: 20, falls: 3 };
        assert_eq!(lags.next_after(&id("a"), [&b, &c].into_iter()), Some(expected));
        assert_eq!(lags.next_after(&id("a"), [&c].into_iter()), None);
        assert_eq!(lags.next_after(&id("b"), [&b, &c].into_iter()), None);
    }
}
