//! What `run` starts with: who this box is, what it holds from earlier runs, what its host and its line allow.

use std::fs::File;
use std::path::Path;

use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::MirrorList;

use super::RunError;
use crate::allowance::{BYTES_PER_DAY_DEFAULT, BYTES_PER_DAY_METERED};
use crate::config::{Settings, SettingsError, load_trust};
use crate::consent::{self, Consent};
use crate::means::Means;
use crate::picture::PROFILE;
use crate::picture::pending::{self, Pending};
use crate::picture::photographer::Photographer;
use crate::picture::studio::{KeyTrust, Studio};
use crate::probe::http::Reading;
use crate::probe::{ProbeSettings, StepCaps};
use crate::spool::{self, Damage, Limits, Spool};
use crate::state::{Identity, StateDir};
use crate::touched::Touched;
use crate::uplink::{chain, wall_clock};
use crate::{clock, list};

/// Who this box is, and that it may work at all.
pub(super) struct Start {
    pub(super) state: StateDir,
    pub(super) identity: Identity,
    pub(super) consent: Consent,
    pub(super) operator_keys: OperatorKeys,
    pub(super) _lock: File,
}

impl Start {
    pub(super) fn of(dir: &Path) -> Result<Self, RunError> {
        let state = StateDir::existing(dir);
        let identity = state.identity()?;
        let consent = consent::standing(&state)?;
        let lock = state.lock()?;
        clock::load(&state);
        let operator_keys = state.operator_key(&identity)?.into();
        Ok(Self { state, identity, consent, operator_keys, _lock: lock })
    }
}

/// The list of the last run. Without it this box measures nothing until the collector sends it again.
pub(super) fn held_list(state: &StateDir, operator_keys: &OperatorKeys) -> Option<MirrorList> {
    list::load(state, operator_keys, wall_clock()).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "the stored mirror list cannot be used");
        None
    })
}

/// How this host probes.
pub(super) fn probe_settings_of(settings: &Settings) -> Result<ProbeSettings, SettingsError> {
    Ok(ProbeSettings {
        resolvers: settings.resolvers()?,
        ranges: settings.ranges,
        trust: load_trust(settings.ca_file.as_deref())?,
        neutral_sni: settings.neutral_sni.clone(),
        timeout: settings.timeout,
        caps: StepCaps::default(),
        reading: if settings.is_metered { Reading::Sparing } else { Reading::Whole },
    })
}

pub(super) fn open_spool(
    state: &StateDir,
    identity: &Identity,
    settings: &Settings,
) -> Result<Spool, RunError> {
    let key = state.record_key()?;
    let limits = Limits { bytes: settings.spool_bytes, ..Limits::default() };
    let (spool, damage) = Spool::open(&state.path(spool::DIR), &identity.agent, key, limits, wall_clock())?;
    if let Some(Damage { aside, saved }) = damage {
        tracing::error!(
            aside = %aside.display(), saved,
            "the spool was damaged and is moved aside; what is whole of it goes on in a new one, gaps tell of the rest: \
             check this box's disk"
        );
    }
    Ok(spool)
}

/// What takes pictures here, and what takes them to the uplink: none on a metered line.
pub(super) fn studio_of(settings: &Settings, state: &StateDir) -> (Studio, Option<Pending>) {
    let pending = Pending::open(&state.path(pending::DIR))
        .inspect_err(|error| tracing::warn!(%error, "no picture can be kept in this state directory"))
        .ok();
    let may = pending.is_some() && !settings.is_metered;
    let photographer = may.then(|| Photographer::find(&settings.pictures, &state.path(PROFILE))).flatten();
    tracing::debug!(?photographer, "pictures");
    let trust = if settings.ca_file.is_some() { KeyTrust::Hosts } else { KeyTrust::Browsers };
    (Studio::new(photographer, pending.clone(), trust), pending)
}

/// What this box talked to in earlier runs.
pub(super) fn touched_before(state: &StateDir) -> Touched {
    Touched::load(state).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "what was touched before is forgotten");
        Touched::default()
    })
}

/// What the host's line gives. A control stands in a data centre, and measures the mirrors of all markets.
pub(super) fn means_of(settings: &Settings, identity: &Identity, state: StateDir) -> Means {
    let by_kind = match (settings.is_metered, &identity.market) {
        (true, _) => BYTES_PER_DAY_METERED,
        (false, Some(_)) => BYTES_PER_DAY_DEFAULT,
        (false, None) => u64::MAX,
    };
    Means::load(state, settings.bytes_per_day.unwrap_or(by_kind), settings.is_metered)
}
