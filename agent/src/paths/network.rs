//! In which network this host is now: by the way out that the kernel knows, and the hardware address of the router there.
//! Only a digest of them is kept, and it never leaves the box.

use std::fs;

use zerkalo_core::target::Sha256;

use super::NetworkKey;

/// The kernel's tables: routes, and who answers to which address.
const ROUTES: &str = "/proc/net/route";
/// See [`ROUTES`].
const NEIGHBOURS: &str = "/proc/net/arp";
/// A route to everywhere, as the table writes it.
const ANYWHERE: &str = "00000000";

/// The network of this moment; one and the same for all where the kernel tells nothing.
pub fn current() -> NetworkKey {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    key_of(&read(ROUTES), &read(NEIGHBOURS))
}

fn key_of(routes: &str, neighbours: &str) -> NetworkKey {
    let mut told = String::new();
    if let Some((interface, gateway)) = way_out(routes) {
        let router = neighbours.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [address, _, _, hardware, _, device] = fields[..] else { return None };
            (address == gateway && device == interface).then(|| hardware.to_owned())
        });
        told = format!("{interface} {gateway} {}", router.unwrap_or_default());
    }
    let digest = Sha256::of(told.as_bytes()).0;
    NetworkKey(digest[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte)))
}

/// Interface and gateway of the default route with the smallest metric.
fn way_out(routes: &str) -> Option<(String, String)> {
    let defaults = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, ANYWHERE, gateway, _, _, _, metric, ..] = fields[..] else { return None };
        // In the host's own byte order, as the kernel holds it.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        let gateway = std::net::Ipv4Addr::from(gateway).to_string();
        Some((metric.parse::<u32>().ok()?, interface.to_owned(), gateway))
    });
    defaults.min().map(|(_, interface, gateway)| (interface, gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    const ARP: &str = "IP address HW type Flags HW address Mask Device\n";

    #[test]
    fn another_router_or_another_way_out_is_another_network() {
        let gateway = u32::from_ne_bytes([192, 168, 1, 1]);
        let route = |interface: &str, metric: u32| {
            format!("{interface} 00000000 {gateway:08X} 0003 0 0 {metric} 00000000 0 0 0\n")
        };
        let router = |hardware: &str| format!("{ARP}192.168.1.1 0x1 0x2 {hardware} * wlan0\n");
        let home = key_of(&format!("{HEAD}{}", route("wlan0", 600)), &router("aa:bb"));
        assert_eq!(home, key_of(&format!("{HEAD}{}", route("wlan0", 700)), &router("aa:bb")));
        assert_ne!(home, key_of(&format!("{HEAD}{}", route("wlan0", 600)), &router("cc:dd")));
        let both = format!("{HEAD}{}{}", route("wwan0", 700), route("wlan0", 600));
        assert_eq!(home, key_of(&both, &router("aa:bb")));
        let mobile = format!("{HEAD}{}{}", route("wwan0", 100), route("wlan0", 600));
        assert_ne!(home, key_of(&mobile, &router("aa:bb")));
        assert_eq!(key_of("", ""), key_of(HEAD, "nonsense"));
    }
}
