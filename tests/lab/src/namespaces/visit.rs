//! One visit: the shipped agent runs as subscriber and as control, at the same time, and the rules judge the two records.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::judge::{Case, field_addresses, judge};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::{Mirror, Sha256, TargetUrl};
use zerkalo_core::verdict::Verdict;
use zerkalo_core::words::{Country, MarketId, MirrorId};

use super::addresses::{CANARY, NOBODY, PUBLIC_RESOLVER, PUBLIC_RESOLVER_NAME, addresses};
use super::scenario::{Addresses, Control, Gate, NEUTRAL_FIRST, Place, Visit};
use super::topology::Topology;
use super::world::DOH_PATH;
use crate::process::program;

/// Beyond the agent's own deadlines: then it hangs, which is a failure.
const GRACE: Duration = Duration::from_secs(15);

/// Where the subscriber lives.
const COUNTRY: &str = "RU";

/// What came of a visit.
#[derive(Debug, Clone)]
pub struct Visited {
    pub verdict: Verdict,
    /// The subscriber's record.
    pub record: ProbeRecord,
    /// Of the subscriber's probe, as it says itself.
    pub duration: Duration,
    /// Bytes on the subscriber's line, both ways, headers and all.
    pub bytes: u64,
}

/// Puts the visit's rules in force, has both agents look, and judges.
pub async fn visit(topology: &Topology, key_pin: Sha256, visit: &Visit) -> Result<Visited> {
    topology.apply(&visit.rules)?;
    let before = line_bytes(topology)?;
    let control = async {
        match visit.control {
            Control::Absent | Control::Follows => Ok(None),
            Control::Present => look(topology, Place::Control, visit, &[]).await.map(Some),
        }
    };
    let later = async {
        if let Some((after, rule)) = &visit.later {
            tokio::time::sleep(*after).await;
            topology.namespace(rule.place).shell(&rule.command)?;
        }
        anyhow::Ok(())
    };
    let (record, control, later) =
        tokio::join!(look(topology, Place::Subscriber, visit, &[]), control, later);
    let (record, mut control) = (record?, control?);
    later?;
    if visit.control == Control::Follows {
        control = Some(look(topology, Place::Control, visit, &field_addresses(&record)).await?);
    }
    let bytes = line_bytes(topology)?.saturating_sub(before);
    let mirror = mirror(visit, key_pin)?;
    let control =
        control.as_ref().map(|record| (Sha256::of(zerkalo_proto::record::encode(record).as_slice()), record));
    let (fingerprints, country) = (Fingerprints::built_in(), Country::parse(COUNTRY).ok());
    let case = Case {
        record: &record,
        control,
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country,
        home: None,
    };
    let verdict = judge(&case);
    let duration = Duration::from_micros(record.duration_micros);
    Ok(Visited { verdict, record, duration, bytes })
}

/// The mirror as the operator's list would have it.
fn mirror(visit: &Visit, key_pin: Sha256) -> Result<Mirror> {
    let url = TargetUrl::parse(&visit.url)?;
    let expected_addresses = match visit.addresses {
        Addresses::Stated => addresses(&url.host()),
        Addresses::Unstated => Vec::new(),
    };
    Ok(Mirror {
        large_page: None,
        id: MirrorId::parse("netlab")?,
        expected_addresses,
        standby: false,
        category: None,
        url,
        markets: vec![MarketId::parse("ru")?],
        canary: Some(CANARY.to_owned()),
        key_pins: vec![key_pin],
    })
}

async fn look(topology: &Topology, place: Place, visit: &Visit, also: &[IpAddr]) -> Result<ProbeRecord> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", topology.namespace(place).name()]).arg(program("zerkalo-agent")?);
    command.args(["probe", &visit.url, "--json", "--allow-special-ranges", "--canary", CANARY]);
    command.args(["--timeout", &visit.timeout_secs.to_string()]).arg("--ca-file").arg(topology.root_pem());
    command.args(also.iter().map(|address| format!("--field-address={address}")));
    let is_of_control = |option: &&String| option.as_str() == NEUTRAL_FIRST;
    match place {
        Place::Subscriber => command.args(&visit.options),
        _ => command.args(visit.options.iter().filter(is_of_control)),
    };
    if place == Place::Subscriber {
        command.args(["--resolver", &visit.lie.resolver().to_string()]);
    }
    command.args(["--resolver", PUBLIC_RESOLVER, "--nobody", NOBODY]);
    command.args(["--dot", &format!("{PUBLIC_RESOLVER_NAME}@{PUBLIC_RESOLVER}")]);
    command.args(["--doh", &format!("https://{PUBLIC_RESOLVER_NAME}{DOH_PATH}@{PUBLIC_RESOLVER}")]);
    if visit.gate == Gate::Checked {
        command.args(["--reference", "foreign=https://foreign.lab.test/"]);
        command.args(["--reference", "domestic=http://domestic.lab.test/"]);
    }
    if let Some(path) = visit.large_page {
        let host = TargetUrl::parse(&visit.url)?.host();
        command.args(["--large-page", &format!("https://{host}{path}")]);
        command.args(["--reference-object", "https://foreign.lab.test/large"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let limit = Duration::from_secs(4 * visit.timeout_secs) + GRACE;
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("the agent in {place:?} did not end within {limit:?}"))??;
    if !output.status.success() {
        bail!("the agent in {place:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("the agent's record is no text")?;
    zerkalo_proto::record::from_json(&text).context("the agent's record cannot be read")
}

/// Bytes that have passed the subscriber's line so far.
fn line_bytes(topology: &Topology) -> Result<u64> {
    let counters =
        topology.namespace(Place::Subscriber).shell("cat /sys/class/net/uplink/statistics/[rt]x_bytes")?;
    counters.split_whitespace().map(|count| count.parse::<u64>().context("a counter is no number")).sum()
}
