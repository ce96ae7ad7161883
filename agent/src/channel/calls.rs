//! gRPC calls over one connection that stands already. What tonic has for that opens connections anew, shares load among
//! them and queues before them: here a line that broke is the uplink's business, and a small box has no room for the rest.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tonic::codegen::Service;

use crate::probe::http::{Body, Tasks};
use crate::probe::tap::Duplex;

/// How often an idle stream is asked whether it still lives: mobile NATs forget it within minutes.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the answer may take by TCP.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The host that requests name. TLS has settled whose connection it is: nobody looks at it.
const AUTHORITY: &str = "collector";

/// What tonic's clients call through.
#[derive(Debug, Clone)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    /// Speaks HTTP/2 over `wire` until the last channel to it is gone, or the other end does not say for so long that it
    /// lives.
    pub(super) async fn open(wire: Box<dyn Duplex>, answer_wait: Duration) -> hyper::Result<Self> {
        let tasks = Tasks::default();
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(answer_wait)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(wire))
            .await?;
        // Why it ended is told to the calls under way.
        tasks.spawn(async { drop(connection.await) });
        Ok(Self(sender))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        *request.uri_mut() = whole(request.uri());
        Box::pin(self.0.send_request(request))
    }
}

/// HTTP/2 wants a host with every path.
fn whole(uri: &Uri) -> Uri {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static(AUTHORITY));
    parts.path_and_query = uri.path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("scheme, authority and path make a URI")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_names_its_method_at_the_collector() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(whole(&uri.parse().unwrap()).to_string(), expected);
        };
        check(
            "/zerkalo.agent.v1.UplinkService/Stream",
            "http://collector/zerkalo.agent.v1.UplinkService/Stream",
        );
        check("/", "http://collector/");
    }
}
