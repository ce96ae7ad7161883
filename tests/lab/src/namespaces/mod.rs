//! The lab's second floor: a subscriber, a censor, the world and a control, each in a network namespace of its own. The
//! censor acts on packets; the agent's program is the one that ships. Needs root and Debian's packet tools.
//!
//! In travel order: who lives where, the namespaces, the certificates, the resolvers, the world's servers, the censor's
//! own boxes, the four joined together; then one visit, the scenarios by family, the run of all, its report; and attacks on
//! the agent's own line.

pub mod addresses;
pub mod namespace;
pub mod certificates;
pub mod names;
pub mod world;
pub mod middlebox;
pub mod quic_box;
pub mod topology;
pub mod scenario;
pub mod families;
pub mod visit;
pub mod run;
pub mod confusion;
pub mod uplink;
