//! What the collector asks for beside the schedule's turns: a fresh look at a mirror, and of a control visits to the
//! addresses another agent got. Parsed here, once. A wish names no host, port or path: those are the signed list's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use zerkalo_core::judge::FIELD_ADDRESSES_MAX;
use zerkalo_core::words::{MarketId, MirrorId, WordError};
use zerkalo_proto::agent_v1::ProbeNow;

/// A fresh look at a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub mirror: MirrorId,
    /// Addresses to try beside the mirror's own; a control's business alone.
    pub addresses: Vec<IpAddr>,
    /// With a picture of the page, where the host takes any.
    pub picture: bool,
}

impl Wish {
    /// Parses the collector's message; what is no address, or one too many, is dropped.
    pub fn parse(message: &ProbeNow) -> Result<Self, WordError> {
        let addresses = message.addresses.iter().take(FIELD_ADDRESSES_MAX);
        Ok(Self {
            mirror: MirrorId::parse(&message.mirror)?,
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            picture: message.picture,
        })
    }
}

/// Where this box stands: a host enrols it for a carrier's network, or as a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Post {
    /// It goes where its own resolvers lead, and nowhere else.
    Field,
    /// It tries others' addresses too.
    Control,
}

impl Post {
    /// A control has no market.
    pub fn of(market: Option<&MarketId>) -> Self {
        if market.is_some() { Self::Field } else { Self::Control }
    }
}

/// Addresses that wait for the next probe of their mirror.
#[derive(Debug)]
pub struct Detours {
    post: Post,
    waiting: BTreeMap<MirrorId, Vec<IpAddr>>,
}

impl Detours {
    /// None yet.
    pub fn at(post: Post) -> Self {
        Self { post, waiting: BTreeMap::new() }
    }

    /// Notes where a wish leads; at most [`FIELD_ADDRESSES_MAX`] wait for one mirror. The caller knows the mirror, so
    /// there are no more mirrors than on the list.
    pub fn note(&mut self, wish: &Wish) {
        if self.post == Post::Field || wish.addresses.is_empty() {
            return;
        }
        let waiting = self.waiting.entry(wish.mirror.clone()).or_default();
        for address in &wish.addresses {
            if !waiting.contains(address) && waiting.len() < FIELD_ADDRESSES_MAX {
                waiting.push(*address);
            }
        }
    }

    /// The addresses for a probe of that mirror that begins now; no more than `room` of them, the rest is given up.
    pub fn take(&mut self, mirror: &MirrorId, room: usize) -> Vec<IpAddr> {
        let mut addresses = self.waiting.remove(mirror).unwrap_or_default();
        addresses.truncate(room);
        addresses
    }

    /// Forgets mirrors that are listed no more.
    pub fn retain(&mut self, listed: impl Fn(&MirrorId) -> bool) {
        self.waiting.retain(|mirror, _| listed(mirror));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(addresses: &[String]) -> Wish {
        let message = ProbeNow { mirror: "m1".to_owned(), addresses: addresses.to_vec(), picture: false };
        Wish::parse(&message).unwrap()
    }

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_wish_names_addresses_and_nothing_else() {
        let parsed = wish(&texts(&["9.9.9.9", "evil.example", "9.9.9.9:22", "2a00::1", ""]));
        assert_eq!(parsed.addresses, ["9.9.9.9", "2a00::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        let flood: Vec<String> = (0..200).map(|n| format!("9.9.9.{n}")).collect();
        assert_eq!(wish(&flood).addresses.len(), FIELD_ADDRESSES_MAX);
        assert!(Wish::parse(&ProbeNow { mirror: "../etc".to_owned(), ..ProbeNow::default() }).is_err());
    }

    #[test]
    fn only_a_control_goes_where_others_were_sent() {
        let addresses = texts(&["9.9.9.9", "9.9.9.8"]);
        let mut field = Detours::at(Post::Field);
        field.note(&wish(&addresses));
        let mirror = MirrorId::parse("m1").unwrap();
        assert_eq!(field.take(&mirror, 8), Vec::<IpAddr>::new());
        let mut control = Detours::at(Post::of(None));
        control.note(&wish(&addresses));
        control.note(&wish(&texts(&["9.9.9.8", "9.9.9.7"])));
        let taken: Vec<String> = control.take(&mirror, 8).iter().map(ToString::to_string).collect();
        assert_eq!(taken, ["9.9.9.9", "9.9.9.8", "9.9.9.7"]);
        assert_eq!(control.take(&mirror, 8), Vec::<IpAddr>::new(), "each once");
        for n in 0..20 {
            control.note(&wish(&texts(&[&format!("9.9.9.{n}")])));
        }
        assert_eq!(control.take(&mirror, usize::MAX).len(), FIELD_ADDRESSES_MAX);
        control.note(&wish(&addresses));
        assert_eq!(control.take(&mirror, 1).len(), 1, "no more than the budget has room for");
        control.note(&wish(&addresses));
        control.retain(|_| false);
        assert_eq!(control.take(&mirror, 8), Vec::<IpAddr>::new());
    }
}
