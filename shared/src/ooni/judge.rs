//! The verdict on an imported measurement: our table on what it carries, and a few rules for what it does not.
//!
//! The table rests on exact identity (canary, pins), which OONI does not have. So the page's identity is compared first
//! (`compare`), the table then judges with every page that is not known to be the site's counted as strange, and the
//! rules here mend what the table would conclude from a fact that OONI does not write down. Their ids begin with `ooni.`.

use serde::Serialize;

use super::compare::{Identity, identity, is_sibling};
use super::facts::Import;
use super::handshakes::is_certificate_failure;
use crate::fingerprint::Fingerprints;
use crate::judge::{Case, judge};
use crate::record::{ChainFault, HttpOutcome, ProbeRecord, ReferenceCheck, ResolverKind, TcpOutcome};
use crate::target::{ReferenceSide, Sha256, TargetUrl};
use crate::verdict::{Mechanism, Outcome, Trigger, Verdict};
use crate::words::{Country, UnixMillis};

/// Version of the rules below: rises with every change of one.
pub const RULES_VERSION: &str = "ooni-2026-11.1";
/// Expired, not yet valid or malformed: OONI does not say which.
const VAGUE_FAULT: &str = "ssl_invalid_certificate";
/// The helper that compares, as OONI names the first of them.
const TEST_HELPER: &str = "https://0.th.ooni.org/";
/// Rules of the table that need no comparison: what is known to be a stub, or a state's key.
const CONFIRMING_RULES: &[&str] = &[
    "dns.stub_address",
    "http.stub_redirect",
    "http.stub_page",
    "tls.state_ca",
    "network.unpaid",
    "network.captive_portal",
];

/// What we make of a measurement, with what OONI made of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    pub input: String,
    pub measured_at: UnixMillis,
    pub country: Option<Country>,
    pub asn: String,
    pub verdict: Verdict,
    /// OONI's own conclusion, in words.
    pub ooni: String,
    /// What the measurement does not carry, and what therefore could not be judged.
    pub missing: Vec<String>,
}

struct Question<'a> {
    import: &'a Import,
    identity: &'a Identity,
    /// What the table says.
    table: &'a Verdict,
}

struct Answer {
    outcome: Outcome,
    mechanism: Option<(Mechanism, Trigger)>,
    basis: Vec<String>,
}

type Rule = (&'static str, fn(&Question<'_>) -> Option<Answer>);

const RULES: &[Rule] = &[
    ("ooni.same_page", same_page),
    ("ooni.origin_answers", origin_answers),
    ("ooni.dead_address", dead_address),
    ("ooni.certificate_refused", certificate_refused),
    ("ooni.incomparable", incomparable),
    ("ooni.redirect_unfollowed", redirect_unfollowed),
    ("ooni.error_page", error_page),
    ("ooni.other_page", other_page),
];

/// The ids of the rules, in order.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(id, _)| *id)
}

/// Judges one measurement.
pub fn judge_import(import: &Import, fingerprints: &Fingerprints) -> Judgement {
    let identity = identity(import);
    let table = judge_by_table(import, &identity, fingerprints);
    let question = Question { import, identity: &identity, table: &table };
    let mended = RULES.iter().find_map(|(id, apply)| Some((*id, apply(&question)?)));
    let mut verdict = match mended {
        None => table,
        Some((rule, answer)) => Verdict {
            outcome: answer.outcome,
            mechanism: answer.mechanism.map(|(mechanism, _)| mechanism),
            trigger: answer.mechanism.map(|(_, trigger)| trigger),
            rule: rule.to_owned(),
            rules_version: RULES_VERSION.to_owned(),
            basis: answer.basis,
            control: None,
            dissent: None,
        },
    };
    // The control stands in the measurement; it is no record with a hash of its own.
    verdict.control = None;
    let missing = missing(import, &identity, &verdict);
    Judgement {
        input: import.record.url.as_str().to_owned(),
        measured_at: import.record.started_at,
        country: import.country,
        asn: import.asn.clone(),
        verdict,
        ooni: import.theirs.clone(),
        missing,
    }
}

fn judge_by_table(import: &Import, identity: &Identity, fingerprints: &Fingerprints) -> Verdict {
    let mut record = import.record.clone();
    if let (Identity::Different(_) | Identity::Unknown(_), Some(page)) = (identity, record.http.last_mut()) {
        // The comparison stands in for the canary: this page is not known to be the site's.
        page.canary_found = Some(false);
    }
    let control = import.control.clone().map(|mut control| {
        for page in control.http.iter_mut().filter(|page| page.canary_found.is_none()) {
            // Whatever the helper was served is what there is to compare with; an error of the server is none.
            let served = page.outcome == HttpOutcome::Complete && page.status.is_some_and(|code| code < 500);
            page.canary_found = served.then_some(true);
        }
        control
    });
    // The control is the test helper's word, which came through the visitor's own network.
    record.references.extend(control.as_ref().and_then(|_| helper_reached(&record)));
    judge(&Case {
        record: &record,
        control: control.as_ref().map(|control| (Sha256::default(), control)),
        others: &[],
        mirror: None,
        fingerprints,
        country: import.country,
        home: None,
    })
}

fn helper_reached(record: &ProbeRecord) -> Option<ReferenceCheck> {
    let (side, checked_at) = (ReferenceSide::Foreign, record.started_at);
    let url = TargetUrl::parse(TEST_HELPER).ok()?;
    Some(ReferenceCheck { side, url, checked_at, reached: true, failure: None })
}

/// The page is the control's.
fn same_page(question: &Question<'_>) -> Option<Answer> {
    let Identity::Same(how) = question.identity else { return None };
    (!is_confirmed(question)).then(|| answer(Outcome::Ok, vec![format!("the page is {how}")]))
}

/// The plain-HTTP input answered at the control's own address and sent the visit on to its own HTTPS, whose certificate
/// the client refused; the control's fetch fails as well. What was asked for is reachable; the rest is the site's own.
fn origin_answers(question: &Question<'_>) -> Option<Answer> {
    let (import, record) = (question.import, &question.import.record);
    if question.table.outcome != Outcome::Down || record.url.is_https() {
        return None;
    }
    let (url, failure) = import.unanswered.iter().find(|(url, failure)| {
        url.is_https() && is_sibling(&url.host(), &record.url.host()) && is_certificate_failure(failure)
    })?;
    let control = import.control.as_ref()?;
    let connected = record.tcp.iter().find(|tcp| {
        tcp.outcome == TcpOutcome::Connected
            && tcp.address.port() == record.url.port()
            && connects(control, tcp.address)
    })?;
    Some(answer(
        Outcome::Ok,
        vec![
            format!("{} answered: the visit was sent on to {url} on the same host", record.url),
            format!("{} is an address the control connects to", connected.address),
            format!("there the site's certificate is refused ({failure}), and the control's fetch fails too"),
        ],
    ))
}

/// The control reaches the site, but not at the address the visitor's resolver gave.
fn dead_address(question: &Question<'_>) -> Option<Answer> {
    let mechanism = question.table.mechanism.filter(|_| question.table.outcome == Outcome::Blocked)?;
    let control = question.import.control.as_ref()?;
    let resolved = question.import.record.resolved(ResolverKind::System);
    let tried = |address: &&std::net::IpAddr| {
        let mut attempts = control.tcp.iter().filter(|tcp| tcp.address.ip() == **address).peekable();
        attempts.peek().is_some() && attempts.all(|tcp| tcp.outcome != TcpOutcome::Connected)
    };
    let known = control.resolved(ResolverKind::Public);
    let all_dead =
        !resolved.is_empty() && resolved.iter().all(|address| tried(&address) && !known.contains(address));
    let works = control.tcp.iter().find(|tcp| tcp.outcome == TcpOutcome::Connected)?;
    let is_connection = mechanism.as_str().starts_with("tcp.") || mechanism.as_str().starts_with("tls.");
    (is_connection && all_dead).then(|| Answer {
        outcome: Outcome::Blocked,
        mechanism: Some((Mechanism::DnsInjectionOther, Trigger::Name)),
        basis: vec![
            format!("the resolver answers {}, where the control cannot connect either", resolved[0]),
            format!("the control connects to {}", works.address),
        ],
    })
}

/// OONI's one word for an expired, premature or malformed certificate: a box with a wrong clock says it of every site.
fn certificate_refused(question: &Question<'_>) -> Option<Answer> {
    let mut handshakes = question.import.record.tls.iter();
    let vague = handshakes.any(|tls| tls.chain_fault == Some(ChainFault::Other(VAGUE_FAULT.to_owned())));
    (question.table.rule == "tls.other_key" && vague).then(|| {
        let mut basis = question.table.basis.clone();
        basis
            .push("the client found the certificate expired or malformed: its own clock may be wrong".into());
        answer(Outcome::Insufficient, basis)
    })
}

/// A page came, and nothing tells whether it is the site's.
fn incomparable(question: &Question<'_>) -> Option<Answer> {
    let Identity::Unknown(why) = question.identity else { return None };
    (!is_confirmed(question)).then(|| {
        let page = question.import.record.http.last().and_then(|page| page.status).unwrap_or_default();
        answer(Outcome::Insufficient, vec![format!("a page came (status {page}), but {why}")])
    })
}

/// The visit was sent elsewhere, where nobody answered: a stub that is down, or the site's own next host.
fn redirect_unfollowed(question: &Question<'_>) -> Option<Answer> {
    let last = question.import.record.http.last()?;
    let unfollowed = last.status.is_some_and(|status| (300..400).contains(&status));
    (question.table.rule == "http.foreign_redirect" && unfollowed).then(|| {
        let mut basis = question.table.basis.clone();
        basis.push("nothing answers there, and OONI does not say where the control was sent".into());
        answer(Outcome::Insufficient, basis)
    })
}

/// Over plain HTTP the origin's refusal and a censor's error page look the same.
fn error_page(question: &Question<'_>) -> Option<Answer> {
    let status = question.import.record.http.last()?.status.filter(|status| *status >= 400)?;
    (question.table.rule == "http.other_page").then(|| {
        let basis = format!("over plain HTTP an error page comes (status {status}), from nobody knows whom");
        answer(Outcome::Insufficient, vec![basis])
    })
}

/// Over plain HTTP, or where plain HTTP led to, another page than the control's. At the end of a redirect even a
/// certificate proves nothing: stubs have theirs.
fn other_page(question: &Question<'_>) -> Option<Answer> {
    let Identity::Different(how) = question.identity else { return None };
    let (record, page) = (&question.import.record, question.import.record.http.last()?);
    let led_away = record.http.iter().any(|hop| !hop.url.is_https())
        && !is_sibling(&page.url.host(), &record.url.host());
    let (mechanism, what) = match question.table.rule.as_str() {
        "http.other_page" | "http.foreign_redirect" | "origin.refused" if led_away => {
            (Mechanism::HttpRedirect, format!("plain HTTP leads to {}", page.url))
        }
        "http.other_page" => {
            (Mechanism::HttpBlockpage, "over plain HTTP another page comes than to the control".to_owned())
        }
        _ => return None,
    };
    Some(Answer {
        outcome: Outcome::Blocked,
        mechanism: Some((mechanism, Trigger::Host)),
        basis: vec![what, format!("the page at the end: {how}")],
    })
}

fn answer(outcome: Outcome, basis: Vec<String>) -> Answer {
    Answer { outcome, mechanism: None, basis }
}

fn is_confirmed(question: &Question<'_>) -> bool {
    CONFIRMING_RULES.contains(&question.table.rule.as_str())
}

fn connects(control: &ProbeRecord, address: std::net::SocketAddr) -> bool {
    control.tcp.iter().any(|tcp| tcp.outcome == TcpOutcome::Connected && tcp.address == address)
}

/// What the measurement does not carry, for this verdict.
fn missing(import: &Import, identity: &Identity, verdict: &Verdict) -> Vec<String> {
    let mut missing = import.missing.clone();
    let mut note = |text: &str| missing.push(text.to_owned());
    match identity {
        Identity::Canary => {}
        Identity::NoPage => note("no page: identity could not be judged"),
        Identity::Key => note("no canary: identity rests on the certificate alone"),
        Identity::Same(_) | Identity::Different(_) => {
            note("no canary: identity rests on comparison with the control's page");
        }
        Identity::Unknown(why) => missing.push(format!("no canary, and no comparison: {why}")),
    }
    let mut note = |text: &str| missing.push(text.to_owned());
    if import.control.is_none() {
        note("no control: without a known stub nothing can be called blocked");
    }
    if import.record.dns.is_empty() && import.record.url.literal_address().is_none() {
        note("no DNS answers: lies of the resolver could not be judged");
    }
    if verdict.outcome != Outcome::Ok {
        note("no reference hosts: whitelist mode and shutdown could not be told apart from a block");
    }
    if verdict.mechanism.is_some_and(|mechanism| mechanism.as_str().starts_with("tls.")) {
        note("no neutral name at the same address: the trigger could not be named");
    }
    missing
}
