//! The pure core of Zerkalo, in travel order. No I/O, no async, no clock, no randomness, no environment, no wire types:
//! time, keys and rules are arguments.

pub mod words;
pub mod address;
pub mod target;
pub mod record;
pub mod page;
pub mod hops;
pub mod goodput;
pub mod evidence;
pub mod gap;
pub mod operator_keys;
pub mod identity;
pub mod admission;
pub mod journal;
pub mod audit;
pub mod catalogue;
pub mod networks;
pub mod fingerprint;
pub mod policy;
pub mod verdict;
pub mod judge;
pub mod cell;
pub mod market;
pub mod ledger;
pub mod fold;
pub mod simulate;
pub mod ooni;
