//! A share with its interval: how much of what was heard or tried is blocked. Whole numbers only, in per mille.

use serde::{Deserialize, Serialize};

/// So many blocked of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub blocked: u32,
    pub of: u32,
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { blocked: self.blocked.saturating_add(other.blocked), of: self.of.saturating_add(other.of) }
    }
}

/// A share with the interval that holds the truth in 95 of 100 cases, if the cases are independent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub blocked: u32,
    pub of: u32,
    /// `blocked / of`, rounded; 0 of nothing.
    pub permille: u32,
    pub low_permille: u32,
    pub high_permille: u32,
}

/// The square of 1.96, in ten-thousandths: the width of the interval.
const Z_SQUARED: u128 = 38_416;

impl From<Count> for Share {
    /// Wilson's interval: it stays within bounds and is honest for few cases, where the plain one is not (E. B. Wilson,
    /// "Probable inference, the law of succession, and statistical inference", 1927).
    fn from(Count { blocked, of }: Count) -> Self {
        let blocked = blocked.min(of);
        if of == 0 {
            return Self { high_permille: 1_000, ..Self::default() };
        }
        let (x, n) = (u128::from(blocked), u128::from(of));
        let permille = |numerator: u128, denominator: u128| {
            ((numerator * 2_000 + denominator) / (denominator * 2)) as u32
        };
        // (2x + z2 -+ sqrt(z4 + 4 z2 x (n - x) / n)) / (2 (n + z2)), all in millionths.
        let middle = x * 2_000_000 + Z_SQUARED * 100;
        let root = ((Z_SQUARED * Z_SQUARED + 4 * Z_SQUARED * 10_000 * x * (n - x) / n) * 10_000).isqrt();
        let whole = n * 2_000_000 + Z_SQUARED * 200;
        Self {
            blocked,
            of,
            permille: permille(x, n),
            low_permille: permille(middle.saturating_sub(root), whole),
            high_permille: permille(middle + root, whole).min(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        let check = |blocked, of, expected: (u32, u32, u32)| {
            let share = Share::from(Count { blocked, of });
            assert_eq!((share.permille, share.low_permille, share.high_permille), expected, "{blocked}/{of}");
        };
        check(0, 0, (0, 0, 1_000));
        check(0, 5, (0, 0, 434));
        check(2, 5, (400, 118, 769));
        check(5, 5, (1_000, 566, 1_000));
        check(40, 100, (400, 309, 498));
        check(1, 1, (1_000, 207, 1_000));
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_share_and_narrows(of in 1u32..100_000, part in 0u32..=1_000) {
            let blocked = (u64::from(of) * u64::from(part) / 1_000) as u32;
            let share = Share::from(Count { blocked, of });
            prop_assert!(share.low_permille <= share.permille && share.permille <= share.high_permille);
            let more = Share::from(Count { blocked: blocked * 10, of: of * 10 });
            prop_assert!(more.high_permille - more.low_permille <= share.high_permille - share.low_permille + 1);
        }
    }
}
