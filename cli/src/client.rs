//! The line to the collector: TLS under the pinned CA, the bearer token, deadlines, and refusals in words.
//!
//! Decides nothing and prints nothing.

use std::error::Error;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use zerkalo_proto::operator_v1::operator_service_client::OperatorServiceClient;

use crate::operator::Operator;

/// A collector that does not answer a connection in this time is out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A call that lasts longer hangs; watching is no such call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What rustls says of a certificate where this machine's clock may be to blame.
const CLOCK_FAULTS: [&str; 2] = ["certificate not valid yet", "certificate expired"];
/// What tonic says of every fault below it; the causes say which.
const TRANSPORT_ERROR: &str = "transport error";
/// Largest answer accepted: a thousand decisions with their evidence fit.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// The service with the operator's token on every call.
pub type Service = OperatorServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts the operator's token on every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects, or says why not.
pub async fn connect(operator: &Operator) -> Result<Service> {
    let mut token: MetadataValue<Ascii> =
        format!("Bearer {}", operator.api_token.reveal()).parse().with_context(|| {
            format!("`api_token` in {} holds characters no token has", operator.path.display())
        })?;
    token.set_sensitive(true);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&operator.ca_pem));
    let endpoint = Endpoint::from_shared(operator.url.clone())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .with_context(|| format!("`url` or `ca_pem` in {} cannot be used", operator.path.display()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let causes = chain(&error);
        anyhow!(
            "cannot reach the collector at {} ({causes}); {}check that `zerkalo-collector serve` runs, and `url` and `ca_pem` in {}",
            operator.url,
            clock_remedy(&causes),
            operator.path.display()
        )
    })?;
    Ok(OperatorServiceClient::with_interceptor(channel, Bearer(token))
        .max_decoding_message_size(ANSWER_LEN_MAX))
}

/// Awaits one answer; `what` completes "cannot ...".
pub async fn answer<T>(what: &str, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal(what, &status)),
        Err(_) => Err(anyhow!(
            "cannot {what}: the collector gave no answer in {} s; its log says more",
            CALL_TIMEOUT.as_secs()
        )),
    }
}

/// A refusal as a person reads it: what failed, why, the stable code, the remedy.
pub fn refusal(what: &str, status: &Status) -> anyhow::Error {
    let code = zerkalo_proto::code::code_of(status).map(str::to_owned);
    // Without a code of the collector's, these are the connection's own end.
    let line_broke = code.is_none() && matches!(status.code(), Code::Unknown | Code::Cancelled);
    let remedy = match status.code() {
        _ if line_broke => "; the line to the collector broke: check that it serves, then try again",
        Code::Unauthenticated => "; take operator.toml from the collector's DIR/operator again",
        Code::Unavailable => "; check that `zerkalo-collector serve` runs, then try again",
        Code::Unimplemented => "; the collector is older than this program: upgrade it",
        _ => "",
    };
    let named = if line_broke { Code::Unavailable } else { status.code() };
    let code = code.unwrap_or_else(|| format!("{named:?}").to_lowercase());
    // Where the line broke, the causes say how.
    let detail = status.source().map_or_else(|| status.message().to_owned(), chain);
    anyhow!("cannot {what}: {detail} [{code}]{remedy}")
}

fn clock_remedy(causes: &str) -> &'static str {
    let is_suspect = CLOCK_FAULTS.iter().any(|fault| causes.contains(fault));
    if is_suspect { "check this machine's clock; " } else { "" }
}

/// An error and what caused it, on one line, nothing twice.
fn chain(error: &dyn Error) -> String {
    let (mut parts, mut next) = (Vec::<String>::new(), Some(error));
    while let Some(cause) = next {
        let text = cause.to_string();
        // A cause may say all that its effect said, and more.
        parts.pop_if(|last| *last == TRANSPORT_ERROR || text.contains(last.as_str()));
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_stable_code_and_the_remedy() {
        let status =
            zerkalo_proto::code::status(Code::Unauthenticated, "bad_token", "the token is not known");
        let message = refusal("list the agents", &status).to_string();
        for part in ["cannot list the agents", "the token is not known", "[bad_token]", "operator.toml"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn a_chain_of_causes_says_nothing_twice_and_ends_at_the_root() {
        let certificate = "invalid peer certificate: certificate not valid yet: verification time 1";
        let status = |message: &str, cause: &str| {
            let mut status = Status::unavailable(message);
            status.set_source(std::sync::Arc::new(std::io::Error::other(cause.to_owned())));
            status
        };
        let check = |status: &Status, expected: &str| {
            let message = refusal("list the agents", status).to_string();
            assert!(
                message.starts_with(&format!("cannot list the agents: {expected} [unavailable]")),
                "{message}"
            );
        };
        check(&status("transport error", certificate), certificate);
        check(&status("refused", "refused (os error 111)"), "refused (os error 111)");
        check(&Status::unavailable("closed"), "closed");
        assert!(clock_remedy(certificate).contains("clock"));
        assert_eq!(clock_remedy("refused"), "");
    }

    #[test]
    fn a_broken_line_is_no_refusal() {
        let message = refusal("watch the matrix", &Status::unknown("h2 protocol error")).to_string();
        assert!(message.contains("[unavailable]") && message.contains("broke"), "{message}");
    }
}
