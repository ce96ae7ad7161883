//! The agent against real sockets on loopback: what a censor, a bad server or a bad user does, and what is recorded.

#![allow(clippy::unwrap_used, reason = "an unmet expectation of a test is its failure")]
mod ahead;
mod arms;
mod cli;
mod dns_matrix;
mod dns_servers;
mod ech;
mod evil;
mod field;
mod flow;
mod host;
mod http;
mod names;
#[cfg(feature = "screenshot")]
mod picture;
#[cfg(feature = "screenshot")]
mod picture_service;
mod process;
mod quic;
mod network;
mod reference;
mod spool;
mod overflow;
mod damage;
mod thrift;
mod tls;
mod world;
