//! The arms that compare: against servers that play a box which judges names, punishes addresses, or fails now and then.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use zerkalo_agent::probe::hops;
use zerkalo_agent::probe::{Assignment, Neutral, OwnArms, ProbeSettings};
use zerkalo_core::hops::answering_hop;
use zerkalo_core::record::{Arm, ProbeRecord, TcpOutcome, TlsOutcome};

use crate::world::*;

const NEUTRAL: &str = "neutral.example";

/// What a box does with one more hello, given those before it: whether each showed the own name.
type Judge = fn(&[bool]) -> Treatment;

#[derive(Clone, Copy)]
enum Treatment {
    Serve,
    Swallow,
    Reset,
}

/// A server behind a box, and what the box saw.
#[derive(Clone, Default)]
struct Seen {
    names: Arc<Mutex<Vec<bool>>>,
    ports: Arc<Mutex<BTreeSet<u16>>>,
}

async fn guarded(listener: TcpListener, authority: &Authority, judge: Judge) -> Seen {
    let seen = Seen::default();
    let acceptor = TlsAcceptor::from(authority.server(&[HOST, NEUTRAL]));
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let (acceptor, noted) = (acceptor.clone(), noted.clone());
            tokio::spawn(async move {
                let mut hello = [0; 16 * 1024];
                let len = stream.peek(&mut hello).await.unwrap_or_default();
                if len == 0 {
                    return;
                }
                let is_own = String::from_utf8_lossy(&hello[..len]).contains(HOST);
                let treatment = {
                    let mut names = noted.names.lock().unwrap();
                    names.push(is_own);
                    noted.ports.lock().unwrap().insert(peer.port());
                    judge(&names)
                };
                match treatment {
                    Treatment::Serve => drop(acceptor.accept(stream).await),
                    Treatment::Reset => {
                        let _ = stream.read_exact(&mut hello[..len]).await;
                        let _ = stream.set_zero_linger();
                    }
                    Treatment::Swallow => while stream.read(&mut hello).await.is_ok_and(|len| len > 0) {},
                }
            });
        }
    });
    seen
}

/// A mirror at 127.0.0.2 behind a box, with settings that lose no time on its silence.
struct Stage {
    authority: Authority,
    settings: ProbeSettings,
    assignment: Assignment,
    address: SocketAddr,
    seen: Seen,
}

async fn stage(judge: Judge) -> Stage {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = guarded(listener, &authority, judge).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2)]))]).await;
    let mut settings = settings(&authority, system, None);
    settings.caps.tls = IMPATIENCE;
    let assignment = assignment(&format!("https://{HOST}:{}/", address.port()));
    Stage { authority, settings, assignment, address, seen }
}

impl Stage {
    async fn probe(&self) -> ProbeRecord {
        probe_as(&self.settings, &self.assignment).await.record
    }
}

/// Every name fails once the own one was seen: residual blocking of the address.
fn punish(seen: &[bool]) -> Treatment {
    if seen.contains(&true) { Treatment::Swallow } else { Treatment::Serve }
}

fn by_name(seen: &[bool]) -> Treatment {
    if seen.last() == Some(&true) { Treatment::Swallow } else { Treatment::Serve }
}

fn outcome(record: &ProbeRecord, arm: Arm) -> Option<&TlsOutcome> {
    record.tls.iter().find(|step| step.arm == arm).map(|step| &step.outcome)
}

fn is_completed(record: &ProbeRecord, arm: Arm) -> Option<bool> {
    outcome(record, arm).map(|outcome| matches!(outcome, TlsOutcome::Completed { .. }))
}

#[tokio::test]
async fn a_box_that_punishes_the_address_fools_the_neutral_name_that_comes_second() {
    let stage = stage(punish).await;
    let record = stage.probe().await;
    assert_eq!(outcome(&record, Arm::Main), Some(&TlsOutcome::Timeout));
    assert_eq!(outcome(&record, Arm::NeutralSni), Some(&TlsOutcome::Timeout));
    assert_eq!(outcome(&record, Arm::NeutralFirst), None);
}

#[tokio::test]
async fn it_does_not_fool_the_one_that_comes_first() {
    let mut stage = stage(punish).await;
    stage.assignment.neutral = Neutral::FirstAndAfter;
    let record = stage.probe().await;
    assert_eq!(is_completed(&record, Arm::NeutralFirst), Some(true));
    assert_eq!(outcome(&record, Arm::Main), Some(&TlsOutcome::Timeout));
    assert_eq!(outcome(&record, Arm::NeutralSni), Some(&TlsOutcome::Timeout));
    let (first, main) = (&record.tls[0], &record.tls[1]);
    assert_eq!(
        (first.arm, first.sni.as_deref(), first.address),
        (Arm::NeutralFirst, Some(NEUTRAL), main.address)
    );
    assert_eq!(stage.seen.names.lock().unwrap()[..2], [false, true]);
}

#[tokio::test]
async fn a_neutral_name_may_go_first_and_not_again() {
    let mut stage = stage(by_name).await;
    stage.assignment.neutral = Neutral::First;
    let record = stage.probe().await;
    assert_eq!(is_completed(&record, Arm::NeutralFirst), Some(true));
    assert_eq!(outcome(&record, Arm::NeutralSni), None);
    stage.assignment.neutral = Neutral::Spent;
    let record = stage.probe().await;
    assert!(record.tls.iter().all(|step| step.sni.as_deref() == Some(HOST)), "{record:?}");
}

#[tokio::test]
async fn the_own_name_is_shown_to_the_control_address() {
    let mut stage = stage(by_name).await;
    let free = TcpListener::bind((loopback(3), 0)).await.unwrap();
    stage.assignment.control_address = Some(free.local_addr().unwrap());
    stage.assignment.own_arms = OwnArms::Allowed { turn: 0 };
    let seen = guarded(free, &stage.authority, |_| Treatment::Serve).await;
    let record = stage.probe().await;
    assert_eq!(is_completed(&record, Arm::ControlAddress), Some(true));
    assert_eq!(*seen.names.lock().unwrap(), [true]);
    assert_eq!(outcome(&record, Arm::OtherHello), Some(&TlsOutcome::Timeout));
    assert_eq!(outcome(&record, Arm::FreshTuple), None, "the budget is spent: {record:?}");
    let own = record.tls.iter().filter(|step| step.sni.as_deref() == Some(HOST)).count();
    assert_eq!(own, 3);
}

#[tokio::test]
async fn a_box_that_reads_the_name_strikes_at_the_control_address_too() {
    let mut stage = stage(by_name).await;
    let read = TcpListener::bind((loopback(3), 0)).await.unwrap();
    stage.assignment.control_address = Some(read.local_addr().unwrap());
    stage.assignment.own_arms = OwnArms::Allowed { turn: 4 };
    guarded(read, &stage.authority, |_| Treatment::Reset).await;
    let record = stage.probe().await;
    assert_eq!(outcome(&record, Arm::ControlAddress), Some(&TlsOutcome::Reset));
}

#[tokio::test]
async fn the_mirror_s_own_address_is_no_control() {
    let mut stage = stage(by_name).await;
    stage.assignment.control_address = Some(SocketAddr::new(stage.address.ip(), 1));
    stage.assignment.own_arms = OwnArms::Allowed { turn: 0 };
    let record = stage.probe().await;
    assert!(record.tcp.iter().all(|step| step.arm != Arm::ControlAddress), "{record:?}");
}

#[tokio::test]
async fn each_turn_another_arm_goes_first() {
    let firsts = async |turn| {
        let mut stage = stage(|_| Treatment::Reset).await;
        let free = TcpListener::bind((loopback(3), 0)).await.unwrap();
        stage.assignment.control_address = Some(free.local_addr().unwrap());
        stage.assignment.own_arms = OwnArms::Allowed { turn };
        guarded(free, &stage.authority, |_| Treatment::Serve).await;
        let record = stage.probe().await;
        let own = record.tls.iter().filter(|step| step.sni.as_deref() == Some(HOST));
        own.map(|step| step.arm).collect::<Vec<_>>()
    };
    assert_eq!(firsts(0).await, [Arm::Main, Arm::ControlAddress, Arm::OtherHello]);
    assert_eq!(firsts(1).await, [Arm::Main, Arm::OtherHello, Arm::EchGrease]);
    assert_eq!(firsts(2).await, [Arm::Main, Arm::EchGrease, Arm::FreshTuple]);
    assert_eq!(firsts(3).await, [Arm::Main, Arm::FreshTuple, Arm::ControlAddress]);
}

#[tokio::test]
async fn handshakes_kept_for_the_next_look_are_not_made() {
    let mut stage = stage(by_name).await;
    stage.assignment.own_arms = OwnArms::Kept;
    let record = stage.probe().await;
    let arms: Vec<Arm> = record.tls.iter().map(|step| step.arm).collect();
    assert_eq!(arms, [Arm::Main, Arm::NeutralSni]);
}

/// A mirror of two addresses behind one box that drops every hello; how often each was shown the name, and the record.
async fn look_at_two_addresses(own_handshakes_max: usize) -> ([usize; 2], ProbeRecord) {
    let (mut stage, second) = loop {
        let stage = stage(punish).await;
        if let Ok(second) = TcpListener::bind((loopback(3), stage.address.port())).await {
            break (stage, second);
        }
    };
    let other = guarded(second, &stage.authority, punish).await;
    let both = Reply::Addresses(vec![loopback(2), loopback(3)]);
    let system = resolver(&[(HOST, both)]).await;
    stage.settings = settings(&stage.authority, system, None);
    stage.settings.caps.tls = IMPATIENCE;
    stage.assignment.own_handshakes_max = own_handshakes_max;
    let record = stage.probe().await;
    let own = |seen: &Seen| seen.names.lock().unwrap().iter().filter(|is_own| **is_own).count();
    ([own(&stage.seen), own(&other)], record)
}

#[tokio::test]
async fn a_second_look_with_room_for_one_shows_the_name_once() {
    let (shown, record) = look_at_two_addresses(1).await;
    assert_eq!(shown, [1, 0]);
    let arms: Vec<Arm> = record.tls.iter().map(|step| step.arm).collect();
    assert_eq!(arms, [Arm::Main, Arm::NeutralSni], "no arm shows it again: {record:?}");
    // The box punishes the address by now: the neutral name after the own one proves nothing, and none went first.
    assert_eq!(outcome(&record, Arm::NeutralSni), Some(&TlsOutcome::Timeout));
    let beside = record.tcp.iter().find(|step| step.arm == Arm::EachAddress).unwrap();
    assert_eq!((beside.address.ip(), &beside.outcome), (loopback(3), &TcpOutcome::Connected));
    // A whole look goes to both, and has none left for an arm.
    let (shown, record) = look_at_two_addresses(2).await;
    assert_eq!(shown, [1, 1], "{record:?}");
    // With three, one arm is shown as well.
    let (shown, record) = look_at_two_addresses(3).await;
    assert_eq!(shown.iter().sum::<usize>(), 3, "{record:?}");
}

#[tokio::test]
async fn what_fails_once_passes_from_a_new_port_after_a_pause() {
    let mut stage = stage(|seen| {
        let own = seen.iter().filter(|is_own| **is_own).count();
        if own == 1 && seen.last() == Some(&true) { Treatment::Reset } else { Treatment::Serve }
    })
    .await;
    stage.assignment.own_arms = OwnArms::Allowed { turn: 3 };
    let record = stage.probe().await;
    assert_eq!(outcome(&record, Arm::Main), Some(&TlsOutcome::Reset));
    assert_eq!(is_completed(&record, Arm::FreshTuple), Some(true));
    let shape = |arm| record.tls.iter().find(|step| step.arm == arm).map(|step| step.hello_shape.clone());
    assert_eq!(shape(Arm::FreshTuple), shape(Arm::Main));
    assert_eq!(stage.seen.ports.lock().unwrap().len(), record.tls.len(), "a source port each");
    let end = |arm| record.tls.iter().find(|step| step.arm == arm).map(|step| step.span).unwrap();
    let pause = end(Arm::FreshTuple).start_micros - end(Arm::NeutralSni).start_micros;
    assert!(pause >= 1_000_000, "{pause}");
}

#[tokio::test]
async fn another_port_of_a_failed_address_is_tried() {
    let stage = stage(by_name).await;
    let record = stage.probe().await;
    let others: Vec<_> = record.tcp.iter().filter(|step| step.arm == Arm::OtherPort).collect();
    let [other] = others[..] else { panic!("{record:?}") };
    assert_eq!((other.address, &other.outcome), (SocketAddr::new(loopback(2), 443), &TcpOutcome::Refused));
}

#[tokio::test]
async fn another_port_is_tried_where_none_connects_and_no_name_is_shown() {
    let authority = Authority::new();
    let (_closed, address) = closed_port(loopback(5));
    let port = address.port();
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(5)]))]).await;
    let settings = settings(&authority, system, None);
    let record = probe(&settings, &format!("https://{HOST}:{port}/")).await.record;
    let arms: Vec<Arm> = record.tcp.iter().map(|step| step.arm).collect();
    assert_eq!((arms, record.tls.len()), (vec![Arm::Main, Arm::OtherPort], 0));
}

#[tokio::test]
async fn every_address_is_connected_to_beside_a_visit_that_needs_one() {
    let authority = Authority::new();
    let [first, second] = two_listeners().await;
    let port = first.local_addr().unwrap().port();
    tls_server(first, vec![("", Front::Serve(authority.server(&[HOST]), real_page()))]).await;
    // Nobody accepts there: the kernel connects.
    let _second = second;
    let all: Vec<_> = (2..=6).map(loopback).collect();
    let system = resolver(&[(HOST, Reply::Addresses(all.clone()))]).await;
    let measured = probe(&settings(&authority, system, None), &format!("https://{HOST}:{port}/")).await;
    assert!(measured.is_reached);
    let each: Vec<_> = (measured.record.tcp.iter())
        .filter(|step| step.arm == Arm::EachAddress)
        .map(|step| (step.address, step.outcome.clone()))
        .collect();
    let expected = [TcpOutcome::Connected, TcpOutcome::Refused, TcpOutcome::Refused];
    let expected: Vec<_> = all[1..4].iter().map(|ip| SocketAddr::new(*ip, port)).zip(expected).collect();
    assert_eq!(each, expected, "four addresses in all");
    assert_eq!((measured.record.tls.len(), measured.record.http.len()), (1, 1));
}

#[tokio::test]
async fn a_walk_ends_at_the_hop_that_answers_and_asks_there_by_the_neutral_name() {
    let stage = stage(|seen| match seen.last() {
        Some(true) => Treatment::Reset,
        _ => Treatment::Serve,
    })
    .await;
    let record = stage.probe().await;
    let shown_before = stage.seen.names.lock().unwrap().len();
    let walked = hops::walk(&stage.settings, &record, Duration::ZERO).await;
    // On loopback everything is one hop away.
    let told: Vec<_> = walked.iter().map(|probe| (probe.sni.as_str(), probe.ttl, probe.address)).collect();
    assert_eq!(told, [(HOST, 1, stage.address), (NEUTRAL, 1, stage.address)]);
    assert_eq!(walked[0].outcome, TlsOutcome::Reset);
    assert!(matches!(walked[1].outcome, TlsOutcome::Completed { .. }), "{walked:?}");
    assert!(walked[0].span.start_micros >= record.duration_micros);
    assert_eq!(stage.seen.names.lock().unwrap()[shown_before..], [true, false]);
    let found = answering_hop(&walked, HOST).unwrap();
    assert_eq!((found.hop, found.path_min, found.is_on_the_way()), (1, 1, false));
}

#[tokio::test]
async fn a_mirror_over_plain_http_has_no_hello_to_walk_with() {
    let authority = Authority::new();
    let address = http_server(real_page()).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![address.ip()]))]).await;
    let settings = settings(&authority, system, None);
    let record = probe(&settings, &format!("http://{HOST}:{}/", address.port())).await.record;
    assert_eq!(hops::walk(&settings, &record, Duration::ZERO).await, []);
}
