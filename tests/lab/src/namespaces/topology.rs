//! Four namespaces in a row: subscriber, censor, world; and the control, at the world's other side. Built once and used
//! for one visit after the other: between two, every rule is taken back.
//!
//! ```text
//! subscriber 198.18.0.2 -- 198.18.0.1 censor 198.18.1.1 -- 198.18.1.2 world 198.18.2.1 -- 198.18.2.2 control
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::addresses::WORLD;
use super::certificates::Certificates;
use super::names::{self, Lie};
use super::namespace::{Inhabitants, Namespace};
use super::scenario::{Place, Rule};
use super::{middlebox, quic_box, world};
use crate::process::Home;
use tokio::task::JoinSet;

/// A ClientHello with a post-quantum key share (about 1,500 bytes, its parts in random order) fits one packet: the
/// kernel's `string` match reads packets one by one and would miss a name that lies across two.
const LINK_MTU_BYTES: u32 = 1_800;
/// Takes back what rules did in any namespace.
const RESET: &str = "nft flush ruleset
for tables in iptables-legacy ip6tables-legacy; do
  for table in filter mangle nat; do $tables -t $table -F 2>/dev/null || true; done
done
for device in $(ls /sys/class/net); do tc qdisc del dev $device root 2>/dev/null || true; done
";
const RESET_SUBSCRIBER: &str = "ip route replace default via 198.18.0.1
ip -6 route replace default via 2001:db8::1
";

/// The four, with everything that lives in them.
#[derive(Debug)]
pub struct Topology {
    // Servers stop before their namespaces go.
    _inhabitants: Vec<Inhabitants>,
    subscriber: Namespace,
    censor: Namespace,
    world: Namespace,
    control: Namespace,
    home: Home,
}

impl Topology {
    /// Builds the four; `number` tells them from the other topologies of this process.
    pub async fn build(number: usize, certificates: &Certificates) -> Result<Self> {
        let create = |role: &str| Namespace::create(&format!("{number}-{role}"));
        let mut topology = Self {
            _inhabitants: Vec::new(),
            subscriber: create("subscriber")?,
            censor: create("censor")?,
            world: create("world")?,
            control: create("control")?,
            home: Home::create()?,
        };
        topology.wire().context("the namespaces cannot be wired")?;
        std::fs::write(topology.root_pem(), &certificates.root_pem)?;
        let own = certificates.clone();
        let world = topology.world.inhabit(move || world::open(own)).await?;
        let own = certificates.clone();
        let censor = topology.censor.inhabit(move || open_carrier(own)).await?;
        topology._inhabitants = vec![world, censor];
        Ok(topology)
    }

    /// The file with the root of the public CAs.
    pub fn root_pem(&self) -> PathBuf {
        self.home.path().join("root.pem")
    }

    /// One of the four.
    pub fn namespace(&self, place: Place) -> &Namespace {
        match place {
            Place::Subscriber => &self.subscriber,
            Place::Censor => &self.censor,
            Place::World => &self.world,
            Place::Control => &self.control,
        }
    }

    /// Takes every rule back and puts these in force.
    pub fn apply(&self, rules: &[Rule]) -> Result<()> {
        for place in [Place::Subscriber, Place::Censor, Place::World, Place::Control] {
            let mut script = RESET.to_owned();
            if place == Place::Subscriber {
                script.push_str(RESET_SUBSCRIBER);
            }
            for rule in rules.iter().filter(|rule| rule.place == place) {
                script.push_str(&rule.command);
                script.push('\n');
            }
            self.namespace(place).shell(&script)?;
        }
        Ok(())
    }

    fn wire(&self) -> Result<()> {
        let (censor, world) = (self.censor.name(), self.world.name());
        self.subscriber.shell(&format!(
            "ip link add uplink type veth peer name home netns {censor}
             ip address add 198.18.0.2/24 dev uplink
             ip -6 address add 2001:db8::2/64 dev uplink nodad"
        ))?;
        self.censor.shell(&format!(
            "ip link add abroad type veth peer name border netns {world}
             ip address add 198.18.0.1/24 dev home
             ip -6 address add 2001:db8::1/64 dev home nodad
             ip address add 198.18.1.1/24 dev abroad
             ip -6 address add 2001:db8:1::1/64 dev abroad nodad
             echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        ))?;
        for lie in Lie::ALL {
            self.censor.shell(&format!("ip address add {}/32 dev lo", lie.resolver()))?;
        }
        self.control.shell(&format!(
            "ip link add uplink type veth peer name outside netns {world}
             ip address add 198.18.2.2/24 dev uplink
             ip -6 address add 2001:db8:2::2/64 dev uplink nodad"
        ))?;
        let hosts: String = WORLD
            .iter()
            .map(|host| match host.contains(':') {
                true => format!("ip -6 address add {host}/128 dev lo nodad\n"),
                false => format!("ip address add {host}/32 dev lo\n"),
            })
            .collect();
        self.world.shell(&format!(
            "{hosts}
             ip address add 198.18.1.2/24 dev border
             ip -6 address add 2001:db8:1::2/64 dev border nodad
             ip address add 198.18.2.1/24 dev outside
             ip -6 address add 2001:db8:2::1/64 dev outside nodad"
        ))?;
        for namespace in [&self.subscriber, &self.censor, &self.world, &self.control] {
            // Offloads would glue packets together before the censor counts them.
            namespace.shell(&format!(
                "for device in $(ls /sys/class/net); do
                   test $device = lo || ethtool -K $device tso off gso off gro off
                   test $device = lo || ip link set $device mtu {LINK_MTU_BYTES}
                   ip link set $device up
                 done"
            ))?;
        }
        self.subscriber.shell(RESET_SUBSCRIBER)?;
        self.censor
            .shell("ip route add default via 198.18.1.2; ip -6 route add default via 2001:db8:1::2")?;
        self.world.shell(
            "ip route add 198.18.0.0/24 via 198.18.1.1; ip -6 route add 2001:db8::/64 via 2001:db8:1::1",
        )?;
        self.control
            .shell("ip route add default via 198.18.2.1; ip -6 route add default via 2001:db8:2::1")?;
        Ok(())
    }
}

/// The carrier's resolvers, one a lie, and the censor's boxes.
async fn open_carrier(certificates: Certificates) -> std::io::Result<JoinSet<()>> {
    let mut tasks = middlebox::open(certificates).await?;
    quic_box::open(&mut tasks).await?;
    for lie in Lie::ALL {
        names::start(lie.resolver().into(), lie, &mut tasks).await?;
    }
    Ok(tasks)
}
