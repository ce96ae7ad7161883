//! The roads of DNS: EDNS, HTTPS records, and what a failed visit asks for over TCP, TLS, HTTPS and of nobody.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use tokio::net::TcpListener;
use zerkalo_agent::probe::ProbeSettings;
use zerkalo_agent::probe::resolvers::{Matrix, parse_doh, parse_dot};
use zerkalo_core::record::{
    Arm, DnsExchange, DnsOutcome, DnsTransport, HttpsService, ProbeRecord, QueryType, ResolverKind,
};

use crate::dns_servers::{Log, Manner, RESOLVER, Speech, start};
use crate::world::*;

/// A mirror at 127.0.0.2 whose name the system's resolver denies, so that every other road is gone too.
struct Denied {
    authority: Authority,
    url: String,
    system: SocketAddr,
}

impl Denied {
    async fn new() -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tls_server(listener, vec![("", Front::Serve(authority.server(&[HOST]), real_page()))]).await;
        let system = resolver(&[(HOST, Reply::Rcode(ResponseCode::NXDomain))]).await;
        Self { authority, url: format!("https://{HOST}:{port}/"), system }
    }

    fn settings(&self, public: Option<SocketAddr>, matrix: Matrix) -> ProbeSettings {
        let mut settings = settings(&self.authority, self.system, public);
        settings.resolvers = settings.resolvers.with(matrix);
        settings
    }

    /// The same where something is to stay silent.
    fn impatient(&self, matrix: Matrix) -> ProbeSettings {
        let mut settings = self.settings(None, matrix);
        settings.caps.dns = IMPATIENCE;
        settings
    }

    /// With one resolver over TLS or HTTPS.
    async fn ask(
        &self,
        config: Arc<rustls::ServerConfig>,
        speech: Speech,
        manner: Manner,
    ) -> (ProbeRecord, Log) {
        let (address, log) = start(config, speech, manner).await;
        let settings = self.settings(None, matrix_of(speech, address));
        (probe(&settings, &self.url).await.record, log)
    }

    /// With one that leaves something unanswered.
    async fn ask_in_vain(&self, speech: Speech, manner: Manner) -> (ProbeRecord, Log) {
        let (address, log) = start(self.authority.server(&[RESOLVER]), speech, manner).await;
        let settings = self.impatient(matrix_of(speech, address));
        (probe(&settings, &self.url).await.record, log)
    }

    async fn ask_honestly_certified(&self, speech: Speech, manner: Manner) -> (ProbeRecord, Log) {
        self.ask(self.authority.server(&[RESOLVER]), speech, manner).await
    }
}

fn matrix_of(speech: Speech, address: SocketAddr) -> Matrix {
    let dot = (speech == Speech::Plain).then(|| parse_dot(&format!("{RESOLVER}@{address}")).unwrap());
    let doh = (speech != Speech::Plain).then(|| {
        let url = format!("https://{RESOLVER}:{}/dns-query@{}", address.port(), address.ip());
        parse_doh(&url).unwrap()
    });
    Matrix { dot, doh, ..Matrix::default() }
}

fn transport_of(speech: Speech) -> DnsTransport {
    if speech == Speech::Plain { DnsTransport::Dot } else { DnsTransport::Doh }
}

#[track_caller]
fn exchange(
    record: &ProbeRecord,
    resolver: ResolverKind,
    transport: DnsTransport,
    query: QueryType,
) -> &DnsExchange {
    let is_wanted =
        |step: &&DnsExchange| (step.resolver, step.transport, step.query) == (resolver, transport, query);
    let mut found = record.dns.iter().filter(is_wanted);
    let exchange = found.next().unwrap_or_else(|| panic!("nobody asked: {:?}", record.dns));
    assert!(found.next().is_none(), "asked twice: {:?}", record.dns);
    exchange
}

fn truth() -> Reply {
    Reply::Addresses(vec![loopback(2)])
}

fn honest() -> Manner {
    Manner::Answer(replies_of(&[(HOST, Reply::Services(vec![loopback(2)]))]))
}

fn service() -> HttpsService {
    HttpsService {
        priority: 1,
        target: String::new(),
        alpn: vec!["h2".to_owned(), "h3".to_owned()],
        hints: vec![loopback(2)],
        ech_config: ECH_CONFIG.to_vec(),
    }
}

const ENCRYPTED: [Speech; 3] = [Speech::Plain, Speech::Http1, Speech::Http2];

#[tokio::test]
async fn https_records_are_kept_with_all_they_hold_before_anything_is_compared() {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tls_server(listener, vec![("", Front::Reset)]).await;
    let reply = Reply::Services(vec![loopback(2)]);
    let (system, public) = (resolver(&[(HOST, reply.clone())]).await, resolver(&[(HOST, reply)]).await);
    let record =
        probe(&settings(&authority, system, Some(public)), &format!("https://{HOST}:{port}/")).await.record;
    for kind in [ResolverKind::System, ResolverKind::Public] {
        let step = exchange(&record, kind, DnsTransport::Udp, QueryType::Https);
        assert_eq!(step.detail.services, [service()]);
        assert!(
            matches!(&step.outcome, DnsOutcome::Answer { rcode: 0, addresses, ttl_min_secs: 20, .. } if addresses.is_empty()),
            "{step:?}"
        );
        let arm = record.tls.iter().find(|step| step.arm != Arm::Main).unwrap();
        assert!(step.span.start_micros + step.span.duration_micros <= arm.span.start_micros, "{record:?}");
    }
}

#[tokio::test]
async fn a_healthy_visit_waits_for_no_https_record_and_takes_no_other_road() {
    let authority = Authority::new();
    let address = http_server(real_page()).await;
    let reply = Reply::OldTypes(vec![address.ip()]);
    let (system, public) = (resolver(&[(HOST, reply.clone())]).await, resolver(&[(HOST, reply)]).await);
    let (dot, log) = start(authority.server(&[RESOLVER]), Speech::Plain, honest()).await;
    let mut settings = settings(&authority, system, Some(public));
    let nobody = resolver(&[(HOST, truth())]).await;
    settings.resolvers =
        settings.resolvers.with(Matrix { nobody: Some(nobody), ..matrix_of(Speech::Plain, dot) });
    let measured = probe(&settings, &format!("http://{HOST}:{}/", address.port())).await;
    assert!(measured.is_reached);
    let record = measured.record;
    for kind in [ResolverKind::System, ResolverKind::Public] {
        let step = exchange(&record, kind, DnsTransport::Udp, QueryType::Https);
        assert_eq!(step.outcome, DnsOutcome::Timeout);
        // Given up with the visit: left alone it would have had three seconds.
        assert!(step.span.duration_micros < 3_000_000, "{step:?}");
    }
    let is_plain =
        |step: &DnsExchange| step.transport == DnsTransport::Udp && step.resolver != ResolverKind::Nobody;
    assert!(record.dns.iter().all(is_plain), "{:?}", record.dns);
    assert!(log.lock().unwrap().names.is_empty());
}

#[tokio::test]
async fn an_answer_is_kept_with_its_flags_and_payload() {
    let denied = Denied::new().await;
    let public = resolver(&[(HOST, truth())]).await;
    let record = probe(&denied.settings(Some(public), Matrix::default()), &denied.url).await.record;
    for transport in [DnsTransport::Udp, DnsTransport::Tcp] {
        let detail = &exchange(&record, ResolverKind::Public, transport, QueryType::A).detail;
        assert_eq!(detail.edns_payload_len, Some(1_400));
        assert_eq!(
            (detail.is_authoritative, detail.is_recursion_available, detail.is_authenticated),
            (false, true, false)
        );
    }
    // A refusal without EDNS, as injectors send it.
    let refused = exchange(&record, ResolverKind::System, DnsTransport::Udp, QueryType::A);
    assert_eq!(refused.detail.edns_payload_len, None);
}

#[tokio::test]
async fn a_resolver_that_never_heard_of_edns_is_asked_without() {
    let authority = Authority::new();
    let address = http_server(real_page()).await;
    let system = resolver(&[(HOST, Reply::OldFashioned(vec![address.ip()]))]).await;
    let measured =
        probe(&settings(&authority, system, None), &format!("http://{HOST}:{}/", address.port())).await;
    assert!(measured.is_reached, "{:?}", measured.record.dns);
    let step = exchange(&measured.record, ResolverKind::System, DnsTransport::Udp, QueryType::A);
    assert_eq!(step.detail.edns_payload_len, None);
}

#[tokio::test]
async fn the_truth_comes_by_the_one_road_that_is_open_and_is_visited() {
    let denied = Denied::new().await;
    let lie = Reply::Addresses(vec![loopback(9)]);
    for speech in ENCRYPTED {
        let public = resolver(&[(HOST, lie.clone())]).await;
        let (address, log) = start(denied.authority.server(&[RESOLVER]), speech, honest()).await;
        let settings = denied.settings(Some(public), matrix_of(speech, address));
        let record = probe(&settings, &denied.url).await.record;
        let transport = transport_of(speech);
        let step = exchange(&record, ResolverKind::Public, transport, QueryType::A);
        assert!(
            matches!(&step.outcome, DnsOutcome::Answer { rcode: 0, addresses, .. } if addresses == &[loopback(2)]),
            "{step:?}"
        );
        assert_eq!((step.server, step.detail.edns_payload_len), (address, Some(1_400)));
        let services = exchange(&record, ResolverKind::Public, transport, QueryType::Https);
        assert_eq!(services.detail.services, [service()]);
        let [page] = &record.http[..] else { panic!("{record:?}") };
        assert_eq!((page.arm, page.canary_found), (Arm::OtherResolver, Some(true)));
        // One connection, under the resolver's own name, carried all three.
        let seen = log.lock().unwrap();
        assert_eq!((&seen.names[..], seen.questions), (&[RESOLVER.to_owned()][..], 3));
    }
}

#[tokio::test]
async fn the_systems_resolver_is_asked_by_tcp_for_comparison_alone() {
    let denied = Denied::new().await;
    let mut settings = denied.settings(None, Matrix::default());
    let split = Reply::ByTransport(vec![loopback(9)], vec![loopback(2)]);
    settings.resolvers.system = vec![resolver(&[(HOST, split)]).await];
    let record = probe(&settings, &denied.url).await.record;
    let by_tcp = exchange(&record, ResolverKind::System, DnsTransport::Tcp, QueryType::A);
    assert!(matches!(&by_tcp.outcome, DnsOutcome::Answer { addresses, .. } if addresses == &[loopback(2)]));
    assert_eq!(record.resolved(ResolverKind::System), [loopback(9)]);
    assert!(record.tcp.iter().all(|step| step.address.ip() == loopback(9)), "{:?}", record.tcp);
}

#[tokio::test]
async fn who_cannot_prove_to_be_the_resolver_is_asked_nothing() {
    let denied = Denied::new().await;
    for speech in ENCRYPTED {
        for config in [denied.authority.server(&["other.example"]), self_signed(&[RESOLVER]).0] {
            let (record, log) = denied.ask(config, speech, honest()).await;
            let step = exchange(&record, ResolverKind::Public, transport_of(speech), QueryType::A);
            assert!(
                matches!(&step.outcome, DnsOutcome::Failed(why) if why.contains("not the resolver's certificate")),
                "{step:?}"
            );
            let seen = log.lock().unwrap();
            assert_eq!((seen.names.len(), seen.questions), (1, 0));
        }
    }
}

#[tokio::test]
async fn lies_told_under_the_resolvers_own_name_are_facts_too() {
    let denied = Denied::new().await;
    let liar = Manner::Answer(replies_of(&[(HOST, Reply::Addresses(vec![loopback(9)]))]));
    for speech in ENCRYPTED {
        let (record, _) = denied.ask_honestly_certified(speech, liar.clone()).await;
        assert_eq!(record.resolved(ResolverKind::Public), [loopback(9)]);
    }
}

#[tokio::test]
async fn silence_after_the_handshake_is_a_timeout() {
    let denied = Denied::new().await;
    let silent = Manner::Answer(replies_of(&[(HOST, Reply::Silence)]));
    for speech in ENCRYPTED {
        let (record, log) = denied.ask_in_vain(speech, silent.clone()).await;
        let step = exchange(&record, ResolverKind::Public, transport_of(speech), QueryType::Aaaa);
        assert_eq!(step.outcome, DnsOutcome::Timeout);
        assert!(log.lock().unwrap().questions > 0);
    }
}

#[tokio::test]
async fn silence_before_the_handshake_is_a_timeout_and_a_closed_port_a_failure() {
    let denied = Denied::new().await;
    for speech in ENCRYPTED {
        let silent = TcpListener::bind((loopback(1), 0)).await.unwrap();
        let address = silent.local_addr().unwrap();
        let record = probe(&denied.impatient(matrix_of(speech, address)), &denied.url).await.record;
        let step = exchange(&record, ResolverKind::Public, transport_of(speech), QueryType::A);
        assert_eq!(step.outcome, DnsOutcome::Timeout);
        let (_closed, address) = closed_port(loopback(1));
        let settings = denied.settings(None, matrix_of(speech, address));
        let record = probe(&settings, &denied.url).await.record;
        let step = exchange(&record, ResolverKind::Public, transport_of(speech), QueryType::A);
        assert!(matches!(&step.outcome, DnsOutcome::Failed(why) if why.starts_with("TCP")), "{step:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_failure_that_says_why() {
    let denied = Denied::new().await;
    let http = |status, kind, body| Manner::Http(status, kind, body);
    let message = "application/dns-message";
    let cases = [
        (Speech::Plain, Manner::Garbage, "cannot be read"),
        (Speech::Plain, Manner::Torn, "eof"),
        (Speech::Plain, Manner::OtherQuestions, "other questions"),
        (Speech::Http1, Manner::Garbage, "cannot be read"),
        (Speech::Http2, Manner::Garbage, "cannot be read"),
        (Speech::Http2, http(403, message, vec![]), "HTTP status 403"),
        (
            Speech::Http1,
            http(200, "text/html", b"<html>pay your bill</html>".to_vec()),
            "without a DNS message",
        ),
        (Speech::Http2, http(200, message, vec![0; 1_000_000]), "length limit"),
        (Speech::Http1, http(200, message, vec![0; 1_000_000]), "length limit"),
        (Speech::Http2, http(200, message, [0; 12].to_vec()), "another question"),
    ];
    for (speech, manner, part) in cases {
        let (record, _) = denied.ask_honestly_certified(speech, manner).await;
        let step = exchange(&record, ResolverKind::Public, transport_of(speech), QueryType::A);
        assert!(
            matches!(&step.outcome, DnsOutcome::Failed(why) if why.contains(part)),
            "{part} is missing in {step:?}"
        );
    }
}

#[tokio::test]
async fn what_came_before_the_stream_broke_is_kept() {
    let denied = Denied::new().await;
    // The name's addresses are known, its HTTPS record is not: that question is never answered.
    let half = Manner::Answer(replies_of(&[(HOST, Reply::OldTypes(vec![loopback(2)]))]));
    for speech in [Speech::Plain, Speech::Http2] {
        let (record, _) = denied.ask_in_vain(speech, half.clone()).await;
        let of = |query| &exchange(&record, ResolverKind::Public, transport_of(speech), query).outcome;
        assert!(matches!(of(QueryType::A), DnsOutcome::Answer { .. }), "{record:?}");
        assert_eq!(of(QueryType::Https), &DnsOutcome::Timeout);
    }
}

#[tokio::test]
async fn an_address_without_a_resolver_is_asked_and_an_answer_from_there_kept() {
    let denied = Denied::new().await;
    let asked = async |nobody: SocketAddr| {
        let matrix = Matrix { nobody: Some(nobody), ..Matrix::default() };
        let record = probe(&denied.impatient(matrix), &denied.url).await.record;
        let step = exchange(&record, ResolverKind::Nobody, DnsTransport::Udp, QueryType::A);
        (step.outcome.clone(), record.tcp.len())
    };
    let injected = resolver(&[(HOST, Reply::Addresses(vec![loopback(9)]))]).await;
    let (outcome, visits) = asked(injected).await;
    assert!(matches!(outcome, DnsOutcome::Answer { addresses, .. } if addresses == [loopback(9)]));
    // Whoever said so, nobody goes there.
    assert_eq!(visits, 0);
    assert_eq!(asked(resolver(&[(HOST, Reply::Silence)]).await).await.0, DnsOutcome::Timeout);
    let closed = SocketAddr::new(loopback(1), SILENT_PORT);
    assert!(matches!(asked(closed).await.0, DnsOutcome::Failed(_)));
}

#[tokio::test]
async fn a_resolvers_name_is_shown_three_times_in_a_minute_at_most() {
    let denied = Denied::new().await;
    let (address, log) = start(denied.authority.server(&[RESOLVER]), Speech::Plain, honest()).await;
    let settings = denied.settings(None, matrix_of(Speech::Plain, address));
    for round in 1..=5 {
        let record = probe(&settings, &denied.url).await.record;
        let is_asked = record.dns.iter().any(|step| step.transport == DnsTransport::Dot);
        assert_eq!(is_asked, round <= 3, "round {round}");
    }
    assert_eq!(log.lock().unwrap().names.len(), 3);
}
