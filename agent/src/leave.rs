//! The host withdraws: the collector is asked to forget this box. The box has stopped before, whether anybody hears it or not.

use tonic::Request;
use zerkalo_proto::agent_v1::LeaveRequest;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::code::code_of;

use crate::bound::{AskError, Ways};
use crate::channel::{self, TrustError};
use crate::clock;
use crate::papers::ANSWER_TIMEOUT;
use crate::state::{StateDir, StateError};

/// Why the collector was not told.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    #[error("this box's certificates cannot be used")]
    Trust(#[from] TrustError),
    #[error("{code}: {detail}")]
    Refused { code: String, detail: String },
    #[error("the collector cannot be reached, or failed to answer")]
    Unreached(#[source] AskError),
}

/// Has the collector forget this box; by whatever way works, the best known first.
pub async fn leave(state: &StateDir) -> Result<(), LeaveError> {
    clock::load(state);
    let (identity, own) = (state.identity()?, state.credentials()?);
    let ways = Ways::learned(state, &identity.collector_urls);
    let trust = channel::trust(&own, ways.addresses())?;
    let call = |channel, _| async move {
        UplinkServiceClient::new(channel).leave(Request::new(LeaveRequest {})).await.map(drop)
    };
    ways.ask(&trust, ANSWER_TIMEOUT, call).await.map_err(|error| match &error {
        AskError::Status(status) => match code_of(status) {
            Some(code) => LeaveError::Refused { code: code.to_owned(), detail: status.message().to_owned() },
            None => LeaveError::Unreached(error),
        },
        _ => LeaveError::Unreached(error),
    })
}
