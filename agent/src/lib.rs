//! The agent, in travel order: what it is told, when it measures, what it measures, where records wait, how they leave.

pub mod cli;
pub mod config;
pub mod entropy;
pub mod token;
pub mod state;
pub mod channel;
pub mod enroll;
pub mod list;
pub mod consent;
pub mod wish;
pub mod budget;
pub mod allowance;
pub mod cost;
pub mod pages;
pub mod doubt;
pub mod schedule;
pub mod probe;
pub mod picture;
pub mod show;
pub mod spool;
pub mod window;
pub mod witness;
pub mod uplink;
pub mod means;
pub mod touched;
pub mod run;
