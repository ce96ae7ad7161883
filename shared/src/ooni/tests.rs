//! Made-up measurements by rule, and our own records out and in again.

use super::*;
use crate::fingerprint::Fingerprints;
use crate::judge::tests::{answer, cut, healthy, mirror};
use crate::judge::{Case, judge};
use crate::record::*;
use crate::target::{Sha256, TargetUrl};
use crate::verdict::Verdict;
use crate::words::{Country, UnixMillis};

const SITE: &str = "192.0.2.10";

/// A certificate's issuer is the text of its "DER".
fn read(der: &[u8]) -> Certificate {
    Certificate {
        sha256: Sha256::of(der),
        spki_sha256: Sha256::of(der),
        subject: "CN=site.example".into(),
        issuer: String::from_utf8_lossy(der).into_owned(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: der.to_vec(),
    }
}

/// A visit that went well, as JSON, for the input given; the answer to the last request has this page.
fn measurement(input: &str, page: &str) -> serde_json::Value {
    let url = TargetUrl::parse(input).unwrap();
    let peer = format!("{SITE}:{}", url.port());
    let handshake = serde_json::json!({
        "server_name": url.host(), "tls_version": "TLSv1.3", "failure": null, "address": peer,
    });
    serde_json::json!({
        "test_name": "web_connectivity", "input": input, "probe_cc": "KZ", "probe_asn": "AS1", "software_name": "x",
        "measurement_start_time": "2026-11-21 09:30:00", "test_runtime": 2.5,
        "test_keys": {
            "queries": [{
                "engine": "system", "hostname": url.host(), "query_type": "A", "failure": null,
                "answers": [{"answer_type": "A", "ipv4": SITE, "ttl": null}],
            }],
            "tcp_connect": [{
                "ip": SITE, "port": url.port(), "status": {"success": true, "failure": null, "blocked": false},
            }],
            "tls_handshakes": if url.is_https() { vec![handshake] } else { vec![] },
            "requests": [{
                "request": {"url": input},
                "response": {"code": 200, "body": page, "headers": {"X-Own": "1", "Server": "s"}},
                "failure": null,
            }],
            "control_failure": null,
            "control": {
                "dns": {"addrs": ["cdn.example", SITE], "failure": null},
                "tcp_connect": {peer: {"status": true, "failure": null}},
                "http_request": {
                    "status_code": 200, "body_length": 400, "title": "Welcome home", "headers": {"X-Own": "2"},
                    "failure": null,
                },
            },
            "blocking": false, "accessible": true,
        },
    })
}

fn page(title: &str, len: usize) -> String {
    format!("<title>{title}</title>{}", "x".repeat(len))
}

fn judged(measurement: &serde_json::Value) -> Judgement {
    let measurement = Measurement::parse(&measurement.to_string()).unwrap();
    judge_import(&import(&measurement, read).unwrap(), &Fingerprints::built_in())
}

fn summary(verdict: &Verdict) -> String {
    let mechanism = verdict.mechanism.map_or(String::new(), |mechanism| format!(" {mechanism}"));
    format!("{} {}{mechanism}", verdict.rule, verdict.outcome)
}

/// The verdict on a good visit to `input`, changed: "rule outcome mechanism".
#[track_caller]
fn check(expected: &str, input: &str, change: impl Fn(&mut serde_json::Value)) {
    let mut measurement = measurement(input, &page("Welcome home", 400));
    change(&mut measurement["test_keys"]);
    let judged = judged(&measurement);
    assert_eq!(summary(&judged.verdict), expected, "{judged:#?}");
}

const HTTP: &str = "http://site.example/";
const HTTPS: &str = "https://site.example/";

fn strange_page(keys: &mut serde_json::Value) {
    keys["requests"][0]["response"] =
        serde_json::json!({"code": 200, "body": page("Closed", 9), "headers": {}});
}

#[test]
fn identity_rests_on_the_key_or_on_comparison() {
    check("ooni.same_page ok", HTTP, |_| {});
    check("ooni.same_page ok", HTTPS, |_| {});
    check("identity.reached ok", HTTPS, strange_page);
    check("ooni.other_page blocked http.blockpage", HTTP, strange_page);
    check("ooni.error_page insufficient", HTTP, |keys| {
        strange_page(keys);
        keys["requests"][0]["response"]["code"] = 403.into();
    });
    check("origin.refused refused", HTTPS, |keys| keys["requests"][0]["response"]["code"] = 403.into());
    // An error page that the control gets too is the site's own.
    check("ooni.same_page ok", HTTP, |keys| {
        keys["requests"][0]["response"]["code"] = 404.into();
        keys["control"]["http_request"]["status_code"] = 404.into();
    });
    check("ooni.incomparable insufficient", HTTP, |keys| {
        keys["control"]["http_request"]["status_code"] = 503.into();
    });
    check("ooni.incomparable insufficient", HTTP, |keys| {
        keys["control"]["http_request"] = serde_json::json!({"failure": "unknown_error", "status_code": -1});
    });
    check("ooni.incomparable insufficient", HTTP, |keys| {
        strange_page(keys);
        keys["requests"][0]["response"]["body_is_truncated"] = true.into();
        keys["control"]["http_request"]["title"] = "".into();
        keys["control"]["http_request"]["headers"] = serde_json::json!({"Server": "s"});
    });
    check("ooni.incomparable insufficient", HTTP, |keys| keys["control_failure"] = "timeout".into());
}

#[test]
fn redirects_are_judged_by_where_they_end() {
    let sent = |keys: &mut serde_json::Value, to: &str| {
        let hop = serde_json::json!({
            "request": {"url": HTTP}, "failure": null,
            "response": {"code": 302, "body": "", "headers_list": [["Location", to]]},
        });
        strange_page(keys);
        keys["requests"][0]["request"]["url"] = to.into();
        keys["requests"].as_array_mut().unwrap().push(hop);
    };
    check("ooni.other_page blocked http.redirect", HTTP, |keys| sent(keys, "http://stub.example/"));
    check("http.stub_redirect blocked http.redirect", HTTP, |keys| sent(keys, "http://warning.rt.ru/"));
    check("ooni.other_page blocked http.redirect", HTTP, |keys| sent(keys, "https://stub.example/"));
    check("identity.reached ok", HTTP, |keys| sent(keys, "https://www.site.example/"));
    check("ooni.redirect_unfollowed insufficient", HTTP, |keys| {
        sent(keys, "http://stub.example/");
        keys["requests"].as_array_mut().unwrap().remove(0);
    });
    // The page at the end of a foreign redirect may be the site's own.
    check("ooni.same_page ok", HTTP, |keys| {
        sent(keys, "http://stub.example/");
        keys["requests"][0]["response"]["headers"] = serde_json::json!({"x-own": "3"});
    });
}

#[test]
fn failures_below_http_are_told_apart() {
    let failing = |keys: &mut serde_json::Value, failure: &str| {
        keys["requests"][0]["failure"] = failure.into();
        keys["requests"][0]["response"] = serde_json::json!({"code": 0, "body": null, "headers": null});
    };
    let tls = |failure: &'static str| {
        move |keys: &mut serde_json::Value| {
            failing(keys, failure);
            keys["tls_handshakes"][0]["failure"] = failure.into();
        }
    };
    check("tls.cut blocked tls.timeout", HTTPS, tls("generic_timeout_error"));
    check("tls.cut blocked tls.reset", HTTPS, tls("connection_reset"));
    check("tls.cut blocked tls.eof", HTTPS, tls("eof_error"));
    let chain = |issuer: &str| {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, issuer);
        serde_json::json!([{"data": data, "format": "base64"}])
    };
    let refused = |failure: &'static str, issuer: &'static str| {
        move |keys: &mut serde_json::Value| {
            tls(failure)(keys);
            keys["tls_handshakes"][0]["peer_certificates"] = chain(issuer);
        }
    };
    check("tls.other_key blocked tls.mitm.other", HTTPS, refused("ssl_unknown_authority", "CN=Nobody"));
    check("ooni.certificate_refused insufficient", HTTPS, refused("ssl_invalid_certificate", "CN=Nobody"));
    let state = "C=KZ, CN=Qaznet Trust Network";
    check("tls.state_ca blocked tls.mitm.state_ca", HTTPS, refused("ssl_invalid_certificate", state));
    check("http.cut blocked http.reset", HTTPS, |keys| failing(keys, "connection_reset"));
    let unconnected = |keys: &mut serde_json::Value| {
        failing(keys, "generic_timeout_error");
        keys["tls_handshakes"] = serde_json::json!([]);
        keys["tcp_connect"][0]["status"] =
            serde_json::json!({"success": false, "failure": "generic_timeout_error"});
    };
    check("tcp.unconnected blocked tcp.timeout", HTTPS, unconnected);
    check("ooni.dead_address blocked dns.injection.other", HTTPS, |keys| {
        unconnected(keys);
        keys["queries"][0]["answers"][0]["ipv4"] = "9.9.9.10".into();
        keys["control"]["tcp_connect"]["9.9.9.10:443"] = serde_json::json!({"status": false, "failure": "x"});
    });
    check("dns.no_address blocked dns.nxdomain", HTTPS, |keys| {
        unconnected(keys);
        keys["tcp_connect"] = serde_json::json!([]);
        keys["queries"][0] = serde_json::json!({
            "engine": "system", "hostname": "site.example", "query_type": "A", "failure": "dns_nxdomain_error",
            "answers": null,
        });
    });
    check("control.failed down", HTTPS, |keys| {
        unconnected(keys);
        keys["control"]["http_request"] = serde_json::json!({"failure": "generic_timeout_error"});
    });
    check("control.missing insufficient", HTTPS, |keys| {
        unconnected(keys);
        keys["control_failure"] = "unknown_failure".into();
    });
}

#[test]
fn a_site_whose_own_certificate_is_refused_is_reachable_where_its_plain_side_answers() {
    let refused = |keys: &mut serde_json::Value| {
        keys["requests"][0] = serde_json::json!({
            "request": {"url": "https://www.site.example/"}, "response": {},
            "failure": "ssl_error: x:certificate verify failed",
        });
        keys["control"]["http_request"] = serde_json::json!({"failure": "unknown_error", "status_code": -1});
    };
    check("ooni.origin_answers ok", HTTP, refused);
    check("control.failed down", HTTPS, |keys| {
        keys["tls_handshakes"] = serde_json::json!([]);
        refused(keys);
    });
    // At an address that nobody else knows, the answer proves nothing.
    check("control.failed down", HTTP, |keys| {
        refused(keys);
        keys["control"]["tcp_connect"] = serde_json::json!({});
    });
}

#[test]
fn what_a_measurement_lacks_is_said() {
    let mut strange = measurement(HTTP, "x");
    strange["test_keys"]["queries"] = serde_json::json!([{"hostname": 5}, 7, "x"]);
    strange["test_keys"]["tcp_connect"] = "none".into();
    strange["test_keys"]["blocking"] = "http-diff".into();
    let judged = judged(&strange);
    let said = judged.missing.join("; ");
    for part in ["2 of `queries`", "1 of `tcp_connect`", "no canary"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(
        (judged.ooni.as_str(), judged.measured_at),
        ("blocked (http-diff)", UnixMillis(1_795_253_400_000))
    );
    assert_eq!((judged.country, judged.asn.as_str()), (Country::parse("KZ").ok(), "AS1"));
}

#[test]
fn what_is_no_measurement_says_why() {
    let check = |text: &str, part: &str| {
        let measurement = Measurement::parse(text);
        let error = measurement.and_then(|measurement| import(&measurement, read)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    check("{", "not JSON");
    check("[1]", "not a measurement");
    check("{\"test_name\": \"ndt\"}", "\"ndt\"");
    check("{\"test_name\": \"web_connectivity\"}", "no usable input");
    check("{\"test_name\": \"web_connectivity\", \"input\": \"ftp://x/\"}", "no usable input");
}

/// Our verdict on a record, and that on its export read again, as "outcome mechanism".
#[track_caller]
fn check_there_and_back(expected: &str, change: impl Fn(&mut ProbeRecord)) {
    let (mut record, control) = (healthy(), healthy());
    change(&mut record);
    let (mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    let country = Country::parse("KZ").ok();
    let control_of = Some((Sha256([9; 32]), &control));
    let own = judge(&Case {
        record: &record,
        control: control_of,
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country,
        home: None,
    });
    let exported = export(&Exported { record: &record, control: Some(&control), asn: 29_355, country });
    let read_again = Measurement::parse(&exported.to_json()).unwrap();
    assert_eq!(read_again, exported);
    let imported = import(&read_again, read).unwrap();
    let again = judge_import(&imported, &fingerprints);
    let words = |verdict: &Verdict| summary(verdict).split_once(' ').unwrap().1.to_owned();
    assert_eq!((words(&own).as_str(), words(&again.verdict).as_str()), (expected, expected), "{again:#?}");
    assert_eq!((imported.record.started_at, imported.country), (record.started_at, country));
}

#[test]
fn our_records_keep_their_verdict_there_and_back() {
    check_there_and_back("ok", |_| {});
    for (outcome, expected) in [
        (TlsOutcome::Timeout, "blocked tls.timeout"),
        (TlsOutcome::Reset, "blocked tls.reset"),
        (TlsOutcome::Eof, "blocked tls.eof"),
    ] {
        check_there_and_back(expected, |record| cut(record, outcome.clone(), None));
    }
    let unresolved = |outcome: DnsOutcome| {
        move |record: &mut ProbeRecord| {
            record.dns[0].outcome = outcome.clone();
            (record.tcp, record.tls, record.http) = (vec![], vec![], vec![]);
        }
    };
    check_there_and_back("blocked dns.nxdomain", unresolved(answer(3, &[])));
    check_there_and_back("blocked dns.servfail", unresolved(answer(2, &[])));
    check_there_and_back("blocked dns.refused", unresolved(answer(5, &[])));
    check_there_and_back("blocked dns.timeout", unresolved(DnsOutcome::Timeout));
    check_there_and_back("blocked dns.injection.bogon", unresolved(answer(0, &["127.0.0.1"])));
    check_there_and_back("blocked dns.injection.blockpage", unresolved(answer(0, &["95.167.13.50"])));
    for (outcome, expected) in [
        (TcpOutcome::Timeout, "blocked tcp.timeout"),
        (TcpOutcome::Reset, "blocked tcp.reset"),
        (TcpOutcome::Refused, "blocked tcp.refused"),
        (TcpOutcome::Unreachable(113), "blocked tcp.unreachable"),
    ] {
        check_there_and_back(expected, |record| {
            record.tcp[0].outcome = outcome.clone();
            (record.tls, record.http) = (vec![], vec![]);
        });
    }
    check_there_and_back("blocked transfer.freeze", |record| {
        record.http[0].outcome = HttpOutcome::Timeout;
        record.http[0].span.duration_micros = 15_000_000;
        record.http[0].body_len = 16_384;
    });
    check_there_and_back("blocked http.reset", |record| record.http[0].outcome = HttpOutcome::Reset);
    check_there_and_back("refused", |record| {
        record.http[0].status = Some(403);
        record.http[0].canary_found = Some(false);
    });
    check_there_and_back("blocked tls.mitm.state_ca", |record| {
        record.tls[0].chain = vec![read("C=KZ, CN=Qaznet Trust Network".as_bytes())];
        record.tls[0].chain_fault = Some(ChainFault::UnknownIssuer);
    });
    check_there_and_back("blocked http.redirect", |record| {
        record.url = TargetUrl::parse("http://mirror.example/").unwrap();
        record.tls.clear();
        record.http[0].url = record.url.clone();
        record.http[0].status = Some(302);
        record.http[0].canary_found = Some(false);
        record.http[0].headers = vec![("location".into(), "http://warning.rt.ru/".into())];
    });
}

#[test]
fn a_control_that_fails_stays_down_there_and_back() {
    let mut record = healthy();
    cut(&mut record, TlsOutcome::Timeout, None);
    let control = record.clone();
    let judged = |control: Option<&ProbeRecord>| {
        let exported = export(&Exported { record: &record, control, asn: 1, country: None });
        let imported = import(&Measurement::parse(&exported.to_json()).unwrap(), read).unwrap();
        summary(&judge_import(&imported, &Fingerprints::built_in()).verdict)
    };
    assert_eq!(judged(Some(&control)), "control.failed down");
    assert_eq!(judged(None), "control.missing insufficient");
}

#[test]
fn no_address_of_the_host_is_exported() {
    let mut record = healthy();
    record.dns[0].server = "192.168.1.1:53".parse().unwrap();
    record.http[0].headers = vec![("x-client-ip".into(), "203.0.113.77".into())];
    record.http[0].title = Some("Blocked for 203.0.113.77".into());
    record.http[0].excerpt = "your address is 203.0.113.77 (2001:db8::77)".into();
    let exported = export(&Exported { record: &record, control: Some(&record), asn: 29_355, country: None });
    let text = exported.to_json();
    for address in ["192.168.1.1", "203.0.113.77", "2001:db8::77"] {
        assert!(!text.contains(address), "{address}: {text}");
    }
    assert!(text.contains("198.51.100.7") && !text.contains('\n'), "{text}");
    assert_eq!((exported.probe_asn.as_str(), exported.probe_ip.as_deref()), ("AS29355", Some(NO_ADDRESS)));
}
