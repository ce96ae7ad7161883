//! DNS steps, and the arm over the other resolver's addresses.

use hickory_proto::op::ResponseCode;
use tokio::net::TcpListener;
use zerkalo_agent::probe::connect::Ranges;
use zerkalo_core::record::{
    Arm, DnsExchange, DnsOutcome, DnsTransport, HttpOutcome, ProbeRecord, QueryType, ResolverKind, TcpOutcome,
};

use crate::world::*;

fn dns(record: &ProbeRecord, resolver: ResolverKind) -> &DnsOutcome {
    let step = record.dns.iter().find(|step| step.resolver == resolver && step.query == QueryType::A);
    &step.unwrap().outcome
}

/// A mirror at 127.0.0.2 and what the system's and the public resolver say of it.
async fn measure_with(system: Reply, public: Reply) -> ProbeRecord {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tls_server(listener, vec![("", Front::Serve(authority.server(&[HOST]), real_page()))]).await;
    let has_silence = [&system, &public].iter().any(|reply| matches!(reply, Reply::Silence));
    let (system, public) = (resolver(&[(HOST, system)]).await, resolver(&[(HOST, public)]).await);
    let mut settings = settings(&authority, system, Some(public));
    if has_silence {
        settings.caps.dns = IMPATIENCE;
    }
    probe(&settings, &format!("https://{HOST}:{port}/")).await.record
}

fn exchange(record: &ProbeRecord, resolver: ResolverKind, transport: DnsTransport) -> &DnsExchange {
    let is_wanted = |step: &&DnsExchange| {
        (step.resolver, step.transport, step.query) == (resolver, transport, QueryType::A)
    };
    record.dns.iter().find(is_wanted).unwrap()
}

fn truth() -> Reply {
    Reply::Addresses(vec![loopback(2)])
}

#[tokio::test]
async fn every_answer_is_kept_whole() {
    let record = measure_with(truth(), truth()).await;
    // Two addresses and the services, of each resolver.
    assert_eq!(record.dns.len(), 6);
    for kind in [ResolverKind::System, ResolverKind::Public] {
        let expected = DnsOutcome::Answer {
            rcode: 0,
            addresses: vec![loopback(2)],
            cnames: vec!["front.example".to_owned()],
            ttl_min_secs: 30,
        };
        assert_eq!(dns(&record, kind), &expected);
    }
    assert!(record.http.iter().all(|step| step.arm == Arm::Main));
}

#[tokio::test]
async fn refusals_are_answers_and_the_other_resolvers_addresses_are_tried() {
    for (rcode, number) in
        [(ResponseCode::NXDomain, 3), (ResponseCode::Refused, 5), (ResponseCode::ServFail, 2)]
    {
        let record = measure_with(Reply::Rcode(rcode), truth()).await;
        assert!(
            matches!(dns(&record, ResolverKind::System), DnsOutcome::Answer { rcode, addresses, .. } if *rcode == number && addresses.is_empty())
        );
        let [step] = &record.http[..] else { panic!("{record:?}") };
        assert_eq!((step.arm, &step.outcome), (Arm::OtherResolver, &HttpOutcome::Complete));
        assert_eq!(step.canary_found, Some(true));
    }
}

#[tokio::test]
async fn a_silent_resolver_is_a_timeout() {
    let record = measure_with(Reply::Silence, Reply::Silence).await;
    assert_eq!(dns(&record, ResolverKind::System), &DnsOutcome::Timeout);
    assert!(record.tcp.is_empty() && record.tls.is_empty() && record.http.is_empty());
}

#[tokio::test]
async fn an_unreadable_answer_is_a_failure() {
    let record = measure_with(Reply::Garbage, truth()).await;
    let outcome = dns(&record, ResolverKind::System);
    assert!(matches!(outcome, DnsOutcome::Failed(why) if why.contains("cannot be read")), "{outcome:?}");
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_by_tcp() {
    let record = measure_with(Reply::Truncated(vec![loopback(2)]), truth()).await;
    assert_eq!(record.resolved(ResolverKind::System), [loopback(2)]);
}

#[tokio::test]
async fn the_second_system_resolver_is_asked_where_the_first_is_silent() {
    let authority = Authority::new();
    let address = http_server(real_page()).await;
    let silent = resolver(&[(HOST, Reply::Silence)]).await;
    let second = resolver(&[(HOST, Reply::Addresses(vec![address.ip()]))]).await;
    let mut settings = settings(&authority, silent, None);
    settings.resolvers.system.push(second);
    settings.caps.dns = IMPATIENCE;
    let measured = probe(&settings, &format!("http://{HOST}:{}/", address.port())).await;
    assert!(measured.is_reached);
    let servers: Vec<_> = measured.record.dns.iter().map(|step| step.server).collect();
    // The services are asked for beside, of the first.
    assert_eq!(servers, [silent, silent, second, second, silent]);
}

#[tokio::test]
async fn a_false_address_is_visited_and_so_is_the_true_one() {
    let authority = Authority::new();
    let [stub, mirror] = two_listeners().await;
    let port = stub.local_addr().unwrap().port();
    let block_page = always(page("<title>Доступ ограничен</title>".as_bytes()), After::Continue);
    tls_server(stub, vec![("", Front::Serve(self_signed(&["stub.example"]).0, block_page))]).await;
    tls_server(mirror, vec![("", Front::Serve(authority.server(&[HOST]), real_page()))]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2)]))]).await;
    let public = resolver(&[(HOST, Reply::Addresses(vec![loopback(3)]))]).await;
    let settings = settings(&authority, system, Some(public));
    let measured = probe(&settings, &format!("https://{HOST}:{port}/")).await;
    assert!(!measured.is_reached);
    let [main, other] = &measured.record.http[..] else { panic!("{:?}", measured.record) };
    assert_eq!((main.arm, main.address.ip(), main.canary_found), (Arm::Main, loopback(2), Some(false)));
    assert_eq!(main.title.as_deref(), Some("Доступ ограничен"));
    assert_eq!((other.arm, other.address.ip()), (Arm::OtherResolver, loopback(3)));
    assert_eq!(other.canary_found, Some(true));
}

#[tokio::test]
async fn special_ranges_are_never_connected_to_without_the_hosts_leave() {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let lies = vec![loopback(2), "10.0.0.1".parse().unwrap()];
    let system = resolver(&[(HOST, Reply::Addresses(lies))]).await;
    let mut settings = settings(&authority, system, None);
    settings.ranges = Ranges::PublicOnly;
    let record = probe(&settings, &format!("https://{HOST}:{port}/")).await.record;
    let of_visit = record.tcp.iter().filter(|step| step.arm == Arm::Main);
    let outcomes: Vec<_> = of_visit.map(|step| &step.outcome).collect();
    assert!(record.tcp.iter().all(|step| matches!(step.outcome, TcpOutcome::Forbidden(_))), "{record:?}");
    assert!(
        matches!(outcomes[..], [TcpOutcome::Forbidden(first), TcpOutcome::Forbidden(second)]
            if first.contains("loopback") && second.contains("private")),
        "{outcomes:?}"
    );
    let accepted = futures::future::FutureExt::now_or_never(listener.accept());
    assert!(accepted.is_none(), "a connection was made all the same");
}

#[tokio::test]
async fn a_closed_port_is_a_refusal_and_the_next_address_is_tried() {
    let authority = Authority::new();
    let (_closed, open) = closed_and_open().await;
    let port = open.local_addr().unwrap().port();
    tls_server(open, vec![("", Front::Serve(authority.server(&[HOST]), real_page()))]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2), loopback(3)]))]).await;
    let measured = probe(&settings(&authority, system, None), &format!("https://{HOST}:{port}/")).await;
    let of_visit = measured.record.tcp.iter().filter(|step| step.arm == Arm::Main);
    let outcomes: Vec<_> = of_visit.map(|step| step.outcome.clone()).collect();
    assert_eq!(outcomes, [TcpOutcome::Refused, TcpOutcome::Connected]);
    assert!(measured.is_reached);
}

#[tokio::test]
async fn the_visit_does_not_wait_for_a_silent_public_resolver() {
    let record = measure_with(truth(), Reply::Silence).await;
    let is_public = |step: &&zerkalo_core::record::DnsExchange| step.resolver == ResolverKind::Public;
    let silence = record.dns.iter().find(is_public).unwrap();
    assert_eq!(silence.outcome, DnsOutcome::Timeout);
    let [step] = &record.http[..] else { panic!("{record:?}") };
    assert!(step.span.start_micros < silence.span.start_micros + silence.span.duration_micros, "{record:?}");
    assert_eq!((step.arm, step.canary_found), (Arm::Main, Some(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_that_came_second_is_kept_with_its_arrival() {
    let lie = vec![loopback(9)];
    let record = measure_with(Reply::Race(vec![lie.clone(), vec![loopback(2)], lie.clone()]), truth()).await;
    let taken = exchange(&record, ResolverKind::System, DnsTransport::Udp);
    let DnsOutcome::Answer { addresses, .. } = &taken.outcome else { panic!("{taken:?}") };
    assert_eq!(addresses, &lie);
    let heard: Vec<_> = taken.others.iter().map(|other| (other.matches_question, &other.addresses)).collect();
    assert_eq!(heard, [(true, &vec![loopback(2)]), (true, &lie)]);
    let taken_micros = taken.span.start_micros + taken.span.duration_micros;
    assert!(taken.others.iter().all(|other| other.arrived_micros >= taken_micros), "{taken:?}");
    assert_eq!((taken.others[0].rcode, taken.others[0].ttl_min_secs), (0, 30));
}

#[tokio::test]
async fn what_came_during_a_healthy_visit_is_kept_too() {
    let record = measure_with(Reply::Race(vec![vec![loopback(2)], vec![loopback(9)]]), truth()).await;
    let [step] = &record.http[..] else { panic!("{record:?}") };
    assert_eq!((step.arm, step.canary_found), (Arm::Main, Some(true)));
    let taken = exchange(&record, ResolverKind::System, DnsTransport::Udp);
    assert_eq!(taken.others.len(), 1, "{taken:?}");
    assert_eq!(taken.others[0].addresses, [loopback(9)]);
    assert!(record.dns.iter().all(|step| step.transport == DnsTransport::Udp), "{record:?}");
}

#[tokio::test]
async fn more_answers_than_the_limit_are_not_kept() {
    let flood = Reply::Race(vec![vec![loopback(9)]; 200]);
    let record = measure_with(flood, truth()).await;
    let taken = exchange(&record, ResolverKind::System, DnsTransport::Udp);
    assert_eq!(taken.others.len(), zerkalo_core::record::DNS_OTHERS_MAX);
}

#[tokio::test]
async fn a_stray_before_the_answer_is_kept_as_one() {
    let record = measure_with(Reply::Stray(vec![loopback(2)]), truth()).await;
    assert_eq!(record.resolved(ResolverKind::System), [loopback(2)]);
    let taken = exchange(&record, ResolverKind::System, DnsTransport::Udp);
    let [stray] = &taken.others[..] else { panic!("{taken:?}") };
    assert!(!stray.matches_question && stray.addresses.is_empty());
}

#[tokio::test]
async fn the_public_resolver_is_asked_by_tcp_where_the_visit_failed_and_its_addresses_are_tried() {
    let lie = vec![loopback(9)];
    let system = Reply::Addresses(lie.clone());
    let record = measure_with(system, Reply::ByTransport(lie.clone(), vec![loopback(2)])).await;
    let [udp, tcp] = [DnsTransport::Udp, DnsTransport::Tcp].map(|transport| {
        let step = exchange(&record, ResolverKind::Public, transport);
        let DnsOutcome::Answer { addresses, .. } = &step.outcome else { panic!("{step:?}") };
        addresses.clone()
    });
    assert_eq!((udp, tcp), (lie, vec![loopback(2)]));
    let [step] = &record.http[..] else { panic!("{record:?}") };
    assert_eq!((step.arm, step.canary_found), (Arm::OtherResolver, Some(true)));
}

#[tokio::test]
async fn silence_by_tcp_is_recorded_as_such() {
    let record = measure_with(Reply::Rcode(ResponseCode::NXDomain), Reply::Silence).await;
    let tcp = exchange(&record, ResolverKind::Public, DnsTransport::Tcp);
    assert!(matches!(tcp.outcome, DnsOutcome::Failed(_)), "{tcp:?}");
}
