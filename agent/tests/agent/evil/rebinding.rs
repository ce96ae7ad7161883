//! Rebinding: a name that leads to a public address until it is believed, and home from then on. Whatever turns, and
//! when: no step, no redirect and no arm goes there. Inside a namespace, where home would answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use zerkalo_agent::probe::connect::Ranges;
use zerkalo_agent::probe::flow::Flow;
use zerkalo_agent::probe::{Assignment, ProbeSettings};
use zerkalo_core::record::{Arm, TcpOutcome};
use zerkalo_core::target::TargetUrl;

use super::ground::{evil_resolver, linger, read_head};
use super::namespace;
use super::packets::{A, AAAA, INTERNET, Packet, SAME_NAME, kind};
use crate::world::{Authority, HOST, IMPATIENCE, assignment, probe_as, settings};

/// The test that starts itself once more in a namespace.
const SELF: &str = "evil::rebinding::a_name_that_turns_home_is_followed_by_no_step_redirect_or_arm";
/// Home: each is an address of the namespace, and the mirror's server answers there as well.
const HOME: [&str; 6] =
    ["10.0.0.1", "192.168.0.1", "169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::1", "fd00::1"];
/// How many questions of one kind are answered honestly: a visit asks for a name once or twice.
const HONEST_MAX: usize = 4;
/// Hops of the longest chain of redirects.
const HOPS_MAX: usize = 4;

/// How a connection is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Closed at once: the visit fails, and every arm is tried.
    Closing,
    /// Each request is sent on to the next name.
    Redirecting,
}

/// A server at every address of the namespace, and how often it was called at another than a public one.
struct Mirror {
    port: u16,
    strayed: Arc<AtomicUsize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_home_is_followed_by_no_step_redirect_or_arm() {
    if namespace::is_inside() {
        nobody_goes_home().await;
    } else {
        tokio::task::block_in_place(|| namespace::run_inside(SELF));
    }
}

async fn nobody_goes_home() {
    let (mut refused, mut arms) = (0, BTreeSet::new());
    for manner in [Manner::Closing, Manner::Redirecting] {
        for honest in 0..=HONEST_MAX {
            let mirror = start(manner).await;
            let (settings, assignment) =
                (settings_of(honest, Ranges::PublicOnly).await, everything(&mirror, manner));
            let record = probe_as(&settings, &assignment).await.record;
            for step in &record.tcp {
                let is_home = zerkalo_core::address::require_public(step.address.ip()).is_err();
                let is_refused = matches!(step.outcome, TcpOutcome::Forbidden(_));
                assert_eq!(is_home, is_refused, "{manner:?}, {honest} honest: {step:?}");
                if is_refused {
                    (refused, _) = (refused + 1, arms.insert(format!("{:?}", step.arm)));
                }
            }
            assert!(record.quic.is_empty(), "nobody offered it: {:?}", record.quic);
            assert_eq!(
                mirror.strayed.load(Ordering::SeqCst),
                0,
                "{manner:?}, {honest} honest: it was called at home"
            );
        }
    }
    assert!(refused >= 20, "{refused} refusals");
    for arm in [Arm::Main, Arm::OtherResolver, Arm::EachAddress, Arm::FieldAddress, Arm::ReferenceObject] {
        assert!(arms.contains(&format!("{arm:?}")), "{arm:?} was never led home, only {arms:?}");
    }
    println!("{refused} refusals, by the arms {arms:?}");
    // Home is there: who may go is seen.
    let mirror = start(Manner::Closing).await;
    let settings = settings_of(0, Ranges::Any).await;
    probe_as(&settings, &everything(&mirror, Manner::Closing)).await;
    assert!(mirror.strayed.load(Ordering::SeqCst) > 0);
}

/// A probe with every arm there is, each of which has a way home.
fn everything(mirror: &Mirror, manner: Manner) -> Assignment {
    let scheme = if manner == Manner::Closing { "https" } else { "http" };
    let url = |host: &str| TargetUrl::parse(&format!("{scheme}://{host}:{}/", mirror.port)).unwrap();
    Assignment {
        field_addresses: HOME.map(|home| home.parse().unwrap()).to_vec(),
        control_address: Some(SocketAddr::new(HOME[0].parse().unwrap(), mirror.port)),
        flow: Flow { large_page: Some(url(HOST)), reference_object: Some(url("object.example")) },
        ..assignment(url(HOST).as_str())
    }
}

/// The system's resolver answers `honest` questions of a kind for a name honestly; the public one none.
async fn settings_of(honest: usize, ranges: Ranges) -> ProbeSettings {
    let (system, public) = (rebinding(honest).await, rebinding(0).await);
    let mut settings = ProbeSettings { ranges, ..settings(&Authority::new(), system, Some(public)) };
    settings.caps.dns = IMPATIENCE;
    settings
}

/// A resolver that answers so many questions with a public address: of the mirror's name by their number, of the names
/// of a chain of redirects by their place in it. To all others it says home.
async fn rebinding(honest: usize) -> SocketAddr {
    let asked = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let answer = move |question: &[u8]| {
        let (has, kind) =
            (|text: &[u8]| question.windows(text.len()).any(|part| part == text), kind(question));
        let hop = (0..=HOPS_MAX).find(|hop| has(format!("\x01{hop}\x04turn").as_bytes()));
        let place = match (hop, kind) {
            (Some(hop), _) => hop,
            (None, A) => asked[0].fetch_add(1, Ordering::SeqCst),
            (None, _) => asked[1].fetch_add(1, Ordering::SeqCst),
        };
        let addresses: Vec<IpAddr> = if place < honest && !has(b"\x06object") {
            namespace::PUBLIC.map(IpAddr::from).to_vec()
        } else {
            HOME.map(|home| home.parse().unwrap()).to_vec()
        };
        let mut packet = Packet::to(question);
        for address in addresses {
            packet = match address {
                IpAddr::V4(v4) if kind == A => packet.record(SAME_NAME, A, INTERNET, &v4.octets()),
                IpAddr::V6(v6) if kind == AAAA => packet.record(SAME_NAME, AAAA, INTERNET, &v6.octets()),
                _ => packet,
            };
        }
        vec![packet.bytes()]
    };
    evil_resolver(answer, linger).await
}

async fn start(manner: Manner) -> Mirror {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let mirror = Mirror { port: listener.local_addr().unwrap().port(), strayed: Arc::default() };
    let (port, strayed) = (mirror.port, mirror.strayed.clone());
    tokio::spawn(async move {
        let hops = Arc::new(AtomicUsize::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let at = stream.local_addr().map(|at| at.ip().to_canonical());
            if !at.is_ok_and(|at| namespace::PUBLIC.map(IpAddr::from).contains(&at)) {
                strayed.fetch_add(1, Ordering::SeqCst);
            }
            if manner == Manner::Redirecting {
                let hops = hops.clone();
                tokio::spawn(async move { drop(send_on(stream, port, &hops).await) });
            }
        }
    });
    mirror
}

/// To `0.turn.example`, `1.turn.example` and so on, and round again.
async fn send_on(mut stream: TcpStream, port: u16, hops: &AtomicUsize) -> std::io::Result<()> {
    loop {
        read_head(&mut stream).await?;
        let hop = hops.fetch_add(1, Ordering::SeqCst) % (HOPS_MAX + 1);
        let head = format!(
            "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: http://{hop}.turn.example:{port}/\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
    }
}
