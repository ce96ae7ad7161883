//! Transfer: the page begins, and does not end; and what only looks like that.

use zerkalo_core::verdict::Mechanism::{TransferFreeze, TransferThrottle};
use zerkalo_core::verdict::Trigger::{Ip, Unknown};

use super::{Entry, named};
use crate::namespaces::addresses::{MIRROR, ORIGIN};
use crate::namespaces::scenario::{OK, Scenario, Visit, blocked, impaired};

pub(super) const ALL: &[Entry] = named![
    freeze_after_16_kb,
    freeze_after_24_kb,
    freeze_after_32_kb,
    intermittent_freeze,
    policing_to_128_kbit,
    random_loss_of_10_percent,
    slow_origin,
];

/// Silence once 16 KB have come from a foreign host (A8).
fn freeze_after_16_kb() -> Scenario {
    frozen_after(18_000)
}

/// Silence once 24 KB have come (A8).
fn freeze_after_24_kb() -> Scenario {
    frozen_after(24_000)
}

/// Silence once 32 KB have come (A8).
fn freeze_after_32_kb() -> Scenario {
    frozen_after(33_000)
}

/// Every second connection freezes; this is the first (A8).
fn intermittent_freeze() -> Scenario {
    let rules = format!(
        "iptables-legacy -t mangle -A FORWARD -p tcp -d {ORIGIN} --dport 443 --syn -m statistic --mode nth --every 2 --packet 0 -j CONNMARK --set-mark 2
         iptables-legacy -A FORWARD -p tcp -s {ORIGIN} -m connmark --mark 2 {} -j DROP",
        beyond(24_000)
    );
    Scenario::of(Visit::mirror().meets(rules), blocked(TransferFreeze, Ip))
}

/// The subscriber gets 128 kbit/s from the mirror (A10).
fn policing_to_128_kbit() -> Scenario {
    let rules = "tc qdisc add dev home root tbf rate 128kbit burst 8kb latency 400ms";
    let visit = Visit::mirror().meets(rules).within_secs(12);
    Scenario::of(visit.clone(), impaired(TransferThrottle, Unknown))
        .twin(Visit { rules: Vec::new(), ..visit }, OK)
        .planned("no reference object to compare the speed with yet: the page loads, late")
}

/// Every tenth packet is lost, both ways: a bad line, no censor.
fn random_loss_of_10_percent() -> Scenario {
    let loss = "iptables-legacy -A FORWARD -m statistic --mode random --probability 0.1 -j DROP";
    Scenario::of(Visit::mirror().meets(loss).within_secs(20), OK)
}

/// The site itself is slow: everybody waits.
fn slow_origin() -> Scenario {
    Scenario::of(Visit::to(&format!("https://{MIRROR}/slow")).within_secs(8), OK)
}

fn frozen_after(bytes: u32) -> Scenario {
    let rule = format!("iptables-legacy -A FORWARD -p tcp -s {ORIGIN} {} -j DROP", beyond(bytes));
    Scenario::of(Visit::mirror().meets(rule), blocked(TransferFreeze, Ip))
}

fn beyond(bytes: u32) -> String {
    format!("-m connbytes --connbytes {bytes}: --connbytes-dir reply --connbytes-mode bytes")
}
