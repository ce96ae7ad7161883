//! What was learned of the collector's addresses, in the state directory.

use super::{Memory, Paths, current_network};
use crate::channel::Address;
use crate::state::{StateDir, StateError};
use crate::uplink::chain;

/// The file's name.
const FILE: &str = "paths.json";

/// The addresses given and those learned, with what is remembered of them.
pub fn read(state: &StateDir, given: &[String]) -> Paths {
    let read = state.read(FILE).unwrap_or_default();
    let memory = Memory::parse(&read).unwrap_or_default();
    let urls = given.iter().chain(memory.learned_urls());
    let parse = |url: &String| {
        Address::parse(url)
            .inspect_err(|error| tracing::warn!(url, error = chain(error), "an address cannot be used"))
            .ok()
    };
    let addresses = urls.filter_map(parse).collect();
    Paths::new(addresses, memory, current_network())
}

/// Some bytes, seldom: what works where the box is.
pub fn write(state: &StateDir, paths: &Paths) -> Result<(), StateError> {
    state.write(FILE, paths.memory().to_text().as_bytes())
}
