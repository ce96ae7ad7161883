//! What a box asks of the collector beside its stream: an identity, certificates, to be forgotten. Each time on a connection
//! of its own, whose session both ends can name, so that what is proved on it is worth nothing on any other (RFC 5705);
//! by whatever transport works, the best known first. Connections are `channel.rs`, what is asked `enroll.rs`, `papers.rs`
//! and `leave.rs`.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use zerkalo_core::identity::Binding;
use zerkalo_proto::code::code_of;

use crate::channel::{
    self, Address, CONNECT_TIMEOUT, Channel, ChannelError, Line, Traffic, Transport, Trust,
};
use crate::clock::wall_clock;
use crate::paths::kept;
use crate::quiet::Quiet;
use crate::state::StateDir;

/// Longest wait for the turn in which QUIC may speak: most probes under way end within it.
const TURN_WAIT_MAX: Duration = Duration::from_secs(20);
/// What the collector says where a connection has no session to name: another way may have one.
const NO_BINDING: &str = "no_binding";

/// The collector's addresses, in the order they are asked in.
#[derive(Debug, Clone)]
pub struct Ways {
    addresses: Vec<Address>,
    quiet: Quiet,
    traffic: Arc<Traffic>,
}

/// Why there is no answer by any way.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("this box knows no address of a collector")]
    NoAddress,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("probes left QUIC no time to speak to {url}")]
    NoTurn { url: String },
    #[error("{url} did not answer within {} s", waited.as_secs())]
    Timeout { url: String, waited: Duration },
    /// The collector said no, or what broke the line.
    #[error("{}", crate::uplink::said(.0))]
    Status(Box<Status>),
}

impl Ways {
    /// In this order, in a process that probes nothing.
    pub fn of(addresses: Vec<Address>) -> Self {
        Self::beside_probes(addresses, Quiet::default(), Arc::default())
    }

    /// The same, in the order learned in earlier runs.
    pub fn learned(state: &StateDir, urls: &[String]) -> Self {
        Self::of(kept::read(state, urls).in_order(None, wall_clock()))
    }

    /// In this order, where probes run: QUIC keeps silent meanwhile, and all bytes count towards `traffic`.
    pub fn beside_probes(addresses: Vec<Address>, quiet: Quiet, traffic: Arc<Traffic>) -> Self {
        Self { addresses, quiet, traffic }
    }

    /// All of them: the collector may show a certificate for any.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The hosts' names.
    pub fn names(&self) -> Vec<String> {
        self.addresses.iter().map(|address| address.host.clone()).collect()
    }

    /// Asks by one way after the other until the collector answers; a refusal with a code is an answer. `call` may be made
    /// several times, and the collector may have heard each.
    pub async fn ask<T, F>(
        &self,
        trust: &Trust,
        answer_wait: Duration,
        call: impl Fn(Channel, Binding) -> F,
    ) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut first = None;
        for address in &self.addresses {
            let error = match self.ask_at(address, trust, answer_wait, &call).await {
                Ok(answer) => return Ok(answer),
                Err(AskError::Status(status)) if is_answer(&status) => return Err(AskError::Status(status)),
                Err(error) => error,
            };
            tracing::debug!(url = %address, error = crate::uplink::chain(&error), "no answer by this way");
            first = first.or(Some(error));
        }
        Err(first.unwrap_or(AskError::NoAddress))
    }

    async fn ask_at<T, F>(
        &self,
        address: &Address,
        trust: &Trust,
        answer_wait: Duration,
        call: impl Fn(Channel, Binding) -> F,
    ) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let url = || address.to_string();
        let _turn = match address.transport {
            Transport::Tcp => None,
            Transport::Quic => {
                let turn = tokio::time::timeout(TURN_WAIT_MAX, self.quiet.turn()).await;
                Some(turn.map_err(|_| AskError::NoTurn { url: url() })?)
            }
        };
        let line = channel::connect(address, trust, CONNECT_TIMEOUT, &self.traffic, &self.quiet).await?;
        let Line { channel, binding, .. } = line;
        match tokio::time::timeout(answer_wait, call(channel, binding)).await {
            Ok(answer) => answer.map_err(|status| AskError::Status(Box::new(status))),
            Err(_) => Err(AskError::Timeout { url: url(), waited: answer_wait }),
        }
    }
}

/// Whether the collector itself said so, and would say it by any other way too.
fn is_answer(status: &Status) -> bool {
    code_of(status).is_some_and(|code| code != NO_BINDING)
}
