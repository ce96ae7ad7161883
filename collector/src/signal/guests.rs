//! How many connections each address has: one stranger must not take all the places there are.
//!
//! Addresses of private networks are not counted apart: there stands the TLS proxy, through which everybody comes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one address, or of one /64.
const CONNECTIONS_PER_GUEST_MAX: u32 = 32;

/// Who is here.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<BTreeMap<IpAddr, u32>>>);

/// A place among one's own; given back when dropped.
#[derive(Debug)]
pub struct Stay {
    guests: Guests,
    guest: Option<IpAddr>,
}

impl Guests {
    /// Lets a connection in, unless its address has its share.
    pub fn enter(&self, address: IpAddr) -> Option<Stay> {
        let guest = guest(address.to_canonical());
        if let Some(guest) = guest {
            let mut here = self.lock();
            let count = here.entry(guest).or_insert(0);
            if *count == CONNECTIONS_PER_GUEST_MAX {
                return None;
            }
            *count += 1;
        }
        Some(Stay { guests: self.clone(), guest })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let Some(guest) = self.guest else { return };
        let mut here = self.guests.lock();
        if let Some(count) = here.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                here.remove(&guest);
            }
        }
    }
}

/// Whom an address is counted as; `None`: as nobody.
fn guest(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => None,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => None,
        IpAddr::V4(_) => Some(address),
        IpAddr::V6(v6) => Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_a_share_and_a_proxy_all() {
        let guests = Guests::default();
        let check = |first: &str, other: &str, is_one: bool| {
            let enter = |text: &str| guests.enter(text.parse().unwrap());
            let mut stays: Vec<_> = (0..CONNECTIONS_PER_GUEST_MAX).map(|_| enter(first).unwrap()).collect();
            assert_eq!(enter(other).is_none(), is_one, "{first} and {other}");
            stays.pop();
            assert!(enter(other).is_some(), "a place given back is free");
        };
        check("203.0.113.7", "203.0.113.7", true);
        check("203.0.113.7", "::ffff:203.0.113.7", true);
        check("203.0.113.7", "203.0.113.8", false);
        check("2001:db8::1", "2001:db8::ffff:2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        for proxy in ["127.0.0.1", "172.18.0.2", "fd00::1", "::1"] {
            check(proxy, proxy, false);
        }
        assert!(guests.lock().is_empty(), "nobody is remembered");
    }
}
