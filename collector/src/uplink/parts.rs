//! Records that come in parts, over as many short connections as it takes. Held in memory only: what a restart loses the
//! agent sends again, for only a whole record is ever acknowledged.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::words::AgentId;
use zerkalo_proto::agent_v1::{PartHeld, RecordPart};

/// Longest record, in bytes: a body at its limit, and what stands around it.
const RECORD_LEN_MAX: usize = BODY_LEN_MAX + 1024;
/// Bytes held of all agents' records together; then the one begun first gives way.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is held, by agent: one record each.
#[derive(Debug, Default)]
pub struct Parts(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    begun: u64,
    bytes: usize,
    by_agent: BTreeMap<AgentId, Partial>,
}

#[derive(Debug)]
struct Partial {
    epoch: u64,
    sequence: u64,
    /// Rises with each record begun.
    number: u64,
    bytes: Vec<u8>,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Took {
    /// So much is held.
    Held(PartHeld),
    /// The record, whole; nothing is held any more.
    Whole(Vec<u8>),
    /// A record longer than any may be.
    TooLong,
}

impl Parts {
    /// What is held of an agent's record, for the welcome.
    pub fn held(&self, agent: &AgentId) -> Option<PartHeld> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_agent.get(agent).map(Partial::told)
    }

    /// Takes a part. Another record than the one held begins anew; a part that does not go on where the last one ended
    /// changes nothing, and the answer says where that is.
    pub fn take(&self, agent: &AgentId, part: &RecordPart) -> Took {
        let (offset, total) = (part.offset as usize, part.total_len as usize);
        if total > RECORD_LEN_MAX {
            return Took::TooLong;
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = held
            .by_agent
            .get(agent)
            .is_some_and(|known| (known.epoch, known.sequence) == (part.epoch, part.sequence));
        if !is_known {
            held.begin(agent, part);
        }
        let partial = held.by_agent.get_mut(agent).expect("it was known, or begun above");
        let goes_on = offset == partial.bytes.len() && offset + part.content.len() <= total;
        if goes_on {
            partial.bytes.extend_from_slice(&part.content);
        }
        let (len, told) = (partial.bytes.len(), partial.told());
        if goes_on {
            held.bytes += part.content.len();
        }
        if len == total {
            return held.remove(agent).map_or(Took::Held(told), Took::Whole);
        }
        held.shrink();
        Took::Held(told)
    }
}

impl Held {
    fn begin(&mut self, agent: &AgentId, part: &RecordPart) {
        self.remove(agent);
        self.begun += 1;
        let (epoch, sequence, number) = (part.epoch, part.sequence, self.begun);
        self.by_agent.insert(agent.clone(), Partial { epoch, sequence, number, bytes: Vec::new() });
    }

    fn remove(&mut self, agent: &AgentId) -> Option<Vec<u8>> {
        let partial = self.by_agent.remove(agent)?;
        self.bytes -= partial.bytes.len();
        Some(partial.bytes)
    }

    fn shrink(&mut self) {
        while self.bytes > BYTES_MAX {
            let first = self.by_agent.iter().min_by_key(|(_, partial)| partial.number);
            let Some(agent) = first.map(|(agent, _)| agent.clone()) else { return };
            self.remove(&agent);
        }
    }
}

impl Partial {
    fn told(&self) -> PartHeld {
        let held_len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        PartHeld { epoch: self.epoch, sequence: self.sequence, held_len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> AgentId {
        AgentId::parse(&format!("kz-kcell-{number:08x}")).unwrap()
    }

    fn part(sequence: u64, offset: usize, total: usize, content: &[u8]) -> RecordPart {
        let (offset, total_len) = (u32::try_from(offset).unwrap(), u32::try_from(total).unwrap());
        RecordPart { epoch: 1, sequence, offset, total_len, content: content.to_vec() }
    }

    #[test]
    fn a_record_is_whole_once_all_its_parts_came_in_order() {
        let (parts, agent) = (Parts::default(), agent(1));
        let held = |held_len| PartHeld { epoch: 1, sequence: 5, held_len };
        assert_eq!(parts.take(&agent, &part(5, 0, 6, b"abc")), Took::Held(held(3)));
        // Over another connection: what came twice, or leaves a gap, or is too much, changes nothing.
        assert_eq!(parts.held(&agent), Some(held(3)));
        for (offset, content) in [(0, &b"abc"[..]), (4, b"e"), (3, b"defg")] {
            assert_eq!(parts.take(&agent, &part(5, offset, 6, content)), Took::Held(held(3)));
        }
        assert_eq!(parts.take(&agent, &part(5, 3, 6, b"def")), Took::Whole(b"abcdef".to_vec()));
        assert_eq!(parts.held(&agent), None);
        // Another record begins anew.
        parts.take(&agent, &part(5, 0, 6, b"abc"));
        let other = PartHeld { epoch: 1, sequence: 6, held_len: 2 };
        assert_eq!(parts.take(&agent, &part(6, 0, 9, b"xy")), Took::Held(other));
        assert_eq!(parts.take(&agent, &part(7, 0, RECORD_LEN_MAX + 1, b"x")), Took::TooLong);
    }

    #[test]
    fn what_is_held_of_all_agents_is_bounded_and_the_oldest_gives_way() {
        let parts = Parts::default();
        let content = vec![7; BODY_LEN_MAX];
        let count = BYTES_MAX / BODY_LEN_MAX + 2;
        for number in 0..count {
            parts.take(&agent(number), &part(1, 0, BODY_LEN_MAX + 1, &content));
        }
        assert_eq!((parts.held(&agent(0)), parts.held(&agent(1))), (None, None));
        assert!(parts.held(&agent(2)).is_some());
        assert!(parts.0.lock().unwrap().bytes <= BYTES_MAX);
    }
}
