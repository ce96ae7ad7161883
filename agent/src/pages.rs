//! When a mirror's large page is read: seldom, for it costs bytes; again soon where it looked odd. Pure: time (since the
//! agent's start) is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use zerkalo_core::record::Cause;
use zerkalo_core::words::MirrorId;

use crate::probe::flow::Pace;

/// How often a large page is read of a mirror that is well.
pub const LARGE_PAGE_EVERY: Duration = Duration::from_secs(15 * 60);
/// A slow page is read so often in a row: enough to know, and a whole page each time. One that broke off costs less, and
/// is read until it comes whole.
pub const SLOW_ROW_MAX: u32 = 3;

/// What is known of every mirror's large page.
#[derive(Debug, Default)]
pub struct LargePages {
    pages: BTreeMap<MirrorId, Page>,
}

#[derive(Debug, Default)]
struct Page {
    read_at: Option<Duration>,
    /// Read it with the next visit that goes through.
    is_in_doubt: bool,
    slow_row: u32,
}

impl LargePages {
    /// Forgets mirrors that are off the list.
    pub fn retain(&mut self, is_listed: impl Fn(&MirrorId) -> bool) {
        self.pages.retain(|mirror, _| is_listed(mirror));
    }

    /// Whether to read it now. Who asks for a fresh look wants all of it.
    pub fn is_due(&self, mirror: &MirrorId, cause: Cause, now: Duration) -> bool {
        let page = self.pages.get(mirror);
        cause != Cause::Scheduled
            || page.is_none_or(|page| {
                page.is_in_doubt || page.read_at.is_none_or(|read| read + LARGE_PAGE_EVERY <= now)
            })
    }

    /// Notes a probe: how its large page came, if it was read, and whether the page itself came slowly or not whole.
    pub fn note(&mut self, mirror: &MirrorId, pace: Option<Pace>, is_page_odd: bool, now: Duration) {
        let page = self.pages.entry(mirror.clone()).or_default();
        let Some(pace) = pace else {
            page.is_in_doubt |= is_page_odd;
            return;
        };
        page.read_at = Some(now);
        page.slow_row = if pace == Pace::Slow { page.slow_row + 1 } else { 0 };
        page.is_in_doubt = match pace {
            Pace::Fast => false,
            Pace::Slow => !page.slow_row.is_multiple_of(SLOW_ROW_MAX),
            Pace::Broken => true,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_large_page_is_read_first_then_seldom_then_while_it_is_odd() {
        let m = MirrorId::parse("m").unwrap();
        let mut pages = LargePages::default();
        let check = |pages: &LargePages, now, expected| {
            assert_eq!(pages.is_due(&m, Cause::Scheduled, secs(now)), expected, "at {now} s");
            assert!(pages.is_due(&m, Cause::Requested, secs(now)));
        };
        check(&pages, 0, true);
        pages.note(&m, Some(Pace::Fast), false, secs(0));
        check(&pages, 899, false);
        check(&pages, 900, true);
        // One that breaks off is read until it comes whole.
        for now in [900, 960, 1_020, 1_080, 1_140] {
            pages.note(&m, Some(Pace::Broken), false, secs(now));
            check(&pages, now + 60, true);
        }
        pages.note(&m, Some(Pace::Fast), false, secs(1_200));
        check(&pages, 1_260, false);
        // A slow one three times in a row, and then again when its time comes.
        for (now, again) in
            [(2_100, true), (2_160, true), (2_220, false), (3_120, true), (3_180, true), (3_240, false)]
        {
            pages.note(&m, Some(Pace::Slow), false, secs(now));
            check(&pages, now + 60, again);
        }
        // The page itself looked odd: the next visit that goes through reads the large one.
        pages.note(&m, None, false, secs(3_300));
        check(&pages, 3_301, false);
        pages.note(&m, None, true, secs(3_300));
        pages.note(&m, None, false, secs(3_360));
        check(&pages, 3_361, true);
        pages.retain(|_| false);
        assert!(pages.pages.is_empty());
    }
}
