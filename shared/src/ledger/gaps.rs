//! Gaps between spans of validity: when no certificate seen was valid.

use serde::{Deserialize, Serialize};

use crate::words::UnixMillis;

/// Certificates tell time in seconds: one that begins in the second after another's end follows it at once.
const SECOND_MILLIS: u64 = 1_000;

/// From an instant until another, both within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Period {
    pub from: UnixMillis,
    pub until: UnixMillis,
}

/// The times between the first span's beginning and the last one's end that no span covers, in order. A gap lasts from the
/// end of one span until the beginning of the next. Spans that end before they begin cover nothing.
pub fn gaps(spans: impl IntoIterator<Item = Period>) -> Vec<Period> {
    let mut spans: Vec<Period> = spans.into_iter().filter(|span| span.from <= span.until).collect();
    spans.sort_unstable();
    let mut found = Vec::new();
    let mut covered_until = None;
    for span in spans {
        if let Some(until) = covered_until
            && span.from > plus_second(until)
        {
            found.push(Period { from: until, until: span.from });
        }
        covered_until = covered_until.max(Some(span.until));
    }
    found
}

fn plus_second(instant: UnixMillis) -> UnixMillis {
    instant.plus_millis(SECOND_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn period((from, until): (u64, u64)) -> Period {
        Period { from: UnixMillis(from * SECOND_MILLIS), until: UnixMillis(until * SECOND_MILLIS) }
    }

    #[test]
    fn what_lies_between_generations_is_a_gap() {
        let check = |spans: &[(u64, u64)], expected: &[(u64, u64)]| {
            let found = gaps(spans.iter().copied().map(period));
            assert_eq!(found, expected.iter().copied().map(period).collect::<Vec<_>>(), "{spans:?}");
        };
        check(&[], &[]);
        check(&[(0, 75)], &[]);
        check(&[(0, 75), (80, 155)], &[(75, 80)]);
        check(&[(80, 155), (0, 75)], &[(75, 80)]);
        check(&[(0, 75), (70, 145)], &[]);
        // The next begins in the second after the end.
        check(&[(0, 75), (76, 150)], &[]);
        check(&[(0, 75), (77, 150)], &[(75, 77)]);
        // A long one covers what lies within.
        check(&[(0, 200), (20, 30), (210, 300)], &[(200, 210)]);
        check(&[(0, 10), (50, 40), (20, 30), (90, 99)], &[(10, 20), (30, 90)]);
        check(&[(0, 10), (0, 10)], &[]);
    }

    proptest! {
        #[test]
        fn an_instant_is_in_a_gap_or_covered_and_never_both(
            spans in proptest::collection::vec((0u64..100, 0u64..100), 0..12), at in 0u64..100,
        ) {
            let spans: Vec<Period> = spans.into_iter().map(period).collect();
            let found = gaps(spans.iter().copied());
            let valid: Vec<&Period> = spans.iter().filter(|span| span.from <= span.until).collect();
            let at = UnixMillis(at * SECOND_MILLIS);
            let covered = valid.iter().any(|span| span.from <= at && at <= span.until);
            let in_gap = found.iter().any(|gap| gap.from < at && at < gap.until);
            prop_assert!(!(covered && in_gap));
            let between = valid.iter().any(|span| span.until < at) && valid.iter().any(|span| span.from > at);
            // Half a second to each side of an uncovered whole second lies in a gap too.
            if between && !covered {
                prop_assert!(in_gap, "{:?} {:?}", found, at);
            }
        }
    }
}
