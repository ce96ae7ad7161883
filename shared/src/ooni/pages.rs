//! Requests of a measurement as HTTP exchanges, with their pages.

use std::net::SocketAddr;

use base64::Engine as _;
use serde_json::Value;

use super::facts::{Import, NOWHERE, ended};
use super::format::{Binary, Request, Response};
use crate::page;
use crate::record::{Arm, HttpExchange, HttpOutcome, ProbeRecord, TcpOutcome, TlsHandshake, TlsOutcome};
use crate::target::{Sha256, TargetUrl};

/// Most bytes of a page matched against fingerprints: more than OONI's probes keep (128 KiB, later 512 KiB).
const PAGE_LEN_MAX: usize = 1024 * 1024;

/// A request with an answer, or one that broke after its handshake, is an exchange; any other never reached HTTP.
pub(super) fn take_request(import: &mut Import, request: &Request) {
    let Ok(url) = TargetUrl::parse(&request.request.url) else {
        import.missing.push(format!("a request to {:?} cannot be read", request.request.url));
        return;
    };
    let answered = request.response.code > 0;
    let failure = request.failure.clone();
    let is_cut = failure.as_deref().is_some_and(|failure| {
        failure.contains("timeout") || matches!(failure, "connection_reset" | "eof_error")
    });
    let record = &import.record;
    let host = url.host();
    let shaken = |tls: &&TlsHandshake| tls.sni.as_ref().is_none_or(|sni| *sni == host);
    let reached_http = if url.is_https() && record.tls.iter().any(|tls| shaken(&tls)) {
        record.tls.iter().filter(shaken).any(|tls| matches!(tls.outcome, TlsOutcome::Completed { .. }))
    } else {
        record.tcp.is_empty() || record.tcp.iter().any(|tcp| tcp.outcome == TcpOutcome::Connected)
    };
    let is_exchange = answered || (is_cut && reached_http);
    if !is_exchange {
        import.unanswered.push((url, failure.unwrap_or_else(|| "no answer".to_owned())));
        return;
    }
    let address = address_of(record, &url, request);
    import.whole_pages.push(!request.response.body_is_truncated);
    import.record.http.push(http_exchange(url, address, request));
}

fn address_of(record: &ProbeRecord, url: &TargetUrl, request: &Request) -> SocketAddr {
    let host = url.host();
    let stated = request.address.as_deref().and_then(|text| text.parse().ok());
    let literal = url.literal_address().map(|address| SocketAddr::new(address, url.port()));
    let own_host = host == record.url.host();
    let shaken = record.tls.iter().rfind(|tls| url.is_https() && tls.sni.as_ref() == Some(&host));
    let connected = record
        .tcp
        .iter()
        .find(|tcp| own_host && tcp.outcome == TcpOutcome::Connected && tcp.address.port() == url.port());
    stated
        .or(literal)
        .or(shaken.map(|tls| tls.address))
        .or(connected.map(|tcp| tcp.address))
        .unwrap_or(SocketAddr::new(NOWHERE.ip(), url.port()))
}

fn http_exchange(url: TargetUrl, address: SocketAddr, request: &Request) -> HttpExchange {
    let response = &request.response;
    let body = body_bytes(response);
    let headers = headers(response);
    let content_type =
        headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
    let title = response.x_title.clone().or_else(|| page::title(&body, content_type));
    let mut excerpt = page::decoded(&body, content_type);
    page::cut(&mut excerpt, PAGE_LEN_MAX);
    HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url,
        address,
        protocol: "h1".to_owned(),
        span: ended(request.t),
        last_byte_micros: None,
        status: u16::try_from(response.code).ok().filter(|code| *code > 0),
        headers,
        body_len: response.x_body_length.unwrap_or(body.len() as u64),
        body_sha256: Sha256::of(&body),
        title,
        canary_found: response.x_canary_found,
        excerpt,
        outcome: request.failure.as_deref().map_or(HttpOutcome::Complete, http_failure),
    }
}

/// How an exchange failed.
pub(super) fn http_failure(failure: &str) -> HttpOutcome {
    match failure {
        "connection_reset" => HttpOutcome::Reset,
        "eof_error" => HttpOutcome::Eof,
        failure if failure.contains("timeout") => HttpOutcome::Timeout,
        failure => HttpOutcome::Failed(failure.to_owned()),
    }
}

fn headers(response: &Response) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        value => {
            let binary: Binary = serde_json::from_value(value.clone()).ok()?;
            Some(String::from_utf8_lossy(&bytes_of(&binary)?).into_owned())
        }
    };
    let listed: Vec<_> = response
        .headers_list
        .iter()
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), text(value)?)))
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    response
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), text(value)?)))
        .collect()
}

fn body_bytes(response: &Response) -> Vec<u8> {
    match &response.body {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(_) => serde_json::from_value(response.body.clone())
            .ok()
            .and_then(|binary| bytes_of(&binary))
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

pub(super) fn bytes_of(binary: &Binary) -> Option<Vec<u8>> {
    (binary.format == "base64").then_some(())?;
    base64::engine::general_purpose::STANDARD.decode(&binary.data).ok()
}
