//! What fits a connection that must stay short. Pure: lengths in, a decision out.

use crate::paths::SMALL_BYTES_MAX;

/// Kept free of records, in bytes: answers to pings, the end of TLS.
const RESERVE_BYTES: u64 = 600;
/// What a message costs beside its records: frames of gRPC, HTTP/2 and TLS.
const MESSAGE_BYTES: usize = 100;
/// What a record costs beside its body: key, hash and signature.
const RECORD_BYTES: usize = 220;
/// A rest that holds less is not worth a part.
const PART_BYTES_MIN: usize = 512;

/// A connection kept short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Bytes sent when the welcome came: the handshake and the greeting.
    greeting: u64,
}

/// What to do about the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Send it, with what fits beside it.
    Whole,
    /// Send so many bytes of it.
    Part(usize),
    /// A new connection has room for it.
    Recycle,
}

impl Short {
    /// The count, either way, at which the connection ends by itself.
    pub const LIMIT_BYTES: u64 = SMALL_BYTES_MAX - RESERVE_BYTES / 2;

    /// A connection that has sent so much when the welcome came.
    pub fn new(sent: u64) -> Self {
        Self { greeting: sent }
    }

    /// Bytes of a message that still fit, when so much was sent.
    pub fn room(self, sent: u64) -> usize {
        let left = (SMALL_BYTES_MAX - RESERVE_BYTES).saturating_sub(sent);
        usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(MESSAGE_BYTES)
    }

    /// What to do about a record of `len` bytes, of which the collector holds the first `begun`.
    pub fn fit(self, len: usize, begun: usize, room: usize, takes_parts: bool) -> Fit {
        let fresh = self.room(self.greeting);
        let rest = len.saturating_sub(begun);
        if begun == 0 && len <= room {
            return Fit::Whole;
        }
        if begun == 0 && len <= fresh {
            return Fit::Recycle;
        }
        if !takes_parts {
            // Nothing better is left than to try it: most paths freeze later than the earliest known.
            return if room == fresh { Fit::Whole } else { Fit::Recycle };
        }
        if rest.min(PART_BYTES_MIN) > room {
            // A connection that has no room when it is new never will.
            return if room == fresh { Fit::Part(rest.min(PART_BYTES_MIN)) } else { Fit::Recycle };
        }
        Fit::Part(rest.min(room))
    }

    /// How many records with bodies of these lengths, from the first on, fit one message.
    pub fn count(self, lens: impl Iterator<Item = usize>, room: usize) -> usize {
        let mut left = room;
        lens.take_while(|len| {
            let fits = len + RECORD_BYTES <= left;
            left = left.saturating_sub(len + RECORD_BYTES);
            fits
        })
        .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_where_it_fits_in_parts_where_it_never_will() {
        let short = Short::new(3_000);
        let fresh = short.room(3_000);
        assert_eq!(fresh, 8_300);
        let check = |len, begun, room, expected| {
            assert_eq!(short.fit(len, begun, room, true), expected, "{len} {begun} {room}");
        };
        check(2_000, 0, fresh, Fit::Whole);
        check(5_000, 0, 4_000, Fit::Recycle);
        check(20_000, 0, fresh, Fit::Part(fresh));
        check(20_000, 0, 4_000, Fit::Part(4_000));
        check(20_000, 0, 100, Fit::Recycle);
        check(20_000, 16_600, fresh, Fit::Part(3_400));
        check(20_000, 19_900, 200, Fit::Part(100));
        // An older collector takes no parts: one try a connection.
        assert_eq!(short.fit(20_000, 0, fresh, false), Fit::Whole);
        assert_eq!(short.fit(20_000, 0, 4_000, false), Fit::Recycle);
        // A greeting that leaves no room at all does not turn in circles.
        let tight = Short::new(SMALL_BYTES_MAX);
        assert_eq!(tight.fit(2_000, 0, tight.room(SMALL_BYTES_MAX), true), Fit::Part(PART_BYTES_MIN));
    }

    #[test]
    fn as_many_records_go_at_once_as_fit() {
        let short = Short::new(0);
        assert_eq!(short.count([1_000, 1_000, 1_000].into_iter(), 2_500), 2);
        assert_eq!(short.count([3_000].into_iter(), 2_500), 0);
        assert_eq!(short.count([].into_iter(), 2_500), 0);
    }
}
