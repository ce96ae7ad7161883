//! What is remembered of the collector's addresses, network by network. Bounded: the network not seen for longest goes.

use serde::{Deserialize, Serialize};
use zerkalo_core::words::UnixMillis;

use crate::channel::Address;

/// Networks remembered: home, mobile, and some of the road.
const NETWORKS_MAX: usize = 16;
/// Addresses remembered of one network.
const PATHS_MAX: usize = 2 * super::ADDRESSES_MAX;

/// Tells one network from another on this host; says nothing to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkKey(pub u64);

/// What became of one address in one network. Times are 0 for never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    url: String,
    pub worked_at: UnixMillis,
    pub failed_at: UnixMillis,
    /// Failures since it last worked.
    pub streak: u32,
    /// Since when long connections freeze there.
    pub small_since: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Network {
    key: NetworkKey,
    used_at: UnixMillis,
    paths: Vec<Remembered>,
}

/// All networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Addresses that the collector named when last heard.
    #[serde(default)]
    learned: Vec<String>,
    networks: Vec<Network>,
}

impl Memory {
    /// Reads what [`Memory::to_text`] wrote; `None` where it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As it is kept.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are always JSON")
    }

    /// Addresses that the collector named when last heard.
    pub fn learned_urls(&self) -> &[String] {
        &self.learned
    }

    /// Remembers these, and none that were learned before; whether that is news.
    pub(super) fn learn(&mut self, urls: Vec<String>) -> bool {
        let is_news = urls != self.learned;
        self.learned = urls;
        is_news
    }

    pub(super) fn known(&self, key: NetworkKey, address: &Address) -> Option<&Remembered> {
        let network = self.networks.iter().find(|network| network.key == key)?;
        let url = address.to_string();
        network.paths.iter().find(|known| known.url == url)
    }

    pub(super) fn entry(&mut self, key: NetworkKey, address: &Address, now: UnixMillis) -> &mut Remembered {
        let url = address.to_string();
        let network = self.network(key, now);
        network.used_at = now;
        let index = match network.paths.iter().position(|known| known.url == url) {
            Some(index) => index,
            None => {
                if network.paths.len() >= PATHS_MAX {
                    network.paths.remove(0);
                }
                let never = UnixMillis(0);
                let (worked_at, failed_at, small_since) = (never, never, never);
                network.paths.push(Remembered { url, worked_at, failed_at, streak: 0, small_since });
                network.paths.len() - 1
            }
        };
        &mut network.paths[index]
    }

    fn network(&mut self, key: NetworkKey, now: UnixMillis) -> &mut Network {
        let index = match self.networks.iter().position(|network| network.key == key) {
            Some(index) => index,
            None => {
                if self.networks.len() >= NETWORKS_MAX {
                    let oldest = (0..self.networks.len()).min_by_key(|index| self.networks[*index].used_at);
                    self.networks.remove(oldest.unwrap_or_default());
                }
                self.networks.push(Network { key, used_at: now, paths: Vec::new() });
                self.networks.len() - 1
            }
        };
        &mut self.networks[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_not_seen_for_longest_is_forgotten_and_a_broken_file_is_nothing() {
        let address = Address::parse("https://a.example:1").unwrap();
        let mut memory = Memory::default();
        for number in 0..=NETWORKS_MAX as u64 {
            memory.entry(NetworkKey(number), &address, UnixMillis(1_000 + number)).worked_at = UnixMillis(1);
        }
        assert_eq!(memory.networks.len(), NETWORKS_MAX);
        assert!(memory.known(NetworkKey(0), &address).is_none());
        assert!(memory.known(NetworkKey(1), &address).is_some());
        assert_eq!(Memory::parse(&memory.to_text()), Some(memory.clone()));
        assert_eq!(Memory::parse("{"), None);
        for port in 1..100 {
            let address = Address::parse(&format!("https://a.example:{port}")).unwrap();
            memory.entry(NetworkKey(1), &address, UnixMillis(1));
        }
        assert_eq!(memory.networks[0].paths.len(), PATHS_MAX);
    }
}
