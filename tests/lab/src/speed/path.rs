//! Time: a probe over a line with a real delay, against the round trips it cannot do without; and how long a blocked one
//! takes to give up.
//!
//! ```text
//! near 10.77.0.2 -- [ line: 20 ms each way ] -- 10.77.0.1 far (resolver, site)
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use zerkalo_core::record::{Arm, ProbeRecord, Span};

use super::line::Line;
use crate::namespaces::addresses::{CANARY, MIRROR, ORIGIN, PUBLIC_RESOLVER};
use crate::namespaces::certificates::Certificates;
use crate::namespaces::namespace::{Namespace, sweep};
use crate::namespaces::{run, world};
use crate::process::Home;

/// Half of the path's round trip: Moscow to Frankfurt, about.
const ONE_WAY: Duration = Duration::from_millis(20);
/// Probes of a healthy mirror.
const PROBES: usize = 15;
/// Connections that measure the round trip.
const PINGS: usize = 15;
/// Deadline of the main arm, in seconds: the agent's own default.
const TIMEOUT_SECS: u64 = 20;
/// A whole ClientHello in one packet, for the censor's filter.
const MTU_BYTES: u32 = 1_800;
/// Payload of one segment over a line of that MTU: less IP and TCP headers with timestamps.
const SEGMENT_LEN: u64 = 1_748;
/// Segments of the first flight (RFC 6928); each flight after it doubles.
const FIRST_FLIGHT_SEGMENTS: u64 = 10;

/// What the path cost.
#[derive(Debug, Clone, Serialize)]
pub struct PathCost {
    pub rtt_millis: f64,
    /// Round trips a visit cannot do without: DNS, TCP, TLS, and the flights of the page through slow start.
    pub round_trips: u32,
    /// Median of the probes' durations.
    pub healthy_millis: f64,
    /// Of that probe: until it connects, the connection, the handshake, the page.
    pub healthy_parts_millis: [f64; 4],
    /// `healthy_millis` over `round_trips` times `rtt_millis`.
    pub ratio: f64,
    /// Until the main arm of a probe whose ClientHello is dropped has given up.
    pub blocked_main_arm_secs: f64,
    /// The whole of that probe, with every comparison.
    pub blocked_secs: f64,
    pub main_arm_deadline_secs: u64,
}

/// What this machine lacks for it.
pub fn missing() -> Vec<String> {
    run::missing()
}

/// Measures; needs root.
pub async fn measure(agent: &Path) -> Result<PathCost> {
    sweep()?;
    let (near, middle, far) =
        (Namespace::create("near")?, Namespace::create("line")?, Namespace::create("far")?);
    wire(&near, &middle, &far).context("the namespaces cannot be wired")?;
    let line = middle.inhabit(|| async {
        let line = Line::start("tonear", "tofar", ONE_WAY)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _in_service = line;
            std::future::pending::<()>().await;
        });
        Ok(tasks)
    });
    let _line = line.await?;
    let certificates = Certificates::generate()?;
    let home = Home::create()?;
    let root_pem = home.path().join("root.pem");
    std::fs::write(&root_pem, &certificates.root_pem)?;
    let _far = far.inhabit(move || world::open(certificates)).await?;
    let rtt_millis = millis(round_trip(&near).await?);
    let mut visits = Vec::with_capacity(PROBES);
    let mut flights = 0;
    for _ in 0..PROBES {
        let record = probe(agent, &near, &root_pem).await?;
        let page = record.http.iter().rfind(|step| step.canary_found == Some(true));
        let page = page.context("the healthy probe did not find the page")?;
        flights = flights_of(page.body_len);
        visits.push((visit_of(&record), parts_of(&record)));
    }
    visits.sort();
    let (healthy, parts) = visits[PROBES / 2];
    let healthy_millis = millis(healthy);
    let round_trips = 3 + flights;
    far.shell(&format!(
        "iptables-legacy -A INPUT -p tcp --dport 443 -m string --algo bm --string {MIRROR} -j DROP"
    ))?;
    let blocked = probe(agent, &near, &root_pem).await?;
    Ok(PathCost {
        rtt_millis,
        round_trips,
        healthy_millis,
        healthy_parts_millis: parts.map(millis),
        ratio: healthy_millis / (f64::from(round_trips) * rtt_millis),
        blocked_main_arm_secs: visit_of(&blocked).as_secs_f64(),
        blocked_secs: Duration::from_micros(blocked.duration_micros).as_secs_f64(),
        main_arm_deadline_secs: TIMEOUT_SECS,
    })
}

/// From the beginning to the end of the last step of the main arm: what a visitor waits.
fn visit_of(record: &ProbeRecord) -> Duration {
    let end = |span: Span| span.start_micros + span.duration_micros;
    let tcp = record.tcp.iter().filter(|step| step.arm == Arm::Main).map(|step| end(step.span));
    let tls = record.tls.iter().filter(|step| step.arm == Arm::Main).map(|step| end(step.span));
    let http = record.http.iter().filter(|step| step.arm == Arm::Main).map(|step| end(step.span));
    Duration::from_micros(tcp.chain(tls).chain(http).max().unwrap_or_default())
}

/// Where the time of a healthy visit went, as [`PathCost::healthy_parts_millis`] has it.
fn parts_of(record: &ProbeRecord) -> [Duration; 4] {
    let first = |spans: &mut dyn Iterator<Item = Span>| spans.next().unwrap_or_default();
    let tcp = first(&mut record.tcp.iter().filter(|step| step.arm == Arm::Main).map(|step| step.span));
    let tls = first(&mut record.tls.iter().filter(|step| step.arm == Arm::Main).map(|step| step.span));
    let http = first(&mut record.http.iter().filter(|step| step.arm == Arm::Main).map(|step| step.span));
    let parts = [tcp.start_micros, tcp.duration_micros, tls.duration_micros, http.duration_micros];
    parts.map(Duration::from_micros)
}

/// Round trips of a body through slow start.
fn flights_of(body_len: u64) -> u32 {
    let (mut sent, mut flights) = (0, 0);
    while sent < body_len.div_ceil(SEGMENT_LEN) {
        sent += FIRST_FLIGHT_SEGMENTS << flights;
        flights += 1;
    }
    flights
}

fn wire(near: &Namespace, middle: &Namespace, far: &Namespace) -> Result<()> {
    let end = "ethtool -K uplink tso off gso off gro off tx off rx off; ip link set uplink up";
    let quiet = "echo 1 > /proc/sys/net/ipv6/conf/uplink/disable_ipv6";
    near.shell(&format!(
        "ip link add uplink mtu {MTU_BYTES} type veth peer name tonear mtu {MTU_BYTES} netns {}
         {quiet}
         ip address add 10.77.0.2/24 dev uplink
         {end}
         ip route add default via 10.77.0.1",
        middle.name()
    ))?;
    far.shell(&format!(
        "ip link add uplink mtu {MTU_BYTES} type veth peer name tofar mtu {MTU_BYTES} netns {}
         {quiet}
         ip address add 10.77.0.1/24 dev uplink
         for host in {ORIGIN} {PUBLIC_RESOLVER}; do ip address add $host/32 dev lo; done
         {end}",
        middle.name()
    ))?;
    middle.shell(
        "for device in tonear tofar; do
           echo 1 > /proc/sys/net/ipv6/conf/$device/disable_ipv6
           ethtool -K $device tso off gso off gro off
           ip link set $device up
         done",
    )?;
    Ok(())
}

/// Shortest time a TCP connection takes.
async fn round_trip(near: &Namespace) -> Result<Duration> {
    let (tell, told) = oneshot::channel();
    let _pinging = near.inhabit(move || async move {
        let target = SocketAddr::from((ORIGIN.parse::<Ipv4Addr>().map_err(io::Error::other)?, 443));
        let mut shortest = Duration::MAX;
        for _ in 0..PINGS {
            let began = Instant::now();
            drop(TcpStream::connect(target).await?);
            shortest = shortest.min(began.elapsed());
        }
        let _asked = tell.send(shortest);
        Ok(JoinSet::new())
    });
    _pinging.await.map(drop)?;
    told.await.context("no round trip was measured")
}

async fn probe(agent: &Path, near: &Namespace, root_pem: &Path) -> Result<ProbeRecord> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", near.name()]).arg(agent);
    command.args(["probe", &format!("https://{MIRROR}/"), "--json", "--allow-special-ranges"]);
    command.args(["--canary", CANARY, "--timeout", &TIMEOUT_SECS.to_string()]);
    command.args(["--resolver", PUBLIC_RESOLVER]).arg("--ca-file").arg(root_pem);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        bail!("the agent failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    zerkalo_proto::record::from_json(&String::from_utf8(output.stdout)?).context("no record")
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_as_many_flights_as_slow_start_needs() {
        assert_eq!(flights_of(0), 0);
        assert_eq!(flights_of(1), 1);
        assert_eq!(flights_of(10 * SEGMENT_LEN), 1);
        assert_eq!(flights_of(10 * SEGMENT_LEN + 1), 2);
        assert_eq!(flights_of(72 * 1024), 3);
    }
}
