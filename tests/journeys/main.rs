//! End-to-end journeys over the real programs, one module each. The lab (zerkalo-lab) is their world.

// All of it is tests.
#![allow(clippy::unwrap_used)]

mod programs;
mod clock;
mod demo;
mod freeze;
mod readme;
mod promises;
mod replay;
mod silence;
mod transports;
mod ledger;
mod identity;
mod kill;
mod lost_disk;
mod middlebox;
mod mirror;
mod overflow;
mod pictures;
mod load;
mod latency;
mod services;
mod units;
mod lab;
mod uplink;
