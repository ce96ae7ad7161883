//! Every special range in every disguise, against a table of its own: 100,000 cases, the same each time.

use std::collections::BTreeMap;

use super::*;

#[test]
fn special_ranges_are_refused_in_every_disguise() {
    let check = |text: &str, public: bool| {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(require_public(address).is_ok(), public, "{text}: {:?}", require_public(address));
    };
    for public in ["9.9.9.9", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2a00:1450::1", "::ffff:9.9.9.9"]
    {
        check(public, true);
    }
    for special in [
        "127.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.19.0.1",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:db8::1",
        "ff02::1",
        "2001::1",
    ] {
        check(special, false);
    }
}

/// The registries as they are published (IANA, IPv4 and IPv6 special-purpose addresses; multicast; RFC 4291), and nothing of the
/// code under test.
const SPECIAL_V4: [&str; 19] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];
/// See [`SPECIAL_V4`]. What embeds IPv4 is among the disguises.
const SPECIAL_V6: [&str; 26] = [
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    // Nothing of the public internet lies outside 2000::/3.
    "400::/6",
    "4000::/2",
    "8000::/2",
];

/// First and last address, as numbers.
fn bounds(cidr: &str) -> (u128, u128) {
    let (base, prefix) = cidr.split_once('/').unwrap();
    let prefix: u32 = prefix.parse().unwrap();
    let (first, width) = match base.parse::<IpAddr>().unwrap() {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    (first, first + (u128::MAX >> (128 - width + prefix).min(127) >> u32::from(width == prefix)))
}

/// Whether the published table holds the address.
fn is_special(number: u128, table: &[&str]) -> bool {
    table.iter().map(|cidr| bounds(cidr)).any(|(first, last)| (first..=last).contains(&number))
}

/// SplitMix64.
fn dice(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Counts cases, by what they are and what is right for them.
#[derive(Default)]
struct Cases(BTreeMap<(&'static str, bool), u64>);

impl Cases {
    fn check(&mut self, kind: &'static str, address: IpAddr, is_public: bool) {
        let found = require_public(address);
        assert_eq!(found.is_ok(), is_public, "{kind}: {address}: {found:?}");
        // As lists and redirects write it.
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        if let Ok(url) = crate::target::TargetUrl::parse(&format!("http://{host}/"))
            && self.len().is_multiple_of(16)
        {
            assert_eq!(url.require_public().is_ok(), is_public, "{kind}: {url}");
        }
        *self.0.entry((kind, is_public)).or_default() += 1;
    }

    fn len(&self) -> u64 {
        self.0.values().sum()
    }

    /// One IPv4 address, plain and in every disguise.
    fn check_v4(&mut self, number: u32, state: &mut u64) {
        let v4 = Ipv4Addr::from(number);
        let is_public = !is_special(number.into(), &SPECIAL_V4);
        let low = u128::from(number);
        let random = (u128::from(dice(state)) << 64) | u128::from(dice(state));
        self.check("plain", v4.into(), is_public);
        let mut disguised = |kind, prefix: &str, rest: u128, is_public| {
            let prefix = u128::from(prefix.parse::<Ipv6Addr>().unwrap());
            self.check(kind, Ipv6Addr::from(prefix | rest).into(), is_public);
        };
        disguised("v4-mapped", "::ffff:0:0", low, is_public);
        disguised("v4-compatible", "::", low, false);
        disguised("v4-translated", "::ffff:0:0:0", low, false);
        disguised("NAT64", "64:ff9b::", low, is_public);
        disguised("local NAT64", "64:ff9b:1::", (random >> 48 << 32 & (u128::MAX >> 48)) | low, false);
        disguised("6to4", "2002::", (low << 80) | (random >> 48), is_public);
        // The client's address is inverted (RFC 4380); the server's stands plain.
        disguised("Teredo, client", "2001::", (random >> 32 & !0xffff_ffff) | (low ^ 0xffff_ffff), false);
        disguised("Teredo, server", "2001::", (low << 64) | (random >> 64), false);
        // The subnet of a site that has one, and a link.
        disguised("ISATAP", "2a00:1450:4001::5efe:0:0", low, is_public);
        disguised("ISATAP, universal", "2a00:1450:4001:7:200:5efe::", low, is_public);
        disguised("ISATAP, link", "fe80::5efe:0:0", low, false);
        disguised("ISATAP, unique local", "fd00::200:5efe:0:0", low, false);
    }
}

#[test]
fn special_ranges_are_refused_at_their_edges_and_in_a_hundred_thousand_disguises() {
    const CASES_MIN: u64 = 100_000;
    let (mut cases, mut state) = (Cases::default(), 1);
    for cidr in SPECIAL_V4 {
        let (first, last) = bounds(cidr);
        let mut numbers = vec![first, first + 1, last, last - u128::from(last > first)];
        numbers.extend(first.checked_sub(1));
        numbers.extend(Some(last + 1).filter(|next| *next <= u128::from(u32::MAX)));
        numbers.extend((0..100).map(|_| first + u128::from(dice(&mut state)) % (last - first + 1)));
        numbers.into_iter().for_each(|number| cases.check_v4(number as u32, &mut state));
    }
    for cidr in SPECIAL_V6 {
        let (first, last) = bounds(cidr);
        let mut check = |number: u128| {
            let is_unicast = number >> 125 == 1;
            let is_embedding = number >> 112 == 0x2002;
            let v6 = Ipv6Addr::from(number);
            let is_public = is_unicast && !is_special(number, &SPECIAL_V6);
            // What embeds IPv4 is checked with it.
            if !is_embedding && unwrap_embedded(v6.into()) == IpAddr::V6(v6) {
                cases.check("IPv6", v6.into(), is_public);
            }
        };
        [first, last].into_iter().for_each(&mut check);
        first.checked_sub(1).into_iter().chain(last.checked_add(1)).for_each(&mut check);
        for _ in 0..100 {
            let random = (u128::from(dice(&mut state)) << 64) | u128::from(dice(&mut state));
            check(first | (random & (last - first)));
        }
    }
    while cases.len() < CASES_MIN {
        cases.check_v4(dice(&mut state) as u32, &mut state);
        let random = (u128::from(dice(&mut state)) << 64) | u128::from(dice(&mut state));
        // Somewhere in 2000::/3, where nothing embeds.
        let number = (1 << 125) | (random >> 3);
        let v6 = Ipv6Addr::from(number);
        if number >> 112 != 0x2002 && isatap(v6).is_none() {
            cases.check("IPv6", v6.into(), !is_special(number, &SPECIAL_V6));
        }
    }
    // Each kind is met, and where both answers are right, both are.
    for (kind, allowed) in
        [("plain", true), ("IPv6", true), ("NAT64", true), ("6to4", true), ("ISATAP", true)]
    {
        assert!(cases.0[&(kind, allowed)] > 1_000 && cases.0[&(kind, false)] > 1_000, "{:?}", cases.0);
    }
    assert_eq!(cases.0.len(), 21, "{:?}", cases.0);
    assert!(cases.len() > 100_000, "{}", cases.len());
}

#[test]
fn the_bounds_of_a_range_are_what_they_are() {
    assert_eq!(bounds("10.0.0.0/8"), (0x0a00_0000, 0x0aff_ffff));
    assert_eq!(bounds("255.255.255.255/32"), (0xffff_ffff, 0xffff_ffff));
    assert_eq!(bounds("::1/128"), (1, 1));
    assert_eq!(bounds("fe80::/10"), (0xfe80 << 112, (0xfec0 << 112) - 1));
    assert_eq!(bounds("224.0.0.0/4"), (0xe000_0000, 0xefff_ffff));
}
