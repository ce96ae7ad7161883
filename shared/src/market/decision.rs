//! One line of the decision log, and the words it is written in. Words here are stored and shown: never renamed.

use serde::{Deserialize, Serialize};

use super::DecidedCause;
use crate::cell::CarrierView;
use crate::target::{Sha256, TargetUrl};
use crate::verdict::{Verdict, words};
use crate::words::{Access, AgentId, CarrierId, MarketId, MirrorId, OwnerId, UnixMillis};

words!(
    /// What to do.
    Action {
        /// Nothing: the mirror works.
        Keep = "keep",
        /// Early warning: have the next mirror ready.
        Prepare = "prepare",
        /// Stop sending this market's traffic there, now.
        Pause = "pause",
        /// Put the next mirror in its place.
        Rotate = "rotate",
        /// Take it off the pool for good; it served nobody, so nothing takes its place.
        Retire = "retire",
        /// Do nothing: the network's state, or too little evidence.
        Hold = "hold",
        /// The addresses are blocked, not the name: keep the name, change hosting or CDN.
        MoveHosting = "move_hosting",
        /// The origin or its CDN refuses the country.
        ChangeCdnRule = "change_cdn_rule",
        /// Only visits with an encrypted ClientHello fail.
        DisableEch = "disable_ech",
        /// Only visits over QUIC fail.
        DisableH3 = "disable_h3",
        /// The control fails too: mend the site.
        FixOrigin = "fix_origin",
        /// The name is gone at the control too: the registrar or the registry took it.
        DomainLost = "domain_lost",
    }
);

words!(
    /// What executors make of a decision.
    Effect {
        /// Carry it out.
        Act = "act",
        /// People must approve it first, or a time must pass.
        AwaitingApproval = "awaiting_approval",
        /// The market only watches: nothing is carried out.
        DryRun = "dry_run",
        /// The market is frozen by an order.
        Frozen = "frozen",
    }
);

/// The same in three languages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Line {
    pub en: String,
    pub ru: String,
    pub kk: String,
}

/// Lines in three languages, the most important first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Texts {
    pub en: Vec<String>,
    pub ru: Vec<String>,
    pub kk: Vec<String>,
}

impl Texts {
    /// Adds a line at the end.
    pub fn push(&mut self, line: Line) {
        self.en.push(line.en);
        self.ru.push(line.ru);
        self.kk.push(line.kk);
    }
}

impl FromIterator<Line> for Texts {
    fn from_iter<I: IntoIterator<Item = Line>>(lines: I) -> Self {
        let mut texts = Self::default();
        lines.into_iter().for_each(|line| texts.push(line));
        texts
    }
}

/// The mirror that takes another's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub mirror: MirrorId,
    pub url: TargetUrl,
}

/// One record a decision rests on, with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    pub record: Sha256,
    pub agent: AgentId,
    pub owner: OwnerId,
    pub carrier: CarrierId,
    pub access: Access,
    pub at: UnixMillis,
    pub verdict: Verdict,
}

/// One line of the decision log. Its JSON is what is stored, shown and replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Market and number, such as `kz-000012`.
    pub id: String,
    /// From 1, over all markets.
    pub number: u64,
    pub at: UnixMillis,
    pub market: MarketId,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub action: Action,
    /// The action before; none at the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Action>,
    /// What executors make of it; logs of old held only what was to be carried out.
    #[serde(default = "act")]
    pub effect: Effect,
    /// What takes the mirror's place; none where nothing does, or the pool is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// The decision that waited, where this one carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carries_out: Option<String>,
    /// When the measurements that made it possible were complete; `at` is when it was taken.
    #[serde(default)]
    pub possible_at: UnixMillis,
    /// The reasons in English, as in `texts`.
    pub reasons: Vec<String>,
    #[serde(default)]
    pub texts: Texts,
    /// How the mirror is blocked, where the action rests on that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<DecidedCause>,
    /// What the markets' states together advise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Line>,
    pub carriers: Vec<CarrierView>,
    pub evidence: Vec<EvidenceItem>,
    pub rules_version: String,
    pub policy_version: String,
    /// How many journal entries had been folded, this one's cause among them.
    pub journal_position: u64,
    /// Of the frozen input, in its canonical JSON.
    #[serde(default)]
    pub input_sha256: Sha256,
}

fn act() -> Effect {
    Effect::Act
}

impl Decision {
    /// The logged bytes: one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a decision has only text keys")
    }
}
