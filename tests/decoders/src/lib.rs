//! What every reader of foreign bytes must hold to. Each target is a body that reads bytes as one decoder of the programs
//! does, and asserts what must hold of whatever was read: it survives being written and read again, it is bounded, and
//! what is refused says why.
//!
//! Three users: the fuzz targets (`fuzz/`, one line each), the replay of their corpora, and of the corpora's mutations, in
//! the gate (`tests/replay.rs`), and `zerkalo-seeds`, which writes the corpora's beginnings.

mod chain;
mod files;
mod foreign;
mod http;
mod names;
mod segments;
mod statements;
mod wire;
pub mod mutation;
pub mod seeds;

use peak_alloc::PeakAlloc;

/// Counts what a body holds at once.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Bytes a body may hold at once, whatever it is given: regular expressions and tables that are parsed once are among them.
const HELD_BASE_MAX: usize = 48 * 1024 * 1024;
/// Bytes it may hold besides for each byte given. A protobuf element of two bytes becomes a struct of half a kilobyte, in a
/// vector with as much room again, read and written twice.
const HELD_PER_BYTE_MAX: usize = 4 * 1024;

/// What became of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// They were what the decoder reads, and everything that must hold of it held.
    Whole,
    /// They were refused, in words.
    Refused,
}

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    /// Of the fuzz target and of its corpus.
    pub name: &'static str,
    /// What reads such bytes, and where they come from.
    pub decoder: &'static str,
    body: fn(&[u8]) -> Read,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("frames", "a journal segment's frames and marks, from the collector's disk", segments::frames),
    target("journal", "a journal directory: opened, read and mended", segments::journal),
    target("entry", "a frame's payload: journal entries, orders among them", segments::entry),
    target("record", "a record's body, from agents; judged and exported", statements::record),
    target("record_json", "a record as JSON, from files", statements::record_json),
    target(
        "statement",
        "a signed record or gap, from agents, and its place in the chain",
        statements::statement,
    ),
    target("spool", "statements and marks in the agent's spool, from its disk", statements::spool),
    target("list", "the operator's mirror list, from the collector and from disk", statements::list),
    target("requests", "what agents send: streams, enrolment, renewal", wire::requests),
    target("responses", "what the collector sends to agents", wire::responses),
    target("orders", "what operators send to the collector", wire::orders),
    target("record_parts", "records that come in parts, from agents", wire::record_parts),
    target("list_parts", "lists that come in parts, from the collector", wire::list_parts),
    target("token", "one-time tokens, from whoever hands them over", names::token),
    target("url", "URLs and redirects, from lists and servers", names::url),
    target("dns", "DNS answers, from resolvers and whoever answers in their name", names::dns),
    target("ech", "ECH configurations, from DNS", chain::ech),
    target("chain", "certificate chains of servers, and agents' own certificates", chain::chain),
    target("roots", "trusted roots in PEM, from files", chain::roots),
    target("csr", "certificate requests, from agents", chain::csr),
    target("client_hello", "a ClientHello and its JA4", chain::client_hello),
    target("quic_versions", "a QUIC version negotiation, from servers", chain::quic_versions),
    target("page", "pages: title, excerpt, canary, portal; headers of other services", http::page),
    target("http_answer", "an HTTP/1.1 answer on a socket, from servers", http::answer),
    target("signal", "requests to the signal endpoints, from redirectors", http::signal),
    target("policy", "a market's policy, from a file", files::policy),
    target("catalogue", "the catalogue of markets and carriers, from a file", files::catalogue),
    target("networks", "tables of who announces an address, from a file", files::networks),
    target("noise", "the simulation's noise, from a file", files::noise),
    target("fingerprints", "fingerprints of block pages, from a file", files::fingerprints),
    target("agent_config", "agent.toml and the resolvers in it", files::agent_config),
    target("collector_config", "collector.toml, and an operator's file beside it", files::collector_config),
    target("operator_file", "operator.toml of the command line", files::operator_file),
    target("tsig_key", "keys and values of the DNS executor, from files", files::tsig_key),
    target("agent_state", "what an agent keeps in its state directory", files::agent_state),
    target("audit", "lines of the audit log, and notices that were logged", files::audit),
    target("backup", "a backup's manifest", files::backup),
    target("ooni", "OONI's measurements: plain, in lines, gzipped", foreign::ooni),
    target("fingerprints_csv", "public fingerprint lists", foreign::fingerprints_csv),
];

const fn target(name: &'static str, decoder: &'static str, body: fn(&[u8]) -> Read) -> Target {
    Target { name, decoder, body }
}

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).expect("every fuzz target names one of the table")
}

impl Target {
    /// Reads `bytes`, and asserts what must hold.
    ///
    /// # Panics
    /// If something did not: that is what fuzzers look for.
    pub fn run(&self, bytes: &[u8]) -> Read {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let read = (self.body)(bytes);
        let held = HEAP.peak_usage().saturating_sub(before);
        let most = HELD_BASE_MAX + HELD_PER_BYTE_MAX * bytes.len();
        assert!(held <= most, "{}: {held} bytes held at once for {} given", self.name, bytes.len());
        read
    }
}

/// What a fuzz target runs.
pub fn run(name: &str, bytes: &[u8]) {
    named(name).run(bytes);
}

/// Asserts that a refusal says something, and not without end.
fn refused(why: &dyn std::fmt::Display, given: &[u8]) -> Read {
    let said = why.to_string();
    assert!(!said.trim().is_empty(), "refused without a word");
    // Some parsers show the line that they refuse, escaped.
    assert!(said.len() <= 16 * 1024 + 16 * given.len(), "{} bytes of refusal", said.len());
    Read::Refused
}
