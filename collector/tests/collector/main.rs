//! The collector as its peers meet it: the real program, real sockets on loopback, a small agent made of its parts.

#![allow(clippy::unwrap_used, reason = "an unmet expectation of a test is its failure")]

mod admission;
mod ahead;
mod asking;
mod backup;
mod by_quic;
mod configuration;
mod dns;
mod door;
mod enrollment;
mod evidence;
mod full_disk;
mod identity;
mod interceptions;
mod lists;
mod maxmind;
mod operators;
mod orders;
mod people;
mod pictures;
mod programs;
mod restart;
mod rotation;
mod samples;
mod signals;
mod slow;
mod transports;
mod uplink;
mod webhook;
mod whereabouts;
mod world;
