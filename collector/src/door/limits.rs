//! How many may be in at once: what descriptors this process may have, divided up so that agents, however many come, leave
//! enough for the journal, the state, operators, scrapers and executors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept from agents: the journal's and the state's files, operators, scrapers, redirectors, executors.
const RESERVED_MAX: usize = 1_024;
/// Connections of agents with a certificate, whatever the descriptors: a few dozen KB of memory each.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Handshakes under way, in all; each takes some KB.
const HANDSHAKES_MAX: usize = 4_096;
/// Connections without a certificate in force: boxes that enrol or come back.
const STRANGERS_MAX: usize = 1_024;
/// Connections that are told that there is no place for them.
const REFUSALS_MAX: usize = 64;
/// Operators' connections.
const OPERATORS_MAX: usize = 128;
/// Scrapers' connections.
const SCRAPERS_MAX: usize = 64;
/// Descriptors assumed where the system names no limit.
const DESCRIPTORS_UNLIMITED: usize = 1 << 20;

/// Who may be in, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors this process may have.
    pub descriptors: usize,
    /// Connections of agents with a certificate in force.
    pub agents: usize,
    pub handshakes: usize,
    pub strangers: usize,
    pub refusals: usize,
    pub operators: usize,
    pub scrapers: usize,
}

impl Limits {
    /// Divides descriptors up; `asked` is how many agents there are to be at most, if anybody said.
    pub fn divide(descriptors: usize, asked: Option<usize>) -> Self {
        let reserved = RESERVED_MAX.min(descriptors / 2);
        let theirs = descriptors - reserved;
        let part = |of: usize, divisor: usize, max: usize| (of / divisor).clamp(1, max);
        let handshakes = part(theirs, 4, HANDSHAKES_MAX);
        let strangers = part(theirs, 8, STRANGERS_MAX);
        let refusals = part(theirs, 16, REFUSALS_MAX);
        let room = theirs.saturating_sub(handshakes + strangers + refusals).max(1);
        Self {
            descriptors,
            agents: room.min(asked.unwrap_or(CONNECTIONS_MAX)),
            handshakes,
            strangers,
            refusals,
            operators: part(reserved, 8, OPERATORS_MAX),
            scrapers: part(reserved, 16, SCRAPERS_MAX),
        }
    }

    /// Of this process, after asking for as many descriptors as it may have.
    pub fn of_this_process(asked: Option<usize>) -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // Where that is forbidden, as in a hardened unit, what there is must do.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
        let allowed = if raised { maximum } else { current };
        let allowed = allowed.and_then(|allowed| usize::try_from(allowed).ok());
        let limits = Self::divide(allowed.unwrap_or(DESCRIPTORS_UNLIMITED).min(DESCRIPTORS_UNLIMITED), asked);
        if asked.is_some_and(|asked| asked > limits.agents) {
            tracing::warn!(
                descriptors = limits.descriptors,
                agents = limits.agents,
                asked,
                "the limit on open files has no room for so many agents; raise it (LimitNOFILE of the unit, ulimit -n), \
                 or lower agents.connections_max"
            );
        } else {
            tracing::info!(descriptors = limits.descriptors, agents = limits.agents, "room for agents");
        }
        limits
    }

    #[cfg(test)]
    fn sum(&self) -> usize {
        self.agents + self.handshakes + self.strangers + self.refusals + self.operators + self.scrapers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_the_parts_fit_and_a_share_is_kept_back() {
        for descriptors in [32, 64, 256, 1_024, 4_096, 20_000, 65_536, 1 << 20] {
            let limits = Limits::divide(descriptors, None);
            assert!(limits.sum() < descriptors, "{limits:?}");
            let kept = descriptors - (limits.agents + limits.handshakes + limits.strangers + limits.refusals);
            assert!(kept >= RESERVED_MAX.min(descriptors / 2), "{limits:?}");
            assert!(kept > limits.operators + limits.scrapers, "{limits:?}");
            assert!(limits.agents >= 1 && limits.operators >= 1 && limits.scrapers >= 1, "{limits:?}");
        }
        assert!(Limits::divide(20_000, None).agents >= 10_000);
        assert_eq!(Limits::divide(20_000, Some(50)).agents, 50);
        assert!(Limits::divide(256, Some(50_000)).agents < 128);
    }
}
