//! How a stream to the collector ends, in words for the log and in one word for the next stream's greeting; and what a
//! refused record asks of the agent.

use std::error::Error;

use zerkalo_core::admission::RejectionCode;
use zerkalo_proto::agent_v1 as wire;
use zerkalo_proto::code::code_of;

use super::{Cloned, WELCOME_TIMEOUT};
use crate::channel::ChannelError;
use crate::spool::SpoolError;
use crate::window::{AckAhead, FROZEN_AFTER};

/// What rustls says of a certificate where this machine's clock may be to blame.
const CLOCK_FAULTS: [&str; 2] = ["certificate not valid yet", "certificate expired"];
/// See [`CLOCK_FAULTS`].
const CLOCK_REMEDY: &str = "; check this machine's clock, and if it is right, the collector's certificate";
/// What tonic says of every fault below it; the causes say which.
const TRANSPORT_ERROR: &str = "transport error";

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("no stream")]
    Channel(#[from] ChannelError),
    #[error("the collector ended the stream: {}", status_text(.0))]
    Status(Box<tonic::Status>),
    #[error("the collector closed the stream")]
    Closed,
    #[error("no welcome within {} s", WELCOME_TIMEOUT.as_secs())]
    NoWelcome,
    #[error("no ack for {} s with records in flight: the connection is frozen", FROZEN_AFTER.as_secs())]
    Frozen,
    #[error("the connection grew to the length at which this path freezes; it goes on in a new one")]
    Recycled,
    #[error("probes left QUIC no time to speak")]
    NoTurn,
    #[error("the collector broke the protocol")]
    Protocol(#[from] AckAhead),
    #[error("the collector named records that it holds, and that cannot be: {0}")]
    Held(String),
    #[error("the collector refused the stream of records: {code}: {detail}")]
    Refused { code: String, detail: String },
    #[error(
        "records were given up here, and this collector is too old to be told so; install the agent's version there"
    )]
    TakesNoGaps,
    #[error("the certificate is at half its life")]
    Renewal,
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Cloned(#[from] Cloned),
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Whom an end speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The collector itself said so, or this box: another way to it would end the same.
    Ours,
    /// The way there, as far as anybody can tell.
    Path,
}

impl End {
    /// Whose fault it is.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Status(status) if code_of(status).is_some() => Fault::Ours,
            Self::TakesNoGaps
            | Self::Refused { .. }
            | Self::Spool(_)
            | Self::Cloned(_)
            | Self::Protocol(_)
            | Self::Held(_)
            | Self::Renewal
            | Self::Recycled => Fault::Ours,
            Self::Channel(_)
            | Self::Status(_)
            | Self::Closed
            | Self::NoWelcome
            | Self::Frozen
            | Self::NoTurn => Fault::Path,
        }
    }

    /// One stable word of it, for the collector's count.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Recycled | Self::Renewal => "recycled",
            Self::Frozen | Self::NoWelcome => "frozen",
            Self::Channel(ChannelError::Intercepted { .. }) => "intercepted",
            Self::Channel(ChannelError::Timeout { .. }) => "timeout",
            Self::Closed | Self::Refused { .. } => "closed",
            Self::Status(status) if code_of(status).is_some() => "closed",
            _ => "broken",
        }
    }
}

/// What a refused record asks of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    /// The record is journaled as refused, its ack follows: nothing is lost.
    GoOn,
    /// Another box has this box's name and key.
    Stop,
    /// The chain broke: sign anew what waits.
    BeginEpoch,
    /// The stream ends; a new one may fare better.
    Reconnect,
}

pub(super) fn respond(rejection: &wire::Rejection) -> Response {
    match RejectionCode::parse(&rejection.code) {
        Some(RejectionCode::ConflictingKey) => Response::Stop,
        Some(RejectionCode::WrongChain | RejectionCode::BadSignature) => Response::BeginEpoch,
        _ if rejection.stops_stream => Response::Reconnect,
        // Codes of a newer collector too.
        _ => Response::GoOn,
    }
}

/// An error and its causes, on one line, nothing twice; with the remedy where the clock may be to blame.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut parts, mut next) = (Vec::<String>::new(), Some(error));
    while let Some(cause) = next {
        let text = cause.downcast_ref::<tonic::Status>().map_or_else(|| cause.to_string(), status_text);
        // A cause may say all that its effect said, and more.
        parts.pop_if(|last| *last == TRANSPORT_ERROR || text.contains(last.as_str()));
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    let text = parts.join(": ");
    let is_clock_suspect = CLOCK_FAULTS.iter().any(|fault| text.contains(fault));
    if is_clock_suspect && !text.contains(CLOCK_REMEDY) { text + CLOCK_REMEDY } else { text }
}

/// What a status says: the collector's words, or what broke the line.
pub fn said(status: &tonic::Status) -> String {
    match status.source() {
        // Its message is the first of its causes.
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    }
}

fn status_text(status: &tonic::Status) -> String {
    match code_of(status) {
        Some(code) => format!("{code}: {}", status.message()),
        None => format!("{:?}: {}", status.code(), said(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn rejection(code: &str, stops_stream: bool) -> wire::Rejection {
        wire::Rejection { epoch: 1, sequence: 2, code: code.to_owned(), detail: String::new(), stops_stream }
    }

    #[test]
    fn each_refusal_has_its_response() {
        let check = |code, stops, response| assert_eq!(respond(&rejection(code, stops)), response, "{code}");
        check("conflicting_key", true, Response::Stop);
        check("wrong_chain", true, Response::BeginEpoch);
        check("bad_signature", true, Response::BeginEpoch);
        check("wrong_agent", true, Response::Reconnect);
        check("storage_full", true, Response::Reconnect);
        check("future_time", false, Response::GoOn);
        check("unknown_mirror", false, Response::GoOn);
        check("malformed", false, Response::GoOn);
        check("code_of_tomorrow", false, Response::GoOn);
        check("code_of_tomorrow", true, Response::Reconnect);
    }

    #[test]
    fn a_chain_of_causes_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            source: Option<Box<dyn Error + Send + Sync>>,
        }
        fn linked(texts: &[&'static str]) -> Link {
            let (text, rest) = texts.split_first().unwrap();
            let source = (!rest.is_empty()).then(|| Box::new(linked(rest)) as Box<dyn Error + Send + Sync>);
            Link { text, source }
        }
        let check = |texts: &[&'static str], expected: &str| {
            assert_eq!(chain(&linked(texts)), expected);
            // A status of the line's own end says what ended it.
            let mut status = tonic::Status::unavailable("transport error");
            status.set_source(Arc::new(linked(texts)));
            let end = End::from(status);
            assert_eq!(chain(&end), format!("the collector ended the stream: Unavailable: {expected}"));
        };
        check(&["tcp: refused (os 111)", "refused (os 111)", "refused"], "tcp: refused (os 111)");
        check(
            &["no connection", "transport error", "refused", "refused (os 111)"],
            "no connection: refused (os 111)",
        );
        check(&["transport error"], "transport error");
        let early = "invalid peer certificate: certificate not valid yet";
        check(&["transport error", early, early], &format!("{early}{CLOCK_REMEDY}"));
        let refused = zerkalo_proto::code::status(tonic::Code::PermissionDenied, "agent_unknown", "enrol it");
        assert_eq!(chain(&refused), "agent_unknown: enrol it");
        assert_eq!(chain(&End::from(refused)), "the collector ended the stream: agent_unknown: enrol it");
    }
}
