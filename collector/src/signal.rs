//! The pull side: redirectors and trackers ask over plain HTTP which mirror of a market is live.
//!
//! `GET /signal/TOKEN/MARKET.json` or `.txt`; `?carrier=` asks for one carrier, `?http=1` makes the status speak: 200
//! while a mirror is live, 503 otherwise. Whoever bears no token of the market gets a 404 like that of any other path:
//! nothing tells a wrong token from a wrong market. It answers from the fold and changes nothing.

mod guests;
mod patience;
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::market::{Active, PoolState};
use zerkalo_core::target::{Sha256, TargetUrl};
use zerkalo_core::words::{CarrierId, MarketId, MirrorId};

use crate::engine::Engine;
use crate::metrics::{Metrics, count};
use crate::people::same;
use crate::state::{SignalToken, State, StateError};

pub use patience::Patient;
pub use server::serve;

/// What is counted where there was no place for a connection.
const BUSY: &str = "busy";
/// Digits of the digest of an answer that make its ETag.
const ETAG_LEN: usize = 32;
/// Longest path and query together, in bytes; one with every part at its longest has 300.
const TARGET_LEN_MAX: usize = 512;

/// The tokens, in memory beside the state.
#[derive(Debug)]
pub struct SignalTokens {
    state: Arc<State>,
    known: RwLock<BTreeMap<Sha256, SignalToken>>,
}

impl SignalTokens {
    /// Reads them all.
    pub fn open(state: Arc<State>) -> Result<Self, StateError> {
        let known = state.signal_tokens()?.into_iter().collect();
        Ok(Self { state, known: RwLock::new(known) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read(BTreeMap::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, by digest.
    pub fn all(&self) -> Vec<(Sha256, SignalToken)> {
        self.read(|known| known.iter().map(|(digest, token)| (*digest, token.clone())).collect())
    }

    /// Keeps one; it is on the disk when this returns.
    pub fn put(&self, digest: Sha256, token: SignalToken) -> Result<(), StateError> {
        self.state.put_signal_token(&digest, &token)?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(digest, token);
        Ok(())
    }

    /// Revokes one.
    pub fn remove(&self, digest: &Sha256) -> Result<(), StateError> {
        self.state.remove_signal_token(digest)?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(digest);
        Ok(())
    }

    /// Whether a market may be read with this secret. All digests are compared, so that time tells nothing of them.
    fn admits(&self, secret: &str, market: &MarketId) -> bool {
        let digest = Sha256::of(secret.as_bytes());
        self.read(|known| {
            known.iter().fold(false, |admits, (found, token)| {
                admits | (same(&digest, found) & token.markets.contains(market))
            })
        })
    }

    fn read<R>(&self, look: impl FnOnce(&BTreeMap<Sha256, SignalToken>) -> R) -> R {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What requests are answered from.
#[derive(Clone)]
pub struct Signal {
    pub engine: Engine,
    pub catalogue: Arc<Catalogue>,
    pub tokens: Arc<SignalTokens>,
    pub metrics: Arc<Metrics>,
}

/// The answer in JSON: keys are only ever added.
#[derive(Debug, Serialize)]
struct Body {
    market: MarketId,
    /// The carrier asked about; null for the market as a whole.
    carrier: Option<CarrierId>,
    /// Null where no mirror can be used there now: send visitors nowhere, or where you would without us.
    mirror: Option<MirrorId>,
    url: Option<TargetUrl>,
    /// `live`, or `suspect` while a block of it is suspected.
    state: Option<PoolState>,
}

/// What is asked, of a path and query that are well formed.
#[derive(Debug, PartialEq, Eq)]
pub struct Question<'a> {
    secret: &'a str,
    pub market: MarketId,
    form: Form,
    pub carrier: Option<&'a str>,
    status_speaks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text,
}

impl Signal {
    /// Answers one request; its body is never read.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Bytes> {
        let (answer, word) = self.find(request);
        count(&self.metrics.signals, word);
        let (mut parts, body) = answer.into_parts();
        // Whatever lies between may keep a copy only to ask whether it still holds.
        parts.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        let is_head = request.method() == Method::HEAD;
        Response::from_parts(parts, if is_head { Bytes::new() } else { body })
    }

    fn find<B>(&self, request: &Request<B>) -> (Response<Bytes>, &'static str) {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return (answer, "bad_method");
        }
        let missing = || (plain(StatusCode::NOT_FOUND, "not found\n"), "not_found");
        let Some(question) = question(request.uri()) else { return missing() };
        if !self.tokens.admits(question.secret, &question.market) {
            return missing();
        }
        let carrier = match question.carrier {
            None => None,
            Some(text) => match self.carrier(&question.market, text) {
                Some(carrier) => Some(carrier),
                None => {
                    let text = format!("no such carrier in market {}\n", question.market);
                    return (plain(StatusCode::BAD_REQUEST, &text), "bad_carrier");
                }
            },
        };
        let active = self.engine.read(|fold| fold.active_mirror(&question.market, carrier.as_ref()));
        let word = if active.is_some() { "live" } else { "none" };
        (shape(&question, carrier, active, request.headers().get(IF_NONE_MATCH)), word)
    }

    fn carrier(&self, market: &MarketId, text: &str) -> Option<CarrierId> {
        let id = CarrierId::parse(text).ok()?;
        self.catalogue
            .carrier(&id)
            .filter(|carrier| carrier.market == *market)
            .map(|carrier| carrier.id.clone())
    }
}

/// Reads a request's target; `None` where nothing is asked.
pub fn question(uri: &http::Uri) -> Option<Question<'_>> {
    if uri.path_and_query().is_none_or(|target| target.as_str().len() > TARGET_LEN_MAX) {
        return None;
    }
    let (secret, file) = uri.path().strip_prefix("/signal/")?.split_once('/')?;
    let (market, form) = match file.rsplit_once('.')? {
        (market, "json") => (market, Form::Json),
        (market, "txt") => (market, Form::Text),
        _ => return None,
    };
    let market = MarketId::parse(market).ok()?;
    let mut asked = Question { secret, market, form, carrier: None, status_speaks: false };
    for pair in uri.query().unwrap_or_default().split('&') {
        match pair.split_once('=') {
            Some(("carrier", value)) => asked.carrier = Some(value),
            Some(("http", value)) => asked.status_speaks = value == "1",
            // Trackers append what they like.
            _ => {}
        }
    }
    Some(asked)
}

fn shape(
    question: &Question<'_>,
    carrier: Option<CarrierId>,
    active: Option<Active>,
    known: Option<&HeaderValue>,
) -> Response<Bytes> {
    let status = match (&active, question.status_speaks) {
        (None, true) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let text = match question.form {
        Form::Text => active.map(|active| format!("{}\n", active.url)).unwrap_or_default(),
        Form::Json => {
            let (mirror, url, state) = match active {
                Some(active) => (Some(active.mirror), Some(active.url), Some(active.state)),
                None => (None, None, None),
            };
            let body = Body { market: question.market.clone(), carrier, mirror, url, state };
            serde_json::to_string(&body).expect("a signal has only text keys") + "\n"
        }
    };
    let mut digest = Sha256::of(text.as_bytes()).to_string();
    digest.truncate(ETAG_LEN);
    let etag = format!("\"{digest}\"");
    let is_known = known.and_then(|known| known.to_str().ok()).is_some_and(|known| {
        known.split(',').any(|one| one.trim() == "*" || one.trim().trim_start_matches("W/") == etag)
    });
    let mut answer = match (is_known, status) {
        // What a 503 says must reach who asked for it.
        (true, StatusCode::OK) => plain(StatusCode::NOT_MODIFIED, ""),
        _ => plain(status, &text),
    };
    let headers = answer.headers_mut();
    if question.form == Form::Json {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(ETAG, HeaderValue::try_from(etag).expect("hexadecimal digits are a header's value"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    answer
}

fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::copy_from_slice(text.as_bytes()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_paths_there_are_ask_anything() {
        let check = |target: &str, expected: Option<(&str, &str, Form, Option<&str>, bool)>| {
            let uri: http::Uri = target.parse().unwrap();
            let found = question(&uri);
            let found = found.as_ref().map(|asked| {
                (asked.secret, asked.market.as_str(), asked.form, asked.carrier, asked.status_speaks)
            });
            assert_eq!(found, expected, "{target}");
        };
        check("/signal/t/kz.json", Some(("t", "kz", Form::Json, None, false)));
        check("/signal/t/kz.txt?http=1", Some(("t", "kz", Form::Text, None, true)));
        check(
            "/signal/t/kz.json?x&carrier=kz-kcell&http=0&y=1",
            Some(("t", "kz", Form::Json, Some("kz-kcell"), false)),
        );
        check("/signal/t/kz", None);
        check("/signal/t/kz.html", None);
        check("/signal/t/../kz.json", None);
        check("/signal/t/KZ.json", None);
        check("/signal/kz.json", None);
        check("/", None);
        check(&format!("/signal/{}/kz.json", "t".repeat(TARGET_LEN_MAX)), None);
    }
}
