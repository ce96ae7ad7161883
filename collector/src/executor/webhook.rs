//! Posts a notice to the operator's webhook, signed as standardwebhooks.com describes.
//!
//! The `webhook-id` stays the same at every attempt, so that a receiver drops what it has seen.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{Errand, Outlook};
use crate::clock;
use crate::config::WebhookConfig;

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One receiver.
pub struct Webhook {
    config: WebhookConfig,
    http: Http,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the receiver answered {0}")]
    Status(http::StatusCode),
    #[error("the receiver could not be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the request could not be built")]
    Request(#[source] http::Error),
    #[error("the request could not be signed")]
    Sign(#[source] standardwebhooks::WebhookError),
}

impl WebhookError {
    /// What another attempt may bring. A redirection is a no: nobody follows it, for the operator named the URL.
    pub fn outlook(&self) -> Outlook {
        use http::StatusCode as Code;
        match self {
            Self::Status(Code::REQUEST_TIMEOUT | Code::TOO_EARLY | Code::TOO_MANY_REQUESTS) => {
                Outlook::Passing
            }
            Self::Status(code) if code.is_client_error() || code.is_redirection() => Outlook::Refused,
            Self::Timeout | Self::Status(_) | Self::Unreachable(_) => Outlook::Passing,
            Self::Request(_) | Self::Sign(_) => Outlook::Hopeless,
        }
    }
}

impl Webhook {
    /// Nothing is sent yet.
    pub fn new(config: WebhookConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Self { config, http }
    }

    /// One post.
    pub async fn attempt(&self, errand: &Errand<'_>) -> Result<(), WebhookError> {
        let body = errand.notice.body(errand.logged, "");
        let timestamp = i64::try_from(clock::now().0 / 1000).unwrap_or(i64::MAX);
        let signature = standardwebhooks::Webhook::new(self.config.secret.reveal())
            .and_then(|webhook| webhook.sign(errand.id, timestamp, &body))
            .map_err(WebhookError::Sign)?;
        let request = http::Request::post(self.config.url.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::USER_AGENT, concat!("zerkalo-collector/", env!("CARGO_PKG_VERSION")))
            .header(standardwebhooks::HEADER_WEBHOOK_ID, errand.id)
            .header(standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(standardwebhooks::HEADER_WEBHOOK_SIGNATURE, signature)
            .body(Full::new(Bytes::from(body)))
            .map_err(WebhookError::Request)?;
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| WebhookError::Timeout)?
            .map_err(WebhookError::Unreachable)?;
        if answer.status().is_success() { Ok(()) } else { Err(WebhookError::Status(answer.status())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_no_is_told_from_a_receiver_that_is_away() {
        let check = |code: u16, expected: Outlook| {
            let error = WebhookError::Status(http::StatusCode::from_u16(code).unwrap());
            assert_eq!(error.outlook(), expected, "{code}");
        };
        for code in [400, 401, 403, 404, 405, 410, 413, 422, 301, 308] {
            check(code, Outlook::Refused);
        }
        for code in [408, 425, 429, 500, 502, 503, 504] {
            check(code, Outlook::Passing);
        }
        assert_eq!(WebhookError::Timeout.outlook(), Outlook::Passing);
    }
}
