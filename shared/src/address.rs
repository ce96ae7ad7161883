//! Which addresses a probe may be sent to. Pure classification; who asks decides what to do.
//!
//! The ranges are those of the IANA special-purpose registries (RFC 6890 and its successors), those kept for a service that
//! is nobody's site among them. Embedded IPv4 (v4-mapped, NAT64 of RFC 6052, 6to4 of RFC 3056, ISATAP of RFC 5214) is
//! unwrapped first, so that no disguise passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is of the public internet. `Err` names the special range it lies in.
pub fn require_public(address: IpAddr) -> Result<(), &'static str> {
    let special = match (address, unwrap_embedded(address)) {
        (IpAddr::V6(whole), IpAddr::V4(v4)) => special_v4(v4).or_else(|| v4_compatible(whole)),
        (_, IpAddr::V4(v4)) => special_v4(v4),
        (_, IpAddr::V6(v6)) => special_v6(v6).or_else(|| special_v4(isatap(v6)?)),
    };
    special.map_or(Ok(()), Err)
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

/// Deprecated since RFC 4291: nobody answers there, whatever the address inside.
fn v4_compatible(address: Ipv6Addr) -> Option<&'static str> {
    address.segments().starts_with(&[0; 6]).then_some("v4-compatible ::/96")
}

/// The address to which a router for ISATAP would send what goes there. It names no site: it is looked at, not unwrapped.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [.., 0 | 0x200, 0x5efe, high, low] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
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
        ([192, 31, 196, 0], 24, "AS112 192.31.196.0/24"),
        ([192, 52, 193, 0], 24, "multicast tunnels 192.52.193.0/24"),
        ([192, 88, 99, 0], 24, "6to4 relay 192.88.99.0/24"),
        ([192, 168, 0, 0], 16, "private 192.168.0.0/16"),
        ([192, 175, 48, 0], 24, "AS112 192.175.48.0/24"),
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
        [0x2620, 0x4f, 0x8000, ..] => Some("AS112 2620:4f:8000::/48"),
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
mod tests;
