//! What a simulated censor can do, one word a trick, switchable while everything runs.
//!
//! The words only say what is done; the resolver and the fronts of a carrier do it.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use zerkalo_core::words::UnixMillis;

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

/// When a carrier's censor first struck at a connection, since it was last asked to forget.
#[derive(Debug, Clone, Default)]
pub struct FirstStrike(Arc<Mutex<Option<UnixMillis>>>);

impl FirstStrike {
    /// Notes a strike at `now`; only the first counts.
    pub fn note(&self, now: UnixMillis) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
    }

    /// The first strike, if any fell.
    pub fn at(&self) -> Option<UnixMillis> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next strike is the first.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_strike_counts_until_it_is_forgotten() {
        let strike = FirstStrike::default();
        let shared = strike.clone();
        assert_eq!(strike.at(), None);
        shared.note(UnixMillis(7));
        shared.note(UnixMillis(9));
        assert_eq!(strike.at(), Some(UnixMillis(7)));
        strike.forget();
        shared.note(UnixMillis(9));
        assert_eq!(strike.at(), Some(UnixMillis(9)));
    }
}
