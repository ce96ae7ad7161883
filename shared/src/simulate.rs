//! Proof by simulation: markets, carriers, owners, bursts, outages, partial blocks, liars and states of the network, event by
//! event, against the real cells and the real market. Verdicts are drawn, not measured.
//!
//! Pure: the seed is an argument, and the same seed gives the same bytes on every machine.

mod agents;
mod chance;
mod desk;
mod fit;
mod noise;
mod queue;
mod report;
mod run;
mod scenario;
mod world;
#[cfg(test)]
mod tests;

pub use desk::Turn;
pub use fit::{Basis, Fitted, fit};
pub use noise::{Noise, NoiseError, Spell, Spread};
pub use report::{Delays, QuietReport, Rate, ScenarioReport, repeat, summarize, summarize_quiet};
pub use run::{Setup, Story, play};
pub use scenario::{Duty, Scenario};
