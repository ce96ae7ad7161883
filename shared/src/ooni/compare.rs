//! Whether the visitor's page is the site's own, by comparison with the control's: OONI's way where there is no canary.
//!
//! The comparison is OONI's own (probe-cli, `webconnectivity/httpanalysis.go`): status, proportion of the bodies'
//! lengths, uncommon headers, words of the title. Unlike OONI, pages that cannot be compared are not called different.

use super::facts::Import;
use crate::judge::is_authentic;
use crate::record::{HttpExchange, HttpOutcome};

/// Bodies whose shorter length is at least this part of the longer one count as alike.
const BODY_PROPORTION_MIN: f64 = 0.7;
/// Shortest word that counts in a title, in characters: shorter ones are in every title.
const TITLE_WORD_LEN_MIN: usize = 5;
/// Headers that say nothing of a site: everybody's servers send them.
const COMMON_HEADERS: &[&str] = &[
    "accept-ranges",
    "age",
    "cache-control",
    "cf-ray",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "p3p",
    "pragma",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "via",
    "x-content-type-options",
    "x-frame-options",
    "x-powered-by",
    "x-varnish",
    "x-xss-protection",
];

/// What is known of the page's identity.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Identity {
    /// No page came whole.
    NoPage,
    /// Our own export says whether the canary stood in it.
    Canary,
    /// Every hop ran under a key a browser accepts, from the input on or back on the input's own host.
    Key,
    /// Compared, and alike.
    Same(String),
    /// Compared, and another page.
    Different(String),
    /// Cannot be compared, and why.
    Unknown(String),
}

/// What is known of the identity of the page a visit ended at.
pub(super) fn identity(import: &Import) -> Identity {
    let Some(page) = import.record.http.last().filter(|page| page.outcome == HttpOutcome::Complete) else {
        return Identity::NoPage;
    };
    if page.canary_found.is_some() {
        return Identity::Canary;
    }
    let compared = compared(import, page);
    match compared {
        // Under the site's own key no other page can be slipped in: what differs is the origin's doing.
        Identity::Different(_) | Identity::Unknown(_) if has_key(import, page) => Identity::Key,
        compared => compared,
    }
}

fn compared(import: &Import, page: &HttpExchange) -> Identity {
    let control = import.control.as_ref().and_then(|control| control.http.last());
    let Some(control) = control.filter(|page| page.outcome == HttpOutcome::Complete) else {
        return Identity::Unknown("the control has no page to compare with".to_owned());
    };
    let (ours, theirs) = (page.status.unwrap_or_default(), control.status.unwrap_or_default());
    if ours != theirs {
        return match theirs {
            200..300 => Identity::Different(format!("status {ours}, at the control {theirs}")),
            _ => Identity::Unknown(format!("the control's own page is an error (status {theirs})")),
        };
    }
    let whole = import.whole_pages.last().copied().unwrap_or_default();
    let body = proportion(page, control).filter(|_| whole);
    let views = [
        ("length of the body", body.map(|proportion| proportion >= BODY_PROPORTION_MIN)),
        ("title", same_title(page, control)),
        ("uncommon headers", shared_headers(page, control)),
    ];
    let named = |wanted: bool| -> Vec<&str> {
        views.iter().filter(|(_, same)| *same == Some(wanted)).map(|(name, _)| *name).collect()
    };
    let (alike, unlike) = (named(true), named(false));
    if !alike.is_empty() {
        return Identity::Same(format!("as at the control: status {ours}, {}", alike.join(", ")));
    }
    if unlike.is_empty() {
        return Identity::Unknown(format!("status {ours} as at the control, and nothing else to compare"));
    }
    let lengths = body.map_or_else(String::new, |_| {
        format!(" ({} bytes, at the control {})", page.body_len, control.body_len)
    });
    Identity::Different(format!(
        "status {ours} as at the control, but not in: {}{lengths}",
        unlike.join(", ")
    ))
}

/// Whether no hop could be somebody else's.
fn has_key(import: &Import, page: &HttpExchange) -> bool {
    let authentic =
        |exchange: &HttpExchange| exchange.url.is_https() && is_authentic(&import.record, exchange, None);
    let own_host = is_sibling(&page.url.host(), &import.record.url.host());
    authentic(page) && (own_host || import.record.http.iter().all(authentic))
}

/// Whether two names are one site's: with and without `www.`.
pub(super) fn is_sibling(left: &str, right: &str) -> bool {
    let bare = |name: &str| name.strip_prefix("www.").unwrap_or(name).to_owned();
    bare(left) == bare(right)
}

fn proportion(page: &HttpExchange, control: &HttpExchange) -> Option<f64> {
    let (ours, theirs) = (page.body_len as f64, control.body_len as f64);
    (ours > 0.0 && theirs > 0.0).then(|| ours.min(theirs) / ours.max(theirs))
}

/// `None` where one page has no title to speak of.
fn same_title(page: &HttpExchange, control: &HttpExchange) -> Option<bool> {
    let words = |title: &Option<String>| -> Vec<String> {
        let title = title.as_deref().unwrap_or_default().to_lowercase();
        let long = |word: &&str| word.chars().count() >= TITLE_WORD_LEN_MIN;
        title.split(|c: char| !c.is_alphanumeric()).filter(long).map(str::to_owned).collect()
    };
    let (ours, theirs) = (words(&page.title), words(&control.title));
    (!ours.is_empty() && !theirs.is_empty()).then(|| ours.iter().any(|word| theirs.contains(word)))
}

/// `None` where the control's page has no header of its own.
fn shared_headers(page: &HttpExchange, control: &HttpExchange) -> Option<bool> {
    let mut own = control.headers.iter().map(|(name, _)| name.as_str());
    let own: Vec<&str> = own.by_ref().filter(|name| !COMMON_HEADERS.contains(name)).collect();
    (!own.is_empty()).then(|| page.headers.iter().any(|(name, _)| own.contains(&name.as_str())))
}
