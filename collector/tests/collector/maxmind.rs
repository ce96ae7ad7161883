//! Tables of networks in MaxMind's format, written here byte by byte.

use std::net::{IpAddr, Ipv6Addr};

use zerkalo_collector::config::Config;
use zerkalo_proto::operator_v1::ListAgentsRequest;

use crate::world::Site;

/// 2026-11-19, about noon.
const BUILT_SECS: u64 = 1_795_089_600;

/// One side of a node.
#[derive(Clone, Copy)]
enum Side {
    Empty,
    Node(usize),
    /// Where in the data.
    Data(usize),
}

/// A database under way: a tree of bits, IPv4 at ::/96, and what its leaves say.
struct Database {
    nodes: Vec<[Side; 2]>,
    data: Vec<u8>,
}

impl Database {
    fn new() -> Self {
        Self { nodes: vec![[Side::Empty; 2]], data: Vec::new() }
    }

    /// An entry for these networks to share.
    fn entry(&mut self, fields: &[(&str, Vec<u8>)]) -> usize {
        let offset = self.data.len();
        self.data.extend(map(fields));
        offset
    }

    fn network(&mut self, cidr: &str, entry: usize) {
        let (address, len) = cidr.split_once('/').unwrap();
        let len: usize = len.parse().unwrap();
        let (bits, len) = match address.parse().unwrap() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), len + 96),
            IpAddr::V6(v6) => (u128::from(v6), len),
        };
        let mut node = 0;
        for depth in 0..len {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == len {
                self.nodes[node][side] = Side::Data(entry);
                return;
            }
            node = match self.nodes[node][side] {
                Side::Node(next) => next,
                _ => {
                    self.nodes.push([Side::Empty; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][side] = Side::Node(next);
                    next
                }
            };
        }
    }

    /// IPv4 under another prefix too, as published databases have it.
    fn alias(&mut self, prefix: Ipv6Addr, len: usize) {
        let ipv4 = (0..96).fold(0, |node, _| match self.nodes[node][0] {
            Side::Node(next) => next,
            _ => panic!("no IPv4 yet"),
        });
        let bits = u128::from(prefix);
        let mut node = 0;
        for depth in 0..len {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == len {
                self.nodes[node][side] = Side::Node(ipv4);
                return;
            }
            node = match self.nodes[node][side] {
                Side::Node(next) => next,
                _ => {
                    self.nodes.push([Side::Empty; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][side] = Side::Node(next);
                    next
                }
            };
        }
    }

    fn bytes(&self, kind: &str) -> Vec<u8> {
        let count = self.nodes.len();
        let mut bytes = Vec::new();
        for side in self.nodes.iter().flatten() {
            let number = match side {
                Side::Empty => count,
                Side::Node(node) => *node,
                Side::Data(offset) => count + 16 + offset,
            };
            bytes.extend(&u32::try_from(number).unwrap().to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(&[
            ("node_count", uint32(u32::try_from(count).unwrap())),
            ("record_size", uint16(24)),
            ("ip_version", uint16(6)),
            ("database_type", text(kind)),
            ("languages", vec![0x00, 0x04]),
            ("binary_format_major_version", uint16(2)),
            ("binary_format_minor_version", uint16(0)),
            ("build_epoch", [&[0x08, 0x02][..], &BUILT_SECS.to_be_bytes()].concat()),
            ("description", map(&[])),
        ]));
        bytes
    }
}

fn map(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xe0 | u8::try_from(fields.len()).unwrap()];
    for (key, value) in fields {
        bytes.extend(text(key));
        bytes.extend(value);
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap();
    let head = if len < 29 { vec![0x40 | len] } else { vec![0x40 | 29, len - 29] };
    [&head[..], text.as_bytes()].concat()
}

fn uint32(number: u32) -> Vec<u8> {
    [&[0xc4][..], &number.to_be_bytes()].concat()
}

fn uint16(number: u16) -> Vec<u8> {
    [&[0xa2][..], &number.to_be_bytes()].concat()
}

fn announced(asn: u32, organisation: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![("autonomous_system_number", uint32(asn)), ("autonomous_system_organization", text(organisation))]
}

/// Kcell's in both families, and somebody else's.
fn networks() -> Vec<u8> {
    let mut database = Database::new();
    let kcell = database.entry(&announced(29_355, "Kcell \"JSC\""));
    let other = database.entry(&announced(19_281, "Quad9"));
    for cidr in ["44.128.0.0/24", "44.128.1.0/24", "44.128.4.0/30", "2001:db8::/33", "2001:db8:8000::/33"] {
        database.network(cidr, kcell);
    }
    database.network("9.9.9.0/24", other);
    database.alias("2002::".parse().unwrap(), 16);
    database.alias("::ffff:0:0".parse().unwrap(), 96);
    database.bytes("GeoLite2-ASN")
}

#[tokio::test]
async fn a_maxmind_database_is_cut_to_the_catalogues_carriers_and_its_date_is_shown() {
    let site = Site::new();
    std::fs::write(site.dir.join("GeoLite2-ASN.mmdb"), networks()).unwrap();
    site.configure("[data]\nnetworks = \"GeoLite2-ASN.mmdb\"\n");
    let kept = Config::load(&site.dir).unwrap().settings.networks;
    // Neighbouring ranges are one, and IPv4 stands there once.
    let name = "\"Kcell \"\"JSC\"\"\"";
    assert_eq!(
        kept,
        format!(
            "# 2026-11-19\n44.128.0.0,44.128.1.255,29355,{name}\n44.128.4.0,44.128.4.3,29355,{name}\n\
             2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,29355,{name}\n"
        )
    );
    let collector = site.serve().await;
    let shown = collector.operator(&site).await.list_agents(ListAgentsRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.networks_date, "2026-11-19");
    collector.stop().await;
}

#[test]
fn a_file_that_is_no_database_of_networks_is_refused_with_a_remedy() {
    let site = Site::new();
    site.configure("[data]\nnetworks = \"table\"\n");
    let good = networks();
    let mut cities = Database::new();
    let entry = cities.entry(&[("city", text("Almaty"))]);
    cities.network("44.128.0.0/24", entry);
    let mut strangers = Database::new();
    let entry = strangers.entry(&announced(19_281, "Quad9"));
    strangers.network("9.9.9.0/24", entry);
    // The first node points beyond the data.
    let broken = [&[0xff; 6][..], &good[6..]].concat();
    for (bytes, part) in [
        (
            cities.bytes("GeoLite2-City"),
            "of the kind \"GeoLite2-City\" and tells no networks; take GeoLite2-ASN",
        ),
        (strangers.bytes("GeoLite2-ASN"), "holds no range of a carrier in the catalogue"),
        (broken, "the database is damaged"),
        // Its description is torn off; packed.
        (good[..good.len() - 40].to_vec(), "the database is damaged"),
        (good[..good.len() / 2].to_vec(), "neither a table in CSV nor a database"),
        (vec![0x1f, 0x8b, 0xff, 0xfe], "unpack what is packed"),
    ] {
        std::fs::write(site.dir.join("table"), bytes).unwrap();
        let said = Config::load(&site.dir).unwrap_err().to_string();
        assert!(said.contains("data.networks: ") && said.contains(part), "{part}: {said}");
    }
    std::fs::remove_file(site.dir.join("table")).unwrap();
    let said = Config::load(&site.dir).unwrap_err().to_string();
    assert!(
        said.contains("cannot be read") && said.contains("relative to the collector's directory"),
        "{said}"
    );
}
