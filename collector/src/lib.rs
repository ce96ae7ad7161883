//! The collector, in travel order: a record comes in by the uplink, is admitted by the engine, rests in the journal, and
//! leaves as decisions by the outbox and as answers to operators.

pub mod init;
pub mod config;
pub mod clock;
pub mod lock;
pub mod authority;
pub mod token;
pub mod people;
pub mod access;
pub mod gate;
pub mod enrollment;
pub mod vicinity;
pub mod session;
pub mod door;
pub mod relay;
pub mod uplink;
pub mod engine;
pub mod journal;
pub mod pictures;
pub mod state;
pub mod executor;
pub mod outbox;
pub mod signal;
pub mod operator;
pub mod metrics;
pub mod stop;
pub mod serve;
pub mod backup;
pub mod verify;
pub mod watchdog;
