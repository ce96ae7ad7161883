//! The agent's own line and box: what is theirs is no block, and hides none.

use super::*;

const SHIELD: &str = "OU=17, O=Shield House, CN=Shield Root";
const V6: &str = "2a00:1450::7";

fn network(change: impl FnOnce(&mut NetworkCheck)) -> Option<NetworkCheck> {
    let mut network = NetworkCheck::default();
    change(&mut network);
    Some(network)
}

/// A visit that met silence after its hello; nothing abroad answered either.
fn silenced(network: Option<NetworkCheck>) -> ProbeRecord {
    let mut record = healthy();
    cut(&mut record, TlsOutcome::Timeout, None);
    record.references.iter_mut().for_each(|check| check.reached = check.side == ReferenceSide::Domestic);
    record.network = network;
    record
}

#[track_caller]
fn check_pair(expected: &str, record: &ProbeRecord, control: Option<&ProbeRecord>) {
    let verdict = verdict(record, control);
    assert_eq!(summary(&verdict), expected, "{verdict:?}");
}

fn behind(host: &str) -> Option<NetworkCheck> {
    network(|network| network.captive_host = Some(host.to_owned()))
}

#[test]
fn a_portal_in_front_of_everything_burns_no_mirror() {
    let captive = silenced(behind("login.portal.example"));
    check_pair("network.captive_portal restricted", &captive, Some(&healthy()));
    check_pair("network.captive_portal restricted", &captive, None);
    // Its address in the place of the mirror's, and a page that lists know.
    let mut lied = captive.clone();
    lied.dns[0].outcome = answer(0, &["10.0.0.1"]);
    check_pair("network.captive_portal restricted", &lied, Some(&healthy()));
    lied.dns[0].outcome = answer(0, &["95.167.13.50"]);
    check_pair("network.captive_portal restricted", &lied, Some(&healthy()));
    // A mirror that is reached is reached.
    let mut reached = healthy();
    reached.network = behind("login.portal.example");
    check_pair("identity.reached ok", &reached, Some(&healthy()));
}

#[test]
fn who_has_not_paid_is_told_apart_by_the_carrier_s_page() {
    check_pair("network.unpaid restricted", &silenced(behind("unblock.mts.ru")), Some(&healthy()));
    check_pair("network.unpaid restricted", &silenced(behind("unblock.mts.ru")), None);
}

#[test]
fn what_only_looks_like_a_portal_hides_no_block() {
    let expected = "tls.cut blocked tls.timeout unknown";
    let with_foreign = |mut record: ProbeRecord| {
        record.references.iter_mut().for_each(|check| check.reached = true);
        record
    };
    // Something abroad answers as itself: the line is open, whatever that reference does.
    check_pair(expected, &with_foreign(silenced(behind("www.ref.example"))), Some(&healthy()));
    // The control is sent there too: so the reference sends everybody.
    let (mut control, mut record) = (healthy(), silenced(behind("www.ref.example")));
    control.network = behind("www.ref.example");
    record.references.clear();
    check_pair(expected, &record, Some(&control));
    check_pair("network.captive_portal restricted", &record, Some(&healthy()));
    // The neutral name came through under a good chain.
    let mut heard = record.clone();
    heard.tls.push(tls(Arm::NeutralSni, done()));
    check_pair("tls.cut blocked tls.timeout sni", &heard, Some(&healthy()));
    // The visit itself was sent where the references were: only plain pages are caught.
    let mut plain = with_foreign(silenced(behind("pay.carrier.example")));
    plain.url = url("http://mirror.example/");
    plain.tls.clear();
    plain.http = vec![http("http://mirror.example/", 302, false)];
    plain.http[0].headers = vec![("location".into(), "http://pay.carrier.example/?id=1".into())];
    check_pair("network.captive_portal restricted", &plain, Some(&healthy()));
    plain.http[0].headers = vec![("location".into(), "http://stub.example/".into())];
    check_pair("http.foreign_redirect blocked http.redirect host", &plain, Some(&healthy()));
}

#[test]
fn a_host_without_a_way_out_says_nothing() {
    let offline = || network(|network| network.is_offline = true);
    let mut record = silenced(offline());
    record.references.clear();
    check_pair("network.offline restricted", &record, Some(&healthy()));
    check_pair("network.offline restricted", &record, None);
    record.dns[0].outcome = DnsOutcome::Failed("cannot be sent: Network is unreachable".into());
    record.tcp.clear();
    without_tls(&mut record);
    check_pair("network.offline restricted", &record, None);
    // A later arm was answered: the line died after the visit failed.
    let mut cut_by_name = silenced(offline());
    cut_by_name.tls.push(tls(Arm::NeutralSni, done()));
    check_pair("tls.cut blocked tls.timeout sni", &cut_by_name, Some(&healthy()));
    let mut reached = healthy();
    reached.network = offline();
    check_pair("identity.reached ok", &reached, None);
}

#[test]
fn a_line_without_ipv6_tells_nothing_of_it() {
    let unconnected = |addresses: &[&str], ipv6: Ipv6Health| {
        let mut record = healthy();
        record.dns[0].outcome = answer(0, addresses);
        let attempt = record.tcp[0].clone();
        record.tcp = addresses
            .iter()
            .map(|address| TcpConnect {
                address: socket(address),
                outcome: TcpOutcome::Timeout,
                ..attempt.clone()
            })
            .collect();
        without_tls(&mut record);
        record.network = network(|network| network.ipv6 = ipv6);
        record
    };
    let mut control = healthy();
    control.dns[0].outcome = answer(0, &[V6, OWN]);
    let judged = |addresses: &[&str], ipv6| summary(&verdict(&unconnected(addresses, ipv6), Some(&control)));
    let (unwell, blocked) = ("network.ipv6 insufficient", "tcp.unconnected blocked tcp.timeout ip");
    assert_eq!(judged(&[V6], Ipv6Health::Absent), unwell);
    assert_eq!(judged(&[V6], Ipv6Health::Broken), unwell);
    assert_eq!(judged(&[V6], Ipv6Health::Works), blocked);
    assert_eq!(judged(&[V6], Ipv6Health::Unknown), blocked);
    // IPv4 failed as well: it speaks alone.
    let mut mixed = unconnected(&[V6, OWN], Ipv6Health::Broken);
    mixed.tcp[1].outcome = TcpOutcome::Refused;
    check_pair("tcp.unconnected blocked tcp.refused ip", &mixed, Some(&control));
}

#[test]
fn who_signs_for_the_references_too_sits_on_the_host() {
    let forged = |issuer: &str, signer: Option<&str>| {
        let mut record = healthy();
        record.tls[0].chain = vec![certificate(issuer, 7)];
        record.tls[0].chain_fault = Some(ChainFault::UnknownIssuer);
        record.network = network(|network| network.host_interference = signer.map(str::to_owned));
        summary(&verdict(&record, Some(&healthy())))
    };
    let shield = Some("CN=Shield Root, O=Shield House");
    assert_eq!(forged(SHIELD, shield), "host.interceptor insufficient");
    assert_eq!(forged("OU=18, O=Shield House, CN=Shield Root", shield), "host.interceptor insufficient");
    // On the mirror alone it sits on the way.
    assert_eq!(forged(SHIELD, None), "tls.other_key blocked tls.mitm.other sni");
    assert_eq!(forged("CN=Another", shield), "tls.other_key blocked tls.mitm.other sni");
    // A state that breaks everything open is a state.
    let state = "C=KZ, O=ISCA, CN=Information Security Certification Authority";
    let words = Some("CN=Information Security Certification Authority, O=ISCA");
    assert_eq!(forged(state, words), "tls.state_ca blocked tls.mitm.state_ca sni");
    // A known product needs no reference.
    assert_eq!(forged("CN=Kaspersky Root", None), "host.interceptor insufficient");
}
