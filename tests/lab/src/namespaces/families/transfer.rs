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
    freeze_of_the_large_page,
    intermittent_freeze_of_the_large_page,
    policing_to_128_kbit,
    slow_line,
    random_loss_of_10_percent,
    slow_origin,
    slow_large_page_of_the_site,
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
    Scenario::of(Visit::mirror().meets(every_second_frozen()), blocked(TransferFreeze, Ip))
}

/// The page passes, and what is longer than 24 KB freezes (A8).
fn freeze_of_the_large_page() -> Scenario {
    let rule = format!("iptables-legacy -A FORWARD -p tcp -s {ORIGIN} {} -j DROP", beyond(24_000));
    Scenario::of(small_page().reading("/large").meets(rule), blocked(TransferFreeze, Ip))
}

/// The same on every second connection: the first of two readings freezes (A8).
fn intermittent_freeze_of_the_large_page() -> Scenario {
    let visit = small_page().reading("/large").meets(every_second_frozen()).within_secs(9);
    Scenario::of(visit, impaired(TransferFreeze, Ip))
}

/// The subscriber gets 128 kbit/s from the mirror; what comes faster is dropped (A10).
fn policing_to_128_kbit() -> Scenario {
    let rules = format!(
        "nft add table ip police
         nft add chain ip police forward '{{ type filter hook forward priority 0; }}'
         nft add rule ip police forward ip saddr {ORIGIN} tcp sport 443 limit rate over 16 kbytes/second burst 16 kbytes drop"
    );
    let visit = small_page().reading("/large").meets(rules).within_secs(20);
    Scenario::of(visit, impaired(TransferThrottle, Unknown))
}

/// The whole line gives 128 kbit/s, whoever sends.
fn slow_line() -> Scenario {
    let slow = "tc qdisc add dev home root tbf rate 128kbit burst 8kb latency 400ms";
    Scenario::of(small_page().reading("/large").meets(slow).within_secs(20), OK)
}

/// Every tenth packet is lost, both ways: a bad line, no censor.
fn random_loss_of_10_percent() -> Scenario {
    let loss = "iptables-legacy -A FORWARD -m statistic --mode random --probability 0.1 -j DROP";
    Scenario::of(Visit::mirror().reading("/large").meets(loss).within_secs(20), OK)
}

/// The site itself is slow: everybody waits.
fn slow_origin() -> Scenario {
    Scenario::of(Visit::to(&format!("https://{MIRROR}/slow")).within_secs(12), OK)
}

/// The site's large page is slow, for everybody; other hosts are not.
fn slow_large_page_of_the_site() -> Scenario {
    Scenario::of(small_page().reading("/slow").within_secs(20), OK)
}

fn small_page() -> Visit {
    Visit::to(&format!("https://{MIRROR}/small"))
}

fn frozen_after(bytes: u32) -> Scenario {
    let rule = format!("iptables-legacy -A FORWARD -p tcp -s {ORIGIN} {} -j DROP", beyond(bytes));
    Scenario::of(Visit::mirror().meets(rule), blocked(TransferFreeze, Ip))
}

fn every_second_frozen() -> String {
    format!(
        "iptables-legacy -t mangle -A FORWARD -p tcp -d {ORIGIN} --dport 443 --syn -m statistic --mode nth --every 2 --packet 0 -j CONNMARK --set-mark 2
         iptables-legacy -A FORWARD -p tcp -s {ORIGIN} -m connmark --mark 2 {} -j DROP",
        beyond(24_000)
    )
}

fn beyond(bytes: u32) -> String {
    format!("-m connbytes --connbytes {bytes}: --connbytes-dir reply --connbytes-mode bytes")
}
