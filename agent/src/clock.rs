//! What time it is on this box: never before what is known to have passed.
//!
//! Boxes without a battery boot in 1970. The lower bound is the latest of: when this agent was built, what the collector
//! told in the past (kept in the state directory), what it told now, over TLS. From there the steady clock counts on. A
//! clock that is ahead is left alone: the network check finds it, and the collector's tables know what to make of it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zerkalo_core::record::ClockReading;
use zerkalo_core::words::UnixMillis;

use crate::state::StateDir;

/// The collector's time, kept in the state directory.
const FILE: &str = "clock";
/// It is written again after this: cards wear out.
const SAVE_AGAIN_MILLIS: u64 = 3_600_000;
/// How far a steady clock strays, in parts of a million: twice what cheap crystals do.
const DRIFT_PPM: u64 = 200;
/// When this agent was built, in seconds since 1970.
const BUILT_AT_SECS: &str = env!("ZERKALO_BUILT_AT_SECS");
/// Which boot it is, where the system tells.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known of the time; one a process, for time is one.
static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
static BOOT: OnceLock<[u8; 8]> = OnceLock::new();

/// A lower bound, and how good it is.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// It was not before this at `since`.
    floor: UnixMillis,
    since: Instant,
    /// How far the floor was off at most; `None` where nobody told it just then.
    error_millis: Option<u64>,
    saved: UnixMillis,
}

impl Known {
    fn new(floor: UnixMillis, since: Instant) -> Self {
        Self { floor, since, error_millis: None, saved: UnixMillis(0) }
    }

    fn floor(&self, at: Instant) -> UnixMillis {
        self.floor.plus_millis(millis(at.saturating_duration_since(self.since)))
    }

    fn wall(&self, system: UnixMillis, at: Instant) -> UnixMillis {
        system.max(self.floor(at))
    }

    /// Somebody who can be believed said that it is `time`, give or take.
    fn learn(&mut self, time: UnixMillis, error_millis: Option<u64>, at: Instant) {
        if error_millis.is_some() || time > self.floor(at) {
            *self = Self { floor: time, since: at, error_millis, ..*self };
        }
    }

    /// Whether the clock is below its lower bound, and nobody told the time.
    fn is_unsure(&self, system: UnixMillis, at: Instant) -> bool {
        self.error_millis.is_none() && system < self.floor(at)
    }

    /// The time to verify by what was issued then.
    fn time_for(&self, issued: UnixMillis, system: UnixMillis, at: Instant) -> UnixMillis {
        let wall = self.wall(system, at);
        if self.is_unsure(system, at) { wall.max(issued) } else { wall }
    }

    /// How far the wall clock may be off.
    fn error(&self, system: UnixMillis, at: Instant) -> Option<u64> {
        let drift = millis(at.saturating_duration_since(self.since)) * DRIFT_PPM / 1_000_000;
        let off = self.wall(system, at).since_millis(self.floor(at));
        self.error_millis.map(|error| error + drift + off)
    }
}

/// This box's time.
pub fn wall_clock() -> UnixMillis {
    known().wall(system_clock(), Instant::now())
}

/// Reads what the collector told in the past. Call once, before the time matters.
pub fn load(state: &StateDir) {
    let saved = state.read(FILE).ok().and_then(|text| text.trim().parse().ok()).map(UnixMillis);
    let Some(saved) = saved else { return };
    let mut known = known();
    known.learn(saved, None, Instant::now());
    known.saved = saved;
    let system = system_clock();
    if system < known.floor(Instant::now()) {
        tracing::warn!(
            clock = %system, later_than = %known.floor,
            "this box's clock is behind what is known to have passed; going on from there until the collector tells"
        );
    }
}

/// Takes the collector's time, told over TLS, `took` after it was asked for.
pub fn learn(state: &StateDir, told: UnixMillis, took: Duration) {
    if told.0 == 0 {
        return;
    }
    let (told, error) = (told.plus_millis(millis(took) / 2), millis(took).div_ceil(2));
    let mut known = known();
    known.learn(told, Some(error), Instant::now());
    if told.0.abs_diff(known.saved.0) < SAVE_AGAIN_MILLIS {
        return;
    }
    known.saved = told;
    drop(known);
    if let Err(error) = state.write(FILE, told.0.to_string().as_bytes()) {
        tracing::warn!(%error, "the time cannot be kept for the next start");
    }
}

/// Whether the clock is known to be wrong and nobody told the time yet.
pub fn is_unsure() -> bool {
    known().is_unsure(system_clock(), Instant::now())
}

/// The time to verify certificates of strangers by.
pub fn unix_time() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(wall_clock().0))
}

/// The time to verify a certificate of the collector's own CA by. Where this box's clock is known to be wrong and nobody told
/// the time yet, it is not before the certificate's beginning either: the CA makes none before its time. Any other clock
/// is believed, and a certificate that is too young for it refused.
pub fn time_for(certificate: &CertificateDer<'_>) -> UnixTime {
    let issued =
        X509Certificate::from_der(certificate).map(|(_, read)| read.validity().not_before.timestamp());
    let issued = issued.ok().and_then(|secs| u64::try_from(secs).ok()).unwrap_or_default();
    let issued = UnixMillis(issued.saturating_mul(1_000));
    let time = known().time_for(issued, system_clock(), Instant::now());
    UnixTime::since_unix_epoch(Duration::from_millis(time.0))
}

/// What goes into a record that begins now.
pub fn reading() -> ClockReading {
    let error_millis = known().error(system_clock(), Instant::now());
    ClockReading { monotonic_millis: boot_clock(), boot: *BOOT.get_or_init(boot_id), error_millis }
}

fn known() -> MutexGuard<'static, Known> {
    let known = KNOWN.get_or_init(|| {
        let built = UnixMillis(BUILT_AT_SECS.parse::<u64>().unwrap_or_default() * 1_000);
        Mutex::new(Known::new(built, Instant::now()))
    });
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn system_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(millis(since))
}

/// Since the box booted, sleep included.
fn boot_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (secs, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    secs.unwrap_or_default() * 1_000 + nanos.unwrap_or_default() / 1_000_000
}

/// The system's, or where it does not tell one, one of this process.
fn boot_id() -> [u8; 8] {
    let told = std::fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().replace('-', ""));
    let mut boot = [0; 8];
    let is_told = told.is_some_and(|text| {
        text.get(..16).is_some_and(|digits| hex::decode_to_slice(digits, &mut boot).is_ok())
    });
    if !is_told {
        boot.copy_from_slice(&crate::entropy::key_bytes().unwrap_or_default()[..8]);
    }
    boot
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: UnixMillis = UnixMillis(1_700_000_000_000);
    const TRUE: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_clock_of_1970_goes_on_from_what_is_known_to_have_passed() {
        let began = Instant::now();
        let at = |secs| began + Duration::from_secs(secs);
        let system = |secs: u64| UnixMillis(secs * 1_000);
        let mut known = Known::new(BUILT, began);
        assert_eq!(known.wall(system(0), at(0)), BUILT);
        assert_eq!(known.wall(system(10), at(10)), BUILT.plus_secs(10));
        assert_eq!(known.error(system(10), at(10)), None);
        // What was kept from before counts where it is later, and an older one does not.
        known.learn(BUILT.plus_secs(1_000), None, at(10));
        known.learn(BUILT, None, at(10));
        assert_eq!(known.wall(system(11), at(11)), BUILT.plus_secs(1_001));
        // The collector is believed.
        known.learn(TRUE, Some(50), at(20));
        assert_eq!(known.wall(system(30), at(30)), TRUE.plus_secs(10));
        assert_eq!(known.error(system(30), at(30)), Some(50 + 2));
    }

    #[test]
    fn a_right_clock_stays_what_it_is_and_one_ahead_is_told_by_its_error() {
        let began = Instant::now();
        let mut known = Known::new(BUILT, began);
        let ahead = TRUE.plus_secs(300);
        assert_eq!(known.wall(TRUE, began), TRUE);
        known.learn(TRUE, Some(20), began);
        assert_eq!(known.wall(ahead, began), ahead);
        assert_eq!(known.error(ahead, began), Some(300_020));
        assert_eq!(known.error(TRUE, began), Some(20));
        // Even where the collector's time is earlier than a floor that was wrong.
        known.learn(BUILT, Some(20), began);
        assert_eq!(known.wall(UnixMillis(0), began), BUILT);
    }

    #[test]
    fn a_certificate_may_be_young_only_where_the_clock_is_known_to_be_wrong() {
        let began = Instant::now();
        let (issued, of_1970) = (TRUE.plus_secs(7_200), UnixMillis(0));
        let mut known = Known::new(BUILT, began);
        assert_eq!(known.time_for(issued, of_1970, began), issued);
        // An older one is verified by the lower bound.
        assert_eq!(known.time_for(UnixMillis(1), of_1970, began), BUILT);
        // A clock that may be right is believed, be it behind: the certificate is not valid yet.
        assert_eq!(known.time_for(issued, BUILT.plus_secs(1), began), BUILT.plus_secs(1));
        assert_eq!(known.time_for(issued, TRUE, began), TRUE);
        // So is the collector, once it told the time.
        known.learn(TRUE, Some(50), began);
        assert_eq!(known.time_for(issued, of_1970, began), TRUE);
    }

    #[test]
    fn a_reading_counts_from_one_boot() {
        let (first, second) = (reading(), reading());
        assert_eq!(first.boot, second.boot);
        assert!(first.monotonic_millis > 0 && second.monotonic_millis >= first.monotonic_millis);
    }
}
