//! Every scenario, by family: one function a trick, named after it, with what the verdict must be beside it.

pub mod dns;
pub mod tcp;
pub mod tls;
pub mod http;
pub mod transfer;
pub mod network;
pub mod site;

use super::scenario::Scenario;

/// A scenario under its name.
pub type Entry = (&'static str, fn() -> Scenario);

/// Lists functions under their own names.
macro_rules! named {
    ($($function:ident),+ $(,)?) => { &[$((stringify!($function), $function as fn() -> $crate::namespaces::scenario::Scenario)),+] };
}
use named;

/// All families, in the order in which a visit meets them.
pub const FAMILIES: &[(&str, &[Entry])] = &[
    ("DNS", dns::ALL),
    ("TCP", tcp::ALL),
    ("TLS", tls::ALL),
    ("HTTP", http::ALL),
    ("transfer", transfer::ALL),
    ("network", network::ALL),
    ("site and control", site::ALL),
];

/// All scenarios with their families.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, Scenario)> {
    FAMILIES.iter().flat_map(|(family, entries)| {
        entries.iter().map(move |(name, scenario)| (*family, *name, scenario()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_twins_are_not_the_trick_itself() {
        let mut seen = std::collections::BTreeSet::new();
        for (family, name, scenario) in all() {
            assert!(seen.insert(name), "{name} of {family} stands twice");
            if let Some((_, expected)) = scenario.twin {
                assert!(
                    expected != scenario.expected
                        || scenario.planned.is_some()
                        || expected.mechanism.is_none()
                );
            }
        }
        assert!(seen.len() >= 50, "only {} scenarios", seen.len());
    }
}
