//! A mirror list that comes in parts, over as many connections as it takes. Whether it is the operator's is found out once
//! it is whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zerkalo_proto::agent_v1::ListPart;

/// Longest list taken so, in bytes.
const LIST_LEN_MAX: usize = 4 * 1024 * 1024;

/// The part that is there.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    version: u64,
    bytes: Vec<u8>,
}

impl Inbox {
    /// Version and length of what is there, for the greeting.
    pub fn held(&self) -> (u64, u32) {
        let held = self.lock();
        (held.version, u32::try_from(held.bytes.len()).unwrap_or(u32::MAX))
    }

    /// Takes a part; the whole, once it is.
    pub fn take(&self, part: &ListPart) -> Option<Vec<u8>> {
        let mut held = self.lock();
        if held.version != part.version {
            *held = Held { version: part.version, bytes: Vec::new() };
        }
        let (offset, total) = (part.offset as usize, part.total_len as usize);
        // A part that does not go on where we stand is of no use: the next greeting says where that is.
        if offset == held.bytes.len() && offset + part.content.len() <= total && total <= LIST_LEN_MAX {
            held.bytes.extend_from_slice(&part.content);
        }
        (held.bytes.len() == total && total > 0).then(|| std::mem::take(&mut *held).bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_whole_in_their_order_alone() {
        let inbox = Inbox::default();
        let part = |version, offset, content: &[u8]| {
            inbox.take(&ListPart { version, offset, total_len: 6, content: content.to_vec() })
        };
        assert_eq!(part(3, 0, b"abc"), None);
        assert_eq!(part(3, 0, b"abc"), None, "a part that is there already");
        assert_eq!(part(3, 4, b"ef"), None, "a gap");
        assert_eq!(part(3, 3, b"defg"), None, "beyond the whole");
        assert_eq!(inbox.held(), (3, 3));
        assert_eq!(part(3, 3, b"def").as_deref(), Some(&b"abcdef"[..]));
        assert_eq!(inbox.held(), (0, 0));
        // A newer list begins anew; a word that there is one holds nothing.
        assert_eq!((part(3, 0, b"abc"), part(4, 0, b""), inbox.held()), (None, None, (4, 0)));
    }
}
