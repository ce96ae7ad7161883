//! From how a mirror is blocked to what helps: a listed name is rotated, a dropped address range is not.
//!
//! Source of the table: what each cause asks of the operator, by the playbook. A new name on a blocked range dies too.

use super::{Action, CarrierInput, CauseVotes};
use crate::cell::CellState;
use crate::verdict::{Mechanism, Trigger};

/// What helps against one way of being blocked.
pub(super) fn remedy(mechanism: Mechanism, trigger: Option<Trigger>) -> Action {
    use Mechanism as M;
    match (mechanism, trigger) {
        (M::EchTimeout, _) => Action::DisableEch,
        (M::QuicTimeout, _) => Action::DisableH3,
        (_, Some(Trigger::Sni | Trigger::Host | Trigger::Name)) => Action::Rotate,
        (_, Some(Trigger::Ip)) => Action::MoveHosting,
        // Nobody freezes or slows a name's connections without looking at where they go, unless the comparison says so.
        (M::TransferFreeze | M::TransferThrottle, _) => Action::MoveHosting,
        (M::TcpTimeout | M::TcpReset | M::TcpRefused | M::TcpUnreachable, _) => Action::MoveHosting,
        // What dies behind the ClientHello or the Host line, with no comparison at hand, is a listed name as a rule.
        _ => Action::Rotate,
    }
}

/// How a market's mirror is blocked, by the votes of owners, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) remedy: Action,
    pub(super) mechanism: Mechanism,
    pub(super) trigger: Option<Trigger>,
    /// Owners that say exactly this.
    pub(super) owners: u32,
    /// Owners that say how at all.
    pub(super) of: u32,
}

/// The remedy most owners ask for, and the way of being blocked that most of these saw. Of equal remedies the rotation,
/// which picks a mirror that works everywhere, then the first in the order of the words; of equal ways the first too.
pub(super) fn cause<'a>(votes: impl Iterator<Item = &'a CauseVotes> + Clone) -> Option<Cause> {
    let sum = |wanted: Action| -> u32 {
        votes
            .clone()
            .filter(|vote| remedy(vote.mechanism, vote.trigger) == wanted)
            .map(|vote| vote.owners)
            .sum()
    };
    let candidates = [Action::Rotate, Action::MoveHosting, Action::DisableEch, Action::DisableH3];
    let best =
        candidates.into_iter().rev().max_by_key(|action| sum(*action)).filter(|best| sum(*best) > 0)?;
    let mut ways = std::collections::BTreeMap::new();
    for vote in votes.clone().filter(|vote| remedy(vote.mechanism, vote.trigger) == best) {
        *ways.entry((vote.mechanism, vote.trigger)).or_insert(0) += vote.owners;
    }
    let ((mechanism, trigger), owners) = ways.into_iter().rev().max_by_key(|(_, owners)| *owners)?;
    let of = votes.map(|vote| vote.owners).sum();
    Some(Cause { remedy: best, mechanism, trigger, owners, of })
}

/// How the red carriers' flagged owners say the mirror is blocked.
pub(super) fn cause_of_red(carriers: &[CarrierInput]) -> Option<Cause> {
    let red = carriers.iter().filter(|carrier| carrier.is(CellState::Red));
    cause(red.flat_map(|carrier| &carrier.causes))
}

/// What degrades a carrier, where the majority of its owners, and as many as a red cell needs, say the same.
pub(super) fn impairment(carrier: &CarrierInput, owners_min: u32) -> Option<Cause> {
    let cause = cause(carrier.impaired.iter())?;
    // Freezing and throttling are told apart by one comparison and helped by the same.
    let same = carrier.impaired.iter().filter(|vote| remedy(vote.mechanism, vote.trigger) == cause.remedy);
    let owners: u32 = same.map(|vote| vote.owners).sum();
    // A visit that breaks off but loads asks for no new name.
    (cause.remedy != Action::Rotate && owners >= owners_min && owners * 2 > carrier.voters()).then_some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(mechanism: Mechanism, trigger: Option<Trigger>, owners: u32) -> CauseVotes {
        CauseVotes { mechanism, trigger, owners }
    }

    #[test]
    fn a_listed_name_is_rotated_and_a_dropped_range_is_not() {
        use Action as A;
        use Mechanism as M;
        use Trigger as T;
        let check = |mechanism, trigger, expected| assert_eq!(remedy(mechanism, trigger), expected);
        check(M::TlsTimeout, Some(T::Sni), A::Rotate);
        check(M::DnsNxdomain, Some(T::Name), A::Rotate);
        check(M::HttpBlockpage, Some(T::Host), A::Rotate);
        check(M::TlsMitmStateCa, Some(T::Sni), A::Rotate);
        check(M::TlsTimeout, Some(T::Ip), A::MoveHosting);
        check(M::TcpTimeout, Some(T::Ip), A::MoveHosting);
        check(M::TcpReset, None, A::MoveHosting);
        check(M::TransferFreeze, Some(T::Ip), A::MoveHosting);
        check(M::TransferFreeze, Some(T::Sni), A::Rotate);
        check(M::TransferThrottle, Some(T::Unknown), A::MoveHosting);
        check(M::TlsReset, Some(T::Unknown), A::Rotate);
        check(M::EchTimeout, Some(T::Protocol), A::DisableEch);
        check(M::QuicTimeout, Some(T::Sni), A::DisableH3);
    }

    #[test]
    fn owners_vote_on_the_remedy_then_on_the_way() {
        use Mechanism as M;
        use Trigger as T;
        let (sni, ip) = (Some(T::Sni), Some(T::Ip));
        let check = |votes: &[CauseVotes], expected: (Action, Mechanism, u32, u32)| {
            let mut reversed = votes.to_vec();
            reversed.reverse();
            for votes in [votes, &reversed] {
                let found = cause(votes.iter()).unwrap();
                assert_eq!((found.remedy, found.mechanism, found.owners, found.of), expected);
            }
        };
        // More owners say "the name" than "the address", though no single way has the most votes.
        check(
            &[vote(M::TlsTimeout, sni, 3), vote(M::TlsReset, sni, 3), vote(M::TcpTimeout, ip, 4)],
            (Action::Rotate, M::TlsTimeout, 3, 10),
        );
        check(
            &[vote(M::TlsTimeout, sni, 2), vote(M::TcpTimeout, ip, 3)],
            (Action::MoveHosting, M::TcpTimeout, 3, 5),
        );
        // A tie goes to the rotation.
        check(
            &[vote(M::TlsTimeout, sni, 2), vote(M::TcpTimeout, ip, 2)],
            (Action::Rotate, M::TlsTimeout, 2, 4),
        );
        assert_eq!(cause([].iter()), None);
    }
}
