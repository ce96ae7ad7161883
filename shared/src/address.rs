//! Which addresses a probe may be sent to. Pure classification; who asks decides what to do.
//!
//! The ranges are those of the IANA special-purpose registries (RFC 6890 and its successors). Embedded IPv4
//! (v4-mapped, NAT64 of RFC 6052, 6to4 of RFC 3056) is unwrapped first, so that no disguise passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is of the public internet. `Err` names the special range it lies in.
pub fn require_public(address: IpAddr) -> Result<(), &'static str> {
    match unwrap_embedded(address) {
        IpAddr::V4(v4) => special_v4(v4).map_or(Ok(()), Err),
        IpAddr::V6(v6) => special_v6(v6).map_or(Ok(()), Err),
    }
}

/// The IPv4 address inside a v4-mapped, v4-compatible, NAT64 or 6to4 address, or the address itself.
pub fn unwrap_embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let low = || IpAddr::V4(Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7])));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => low(),
        [0, 0, 0, 0, 0, 0, high, low_half] if high != 0 || low_half > 1 => low(),
        [0x2002, a, b, ..] => IpAddr::V4(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))),
        _ => address,
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    const RANGES: &[([u8; 4], u32, &str)] = &[
        ([0, 0, 0, 0], 8, "this network 0.0.0.0/8"),
        ([10, 0, 0, 0], 8, "private 10.0.0.0/8"),
        ([100, 64, 0, 0], 10, "carrier-grade NAT 100.64.0.0/10"),
        ([127, 0, 0, 0], 8, "loopback 127.0.0.0/8"),
        ([169, 254, 0, 0], 16, "link-local 169.254.0.0/16"),
        ([172, 16, 0, 0], 12, "private 172.16.0.0/12"),
        ([192, 0, 0, 0], 24, "IETF assignments 192.0.0.0/24"),
        ([192, 0, 2, 0], 24, "documentation 192.0.2.0/24"),
        ([192, 88, 99, 0], 24, "6to4 relay 192.88.99.0/24"),
        ([192, 168, 0, 0], 16, "private 192.168.0.0/16"),
        ([198, 18, 0, 0], 15, "benchmarking 198.18.0.0/15"),
        ([198, 51, 100, 0], 24, "documentation 198.51.100.0/24"),
        ([203, 0, 113, 0], 24, "documentation 203.0.113.0/24"),
        ([224, 0, 0, 0], 4, "multicast 224.0.0.0/4"),
        ([240, 0, 0, 0], 4, "reserved 240.0.0.0/4"),
    ];
    let bits = u32::from(address);
    RANGES
        .iter()
        .find(|(network, prefix, _)| {
            bits >> (32 - prefix) == u32::from(Ipv4Addr::from(*network)) >> (32 - prefix)
        })
        .map(|(_, _, name)| *name)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified ::"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback ::1"),
        [0x64, 0xff9b, 1, ..] => Some("local NAT64 64:ff9b:1::/48"),
        [0x100, 0, 0, 0, ..] => Some("discard 100::/64"),
        [0x2001, second, ..] if second < 0x200 => Some("IETF assignments 2001::/23"),
        [0x2001, 0xdb8, ..] => Some("documentation 2001:db8::/32"),
        [0x3fff, second, ..] if second < 0x1000 => Some("documentation 3fff::/20"),
        [0x5f00, ..] => Some("segment routing 5f00::/16"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some("unique local fc00::/7"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("link-local fe80::/10"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Some("site-local fec0::/10"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("multicast ff00::/8"),
        [first, ..] if first & 0xe000 != 0x2000 => Some("outside global unicast 2000::/3"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_ranges_are_refused_in_every_disguise() {
        let check = |text: &str, public: bool| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(require_public(address).is_ok(), public, "{text}: {:?}", require_public(address));
        };
        for public in
            ["9.9.9.9", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2a00:1450::1", "::ffff:9.9.9.9"]
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
}
