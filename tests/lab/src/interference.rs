//! What a simulated censor can do, one word a trick, switchable while everything runs.
//!
//! The words only say what is done; the resolver and the fronts of a carrier do it.

use std::fmt;
use std::net::Ipv4Addr;

/// A censor's trick (techniques of the field survey in brackets). All but [`Interference::WhitelistOnly`] strike only the
/// names and fronts on the carrier's register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interference {
    /// Nothing.
    Pass,
    /// The carrier's resolver gives a false address (A1).
    PoisonDns { address: Ipv4Addr },
    /// The carrier's resolver says that the name does not exist (A1).
    Nxdomain,
    /// The carrier's resolver never answers for the name (A1).
    DnsSilence,
    /// Silence after a ClientHello with a listed name (A7, A17).
    DropClientHello,
    /// A reset after a ClientHello with a listed name (A5).
    ResetOnClientHello,
    /// An orderly close after a ClientHello with a listed name (A5).
    EofOnClientHello,
    /// The address refuses connections, whatever the name (A4).
    RefuseTcp,
    /// A plain HTTP request for a listed host is answered with a block page (A16).
    Blockpage,
    /// Only domestic hosts work, nothing foreign does: a state of the network, not of the mirror (A13).
    WhitelistOnly,
}

impl fmt::Display for Interference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("lets everything pass"),
            Self::PoisonDns { address } => write!(f, "poisons DNS: its resolver answers {address}"),
            Self::Nxdomain => f.write_str("poisons DNS: its resolver says the name does not exist"),
            Self::DnsSilence => f.write_str("silences DNS for the name"),
            Self::DropClientHello => f.write_str("drops the ClientHello"),
            Self::ResetOnClientHello => f.write_str("resets after the ClientHello"),
            Self::EofOnClientHello => f.write_str("closes after the ClientHello"),
            Self::RefuseTcp => f.write_str("refuses connections to the address"),
            Self::Blockpage => f.write_str("answers plain HTTP with a block page"),
            Self::WhitelistOnly => f.write_str("goes whitelist-only: nothing foreign works"),
        }
    }
}
