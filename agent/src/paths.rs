//! Which of the collector's addresses is tried next, learned for each network the box finds itself in. Pure: time, the
//! network's name and what became of a try are arguments; what is remembered over a restart is `paths/memory.rs`.

pub mod kept;
mod memory;
mod network;

use std::cmp::Reverse;
use std::net::IpAddr;

use zerkalo_core::address::require_public;
use zerkalo_core::words::UnixMillis;

use crate::channel::Address;

pub use memory::{Memory, NetworkKey, Remembered};
pub use network::current as current_network;

/// Addresses of one collector that are tried.
pub const ADDRESSES_MAX: usize = 16;
/// Bytes one way, the handshake's among them, below which a connection is kept where the path freezes longer ones: they
/// freeze at 14 to 34 KB.
pub const SMALL_BYTES_MAX: u64 = 12_000;
/// A connection that froze after so many bytes one way was frozen for its length.
const FREEZE_BYTES_MIN: u64 = 6_000;
/// One that carried more before it froze did so for another reason.
const FREEZE_BYTES_MAX: u64 = 160_000;
/// How long a path is taken for one that freezes long connections; then it is tried without.
const SMALL_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// Failures in a row after which a path that once worked is no better than others.
const STREAK_MAX: u32 = 2;

/// How long a connection may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Any,
    /// Below [`SMALL_BYTES_MAX`] either way.
    Small,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Try(Address, Length),
    /// All were tried: wait, then begin anew.
    Rest,
}

/// How a try ended without use, or a connection its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came back for too long, after so many bytes up and down.
    Frozen { carried: (u64, u64) },
    /// A connection that served ended, as all do at last: the same way is tried once more before another.
    Lost,
    /// Anything else.
    Broken,
}

/// The addresses, and what is known of them here.
#[derive(Debug, Clone)]
pub struct Paths {
    addresses: Vec<Address>,
    memory: Memory,
    network: NetworkKey,
    /// Tried since one last worked or all had been tried.
    tried: Vec<Address>,
}

impl Paths {
    /// Addresses in the order they were given, each once.
    pub fn new(addresses: Vec<Address>, memory: Memory, network: NetworkKey) -> Self {
        let mut paths = Self { addresses: Vec::new(), memory, network, tried: Vec::new() };
        paths.learn_of(addresses);
        paths
    }

    /// The addresses known.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What is to outlive the process.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Adds addresses; whether one is new.
    pub fn learn_of(&mut self, addresses: Vec<Address>) -> bool {
        let before = self.addresses.len();
        for address in addresses {
            if !self.addresses.contains(&address) && self.addresses.len() < ADDRESSES_MAX {
                self.addresses.push(address);
            }
        }
        self.addresses.len() > before
    }

    /// Takes further addresses from the collector, and remembers them; whether one is new. What cannot be read is passed
    /// over. Of private and special ranges it names none, unless the box was led into one by whoever enrolled it: a stolen
    /// collector is not to send agents about their own homes.
    pub fn learn_urls(&mut self, urls: &[String]) -> bool {
        let is_special =
            |address: &Address| address.host.parse().is_ok_and(|ip: IpAddr| require_public(ip).is_err());
        let is_home = self.addresses.iter().any(is_special);
        let read = urls.iter().take(ADDRESSES_MAX).filter_map(|url| Address::parse(url).ok());
        let read: Vec<_> = read.filter(|address| is_home || !is_special(address)).collect();
        self.memory.learn(read.iter().map(ToString::to_string).collect()) | self.learn_of(read)
    }

    /// The box found itself in another network: what was tried in the last one says nothing here.
    pub fn enter(&mut self, network: NetworkKey) {
        if network != self.network {
            self.network = network;
            self.tried.clear();
        }
    }

    /// The best address not tried yet.
    pub fn next(&self, now: UnixMillis) -> Next {
        let untried = self.addresses.iter().enumerate().filter(|(_, known)| !self.tried.contains(known));
        let ranked = untried.min_by_key(|(given, address)| (self.rank(address, now), *given));
        match ranked {
            Some((_, address)) => Next::Try(address.clone(), self.length(address, now)),
            None => Next::Rest,
        }
    }

    /// All addresses, the one that just now answered first, then the best: for what is asked beside the stream.
    pub fn in_order(&self, answered: Option<&Address>, now: UnixMillis) -> Vec<Address> {
        let mut ranked: Vec<(usize, &Address)> = self.addresses.iter().enumerate().collect();
        ranked.sort_by_key(|(given, address)| (Some(*address) != answered, self.rank(address, now), *given));
        ranked.into_iter().map(|(_, address)| address.clone()).collect()
    }

    /// All may be tried once more.
    pub fn begin_round(&mut self) {
        self.tried.clear();
    }

    /// A record was acknowledged over this address, or a stream lived long. Whether that is news worth keeping.
    pub fn worked(&mut self, address: &Address, now: UnixMillis) -> bool {
        self.tried.clear();
        let known = self.memory.entry(self.network, address, now);
        let is_news = known.worked_at == UnixMillis(0) || known.streak > 0;
        (known.worked_at, known.streak) = (now, 0);
        is_news
    }

    /// A try failed, or a connection ended that should not have. Whether a limit of the path was learned by it.
    pub fn failed(&mut self, address: &Address, failure: Failure, now: UnixMillis) -> bool {
        let known = self.memory.entry(self.network, address, now);
        if failure == Failure::Lost {
            known.failed_at = now;
            return false;
        }
        if !self.tried.contains(address) {
            self.tried.push(address.clone());
        }
        (known.failed_at, known.streak) = (now, known.streak.saturating_add(1));
        let Failure::Frozen { carried: (up, down) } = failure else { return false };
        let is_of_length = (FREEZE_BYTES_MIN..=FREEZE_BYTES_MAX).contains(&up.max(down));
        if is_of_length && !is_small(known, now) {
            known.small_since = now;
            // Kept short it may serve: what was tried was something else.
            known.streak = 0;
            self.tried.retain(|tried| tried != address);
            return true;
        }
        false
    }

    fn length(&self, address: &Address, now: UnixMillis) -> Length {
        match self.memory.known(self.network, address).is_some_and(|known| is_small(known, now)) {
            true => Length::Small,
            false => Length::Any,
        }
    }

    /// What is tried first: what works, then what nobody tried here, then what works while connections are short, then
    /// what once worked, then what failed longest ago.
    fn rank(&self, address: &Address, now: UnixMillis) -> (u8, Reverse<UnixMillis>, UnixMillis) {
        let never = (Reverse(UnixMillis(0)), UnixMillis(0));
        let Some(known) = self.memory.known(self.network, address) else { return (1, never.0, never.1) };
        let has_worked = known.worked_at > UnixMillis(0);
        let class = match (has_worked, known.streak) {
            (_, 0) if is_small(known, now) => 2,
            (true, 0) => 0,
            (false, 0) => 1,
            (true, streak) if streak <= STREAK_MAX => 3,
            _ => 4,
        };
        if class == 4 {
            (class, never.0, known.failed_at)
        } else {
            (class, Reverse(known.worked_at), never.1)
        }
    }
}

fn is_small(known: &Remembered, now: UnixMillis) -> bool {
    // A clock that went back must not keep a path short for years.
    let age = now.0.abs_diff(known.small_since.0);
    known.small_since > UnixMillis(0) && age < SMALL_MILLIS
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_790_000_000_000;

    fn address(url: &str) -> Address {
        Address::parse(url).unwrap()
    }

    fn three() -> [Address; 3] {
        ["https://a.example:1", "quic://a.example:2", "https://relay.example:3"].map(address)
    }

    fn paths() -> Paths {
        Paths::new(three().to_vec(), Memory::default(), NetworkKey(1))
    }

    fn at(secs: u64) -> UnixMillis {
        UnixMillis(T0 + secs * 1000)
    }

    #[test]
    fn all_are_tried_before_a_rest_and_what_worked_is_first_from_then_on() {
        let [tcp, quic, relay] = three();
        let mut paths = paths();
        for expected in [&tcp, &quic, &relay] {
            assert_eq!(paths.next(at(0)), Next::Try(expected.clone(), Length::Any));
            paths.failed(expected, Failure::Broken, at(0));
        }
        assert_eq!(paths.next(at(1)), Next::Rest);
        paths.begin_round();
        // Nobody worked: in the order of failing, which is the order given.
        assert_eq!(paths.next(at(2)), Next::Try(tcp.clone(), Length::Any));
        assert!(paths.worked(&relay, at(3)));
        assert!(!paths.worked(&relay, at(4)), "no news");
        assert_eq!(paths.next(at(5)), Next::Try(relay.clone(), Length::Any));
        // Once more after a failure: the others first, for they were not tried in this round.
        paths.failed(&relay, Failure::Broken, at(6));
        assert_eq!(paths.next(at(6)), Next::Try(tcp, Length::Any));
        paths.begin_round();
        assert_eq!(paths.next(at(7)), Next::Try(relay.clone(), Length::Any));
        // What served is tried once more before another.
        paths.worked(&relay, at(8));
        paths.failed(&relay, Failure::Lost, at(9));
        assert_eq!(paths.next(at(9)), Next::Try(relay, Length::Any));
    }

    #[test]
    fn each_network_has_its_own_order_and_it_survives_a_restart() {
        let [tcp, quic, _] = three();
        let mut first = paths();
        first.worked(&quic, at(0));
        first.enter(NetworkKey(2));
        assert_eq!(first.next(at(1)), Next::Try(tcp.clone(), Length::Any));
        first.worked(&tcp, at(1));
        let text = first.memory().to_text();
        let memory = Memory::parse(&text).unwrap();
        let mut later = Paths::new(three().to_vec(), memory, NetworkKey(1));
        assert_eq!(later.next(at(2)), Next::Try(quic, Length::Any));
        later.enter(NetworkKey(2));
        assert_eq!(later.next(at(2)), Next::Try(tcp, Length::Any));
    }

    #[test]
    fn a_path_that_freezes_by_length_serves_on_in_short_connections() {
        let [tcp, quic, relay] = three();
        let mut paths = paths();
        paths.worked(&tcp, at(0));
        assert!(paths.failed(&tcp, Failure::Frozen { carried: (16_300, 3_000) }, at(10)));
        // Others may be without that limit.
        assert_eq!(paths.next(at(10)), Next::Try(quic.clone(), Length::Any));
        paths.failed(&quic, Failure::Broken, at(15));
        paths.failed(&relay, Failure::Broken, at(20));
        assert_eq!(paths.next(at(20)), Next::Try(tcp.clone(), Length::Small));
        paths.worked(&tcp, at(21));
        paths.begin_round();
        assert_eq!(paths.next(at(22)), Next::Try(tcp.clone(), Length::Small));
        // Frozen even so: a failure like any other, no news.
        assert!(!paths.failed(&tcp, Failure::Frozen { carried: (9_000, 3_000) }, at(30)));
        paths.worked(&tcp, at(31));
        let day_later = at(24 * 60 * 60 + 11);
        assert_eq!(paths.next(day_later), Next::Try(tcp, Length::Any));
    }

    #[test]
    fn what_is_asked_beside_the_stream_goes_by_the_address_that_answered_then_by_the_best() {
        let [tcp, quic, relay] = three();
        let mut paths = paths();
        assert_eq!(paths.in_order(None, at(0)), three());
        paths.failed(&tcp, Failure::Broken, at(0));
        paths.failed(&tcp, Failure::Broken, at(1));
        paths.worked(&relay, at(2));
        assert_eq!(paths.in_order(None, at(3)), [relay.clone(), quic.clone(), tcp.clone()]);
        // Tried or not, none is left out.
        assert_eq!(paths.in_order(Some(&tcp), at(3)), [tcp, relay, quic]);
    }

    #[test]
    fn silence_at_once_or_after_long_use_is_no_limit_of_length() {
        let [tcp, ..] = three();
        for carried in [(2_000, 2_500), (1_000_000, 40_000)] {
            let mut paths = paths();
            assert!(!paths.failed(&tcp, Failure::Frozen { carried }, at(0)));
            paths.begin_round();
            paths.tried = three()[1..].to_vec();
            assert_eq!(paths.next(at(1)), Next::Try(tcp.clone(), Length::Any));
        }
    }

    #[test]
    fn addresses_are_learned_once_and_not_without_end() {
        let mut paths = paths();
        assert!(!paths.learn_of(three().to_vec()));
        let many = (1..40).map(|port| address(&format!("https://b.example:{port}"))).collect();
        assert!(paths.learn_of(many));
        assert_eq!(paths.addresses().len(), ADDRESSES_MAX);
    }

    #[test]
    fn the_collector_adds_addresses_that_survive_but_none_in_a_stranger_s_home() {
        let mut known = paths();
        let told = ["https://d.example:9", "https://192.168.0.1:80", "nonsense"].map(str::to_owned);
        assert!(known.learn_urls(&told));
        assert!(!known.learn_urls(&told), "no news");
        assert_eq!(known.addresses().len(), 4);
        let memory = Memory::parse(&known.memory().to_text()).unwrap();
        assert_eq!(memory.learned_urls(), ["https://d.example:9"]);
        // What it no longer names is not remembered.
        assert!(known.learn_urls(&["https://e.example:9".to_owned()]));
        assert_eq!(known.memory().learned_urls(), ["https://e.example:9"]);
        // A laboratory.
        let at_home = vec![address("https://127.0.0.1:8443")];
        let mut at_home = Paths::new(at_home, Memory::default(), NetworkKey(1));
        assert!(at_home.learn_urls(&["quic://127.0.0.1:8445".to_owned()]));
    }
}
