//! What this host gives to measuring: the day's bytes, whether its line is metered, and so which large pages are read.
//! The count lives in the state directory, so that a restart gives no second day; what is dropped is said in the log and
//! stands in the file, which `zerkalo-agent status` shows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zerkalo_core::record::{Cause, ProbeRecord};
use zerkalo_core::target::{Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{MirrorId, UnixMillis};

use crate::allowance::{Allowance, Spent, Stage};
use crate::cost;
use crate::pages::LargePages;
use crate::probe::flow::{is_odd, pace};
use crate::state::{StateDir, StateError};
use crate::uplink::chain;

/// The file in the state directory.
const FILE: &str = "bytes.json";

/// The count as it is kept, and what it means, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub spent: Spent,
    pub bytes_per_day: u64,
    pub is_metered: bool,
    /// What is still done today.
    pub stage: String,
}

/// The count as the last run left it; `None` before the first.
pub fn kept(state: &StateDir) -> Result<Option<Kept>, StateError> {
    let path = state.path(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let kept = serde_json::from_str(&state.read(FILE)?);
    kept.map(Some).map_err(|error| StateError::Malformed { path, detail: error.to_string() })
}

/// What the host gives, and what is left of it.
#[derive(Debug)]
pub struct Means {
    state: StateDir,
    allowance: Allowance,
    is_metered: bool,
    pages: LargePages,
    told: Stage,
}

impl Means {
    /// Goes on where the last run ended.
    pub fn load(state: StateDir, bytes_per_day: u64, is_metered: bool) -> Self {
        let spent = kept(&state).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the day's bytes are counted anew");
            None
        });
        let spent = spent.map_or_else(Spent::default, |kept| kept.spent);
        let allowance = Allowance::new(bytes_per_day, spent);
        Self { state, allowance, is_metered, pages: LargePages::default(), told: Stage::Ample }
    }

    /// What may still be done; a change is told in the log.
    pub fn stage(&mut self, now: UnixMillis) -> Stage {
        let stage = self.allowance.stage(now);
        if stage.as_str() != self.told.as_str() {
            let (bytes, bytes_per_day) = (self.allowance.spent().bytes, self.allowance.bytes_per_day());
            match stage {
                Stage::Ample => tracing::info!(bytes_per_day, "a new day: {}", stage.as_str()),
                _ => tracing::warn!(bytes, bytes_per_day, "the day's bytes run out: {}", stage.as_str()),
            }
        }
        self.told = stage;
        stage
    }

    /// The mirror's large page, if it is to be read with this probe.
    pub fn large_page(&self, mirror: &Mirror, cause: Cause, now: Duration) -> Option<TargetUrl> {
        let is_due = self.has_bytes_to_spare() && self.pages.is_due(&mirror.id, cause, now);
        mirror.large_page.clone().filter(|_| is_due)
    }

    /// The object to compare with, where bytes allow it.
    pub fn reference_object(&self, list: &MirrorList) -> Option<TargetUrl> {
        list.tools.reference_object.clone().filter(|_| self.has_bytes_to_spare())
    }

    /// Forgets mirrors that are off the list.
    pub fn take_list(&mut self, list: Option<&MirrorList>) {
        self.pages.retain(|id| list.is_some_and(|list| list.mirror(id).is_some()));
    }

    /// Notes a probe at its end, and keeps the count.
    pub async fn note_probe(
        &mut self,
        mirror: &MirrorId,
        record: &ProbeRecord,
        body_len: usize,
        now: (Duration, UnixMillis),
    ) {
        self.pages.note(mirror, pace(&record.http), is_odd(&record.http), now.0);
        self.note_bytes(cost::bytes_of(record, body_len as u64), now.1).await;
    }

    /// Counts bytes of the line, and keeps the count.
    pub async fn note_bytes(&mut self, bytes: u64, now: UnixMillis) {
        self.allowance.note(bytes, now);
        let kept = Kept {
            spent: self.allowance.spent(),
            bytes_per_day: self.allowance.bytes_per_day(),
            is_metered: self.is_metered,
            stage: self.allowance.stage(now).as_str().to_owned(),
        };
        let json = serde_json::to_vec(&kept).expect("numbers and a text are always JSON");
        let state = self.state.clone();
        let written = tokio::task::spawn_blocking(move || state.write(FILE, &json)).await;
        if let Err(error) = written.expect("a write does not panic and is never aborted") {
            tracing::error!(error = chain(&error), "the day's bytes cannot be kept; a restart forgets them");
        }
    }

    /// Whether more may be done than visits: never on a metered line.
    pub fn has_bytes_to_spare(&self) -> bool {
        !self.is_metered && self.told == Stage::Ample
    }
}
