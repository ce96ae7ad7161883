//! Makes a record fit the size that collectors admit. Hostile servers send much; what is shed first is what judges use
//! least: long headers, then whole certificates, then the middle of long chains, answers and redirects.

use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::record::{Certificate, ChainFault, DnsOutcome, ProbeRecord, STEPS_MAX};

use super::text::cut;

/// Room left for the network's check, which is added after the steps: eight of the longest URLs, and what they told.
const REFERENCES_LEN_MAX: usize = 22 * 1024;
/// What a header's value or a certificate's name is cut to, once they are cut.
const SHORT_LEN: usize = 64;
/// Headers that judges read, kept longest; one of each.
const TELLING_HEADERS: [&str; 5] = ["location", "server", "content-type", "alt-svc", "via"];
/// Steps of a kind that are left in the end: the first, and the last few.
const STEPS_LEFT: usize = 4;
/// DNS exchanges left first: those for the mirror's own name come first, and may be as many.
const EXCHANGES_LEFT: usize = 20;
/// DNS exchanges left in the end: the visit's own, and the first of the other roads.
const ROADS_LEFT: usize = 10;
/// HTTPS records left of all answers in the end, each of another one: the system's and the public resolver's.
const SERVICES_LEFT: usize = 2;
/// Other answers left of one question in the end.
const OTHERS_LEFT: usize = 2;
/// Addresses left of one answer in the end.
const ADDRESSES_LEFT: usize = 8;

/// Sheds until the encoded record fits, and no list of steps is longer than collectors take.
pub fn fit(record: &mut ProbeRecord) {
    shed_middles(record);
    const STAGES: [fn(&mut ProbeRecord); 9] = [
        shed_values,
        shed_headers,
        shed_certificates,
        shed_names,
        shed_excerpts,
        shed_answers,
        shed_steps,
        shed_leaves,
        shed_roads,
    ];
    for shed in STAGES {
        if zerkalo_proto::record::encode(record).len() <= BODY_LEN_MAX - REFERENCES_LEN_MAX {
            return;
        }
        shed(record);
    }
}

/// Redirects without end on each of several addresses make more steps than a record may hold: the first ones and the last
/// tell the story.
fn shed_middles(record: &mut ProbeRecord) {
    shed_middle(&mut record.dns);
    shed_middle(&mut record.tcp);
    shed_middle(&mut record.tls);
    shed_middle(&mut record.http);
}

fn shed_middle<T>(steps: &mut Vec<T>) {
    if steps.len() > STEPS_MAX {
        steps.drain(STEPS_MAX / 2..steps.len() - STEPS_MAX / 2);
    }
}

fn shed_values(record: &mut ProbeRecord) {
    for (name, value) in record.http.iter_mut().flat_map(|step| &mut step.headers) {
        if !TELLING_HEADERS.contains(&name.as_str()) {
            cut(value, SHORT_LEN);
        }
        cut(name, SHORT_LEN);
    }
}

fn shed_headers(record: &mut ProbeRecord) {
    for step in &mut record.http {
        let mut left = TELLING_HEADERS.to_vec();
        step.headers.retain(|(name, _)| {
            left.iter().position(|telling| telling == name).map(|index| left.remove(index)).is_some()
        });
    }
}

fn chains(record: &mut ProbeRecord) -> impl Iterator<Item = &mut Vec<Certificate>> {
    let by_tls = record.tls.iter_mut().map(|step| &mut step.chain);
    by_tls.chain(record.quic.iter_mut().map(|step| &mut step.chain))
}

fn shed_certificates(record: &mut ProbeRecord) {
    for certificate in chains(record).flat_map(|chain| chain.iter_mut().skip(1)) {
        certificate.der.clear();
    }
}

fn shed_names(record: &mut ProbeRecord) {
    for certificate in chains(record).flatten() {
        cut(&mut certificate.subject, SHORT_LEN);
        cut(&mut certificate.issuer, SHORT_LEN);
    }
    let by_tls = record.tls.iter_mut().map(|step| &mut step.chain_fault);
    for fault in by_tls.chain(record.quic.iter_mut().map(|step| &mut step.chain_fault)).flatten() {
        if let ChainFault::Other(text) = fault {
            cut(text, SHORT_LEN);
        }
    }
}

fn shed_excerpts(record: &mut ProbeRecord) {
    let last = record.http.len().saturating_sub(1);
    for step in record.http.iter_mut().take(last) {
        step.excerpt.clear();
        step.title.iter_mut().for_each(|title| cut(title, SHORT_LEN));
    }
}

fn shed_answers(record: &mut ProbeRecord) {
    record.dns.truncate(EXCHANGES_LEFT);
    let mut services_left = SERVICES_LEFT;
    for step in &mut record.dns {
        step.detail.services.truncate(services_left.min(1));
        services_left -= step.detail.services.len();
        step.others.truncate(OTHERS_LEFT);
        step.others.iter_mut().for_each(|other| other.addresses.truncate(STEPS_LEFT));
        if let DnsOutcome::Answer { addresses, cnames, .. } = &mut step.outcome {
            addresses.truncate(ADDRESSES_LEFT);
            cnames.truncate(1);
        }
    }
}

fn shed_steps(record: &mut ProbeRecord) {
    if record.http.len() > STEPS_LEFT {
        record.http.drain(1..record.http.len() - STEPS_LEFT + 1);
    }
    if record.tls.len() > STEPS_LEFT {
        record.tls.drain(1..record.tls.len() - STEPS_LEFT + 1);
    }
    record.tls.iter_mut().for_each(|step| step.chain.truncate(STEPS_LEFT));
    record.quic.iter_mut().for_each(|step| step.chain.truncate(1));
}

fn shed_leaves(record: &mut ProbeRecord) {
    for certificate in chains(record).flatten() {
        certificate.der.clear();
    }
}

fn shed_roads(record: &mut ProbeRecord) {
    record.dns.truncate(ROADS_LEFT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{
        Arm, Cause, DNS_OTHERS_MAX, DnsExchange, DnsOtherAnswer, DnsTransport, HttpExchange, HttpOutcome,
        QueryType, QuicHandshake, QuicOutcome, ResolverKind, Span, TlsHandshake, TlsOutcome,
    };
    use zerkalo_core::record::{DNS_SERVICES_MAX, DnsDetail, ECH_CONFIG_LEN_MAX, Ech, HttpsService};
    use zerkalo_core::target::{Sha256, TargetUrl};
    use zerkalo_core::words::UnixMillis;

    fn text(len: usize) -> String {
        "x".repeat(len)
    }

    fn dns() -> DnsExchange {
        let addresses = vec!["2a00:1450:4001:0812:1111:2222:3333:4444".parse().unwrap(); 32];
        let other = DnsOtherAnswer {
            arrived_micros: 1,
            matches_question: true,
            rcode: 0,
            addresses: addresses.clone(),
            ttl_min_secs: 1,
        };
        let service = HttpsService {
            priority: 1,
            target: text(253),
            alpn: vec![text(32); 8],
            hints: addresses[..8].to_vec(),
            ech_config: vec![4; ECH_CONFIG_LEN_MAX],
        };
        DnsExchange {
            detail: DnsDetail { services: vec![service; DNS_SERVICES_MAX], ..DnsDetail::default() },
            resolver: ResolverKind::System,
            server: "127.0.0.1:1".parse().unwrap(),
            transport: DnsTransport::Udp,
            name: text(253),
            query: QueryType::Aaaa,
            span: Span::default(),
            outcome: DnsOutcome::Answer { rcode: 0, addresses, cnames: vec![text(253); 16], ttl_min_secs: 1 },
            others: vec![other; DNS_OTHERS_MAX],
        }
    }

    fn quic(chain: Vec<Certificate>) -> QuicHandshake {
        QuicHandshake {
            arm: Arm::Main,
            address: "127.0.0.1:1".parse().unwrap(),
            sni: text(253),
            span: Span::default(),
            bytes_sent: 1,
            bytes_received: 1,
            outcome: QuicOutcome::Closed(text(512)),
            chain,
            chain_fault: Some(ChainFault::Other(text(512))),
            datagrams_received: 1,
            first_received: vec![1; 32],
            versions_offered: vec![1; 16],
            ja4: "q".repeat(36),
        }
    }

    /// The most that the steps' own limits let through.
    fn monster(count: usize) -> ProbeRecord {
        let address = "127.0.0.1:1".parse().unwrap();
        let url = TargetUrl::parse(&format!("https://m.example/{}", text(2_000))).unwrap();
        let certificate = Certificate {
            sha256: Sha256([1; 32]),
            spki_sha256: Sha256([2; 32]),
            subject: text(512),
            issuer: text(512),
            not_before: UnixMillis(1),
            not_after: UnixMillis(2),
            der: vec![3; 2_048],
        };
        let tls = TlsHandshake {
            ja4: String::new(),
            ech: Ech::Absent,
            hello_shape: String::new(),
            hello_len: 0,
            transport: None,
            arm: Arm::Main,
            address,
            sni: Some(text(253)),
            span: Span::default(),
            bytes_sent: 1,
            bytes_received: 1,
            outcome: TlsOutcome::Reset,
            chain: vec![certificate; 8],
            chain_fault: Some(ChainFault::Other(text(512))),
        };
        let quic = quic(tls.chain.clone());
        let http = HttpExchange {
            first_byte_micros: None,
            transport: None,
            arm: Arm::Main,
            url: url.clone(),
            address,
            protocol: "h1".to_owned(),
            span: Span::default(),
            last_byte_micros: None,
            status: Some(302),
            headers: vec![("via".to_owned(), text(512)); 48],
            body_len: 1,
            body_sha256: Sha256::default(),
            title: Some(text(256)),
            canary_found: None,
            excerpt: text(2_048),
            outcome: HttpOutcome::RedirectRefused(text(512)),
        };
        ProbeRecord {
            clock: None,
            network: None,
            hops: Vec::new(),
            screenshot: None,
            uplink: None,
            mirror: None,
            url,
            list_version: 1,
            cause: Cause::Scheduled,
            started_at: UnixMillis(1),
            duration_micros: 1,
            agent_version: "0".to_owned(),
            dns: vec![dns(); count],
            tcp: vec![],
            tls: vec![tls; count],
            http: vec![http; count],
            quic: vec![quic; count.min(2)],
            references: vec![],
        }
    }

    #[test]
    fn the_worst_record_is_made_to_fit_and_a_small_one_is_left_alone() {
        let mut worst = monster(20);
        fit(&mut worst);
        let len = zerkalo_proto::record::encode(&worst).len();
        assert!(len <= BODY_LEN_MAX - REFERENCES_LEN_MAX, "{len}");
        assert!(worst.http.len() == STEPS_LEFT && !worst.dns.is_empty());
        // Steps too many are too many even where they are small.
        worst = monster(0);
        let unanswered = DnsExchange { outcome: DnsOutcome::Timeout, others: vec![], name: text(9), ..dns() };
        worst.dns = vec![DnsExchange { detail: DnsDetail::default(), ..unanswered }; 300];
        fit(&mut worst);
        assert!(worst.dns.len() == STEPS_MAX && worst.is_bounded());
        let (mut small, before) = (monster(0), monster(0));
        fit(&mut small);
        assert_eq!(small, before);
    }
}
