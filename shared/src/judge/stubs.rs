//! Where a record meets the fingerprints: answers, redirects and pages, each weighed by itself.
//!
//! What is known not to be a block silences the page it stands on, headers and all, and nothing else: a redirect to a
//! stub stays one, whatever the few words under it.

use std::net::IpAddr;

use super::Case;
use super::facts::is_authentic;
use crate::fingerprint::{Match, Sighting, Weight};
use crate::record::{Arm, HttpExchange, ResolverKind};
use crate::target::TargetUrl;

/// Most hints shown with a verdict: generic texts match many rows.
const REMARKS_MAX: usize = 4;

/// The stub address a resolver gave, and the row that knows it.
pub(super) fn stub_address(case: &Case<'_>) -> Option<(IpAddr, Match)> {
    foreign_answers(case)
        .into_iter()
        .find_map(|address| Some((address, confirmed(case, &[Sighting::Address(address)])?)))
}

/// The stub a visit was sent to.
pub(super) fn stub_redirect(case: &Case<'_>) -> Option<(TargetUrl, Match)> {
    main_exchanges(case).find_map(|exchange| {
        let asked = Some(&exchange.url).filter(|url| is_elsewhere(case, url));
        let asked = asked.and_then(|url| Some((url.clone(), confirmed(case, &[Sighting::Url(url)])?)));
        asked.or_else(|| {
            let (url, value) = location_elsewhere(case, exchange)?;
            let seen = [Sighting::Url(&url), Sighting::Header { name: "location", value }];
            let found = confirmed(case, &seen)?;
            Some((url, found))
        })
    })
}

/// The page that a row knows as a stub. The mirror's own page, under its own key, may say what it likes.
pub(super) fn stub_page<'a>(case: &Case<'a>) -> Option<(&'a HttpExchange, Match)> {
    strange_exchanges(case).find_map(|exchange| Some((exchange, confirmed(case, &page_sightings(exchange))?)))
}

/// What the fingerprints hint at without confirming, and what they know not to be a block; for people.
pub(super) fn remarks(case: &Case<'_>) -> Vec<String> {
    let mut matches = Vec::new();
    for address in foreign_answers(case) {
        matches.extend(case.fingerprints.weigh(Sighting::Address(address), case.country));
    }
    for exchange in strange_exchanges(case) {
        let mut seen = page_sightings(exchange);
        let led = location_elsewhere(case, exchange);
        seen.extend(led.map(|(_, value)| Sighting::Header { name: "location", value }));
        matches.extend(seen.into_iter().filter_map(|seen| case.fingerprints.weigh(seen, case.country)));
    }
    let mut remarks: Vec<String> = matches
        .iter()
        .filter_map(|found| match found.weight {
            Weight::Confirms => None,
            Weight::Suspicion => Some(format!("a suspicion only{}; {}", named(found), found.reason)),
            Weight::Suppressed => {
                Some(format!("no fingerprint confirms here{}; {}", named(found), found.reason))
            }
        })
        .collect();
    remarks.dedup();
    remarks.truncate(REMARKS_MAX);
    remarks
}

/// A row, as a verdict's basis names it.
pub(super) fn named(found: &Match) -> String {
    format!(" (fingerprint {}: {})", found.row, found.what)
}

/// Where the main arm went or was sent: each URL asked, and each `Location` answered.
pub(super) fn urls_seen(case: &Case<'_>) -> impl Iterator<Item = TargetUrl> {
    main_exchanges(case)
        .flat_map(|exchange| std::iter::once(exchange.url.clone()).chain(location(exchange)))
        .filter(|url| is_elsewhere(case, url))
}

/// The URL a redirect names.
pub(super) fn location(exchange: &HttpExchange) -> Option<TargetUrl> {
    exchange.url.join(raw_location(exchange)?).ok()
}

/// The view of one thing that confirms; none does if any view of it is a known non-block.
fn confirmed(case: &Case<'_>, views: &[Sighting<'_>]) -> Option<Match> {
    let weighed: Vec<_> =
        views.iter().filter_map(|seen| case.fingerprints.weigh(*seen, case.country)).collect();
    let strongest = weighed.into_iter().min_by_key(|found| found.weight)?;
    (strongest.weight == Weight::Confirms).then_some(strongest)
}

fn main_exchanges<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a HttpExchange> {
    case.record.http.iter().filter(|exchange| exchange.arm == Arm::Main)
}

/// Exchanges that did not run under the mirror's key.
fn strange_exchanges<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a HttpExchange> {
    let (record, mirror) = (case.record, case.mirror);
    main_exchanges(case)
        .filter(move |exchange| !exchange.url.is_https() || !is_authentic(record, exchange, mirror))
}

/// Addresses of the system's resolver that the operator did not state.
fn foreign_answers(case: &Case<'_>) -> Vec<IpAddr> {
    let expected = case.mirror.map(|mirror| mirror.expected_addresses.as_slice()).unwrap_or_default();
    let mut answers = case.record.resolved(ResolverKind::System);
    answers.retain(|address| !expected.contains(address));
    answers
}

fn page_sightings(exchange: &HttpExchange) -> Vec<Sighting<'_>> {
    let headers = exchange.headers.iter().filter(|(name, _)| name != "location");
    let headers = headers.map(|(name, value)| Sighting::Header { name, value });
    std::iter::once(Sighting::Body(&exchange.excerpt)).chain(headers).collect()
}

fn location_elsewhere<'a>(case: &Case<'_>, exchange: &'a HttpExchange) -> Option<(TargetUrl, &'a str)> {
    let url = location(exchange).filter(|url| is_elsewhere(case, url))?;
    Some((url, raw_location(exchange)?))
}

/// The mirror itself is no stub, whatever it is called.
fn is_elsewhere(case: &Case<'_>, url: &TargetUrl) -> bool {
    url.host() != case.record.url.host()
}

fn raw_location(exchange: &HttpExchange) -> Option<&str> {
    let redirect = exchange.status.is_some_and(|status| (300..400).contains(&status));
    let (_, value) = exchange.headers.iter().find(|(name, _)| name == "location")?;
    redirect.then_some(value.as_str())
}
