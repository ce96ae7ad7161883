//! What gives a captive portal away in the answer to a plain request: it speaks in everybody's name, and sends to its
//! own page. Says where to, as a host name; what that means is the judge's business.

use zerkalo_core::record::HttpExchange;
use zerkalo_core::target::TargetUrl;

use super::echo::Known;
use super::http::header;
use super::text::cut;

/// Network Authentication Required (RFC 6585): only what stands between says so.
const AUTHENTICATION_REQUIRED: u16 = 511;
/// References at such a path answer 204 and nothing else, by a custom as old as captive portals.
const SILENT_PATH: &str = "/generate_204";
/// See [`SILENT_PATH`].
const NO_CONTENT: u16 = 204;
/// Longest host name of the DNS.
const HOST_LEN_MAX: usize = 253;

/// The host that the answer to a request for `url` sends to instead of being the answer; the host of `url` itself where
/// another page stands in its place.
pub fn host_of(url: &TargetUrl, step: &HttpExchange) -> Option<String> {
    let status = step.status?;
    let elsewhere = location(step, status).or_else(|| refresh(step)).and_then(|to| step.url.join(&to).ok());
    let elsewhere = elsewhere.filter(|next| next.host() != url.host());
    if let Some(next) = elsewhere {
        // A portal may name its visitor in its own name.
        return Some(Known::of_redirect(step.address.ip(), &next).mask_text(&next.host(), HOST_LEN_MAX));
    }
    let is_replaced = status == AUTHENTICATION_REQUIRED
        || url.path_and_query().starts_with(SILENT_PATH)
            && (200..300).contains(&status)
            && status != NO_CONTENT;
    is_replaced.then(|| {
        let mut host = url.host();
        cut(&mut host, HOST_LEN_MAX);
        host
    })
}

fn location(step: &HttpExchange, status: u16) -> Option<String> {
    let is_redirect = (300..400).contains(&status);
    header(&step.headers, "location").filter(|_| is_redirect).map(str::to_owned)
}

/// Where a page sends a browser by itself: the header, or its copy in the page.
fn refresh(step: &HttpExchange) -> Option<String> {
    header(&step.headers, "refresh").and_then(refresh_url).or_else(|| meta_refresh(&step.excerpt))
}

/// The URL of `5; url=http://login.example/`.
fn refresh_url(value: &str) -> Option<String> {
    let (_, rest) = value.split_once([';', ','])?;
    let (key, url) = rest.split_once('=')?;
    let url = url.trim().trim_matches(['"', '\'']).trim();
    (key.trim().eq_ignore_ascii_case("url") && !url.is_empty()).then(|| url.to_owned())
}

/// The URL of `<meta http-equiv="refresh" content="0; url=http://login.example/">`.
fn meta_refresh(page: &str) -> Option<String> {
    // Lower case of ASCII alone: offsets stay.
    let lower = page.to_ascii_lowercase();
    let mut from = 0;
    while let Some(found) = lower[from..].find("<meta") {
        let start = from + found;
        let end = lower[start..].find('>').map_or(lower.len(), |len| start + len);
        let tag = &lower[start..end];
        let is_refresh = tag.contains("http-equiv") && tag.contains("refresh");
        if let Some(content) = tag.find("content").filter(|_| is_refresh) {
            let value = &page[start + content + "content".len()..end];
            let quoted = value.trim_start().strip_prefix('=')?.trim_start();
            let quote = quoted.chars().next().filter(|quote| matches!(quote, '"' | '\''));
            let inner = match quote {
                Some(quote) => quoted[1..].split(quote).next().unwrap_or_default(),
                None => quoted,
            };
            return refresh_url(inner);
        }
        from = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{Arm, HttpOutcome, Span};
    use zerkalo_core::target::Sha256;

    /// The portal's host in an answer of that status, with those headers and that page.
    fn check(expected: Option<&str>, at: &str, status: u16, headers: &[(&str, &str)], page: &str) {
        let url = TargetUrl::parse(at).unwrap();
        let step = HttpExchange {
            arm: Arm::Main,
            url: url.clone(),
            address: "192.0.2.1:80".parse().unwrap(),
            protocol: "h1".into(),
            span: Span::default(),
            first_byte_micros: None,
            last_byte_micros: None,
            status: Some(status),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            body_len: page.len() as u64,
            body_sha256: Sha256::default(),
            title: None,
            canary_found: None,
            excerpt: page.into(),
            outcome: HttpOutcome::Complete,
            transport: None,
        };
        assert_eq!(host_of(&url, &step).as_deref(), expected, "{status} {headers:?} {page}");
    }

    #[test]
    fn whoever_sends_to_another_host_is_a_portal() {
        let at = "http://ref.example/";
        let to = |status, location| check(Some("login.example"), at, status, &[("location", location)], "");
        to(302, "http://login.example/?id=7");
        to(307, "//login.example/x");
        check(None, at, 302, &[("location", "/index.html")], "");
        check(None, at, 301, &[("location", "https://ref.example/")], "");
        check(None, at, 200, &[("location", "http://login.example/")], "");
        check(Some("login.example"), at, 200, &[("refresh", "0;URL='http://login.example/'")], "");
        check(Some("10.0.0.1"), at, 302, &[("location", "http://10.0.0.1/login")], "");
        // Its name may hold the visitor's address.
        let named = "http://203.0.113.77.portal.example/";
        check(Some("[address].portal.example"), at, 302, &[("location", named)], "");
        let meta = "<html><META content=\"3; url=http://login.example/a?b=c\" HTTP-EQUIV=refresh>";
        check(Some("login.example"), at, 200, &[], meta);
        check(None, at, 200, &[], "<meta name=x><meta http-equiv=refresh content='0; url=/home'>");
        check(None, at, 200, &[], "<meta http-equiv=refresh content");
        check(None, at, 200, &[], "<meta http-equiv=refresh content=30>");
    }

    #[test]
    fn a_page_in_the_place_of_another_is_a_portal_too() {
        check(Some("ref.example"), "http://ref.example/", 511, &[], "log in");
        check(Some("ref.example"), "http://ref.example/generate_204", 200, &[], "log in");
        check(None, "http://ref.example/generate_204", 204, &[], "");
        check(None, "http://ref.example/generate_204", 503, &[], "");
        check(None, "http://ref.example/", 404, &[], "nothing here");
    }
}
