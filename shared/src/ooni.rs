//! OONI's Web Connectivity measurements, both ways: theirs into records our rules can judge, ours into their format.
//!
//! What a measurement carries becomes a record and a control's record; what it does not carry is said, never made up.
//! OONI has no canary: identity rests on the comparison with the control's page, which is a rule set of its own
//! (`compare`, `judge`), with ids that begin with `ooni.`. Reads no file. Format: OONI's `ooni/spec`, test
//! `ts-017-web-connectivity` and the data formats it names.

mod format;
mod facts;
mod handshakes;
mod pages;
mod control;
mod compare;
mod judge;
mod export;
mod export_control;
mod scrub;

pub use export::{Exported, NO_ADDRESS, export};
pub use facts::{Import, ReadCertificate, import};
pub use format::{Measurement, MeasurementError, TEST_NAME};
pub use judge::{Judgement, RULES_VERSION, judge_import, rules};

#[cfg(test)]
mod tests;
