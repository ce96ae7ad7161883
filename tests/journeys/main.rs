//! End-to-end journeys over the real programs, one module each. The lab (zerkalo-lab) is their world.

// All of it is tests.
#![allow(clippy::unwrap_used)]

mod programs;
mod clock;
mod demo;
mod readme;
mod promises;
mod replay;
mod ledger;
mod identity;
mod kill;
mod lost_disk;
mod overflow;
mod pictures;
mod load;
mod latency;
mod services;
mod units;
mod lab;
mod uplink;
