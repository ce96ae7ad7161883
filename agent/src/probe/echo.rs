//! Masks addresses that a peer echoed: a page, a header or a redirect may name the visitor, and no record may hold the
//! host's own address. Nobody here knows which that is, so every address goes that the probe is not about. Works on the
//! finished record: what was followed, searched and digested was the raw answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::LazyLock;

use zerkalo_core::address::unwrap_embedded;
use zerkalo_core::fingerprint::{Fingerprints, Sighting};
use zerkalo_core::record::{
    DnsOutcome, EXCERPT_LEN_MAX, HEADER_VALUE_LEN_MAX, HttpExchange, HttpOutcome, ProbeRecord, QuicOutcome,
    TcpOutcome,
};
use zerkalo_core::target::TargetUrl;

use super::http::header;
use super::text::cut;

/// What stands where an address stood.
const MASK: &str = "[address]";
/// Bytes kept of a title, as `page` of the core cuts it.
const TITLE_LEN_MAX: usize = 256;
/// Bytes kept of a reason in words.
const REASON_LEN_MAX: usize = 512;
/// A text this near its limit was cut: the last character may have had four bytes.
const CUT_SLACK: usize = 3;
/// Most parts between colons in an IPv6 address: eight groups, and the empty one that `::` makes at an end.
const V6_PARTS_MAX: usize = 9;

/// Stub addresses are facts, wherever they stand.
static FINGERPRINTS: LazyLock<Fingerprints> = LazyLock::new(Fingerprints::built_in);

/// Masks the echoes in all of a record's texts that peers wrote.
pub fn mask(record: &mut ProbeRecord) {
    let known = Known::of(record);
    for step in &mut record.dns {
        step.name = known.mask_url(&step.name);
        if let DnsOutcome::Answer { cnames, .. } = &mut step.outcome {
            cnames.iter_mut().for_each(|alias| *alias = known.mask_url(alias));
        }
    }
    for sni in record.tls.iter_mut().filter_map(|step| step.sni.as_mut()) {
        *sni = known.mask_url(sni);
    }
    for step in &mut record.http {
        mask_exchange(step, &known);
    }
    for step in &mut record.quic {
        if let QuicOutcome::Closed(text) | QuicOutcome::Failed(text) = &mut step.outcome {
            *text = known.mask_text(text, REASON_LEN_MAX);
        }
    }
}

fn mask_exchange(step: &mut HttpExchange, known: &Known) {
    step.url = known.mask_target(&step.url);
    for (name, value) in &mut step.headers {
        // Rules read this one as a URL.
        *value = match name.as_str() {
            "location" => known.mask_url(without_torn_end(value, HEADER_VALUE_LEN_MAX)),
            _ => known.mask_text(value, HEADER_VALUE_LEN_MAX),
        };
    }
    step.title = step.title.as_deref().map(|title| known.mask_text(title, TITLE_LEN_MAX));
    step.excerpt = known.mask_text(&step.excerpt, EXCERPT_LEN_MAX);
    if let HttpOutcome::Protocol(text) | HttpOutcome::RedirectRefused(text) | HttpOutcome::Failed(text) =
        &mut step.outcome
    {
        *text = known.mask_text(text, REASON_LEN_MAX);
    }
}

/// Addresses that may stand in a record: those the probe went to, and those of its own URL.
#[derive(Debug, Default)]
pub struct Known(BTreeSet<IpAddr>);

impl Known {
    /// What may be said of an address that sent on to `next`.
    pub fn of_redirect(address: IpAddr, next: &TargetUrl) -> Self {
        let mut known = Self::default();
        known.add(address);
        next.literal_address().into_iter().for_each(|address| known.add(address));
        known
    }

    fn of(record: &ProbeRecord) -> Self {
        let mut known = Self::default();
        for step in &record.dns {
            if let DnsOutcome::Answer { addresses, .. } = &step.outcome {
                addresses.iter().for_each(|address| known.add(*address));
            }
        }
        for step in &record.tcp {
            known.add(step.address.ip());
            // A range is no host; we name it where a redirect leads into it.
            if let TcpOutcome::Forbidden(range) = &step.outcome {
                known.add_all_in(range);
            }
        }
        for step in &record.http {
            known.add(step.address.ip());
            let next = header(&step.headers, "location").and_then(|location| step.url.join(location).ok());
            let hosts = [Some(&step.url), next.as_ref()].into_iter().flatten();
            hosts.filter_map(TargetUrl::literal_address).for_each(|address| known.add(address));
        }
        known.add_all_in(record.url.as_str());
        known
    }

    fn add(&mut self, address: IpAddr) {
        self.0.insert(unwrap_embedded(address));
    }

    fn add_all_in(&mut self, text: &str) {
        for encoding in [Encoding::Percent, Encoding::None] {
            let units = units(text, encoding);
            let found = v6_literals(&units).into_iter().chain(v4_literals(&units));
            found.for_each(|(_, address)| self.add(address));
        }
    }

    /// A text of at most `len_max` bytes, with words in the place of unknown addresses.
    pub fn mask_text(&self, text: &str, len_max: usize) -> String {
        let mut masked = self.replace(without_torn_end(text, len_max), |_| MASK);
        cut(&mut masked, len_max);
        masked
    }

    /// A URL, or a part of one, that stays one: unspecified addresses in the place of unknown ones.
    fn mask_url(&self, text: &str) -> String {
        self.replace(text, |address| if address.is_ipv4() { "0.0.0.0" } else { "::" })
    }

    fn mask_target(&self, url: &TargetUrl) -> TargetUrl {
        let masked = self.mask_url(url.as_str());
        if masked == url.as_str() {
            return url.clone();
        }
        // Shorter is always a URL still.
        TargetUrl::parse(&masked).or_else(|_| url.join("/")).unwrap_or_else(|_| url.clone())
    }

    fn replace(&self, text: &str, mask: impl Fn(IpAddr) -> &'static str) -> String {
        let mut masked = text.to_owned();
        for encoding in [Encoding::Percent, Encoding::None] {
            for find in [v6_literals, v4_literals] {
                let found = find(&units(&masked, encoding));
                for (place, address) in
                    found.into_iter().rev().filter(|(_, address)| !self.may_stay(*address))
                {
                    masked.replace_range(place, mask(address));
                }
            }
        }
        masked
    }

    fn may_stay(&self, address: IpAddr) -> bool {
        let bare = unwrap_embedded(address);
        // Unspecified and loopback addresses are everybody's.
        bare.is_unspecified()
            || bare.is_loopback()
            || self.0.contains(&bare)
            || FINGERPRINTS.weigh(Sighting::Address(bare), None).is_some()
    }
}

/// How the characters of an address may be written.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    None,
    /// As in URLs, and in URLs within URLs: `%3A`, `%253A`.
    Percent,
}

/// A byte of a text, and where it is written.
struct Unit {
    byte: u8,
    place: Range<usize>,
}

fn units(text: &str, encoding: Encoding) -> Vec<Unit> {
    let bytes = text.as_bytes();
    let mut units = Vec::with_capacity(bytes.len());
    let mut start = 0;
    while start < bytes.len() {
        let escape = match encoding {
            Encoding::Percent => escape(&bytes[start..]),
            Encoding::None => None,
        };
        let (byte, len) = escape.unwrap_or((bytes[start], 1));
        units.push(Unit { byte, place: start..start + len });
        start += len;
    }
    units
}

/// The byte that a text's first characters stand for, however often they were escaped, and their number.
fn escape(bytes: &[u8]) -> Option<(u8, usize)> {
    let mut digits = bytes.strip_prefix(b"%")?;
    while let Some(inner) = digits.strip_prefix(b"25") {
        digits = inner;
    }
    let byte = hex::decode(digits.get(..2)?).ok()?.first().copied()?;
    Some((byte, bytes.len() - digits.len() + 2))
}

/// Where IPv4 addresses stand.
fn v4_literals(units: &[Unit]) -> Vec<(Range<usize>, IpAddr)> {
    let belongs = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let mut found = Vec::new();
    for run in runs(units, belongs) {
        // Full stops may end the sentence before it and its own.
        let text = text_of(run);
        let bare = text.trim_matches('.');
        let start = text.len() - text.trim_start_matches('.').len();
        if let Some(address) = parse_v4(bare) {
            found.push((place_of(&run[start..start + bare.len()]), IpAddr::V4(address)));
        }
    }
    found
}

/// Dotted octets; unlike the standard library's, with leading zeros as printers pad them.
fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = text
        .split('.')
        .map(|octet| octet.parse().ok().filter(|_| octet.len() <= 3))
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

/// Where IPv6 addresses stand.
fn v6_literals(units: &[Unit]) -> Vec<(Range<usize>, IpAddr)> {
    let belongs = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let mut found = Vec::new();
    for run in runs(units, belongs) {
        let text = text_of(run);
        let mut ends: Vec<usize> = text.match_indices(':').map(|(index, _)| index).collect();
        ends.push(text.len());
        // A word or a port may hang on it: `remote:2001:db8::5:443`.
        let mut part = 0;
        while part < ends.len() {
            let start = if part == 0 { 0 } else { ends[part - 1] + 1 };
            let last = (part + V6_PARTS_MAX).min(ends.len());
            let longest = (part + 1..last).rev().find_map(|end| {
                let bare = text[start..ends[end]].trim_end_matches('.');
                parse_v6(bare).map(|address| (end, start + bare.len(), address))
            });
            match longest {
                Some((end, stop, address)) => {
                    found.push((place_of(&run[start..stop]), IpAddr::V6(address)));
                    part = end + 1;
                }
                None => part += 1,
            }
        }
    }
    found
}

/// An IPv6 address that could be a host's. Much that is none reads as one: `a::before`, `00:11:22:33:44:55:66:77`.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    let address: Ipv6Addr = text.parse().ok()?;
    let first = address.segments()[0];
    let is_plausible = first >= 0x2000 || first == 0x64 || address.to_ipv4_mapped().is_some();
    (is_plausible && text.contains(|c: char| c.is_ascii_digit())).then_some(address)
}

fn runs(units: &[Unit], belongs: impl Fn(u8) -> bool) -> impl Iterator<Item = &[Unit]> {
    units.split(move |unit| !belongs(unit.byte)).filter(|run| !run.is_empty())
}

/// A run's characters; all are ASCII.
fn text_of(run: &[Unit]) -> String {
    run.iter().map(|unit| char::from(unit.byte)).collect()
}

fn place_of(run: &[Unit]) -> Range<usize> {
    match (run.first(), run.last()) {
        (Some(first), Some(last)) => first.place.start..last.place.end,
        _ => 0..0,
    }
}

/// The text without what may be the first half of an address, where it was cut at `len_max` bytes.
fn without_torn_end(text: &str, len_max: usize) -> &str {
    if text.len() + CUT_SLACK < len_max {
        return text;
    }
    let kept = text.trim_end_matches(|c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '%'));
    if text[kept.len()..].contains([':', '.', '%']) { kept } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let mut known = Known::default();
        ["192.0.2.1", "2001:db8::1"].iter().for_each(|text| known.add(text.parse().unwrap()));
        known
    }

    #[test]
    fn only_addresses_the_probe_is_about_stay_in_texts() {
        let check = |text: &str, expected: &str| {
            assert_eq!(known().mask_text(text, EXCERPT_LEN_MAX), expected, "{text}");
        };
        check("Your IP: 203.0.113.77", "Your IP: [address]");
        check("Ваш адрес: 203.0.113.77.", "Ваш адрес: [address].");
        check("ip=203.0.113.77:4711&x", "ip=[address]:4711&x");
        check("203.000.113.077 of 203.0.113.77", "[address] of [address]");
        check("at http://192.0.2.1/x", "at http://192.0.2.1/x");
        check("stub 95.167.13.50", "stub 95.167.13.50");
        check("ip=203%2e0%2E113%252E77%26", "ip=[address]%26");
        check("%20203.0.113.77", "%20[address]");
        check("from [2001:db8::5]:80 to 2001:DB8:0::1", "from [[address]]:80 to 2001:DB8:0::1");
        check("remote:2001:db8::5", "remote:[address]");
        check("2001:db8:1:2:3:4:5:6:443", "[address]:443");
        check("u=2001%3Adb8%3a%3A5", "u=[address]");
        check("::ffff:203.0.113.77 ::ffff:cb00:714d", "[address] [address]");
        check("::ffff:192.0.2.1", "::ffff:192.0.2.1");
        check("fe80::1ff:fe23:4567:890a%eth0", "[address]%eth0");
        check("a::before { top: 1.5em } 12:30:45 v1.2.3", "a::before { top: 1.5em } 12:30:45 v1.2.3");
        check("std::be1 00:11:22:33:44:55:66:77 1.2.3.4.5", "std::be1 00:11:22:33:44:55:66:77 1.2.3.4.5");
        check("on 127.0.0.1, 0.0.0.0, ::1 and ::", "on 127.0.0.1, 0.0.0.0, ::1 and ::");
        check("256.1.1.1 100%", "256.1.1.1 100%");
        check("", "");
    }

    #[test]
    fn urls_stay_urls() {
        let check = |url: &str, expected: &str| {
            let url = TargetUrl::parse(url).unwrap();
            assert_eq!(known().mask_target(&url).as_str(), expected);
        };
        check("https://stub.example/?ip=203.0.113.77&u=m", "https://stub.example/?ip=0.0.0.0&u=m");
        check("https://stub.example/2001:db8::5/", "https://stub.example/::/");
        check("https://stub.example/?u=a%3D203%252E0%252E113%252E77", "https://stub.example/?u=a%3D0.0.0.0");
        check("https://203.0.113.77.stub.example/", "https://0.0.0.0.stub.example/");
        check("https://192.0.2.1/a?b=1.2.3", "https://192.0.2.1/a?b=1.2.3");
    }

    #[test]
    fn the_first_half_of_a_cut_address_goes_too() {
        let check = |text: &str, expected: &str| assert_eq!(known().mask_text(text, 16), expected, "{text}");
        check("your IP 203.0.11", "your IP ");
        check("your IP: 2001:db", "your IP: ");
        check("IP 203.0.113", "IP 203.0.113");
        check("a page about a b", "a page about a b");
        check("x 203.0.113.1 y", "x [address] y");
        check("xyz 203.0.113.1 yz", "xyz [address] yz".get(..16).unwrap());
    }
}
