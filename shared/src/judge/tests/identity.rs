//! The mirror's own key at addresses nobody listed, and pages nobody searched for the canary.

use super::*;

/// The mirror met at an address that neither the operator nor the control knows.
fn at_an_edge(change: fn(&mut HttpExchange)) -> impl Fn(&mut ProbeRecord) {
    move |r: &mut ProbeRecord| {
        let edge = socket("9.9.9.10");
        r.dns[0].outcome = answer(0, &["9.9.9.10"]);
        (r.tcp[0].address, r.tls[0].address, r.http[0].address) = (edge, edge, edge);
        r.http[0].canary_found = Some(false);
        change(&mut r.http[0]);
    }
}

#[test]
fn an_edge_under_the_mirror_s_own_key_is_no_lie_of_the_resolver() {
    check("origin.refused refused", at_an_edge(|x| x.status = Some(403)));
    check("origin.refused refused", at_an_edge(|_| {}));
    let freeze: fn(&mut HttpExchange) = |x| {
        (x.outcome, x.body_len, x.span.duration_micros) = (HttpOutcome::Timeout, 17_000, 9_000_000);
    };
    check("transfer.freeze blocked transfer.freeze ip", at_an_edge(freeze));
    check("contradictory insufficient", at_an_edge(|x| x.status = Some(404)));
    // Another key there, or another name under a good key: that is somebody else.
    let lie = "dns.other_address blocked dns.injection.other name";
    check(lie, |r| {
        at_an_edge(|_| {})(r);
        r.tls[0].chain_fault = Some(ChainFault::UnknownIssuer);
    });
    check(lie, |r| {
        at_an_edge(|x| x.url = url("https://stub.example/"))(r);
        r.tls[0].sni = Some("stub.example".into());
    });
}

#[test]
fn a_page_nobody_searched_for_the_canary_proves_nothing() {
    let mut unsearched = healthy();
    unsearched.http[0].canary_found = None;
    let mut failed = healthy();
    cut(&mut failed, TlsOutcome::Timeout, None);
    fn judged(record: &ProbeRecord, control: Option<&ProbeRecord>) -> String {
        summary(&verdict(record, control))
    }
    let expected = "canary.unsearched insufficient";
    assert_eq!(judged(&unsearched, None), expected);
    assert_eq!(judged(&unsearched, Some(&unsearched)), expected);
    assert_eq!(judged(&unsearched, Some(&healthy())), expected);
    assert_eq!(judged(&failed, Some(&unsearched)), expected);
    assert_eq!(judged(&healthy(), Some(&unsearched)), "identity.reached ok");
    // An empty page was searched in vain, and a stranger's page is a stranger's.
    unsearched.http[0].body_len = 0;
    assert_eq!(judged(&unsearched, Some(&healthy())), "contradictory insufficient");
    unsearched.http[0].body_len = 70_000;
    unsearched.tls[0].chain = vec![certificate("CN=Nobody", 7)];
    unsearched.tls[0].chain_fault = Some(ChainFault::UnknownIssuer);
    assert_eq!(judged(&unsearched, Some(&healthy())), "tls.other_key blocked tls.mitm.other sni");
}
