//! The evil-server suite: what hostile or broken peers do, each behaviour a short function on a real socket, with the
//! fact beside it that must stand in the record. The real program meets each of them in a process of its own, with little
//! memory; what holds of every run is checked in `child.rs`. Each family writes a table to `target/evil/`.

mod child;
mod dns;
mod facts;
mod ground;
mod http;
mod http2;
mod namespace;
mod packets;
mod parsers;
mod quic;
mod rebinding;
mod redirects;
mod tcp_tls;
mod terminal;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use child::Scene;

/// Behaviours met at once: probes mostly wait.
const SIDE_BY_SIDE: usize = 10;

/// One thing a peer does, and the fact it must become: a line as `facts.rs` writes it, with stars for anything.
pub struct Behaviour {
    name: &'static str,
    fact: &'static str,
    play: Arc<dyn Fn() -> BoxFuture<'static, Scene> + Send + Sync>,
}

/// A behaviour: its name, the fact, and what sets it up.
pub fn evil<P>(
    name: &'static str,
    fact: &'static str,
    play: impl Fn() -> P + Send + Sync + 'static,
) -> Behaviour
where
    P: Future<Output = Scene> + Send + 'static,
{
    Behaviour { name, fact, play: Arc::new(move || play().boxed()) }
}

/// Meets every behaviour of a family; fails with all that went wrong.
pub async fn meet(family: &str, behaviours: Vec<Behaviour>) {
    let mut rows: Vec<(Behaviour, Result<Met, Unmet>)> = futures::stream::iter(behaviours)
        .map(|behaviour| async move {
            let met = meet_one(&behaviour, child::SHORT_SECS).await;
            (behaviour, met)
        })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    // A busy machine may have eaten the deadline before the fact could be: those again, with time, one by one.
    for (behaviour, met) in &mut rows {
        if let Err(Unmet::Fact(_)) = met {
            *met = meet_one(behaviour, child::LONG_SECS).await;
        }
    }
    let mut table = format!("# Evil servers: {family}\n\n| behaviour | fact | peak KiB |\n|---|---|---|\n");
    let mut failures = String::new();
    for (behaviour, met) in &rows {
        match met {
            Ok(Met { fact, resident_kib }) => {
                let fact = fact.replace('|', "\\|").escape_debug().to_string();
                writeln!(table, "| {} | {fact} | {resident_kib} |", behaviour.name).unwrap();
            }
            Err(Unmet::Fact(why) | Unmet::Promise(why)) => {
                writeln!(failures, "{}: {why}\n", behaviour.name).unwrap();
            }
        }
    }
    let dir = Path::new(env!("CARGO_BIN_EXE_zerkalo-agent")).ancestors().nth(2).unwrap().join("evil");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{family}.md")), &table).unwrap();
    println!("{table}\n{} behaviours", rows.len());
    assert!(failures.is_empty(), "\n{failures}");
}

/// What came of a behaviour.
struct Met {
    fact: String,
    resident_kib: u64,
}

/// What is wrong with a run.
enum Unmet {
    /// The record holds other facts.
    Fact(String),
    /// What holds of every run does not hold.
    Promise(String),
}

async fn meet_one(behaviour: &Behaviour, timeout_secs: u32) -> Result<Met, Unmet> {
    let scene = (behaviour.play)().await;
    let run = child::probe(&scene, timeout_secs).await.map_err(Unmet::Promise)?;
    let lines = facts::facts(&run.record);
    match lines.iter().find(|line| facts::reads_as(line, behaviour.fact)) {
        Some(line) => Ok(Met { fact: line.chars().take(160).collect(), resident_kib: run.resident_kib }),
        None => Err(Unmet::Fact(format!("no {:?} in\n  {}", behaviour.fact, lines.join("\n  ")))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_of_a_resolver_becomes_a_fact() {
    meet("dns", dns::behaviours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_handshake_becomes_a_fact() {
    meet("tcp_tls", tcp_tls::behaviours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_answer_becomes_a_fact() {
    meet("http", http::behaviours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_frame_becomes_a_fact() {
    meet("http2", http2::behaviours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_datagram_becomes_a_fact() {
    meet("quic", quic::behaviours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_on_memory_is_a_limit() {
    /// On a busy machine a process may come and go between two looks at its peak.
    const LOOKS: usize = 10;
    let scene = ground::http_page(http::PAGE.as_bytes().to_vec()).await;
    let mut peak_kib = 0;
    for _ in 0..LOOKS {
        let run = child::probe(&scene, child::LONG_SECS).await.expect("a healthy probe has room");
        peak_kib = peak_kib.max(run.resident_kib);
        if peak_kib > 1_000 {
            break;
        }
    }
    assert!(peak_kib > 1_000, "its peak is seen");
    assert!(!child::survives(&scene, 1_000).await, "a process without memory must not get through");
}
