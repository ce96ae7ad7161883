//! `run`: the parts put together. One loop measures, one task keeps the uplink; each goes on when the other cannot.

mod start;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zerkalo_core::record::{Arm, Cause, ProbeRecord};
use zerkalo_core::target::{Mirror, MirrorList, Reference, TargetUrl};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};
use zerkalo_durable::store::StoreError;

use crate::allowance::{Allowance, Stage};
use crate::budget::HANDSHAKES_MAX;
use crate::config::{Settings, SettingsError};
use crate::consent::{self, Consent, ConsentError};
use crate::cost::REFERENCE_LEN;
use crate::doubt::Doubts;
use crate::means::Means;
use crate::papers::{Expelled, Gate, Papers};
use crate::picture::studio::Studio;
use crate::probe::arms::OWN_ARMS;
use crate::probe::flow::{Flow, is_odd};
use crate::probe::network::{self, Checked, Told};
use crate::probe::road::OWN_NAME_HANDSHAKES_MAX;
use crate::probe::{Assignment, EchLook, Measured, Neutral, OwnArms, ProbeSettings, measure, reference};
use crate::quiet::Quiet;
use crate::schedule::{Pace, Promises, Schedule, Step};
use crate::spool::SpoolError;
use crate::state::{StateDir, StateError};
use crate::touched::{self, Touched};
use crate::uplink::{Activity, Cloned, SharedSpool, SpoolWork, Stopped, Uplink, chain, wall_clock};
use crate::watchdog::{self, Watchdog};
use crate::wish::{Detours, Post, Wish};
use crate::witness::Witness;
use crate::worth::Calm;
use crate::{clock, entropy};
use start::{Start, held_list, means_of, open_spool, probe_settings_of, studio_of, touched_before};

/// Under this word ECH offers count together, whatever public name they show: most mirrors of one front share it. No host
/// is called so.
const ECH_LOOKS: &str = "(ech)";
/// Wishes of the collector that wait for the schedule.
const WISHES_MAX: usize = 64;
/// How old a check of the network may be: a cycle checks once, not once a mirror.
const REFERENCE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long a box whose clock is known to be wrong waits for the collector to tell the time before it measures.
const UNSURE_MAX: Duration = Duration::from_secs(60);
/// How often it looks.
const UNSURE_LOOK: Duration = Duration::from_millis(200);
/// The list's end is looked at no more rarely than this: clocks are set.
const LIST_END_LOOK: Duration = Duration::from_secs(60);
/// References a control asks: of all markets, not of one.
const CONTROL_REFERENCES_MAX: usize = 4 * reference::REFERENCES_MAX;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Consent(#[from] ConsentError),
    #[error("the spool cannot be opened")]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Cloned(#[from] Cloned),
    #[error(transparent)]
    Expelled(#[from] Expelled),
}

impl From<Stopped> for RunError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cloned(cloned) => cloned.into(),
            Stopped::Expelled(expelled) => expelled.into(),
        }
    }
}

impl RunError {
    /// Whether the spool is held by another process.
    pub fn is_in_use(&self) -> bool {
        matches!(
            self,
            Self::State(StateError::InUse { .. }) | Self::Spool(SpoolError::Store(StoreError::InUse { .. }))
        )
    }
}

/// Runs until `stop` ends.
pub async fn run(dir: &Path, settings: &Settings, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let Start { state, identity, consent, operator_keys, _lock } = Start::of(dir)?;
    let (papers, gate) = Papers::open(state.clone(), identity.agent.clone(), state.record_key()?)?;
    let probe_settings = probe_settings_of(settings)?;
    let spool = open_spool(&state, &identity, settings)?;
    let held = held_list(&state, &operator_keys);
    let list_version = held.as_ref().map_or(0, |list| list.version);
    tracing::info!(agent = %identity.agent, list_version, unacknowledged = spool.unacknowledged(), "agent started");
    let (list, list_seen) = watch::channel(held.map(Arc::new));
    let (wishes, wishes_seen) = mpsc::channel(WISHES_MAX);
    let (witness, witness_seen) = watch::channel(None);
    let spool = SharedSpool::new(spool, SpoolWork::Threads);
    let (quiet, activity) = (Quiet::default(), Activity::default());
    let means = means_of(settings, &identity, state.clone());
    let (studio, pictures) = studio_of(settings, &state);
    let uplink = Uplink {
        credentials: state.credentials()?,
        urls: settings.collector_urls.iter().chain(&identity.collector_urls).cloned().collect(),
        state: state.clone(),
        operator_keys,
        spool: spool.clone(),
        list,
        wishes,
        was_behind: AtomicBool::new(false),
        witness,
        pictures,
        quiet: quiet.clone(),
        activity: activity.clone(),
        inbox: Default::default(),
        papers: Some(papers),
    };
    let post = Post::of(identity.market.as_ref());
    let measuring = Measuring {
        schedule: Schedule::at(post, settings.interval),
        means,
        detours: Detours::at(if settings.visits_field_addresses { post } else { Post::Field }),
        reference_age_max: REFERENCE_AGE_MAX.min(settings.interval),
        market: identity.market.clone(),
        settings: Arc::new(probe_settings),
        under_way: JoinSet::new(),
        doubts: Doubts::new(settings.interval),
        calm: Calm::default(),
        spool,
        consent,
        touched: touched_before(&state),
        state: state.clone(),
        held: None,
        list: list_seen,
        wishes: wishes_seen,
        studio,
        checked: None,
        network_checked: None,
        witness: witness_seen,
        watchdog: Watchdog::start(),
        quiet,
        activity,
        gate,
        began: Instant::now(),
    };
    tokio::select! {
        stopped = uplink.run() => Err(stopped.into()),
        never = measuring.run() => match never {},
        error = consent::withdrawn(state) => Err(error.into()),
        () = stop => {
            watchdog::stopping();
            Ok(())
        }
    }
}

/// Whether nothing on a list is run any more.
fn has_ended(list: &MirrorList, now: UnixMillis) -> bool {
    list.expires_at.is_some_and(|expires_at| expires_at <= now)
}

/// The measuring loop's state.
struct Measuring {
    schedule: Schedule,
    means: Means,
    detours: Detours,
    settings: Arc<ProbeSettings>,
    /// Tasks of their own: a probe's clock must not stand while another one's record is kept. Ended with the loop.
    under_way: JoinSet<Ended>,
    doubts: Doubts,
    calm: Calm,
    /// `None` for a control: it measures the mirrors of all markets.
    market: Option<MarketId>,
    spool: SharedSpool,
    consent: Consent,
    state: StateDir,
    touched: Touched,
    /// What the host agreed to of the list, as the schedule knows it.
    held: Option<Arc<MirrorList>>,
    list: watch::Receiver<Option<Arc<MirrorList>>>,
    wishes: mpsc::Receiver<Wish>,
    studio: Studio,
    /// The last look at the network.
    checked: Option<Checked>,
    network_checked: Option<Duration>,
    reference_age_max: Duration,
    /// What the collector's last welcome told.
    witness: watch::Receiver<Option<Witness>>,
    watchdog: Watchdog,
    quiet: Quiet,
    activity: Activity,
    /// Whether the collector lets this box in.
    gate: watch::Receiver<Gate>,
    began: Instant,
}

/// A probe at its end.
struct Ended {
    mirror: MirrorId,
    cause: Cause,
    promises: Promises,
    list: Arc<MirrorList>,
    measured: Measured,
}

impl Measuring {
    async fn run(mut self) -> std::convert::Infallible {
        self.take_list();
        loop {
            self.watchdog.turn(self.began.elapsed());
            while let Ok(wish) = self.wishes.try_recv() {
                self.hear(wish);
            }
            if self.list.has_changed().unwrap_or(false) || self.has_ended() {
                self.take_list();
            }
            if *self.gate.borrow_and_update() == Gate::Closed {
                self.schedule.drop_requests();
                self.wait(None).await;
                continue;
            }
            let now = self.began.elapsed();
            if clock::is_unsure() && now < UNSURE_MAX {
                self.wait(Some(now + UNSURE_LOOK)).await;
                continue;
            }
            if let Some(until) = self.pause() {
                self.wait(Some(until)).await;
                continue;
            }
            if self.means.has_bytes_to_spare() {
                self.studio.begin_due(&mut self.schedule, self.began.elapsed());
            }
            match self.schedule.next(self.began.elapsed(), entropy::fraction()) {
                Step::Probe { mirror, cause } => self.begin(mirror, cause).await,
                Step::Wait { until } => self.wait(until).await,
            }
        }
    }

    /// Measures at the pace the day's bytes allow. Until when nothing is measured at all, where they are spent.
    fn pause(&mut self) -> Option<Duration> {
        let (now, wall) = (self.began.elapsed(), wall_clock());
        let stretch = match self.means.stage(wall) {
            Stage::Ample | Stage::Pages => 1,
            Stage::Slower(stretch) => stretch,
            Stage::Spent => {
                self.schedule.drop_requests();
                return Some(now + Duration::from_millis(Allowance::renewed_in_millis(wall)));
            }
        };
        self.schedule.stretch(stretch, now);
        None
    }

    async fn wait(&mut self, until: Option<Duration>) {
        let began = self.began;
        let end = self.held.is_some().then(|| began.elapsed() + LIST_END_LOOK);
        let wakes = [self.studio.wake(began.elapsed()), self.watchdog.wake(), end];
        let until = until.into_iter().chain(wakes.into_iter().flatten()).min();
        let due = async {
            match until {
                Some(until) => tokio::time::sleep_until(began + until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            Ok(()) = self.list.changed() => self.take_list(),
            Some(wish) = self.wishes.recv() => self.hear(wish),
            Ok(()) = self.gate.changed() => {}
            developed = self.studio.developed() => {
                self.means.note_bytes(developed.line_bytes(), wall_clock()).await;
                self.studio.keep(developed, &self.spool).await;
            }
            Some(ended) = self.under_way.join_next() => {
                self.keep(ended.expect("a probe does not panic and is never aborted")).await;
            }
        }
    }

    /// Takes a wish of the collector's in: the list says which mirrors there are.
    fn hear(&mut self, wish: Wish) {
        if self.held.as_ref().is_some_and(|list| list.mirror(&wish.mirror).is_some()) {
            self.detours.note(&wish);
        }
        if wish.picture {
            self.studio.ask(wish.mirror.clone());
        }
        self.schedule.request(wish.mirror);
    }

    /// Schedules the mirrors of this box's market that its host agreed to.
    fn take_list(&mut self) {
        let listed = self.list.borrow_and_update().clone();
        let list = listed.clone().filter(|list| !has_ended(list, wall_clock()));
        if let (Some(ended), None) = (&listed, &list) {
            tracing::error!(
                code = "list_expired",
                version = ended.version,
                ended_at = ended.expires_at.map(tracing::field::display),
                "the mirror list has ended and nothing is measured; the operator must sign it anew: `zerkalo mirrors sign`"
            );
        }
        let list = list.map(|list| Arc::new(self.consent.agreed(&list)));
        if let Some(reason) = list.as_ref().and_then(|list| list.stop.as_ref()) {
            tracing::warn!(
                reason,
                "the operator has every agent stop: nothing is touched until a newer list"
            );
            self.under_way = JoinSet::new();
            self.schedule.forgive();
            self.studio.abandon();
        }
        let mirrors = list.iter().flat_map(|list| &list.mirrors);
        let own = mirrors
            .filter(|mirror| self.market.as_ref().is_none_or(|market| mirror.markets.contains(market)))
            .map(|mirror| (mirror.id.clone(), mirror.url.host(), pace_of(mirror, self.market.is_some())));
        self.schedule.take(own, self.began.elapsed());
        self.doubts.retain(|known| list.iter().any(|list| list.mirror(known).is_some()));
        self.calm.retain(|known| list.iter().any(|list| list.mirror(known).is_some()));
        self.studio.retain(|id| list.iter().any(|list| list.mirror(id).is_some()));
        if let Some(checked) = &mut self.checked {
            let listed = list.iter().flat_map(|list| &list.references);
            let urls: Vec<_> = listed.map(|reference| &reference.url).collect();
            checked.references.retain(|check| urls.contains(&&check.url));
        }
        self.network_checked = None;
        self.detours.retain(|mirror| list.as_ref().is_some_and(|list| list.mirror(mirror).is_some()));
        self.means.take_list(list.as_deref());
        self.held = list;
    }

    fn has_ended(&self) -> bool {
        self.held.as_ref().is_some_and(|list| has_ended(list, wall_clock()))
    }

    /// Sends a probe on its way.
    async fn begin(&mut self, id: MirrorId, cause: Cause) {
        let list = self.held.clone();
        let Some((list, mirror)) = list.as_ref().and_then(|list| Some((list.clone(), list.mirror(&id)?)))
        else {
            return self.schedule.end(&id);
        };
        self.check_network(&list, self.reference_age_max).await;
        let now = self.began.elapsed();
        let neutral = self.neutral(&id, cause, now);
        let own_handshakes_max = self.schedule.own_handshakes_max(&id, cause, now);
        // Looks that the collector asks for follow one another closely: there the room is theirs.
        let is_idle =
            cause == Cause::Scheduled && self.schedule.has_room(&mirror.url.host(), HANDSHAKES_MAX, now);
        let has_ech_room = self.schedule.can_promise(ECH_LOOKS, 1, now);
        let ech = if has_ech_room { EchLook::Allowed } else { EchLook::Kept };
        let room = self.schedule.room(&mirror.url.host(), now).saturating_sub(OWN_NAME_HANDSHAKES_MAX);
        let flow = self.flow(&list, mirror, cause, now);
        let mut promises = vec![
            (self.settings.neutral_sni.clone(), neutral.handshakes_max()),
            (ECH_LOOKS.to_owned(), usize::from(has_ech_room)),
        ];
        promises.extend(flow.reference_object.as_ref().map(|object| (object.host(), 1)));
        self.schedule.promise(&promises);
        let assignment = Assignment {
            mirror: Some(mirror.id.clone()),
            url: mirror.url.clone(),
            canary: mirror.canary.clone(),
            list_version: list.version,
            cause,
            neutral,
            own_handshakes_max,
            own_arms: match is_idle {
                true => OwnArms::Allowed { turn: entropy::below(OWN_ARMS.len()) },
                false => OwnArms::Kept,
            },
            control_address: list.tools.control_address,
            flow,
            ech,
            field_addresses: self.detours.take(&id, room),
        };
        let settings = self.settings.clone();
        let (quiet, activity) = (self.quiet.clone(), self.activity.clone());
        self.under_way.spawn(async move {
            let probing = quiet.begin_probe().await;
            let mark = activity.mark();
            let clock = clock::reading();
            let mut measured = measure(&settings, &assignment, wall_clock()).await;
            measured.record.clock = Some(clock);
            measured.record.uplink = Some(activity.since(mark));
            drop(probing);
            Ended { mirror: id, cause, promises, list, measured }
        });
    }

    /// What is read beside the page. The host of the reference object has a handshake budget as well.
    fn flow(&self, list: &MirrorList, mirror: &Mirror, cause: Cause, now: Duration) -> Flow {
        let has_room = |object: &TargetUrl| self.schedule.can_promise(&object.host(), 1, now);
        Flow {
            large_page: self.means.large_page(mirror, cause, now),
            reference_object: self.means.reference_object(list).filter(has_room),
        }
    }

    /// Whether and when the next probe may show the neutral name, as far as its budget goes.
    fn neutral(&mut self, id: &MirrorId, cause: Cause, now: Duration) -> Neutral {
        let has_room = |count| self.schedule.can_promise(&self.settings.neutral_sni, count, now);
        let (one, two) = (has_room(1), has_room(2));
        // Whether the site itself takes a name that is not its own: only a control can tell.
        let is_control_asked = self.market.is_none() && cause == Cause::Requested;
        match (one, two) {
            (false, _) => Neutral::Spent,
            (true, _) if is_control_asked => Neutral::First,
            (true, two) if self.doubts.settle(id, now) => {
                if two {
                    Neutral::FirstAndAfter
                } else {
                    Neutral::First
                }
            }
            (true, _) => Neutral::Allowed,
        }
    }

    /// Keeps the record of a probe at its end, in the order of the ends.
    async fn keep(&mut self, ended: Ended) {
        let Ended { mirror, cause, promises, list, measured } = ended;
        let Measured { mut record, is_reached } = measured;
        let now = self.began.elapsed();
        self.schedule.redeem(&promises);
        let by_tcp = record.tls.iter().filter_map(|step| step.sni.as_deref());
        let by_quic = record.quic.iter().map(|step| step.sni.as_str());
        let looks = record.tls.iter().filter(|step| step.arm == Arm::EchReal).map(|_| ECH_LOOKS);
        for name in by_tcp.chain(by_quic).chain(looks) {
            self.schedule.note_handshakes(name, 1, now);
        }
        self.schedule.end(&mirror);
        self.schedule.note_visit(&mirror, is_reached && !is_odd(&record.http), now);
        for (resting, until) in self.doubts.note(&mirror, &record, now) {
            self.schedule.postpone(&resting, until);
        }
        self.studio.ended(&record, is_reached, now);
        if !is_reached {
            self.check_network(&list, Duration::ZERO).await;
        }
        if let Some(Checked { references, network }) = self.checked.clone() {
            (record.references, record.network) = (references, Some(network));
        }
        self.note_touched(&record).await;
        let worth = self.calm.note(&mirror, is_reached, now);
        let body = zerkalo_proto::record::encode(&record);
        self.means.note_probe(&mirror, &record, body.len(), (now, wall_clock())).await;
        match self.spool.append(body, worth, wall_clock()).await {
            Ok(link) => {
                tracing::debug!(%mirror, ?cause, is_reached, sequence = link.sequence, "measured")
            }
            Err(error) => tracing::error!(
                %mirror,
                error = chain(&error),
                "a record could not be kept and is lost; measuring goes on"
            ),
        }
    }

    /// Keeps what a probe talked to, for the host.
    async fn note_touched(&mut self, record: &ProbeRecord) {
        if !self.touched.note(record, wall_clock()) {
            return;
        }
        let (state, kept) = (self.state.clone(), self.touched.to_kept());
        let written = tokio::task::spawn_blocking(move || touched::write(&state, &kept)).await;
        if let Err(error) = written.expect("a write does not panic and is never aborted") {
            tracing::error!(error = chain(&error), "what was touched cannot be kept");
        }
    }

    /// Checks the network, unless the last check is younger than `age_max` or the handshake budget is spent.
    async fn check_network(&mut self, list: &MirrorList, age_max: Duration) {
        let now = self.began.elapsed();
        if self.network_checked.is_some_and(|checked| now < checked + age_max) {
            return;
        }
        let own = references_of(list, self.market.as_ref());
        let has_room = own.iter().all(|reference| self.schedule.has_room(&reference.url.host(), 1, now));
        if !has_room {
            return;
        }
        for reference in own.iter().filter(|reference| reference.url.is_https()) {
            self.schedule.note_handshakes(&reference.url.host(), 1, now);
        }
        let _probing = self.quiet.begin_probe().await;
        let told = self.told(list);
        self.checked = Some(network::check(&self.settings, &own, &told, wall_clock()).await);
        self.network_checked = Some(now);
        self.means.note_bytes(REFERENCE_LEN * own.len() as u64, wall_clock()).await;
    }

    fn told(&self, list: &MirrorList) -> Told {
        let witness = *self.witness.borrow();
        let now = (wall_clock(), std::time::Instant::now());
        Told {
            whoami_name: list.tools.whoami_name.clone(),
            clock_ahead_millis: witness.and_then(|witness| witness.ahead_millis(now)),
            seen_as: witness.and_then(|witness| witness.seen_as),
        }
    }
}

/// The references of the box's market; a control asks those of all markets, so that a host that is dead for everybody is
/// known to be. Each URL once: markets may share one.
fn references_of(list: &MirrorList, market: Option<&MarketId>) -> Vec<Reference> {
    let mut own: Vec<Reference> = Vec::new();
    for reference in &list.references {
        let is_asked = market.is_none_or(|market| *market == reference.market);
        if is_asked && !own.iter().any(|known| known.url == reference.url) {
            own.push(reference.clone());
        }
    }
    own.truncate(if market.is_some() { reference::REFERENCES_MAX } else { CONTROL_REFERENCES_MAX });
    own
}

/// Standbys are visited when the collector asks, by field agents: nobody watches a control.
fn pace_of(mirror: &Mirror, is_field: bool) -> Pace {
    if mirror.standby && is_field { Pace::OnRequest } else { Pace::Usual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::target::ReferenceSide;
    use zerkalo_core::words::UnixMillis;

    #[test]
    fn a_control_asks_the_references_of_all_markets_each_once() {
        let reference = |market: &str, side, url: &str| Reference {
            market: MarketId::parse(market).unwrap(),
            side,
            url: TargetUrl::parse(url).unwrap(),
        };
        let (ru, kz, free) = ("https://ru.example/", "https://kz.example/", "https://free.example/");
        let references = vec![
            reference("ru", ReferenceSide::Domestic, ru),
            reference("ru", ReferenceSide::Foreign, free),
            reference("kz", ReferenceSide::Domestic, kz),
            reference("kz", ReferenceSide::Foreign, free),
        ];
        let list = MirrorList { references, ..MirrorList::issued(1, UnixMillis(0)) };
        let asked = |market: Option<&str>| -> Vec<String> {
            let market = market.map(|market| MarketId::parse(market).unwrap());
            references_of(&list, market.as_ref()).iter().map(|asked| asked.url.to_string()).collect()
        };
        assert_eq!(asked(Some("kz")), [kz, free]);
        assert_eq!(asked(Some("by")), Vec::<String>::new());
        assert_eq!(asked(None), [ru, free, kz]);
    }
}
