//! Strikes out of exported texts what may be the address of a record's host.
//!
//! Records do not hold it, but a page or a header may echo it. So every address goes that the facts are not about.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::record::{DnsOutcome, HttpExchange, ProbeRecord};

/// What stands where an address was.
const STRUCK_OUT: &str = "[scrubbed]";

/// Addresses that the facts themselves are about: answers, peers, hosts of URLs.
pub(super) fn known_addresses(record: &ProbeRecord, control: Option<&ProbeRecord>) -> BTreeSet<IpAddr> {
    let mut known = BTreeSet::new();
    for record in [Some(record), control].into_iter().flatten() {
        for exchange in &record.dns {
            if let DnsOutcome::Answer { addresses, .. } = &exchange.outcome {
                known.extend(addresses.iter().copied());
            }
        }
        known.extend(record.tcp.iter().map(|tcp| tcp.address.ip()));
        known.extend(record.http.iter().map(|exchange| SocketAddr::ip(&exchange.address)));
        known.extend(record.http.iter().filter_map(|exchange| exchange.url.literal_address()));
        let led = |exchange: &HttpExchange| {
            let (_, value) = exchange.headers.iter().find(|(name, _)| name == "location")?;
            exchange.url.join(value).ok()?.literal_address()
        };
        known.extend(record.http.iter().filter_map(led));
    }
    known
}

/// A text without the addresses the record does not know: one of them may be the visitor's.
pub(super) fn strike_out(text: &str, known: &BTreeSet<IpAddr>) -> String {
    let v4 = |run: &str| run.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    // Much that is no address reads as one, such as `a::before`: only what a host can have counts (RFC 4291).
    let of_host = |v6: &Ipv6Addr| v6.segments()[0] & 0xe000 == 0x2000 || v6.segments()[0] >= 0xfc00;
    let v6 = |run: &str| run.parse::<Ipv6Addr>().ok().filter(of_host).map(IpAddr::V6);
    let without_v6 = strike_runs(text, |c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'), v6, known);
    strike_runs(&without_v6, |c| c.is_ascii_digit() || c == '.', v4, known)
}

fn strike_runs(
    text: &str,
    belongs: impl Fn(char) -> bool,
    parse: impl Fn(&str) -> Option<IpAddr>,
    known: &BTreeSet<IpAddr>,
) -> String {
    let mut struck = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let start = rest.find(&belongs).unwrap_or(rest.len());
        struck.push_str(&rest[..start]);
        let run = &rest[start..];
        let end = run.find(|c| !belongs(c)).unwrap_or(run.len());
        let (run, after) = run.split_at(end);
        // A full stop may end a sentence, a colon may precede an address.
        let bare = run.trim_end_matches(['.', ':']);
        let address =
            parse(bare).or_else(|| parse(run)).or_else(|| parse(bare.trim_start_matches(['.', ':'])));
        match address.filter(|address| !known.contains(address)) {
            Some(_) => struck.push_str(STRUCK_OUT),
            None => struck.push_str(run),
        }
        rest = after;
    }
    struck
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_the_facts_are_about_stay() {
        let known: BTreeSet<IpAddr> =
            ["192.0.2.1", "2001:db8::1"].iter().map(|text| text.parse().unwrap()).collect();
        let check = |text: &str, expected: &str| assert_eq!(strike_out(text, &known), expected, "{text}");
        check("You are 203.0.113.5, at http://192.0.2.1/x", "You are [scrubbed], at http://192.0.2.1/x");
        check("ip=203.0.113.5:4711&x", "ip=[scrubbed]:4711&x");
        check("from [2001:db8::5]:80 to 2001:DB8:0::1", "from [[scrubbed]]:80 to 2001:DB8:0::1");
        check("::ffff:203.0.113.5", "::ffff:[scrubbed]");
        check("a::before { top: 1.5em } 12:30:45 v1.2.3", "a::before { top: 1.5em } 12:30:45 v1.2.3");
        check("Ваш адрес: 203.0.113.5.", "Ваш адрес: [scrubbed]");
        check("", "");
    }
}
