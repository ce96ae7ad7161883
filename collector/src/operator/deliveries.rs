//! The outbox as operators see it: what executors have yet to do, and what they gave up.

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Status};
use zerkalo_proto::operator_v1 as wire;

use super::{Operator, truncated};
use crate::state::{DeliveryKey, DropOutcome, GivenUp, RetryRefusal, Waiting};

/// Most deliveries in one answer: clients read 4 MiB.
const DELIVERIES_MAX: usize = 5_000;

impl Operator {
    pub(super) fn deliveries(&self) -> Result<wire::ListDeliveriesResponse, Status> {
        let (dead, waiting) = block_in_place(|| Ok((self.state.dead()?, self.state.outbox()?)))
            .map_err(|error: crate::state::StateError| self.failed(&error))?;
        let left_out = (dead.len() + waiting.len()).saturating_sub(DELIVERIES_MAX) as u64;
        let dead = dead.iter().map(|one| self.delivery(one, true));
        let waiting = waiting.iter().map(|one| self.delivery(one, false));
        let deliveries = dead.chain(waiting).take(DELIVERIES_MAX).collect();
        Ok(wire::ListDeliveriesResponse { deliveries, left_out })
    }

    fn delivery(&self, (key, delivery): &Waiting, dead: bool) -> wire::Delivery {
        wire::Delivery {
            id: format!("{}/{}", key.executor, delivery.id),
            executor: key.executor.clone(),
            dead,
            market: delivery.market.to_string(),
            mirror: delivery.mirror.as_ref().map(ToString::to_string).unwrap_or_default(),
            word: delivery.word.clone(),
            attempts: delivery.attempts,
            last_error: delivery.last_error.clone().unwrap_or_default(),
            last_attempt_at_millis: delivery.last_attempt_at.map_or(0, |at| at.0),
            next_attempt_at_millis: delivery.next_attempt_at.filter(|_| !dead).map_or(0, |at| at.0),
            refusals: delivery.refusals,
            given_up_because: delivery.given_up_because.map_or("", GivenUp::as_str).to_owned(),
            configured: self.routes.iter().any(|route| route.executor == key.executor),
        }
    }

    pub(super) fn retry(&self, id: &str) -> Result<(), Status> {
        let key = self.find(id)?;
        let retried = block_in_place(|| self.state.retry(&key)).map_err(|error| self.failed(&error))?;
        match retried {
            Ok(()) => {
                self.bell.hurry();
                Ok(())
            }
            Err(RetryRefusal::Unknown) => Err(self.no_such(id)),
            Err(RetryRefusal::Superseded { newer }) => {
                let detail = format!(
                    "its executor has carried out decision number {newer} since, which this one would undo; drop it, \
                     or give a new order"
                );
                Err(self.refuse(Grpc::FailedPrecondition, "superseded", detail))
            }
        }
    }

    pub(super) fn drop_one(&self, id: &str) -> Result<(), Status> {
        let key = self.find(id)?;
        let dropped =
            block_in_place(|| self.state.drop_delivery(&key)).map_err(|error| self.failed(&error))?;
        match dropped {
            DropOutcome::Dropped => {
                // What waited behind it has its turn now.
                self.bell.ring();
                Ok(())
            }
            DropOutcome::Unknown => Err(self.no_such(id)),
        }
    }

    fn find(&self, id: &str) -> Result<DeliveryKey, Status> {
        let (executor, delivery) = id.split_once('/').unwrap_or_default();
        let all = block_in_place(|| Ok([self.state.dead()?, self.state.outbox()?].concat()))
            .map_err(|error: crate::state::StateError| self.failed(&error))?;
        let mut keys = all.into_iter().filter(|(key, one)| key.executor == executor && one.id == delivery);
        keys.next().map(|(key, _)| key).ok_or_else(|| self.no_such(id))
    }

    fn no_such(&self, id: &str) -> Status {
        let detail =
            format!("nothing named {:?} waits or was given up; `zerkalo outbox ls` names it", truncated(id));
        self.refuse(Grpc::NotFound, "unknown_delivery", detail)
    }
}
