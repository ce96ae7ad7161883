//! Which pictures records name: what a collector may take in, and what operators can ask for. Only the newest are
//! remembered; the bytes themselves are no part of the journal.

use std::collections::VecDeque;

use super::Fold;
use crate::record::{Cause, ProbeRecord, Screenshot};
use crate::target::{Sha256, TargetUrl};
use crate::words::{AgentId, MirrorId, UnixMillis};

/// Pictures remembered: some 4 MB of facts.
const PICTURES_MAX: usize = 8_192;
/// Pictures remembered of one agent: a flood of its own pushes out nobody else's.
const PICTURES_OF_AGENT_MAX: usize = 64;
/// Pictures of one agent in an hour; what goes beyond is not remembered, so its bytes are never taken. An honest agent
/// takes a third of that.
pub const PICTURES_AN_HOUR_MAX: usize = 36;
const HOUR_SECS: u64 = 3_600;
/// Bytes remembered of why there is none.
const FAILURE_LEN_MAX: usize = 256;

/// A picture as a record names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPicture {
    pub agent: AgentId,
    /// Hash of the record that names it.
    pub record: Sha256,
    /// When the record was admitted.
    pub at: UnixMillis,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub cause: Cause,
    pub screenshot: Screenshot,
}

/// The pictures named of late, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pictures(VecDeque<NamedPicture>);

impl Pictures {
    fn note(&mut self, picture: NamedPicture) {
        let of_agent = || self.0.iter().filter(|known| known.agent == picture.agent);
        let hour_ago = picture.at.minus_millis(HOUR_SECS * 1000);
        if of_agent().filter(|known| known.at > hour_ago).count() >= PICTURES_AN_HOUR_MAX {
            return;
        }
        if of_agent().count() >= PICTURES_OF_AGENT_MAX
            && let Some(oldest) = self.0.iter().position(|known| known.agent == picture.agent)
        {
            self.0.remove(oldest);
        }
        if self.0.len() >= PICTURES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(picture);
    }
}

impl Fold {
    /// The pictures named of late, newest first, failures too.
    pub fn pictures(&self) -> impl Iterator<Item = &NamedPicture> {
        self.pictures.0.iter().rev()
    }

    /// What the journal says of a picture that `agent` offers.
    pub fn picture_of(&self, agent: &AgentId, sha256: &Sha256) -> Option<&NamedPicture> {
        self.pictures().find(|known| {
            known.agent == *agent && known.screenshot.sha256 == *sha256 && known.screenshot.failure.is_none()
        })
    }

    pub(super) fn note_picture(&mut self, agent: &AgentId, record: Sha256, facts: &ProbeRecord) {
        let (Some(mirror), Some(screenshot)) = (&facts.mirror, &facts.screenshot) else { return };
        if self.agents.get(agent).is_none_or(|agent| !agent.has_say()) {
            return;
        }
        let mut screenshot = screenshot.clone();
        if let Some(failure) = &mut screenshot.failure {
            let len_max = FAILURE_LEN_MAX.min(failure.len());
            let end = (0..=len_max).rev().find(|end| failure.is_char_boundary(*end));
            failure.truncate(end.unwrap_or_default());
        } else if screenshot.extension().is_none() || !screenshot.has_fair_len() {
            return;
        }
        self.pictures.note(NamedPicture {
            agent: agent.clone(),
            record,
            at: self.at,
            mirror: mirror.clone(),
            url: facts.url.clone(),
            cause: facts.cause,
            screenshot,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Span;

    fn named(agent: &str, number: u32, at_secs: u64) -> NamedPicture {
        NamedPicture {
            agent: AgentId::parse(agent).unwrap(),
            record: Sha256::of(&number.to_be_bytes()),
            at: UnixMillis(at_secs * 1000),
            mirror: MirrorId::parse("m").unwrap(),
            url: TargetUrl::parse("https://m.example/").unwrap(),
            cause: Cause::Scheduled,
            screenshot: Screenshot {
                sha256: Sha256::of(&number.to_le_bytes()),
                len: 9,
                media_type: "image/webp".to_owned(),
                address: "192.0.2.1:443".parse().unwrap(),
                span: Span::default(),
                failure: None,
            },
        }
    }

    #[test]
    fn a_flood_of_one_agent_is_cut_and_pushes_out_nobody_elses() {
        let mut pictures = Pictures::default();
        pictures.note(named("a", 0, 10_000));
        (0..1_000).for_each(|number| pictures.note(named("flood", number, 10_000)));
        assert_eq!(pictures.0.len(), 1 + PICTURES_AN_HOUR_MAX);
        // Spread over days: the newest of each stay.
        (0..1_000).for_each(|number| pictures.note(named("flood", number, 20_000 + u64::from(number) * 600)));
        assert_eq!(pictures.0.len(), 1 + PICTURES_OF_AGENT_MAX);
        assert_eq!(pictures.0[0], named("a", 0, 10_000));
        assert_eq!(pictures.0.back(), Some(&named("flood", 999, 20_000 + 999 * 600)));
    }

    #[test]
    fn many_agents_together_stay_bounded() {
        let mut pictures = Pictures::default();
        for agent in 0..PICTURES_MAX / 32 + 10 {
            (0..32).for_each(|number| pictures.note(named(&format!("a{agent}"), number, 10_000)));
        }
        assert_eq!(pictures.0.len(), PICTURES_MAX);
    }
}
