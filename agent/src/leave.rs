//! The host withdraws: the collector is asked to forget this box. The box has stopped before, whether anybody hears it or not.

use tonic::Request;
use zerkalo_proto::agent_v1::LeaveRequest;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::code::code_of;

use crate::bound::{self, Bound};
use crate::channel::ChannelError;
use crate::papers::ANSWER_TIMEOUT;
use crate::state::{StateDir, StateError};
use crate::uplink::said;

/// Why the collector was not told.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    #[error("the collector cannot be reached")]
    Channel(#[from] ChannelError),
    #[error("{code}: {detail}")]
    Refused { code: String, detail: String },
    #[error("the collector did not answer in time")]
    Timeout,
    #[error("this box knows no https address of a collector")]
    NoAddress,
}

/// Has the collector forget this box; tries its addresses in order.
pub async fn leave(state: &StateDir) -> Result<(), LeaveError> {
    let (identity, own) = (state.identity()?, state.credentials()?);
    let mut last = LeaveError::NoAddress;
    for url in identity.collector_urls.iter().filter(|url| url.starts_with("https://")) {
        let asked = async {
            let Bound { channel, .. } = bound::connect(url, &own).await?;
            let left = UplinkServiceClient::new(channel).leave(Request::new(LeaveRequest {})).await;
            left.map(drop).map_err(|status| LeaveError::Refused {
                code: code_of(&status).unwrap_or(status.code().description()).to_owned(),
                detail: said(&status),
            })
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = error,
            Err(_) => last = LeaveError::Timeout,
        }
    }
    Err(last)
}
