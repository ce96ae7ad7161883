//! What the fold shows: the market x carrier matrix, and the evidence behind a decision.

use serde::{Deserialize, Serialize};

use super::{EVIDENCE_MAX, Fold};
use crate::cell::{CarrierView, Cell};
use crate::market::{Action, EvidenceItem};
use crate::policy::Policy;
use crate::target::TargetUrl;
use crate::verdict::Outcome;
use crate::words::{Access, CarrierId, MarketId, MirrorId, UnixMillis};

/// Every mirror in every market, carrier by carrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    pub at: UnixMillis,
    pub rows: Vec<MatrixRow>,
}

/// One mirror in one market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixRow {
    pub market: MarketId,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    /// The action in force; none before the first decision.
    pub action: Option<Action>,
    /// The decision that put it in force.
    pub decision: Option<String>,
    /// The carriers that vote, then others that were measured.
    pub carriers: Vec<CarrierView>,
}

impl Fold {
    /// The matrix as it looks at `now`.
    pub fn matrix(&self, now: UnixMillis) -> Matrix {
        let mut rows = Vec::new();
        for policy in self.settings.policies() {
            let mirrors = self.list().into_iter().flat_map(|list| list.mirrors.iter());
            for mirror in mirrors.filter(|mirror| mirror.markets.contains(&policy.market)) {
                let state = self.markets.mirror(&policy.market, &mirror.id);
                rows.push(MatrixRow {
                    market: policy.market.clone(),
                    mirror: mirror.id.clone(),
                    url: mirror.url.clone(),
                    action: state.and_then(|state| state.action()),
                    decision: state.and_then(|state| state.decision().map(str::to_owned)),
                    carriers: self.row_carriers(&mirror.id, policy, now),
                });
            }
        }
        Matrix { at: now, rows }
    }

    pub(super) fn carrier_view(
        &self,
        mirror: &MirrorId,
        carrier: &CarrierId,
        now: UnixMillis,
    ) -> CarrierView {
        let name = self.settings.catalogue().carrier(carrier).map_or(carrier.as_str(), |known| &known.name);
        let policy = self.settings.policy_of_carrier(carrier);
        let cells = self
            .cells_of(mirror)
            .filter(|((of_carrier, _), _)| of_carrier == carrier)
            .filter_map(|((_, access), cell)| Some(cell.view(*access, now, &policy?.cell)))
            .collect();
        let mut view = CarrierView::of(carrier.clone(), name.to_owned(), cells);
        view.shutdown_suspected_since = self.silence.carriers.get(carrier).copied();
        view
    }

    /// The records an action rests on: of each owner the latest that speaks for it.
    pub(super) fn evidence_for(
        &self,
        mirror: &MirrorId,
        action: Action,
        policy: &Policy,
    ) -> Vec<EvidenceItem> {
        let speaks = |outcome: Outcome| match action {
            Action::Keep => matches!(outcome, Outcome::Ok | Outcome::Impaired),
            Action::Prepare | Action::Pause | Action::Rotate | Action::Retire => outcome == Outcome::Blocked,
            Action::MoveHosting | Action::DisableEch | Action::DisableH3 => {
                matches!(outcome, Outcome::Blocked | Outcome::Impaired)
            }
            Action::ChangeCdnRule => outcome == Outcome::Refused,
            Action::Hold => matches!(outcome, Outcome::Restricted | Outcome::Insufficient),
            Action::FixOrigin | Action::DomainLost => outcome == Outcome::Down,
        };
        let cells = self.cells_of(mirror).filter(|((carrier, _), _)| policy.carriers.contains(carrier));
        cells
            .flat_map(|((carrier, access), cell)| {
                cell.fresh(self.at, &policy.cell)
                    .map(move |(owner, word)| (carrier, access, owner, &word.last))
            })
            .filter(|(_, _, _, evidence)| speaks(evidence.verdict.outcome))
            .take(EVIDENCE_MAX)
            .map(|(carrier, access, owner, evidence)| EvidenceItem {
                record: evidence.record,
                agent: evidence.agent.clone(),
                owner: owner.clone(),
                carrier: carrier.clone(),
                access: *access,
                at: evidence.at,
                verdict: evidence.verdict.clone(),
            })
            .collect()
    }

    pub(super) fn cells_of(&self, mirror: &MirrorId) -> impl Iterator<Item = (&(CarrierId, Access), &Cell)> {
        self.cells.get(mirror).into_iter().flatten()
    }

    fn row_carriers(&self, mirror: &MirrorId, policy: &Policy, now: UnixMillis) -> Vec<CarrierView> {
        let measured = |id: &CarrierId| self.cells_of(mirror).any(|((carrier, _), _)| carrier == id);
        let others = self
            .settings
            .catalogue()
            .carriers()
            .iter()
            .filter(|carrier| carrier.market == policy.market && !policy.carriers.contains(&carrier.id))
            .filter(|carrier| measured(&carrier.id))
            .map(|carrier| &carrier.id);
        policy.carriers.iter().chain(others).map(|id| self.carrier_view(mirror, id, now)).collect()
    }
}
