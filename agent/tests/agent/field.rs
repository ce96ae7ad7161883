//! A control at the addresses another agent got: the mirror's name and port, whoever stands there, and no further.

use std::net::IpAddr;

use zerkalo_agent::probe::Assignment;
use zerkalo_agent::probe::connect::Ranges;
use zerkalo_core::record::{Arm, HttpOutcome, ProbeRecord, TcpOutcome, TlsOutcome};

use crate::world::*;

/// The control's own address, one of a stranger, one where nobody listens.
const OWN: u8 = 2;
const STRANGER: u8 = 3;
const NOBODY: u8 = 4;

/// Probes as a control that was sent to `addresses`; with the port of the mirror.
async fn sent_to(addresses: &[IpAddr], ranges: Ranges) -> (ProbeRecord, u16) {
    let authority = Authority::new();
    let [own, other] = two_listeners().await;
    let port = own.local_addr().unwrap().port();
    tls_server(own, vec![(HOST, Front::Serve(authority.server(&[HOST]), real_page()))]).await;
    let (stranger, _) = self_signed(&["stranger.example"]);
    let other_page = always(page(b"<title>Parked</title>"), After::Continue);
    tls_server(other, vec![(HOST, Front::Serve(stranger, other_page))]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(OWN)]))]).await;
    let mut settings = settings(&authority, system, None);
    settings.ranges = ranges;
    let assignment =
        Assignment { field_addresses: addresses.to_vec(), ..assignment(&format!("https://{HOST}:{port}/")) };
    let measured = probe_as(&settings, &assignment).await;
    assert_eq!(measured.is_reached, ranges == Ranges::Any, "whoever stands elsewhere");
    (measured.record, port)
}

fn at<T>(steps: &[T], arm: impl Fn(&T) -> (Arm, IpAddr), address: u8) -> Vec<&T> {
    steps.iter().filter(|step| arm(step) == (Arm::FieldAddress, loopback(address))).collect()
}

#[tokio::test]
async fn a_control_shows_the_mirror_s_name_at_the_addresses_others_got() {
    let addresses = [OWN, STRANGER, NOBODY, STRANGER].map(loopback);
    let (record, port) = sent_to(&addresses, Ranges::Any).await;
    let tcp = |address| at(&record.tcp, |step| (step.arm, step.address.ip()), address);
    let tls = |address| at(&record.tls, |step| (step.arm, step.address.ip()), address);
    let http = |address| at(&record.http, |step| (step.arm, step.address.ip()), address);
    // It went to its own address by itself: once is enough.
    assert!(tcp(OWN).is_empty() && tls(OWN).is_empty(), "{record:?}");
    let [shaken] = tls(STRANGER)[..] else { panic!("{record:?}") };
    assert_eq!((shaken.sni.as_deref(), shaken.address.port()), (Some(HOST), port));
    assert!(matches!(shaken.outcome, TlsOutcome::Completed { .. }));
    assert!(shaken.chain[0].subject.contains("rcgen") && shaken.chain[0].der.is_empty(), "{shaken:?}");
    let [read] = http(STRANGER)[..] else { panic!("{record:?}") };
    assert_eq!((&read.outcome, read.canary_found), (&HttpOutcome::Complete, Some(false)));
    assert_eq!(read.url, record.url);
    let [refused] = tcp(NOBODY)[..] else { panic!("{record:?}") };
    assert_eq!(refused.outcome, TcpOutcome::Refused);
    assert!(tls(NOBODY).is_empty() && http(NOBODY).is_empty());
    assert!(record.tcp.iter().all(|step| step.address.port() == port));
}

#[tokio::test]
async fn what_is_no_public_address_is_refused_before_a_packet_leaves() {
    let (record, _) = sent_to(&[loopback(STRANGER), "10.0.0.1".parse().unwrap()], Ranges::PublicOnly).await;
    let steps: Vec<_> = record.tcp.iter().filter(|step| step.arm == Arm::FieldAddress).collect();
    assert_eq!(steps.len(), 2);
    assert!(steps.iter().all(|step| matches!(step.outcome, TcpOutcome::Forbidden(_))), "{steps:?}");
    assert!(record.tls.is_empty() && record.http.is_empty());
}

#[tokio::test]
async fn no_more_addresses_are_tried_than_a_wish_may_name() {
    let many: Vec<IpAddr> = (10..200).map(loopback).collect();
    let (record, _) = sent_to(&many, Ranges::Any).await;
    let tried = record.tcp.iter().filter(|step| step.arm == Arm::FieldAddress).count();
    assert_eq!(tried, zerkalo_core::judge::FIELD_ADDRESSES_MAX);
    assert!(record.http.iter().any(|step| step.arm == Arm::Main && step.canary_found == Some(true)));
}
