//! What the uplink does while probes run, for their records: it shares the line with what they measure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zerkalo_core::record::{UplinkActivity, UplinkTransport};

use crate::channel::{Address, Traffic, Transport};

/// The uplink's activity, shared by who sends and who measures.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    traffic: Arc<Traffic>,
    switches: AtomicU64,
    line: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    transport: Option<Transport>,
    /// Where the last stream went.
    last: Option<Address>,
}

/// A moment to count from.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    sent: u64,
    received: u64,
    switches: u64,
}

impl Activity {
    /// Where all bytes are counted.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.0.traffic
    }

    /// A stream is open to `address`.
    pub fn opened(&self, address: &Address) {
        let mut line = self.line();
        line.transport = Some(address.transport);
        if line.last.as_ref().is_some_and(|last| last != address) {
            self.0.switches.fetch_add(1, Ordering::Relaxed);
        }
        line.last = Some(address.clone());
    }

    /// The stream ended.
    pub fn closed(&self) {
        self.line().transport = None;
    }

    /// Begins to count.
    pub fn mark(&self) -> Mark {
        let (sent, received) = self.0.traffic.so_far();
        Mark { sent, received, switches: self.0.switches.load(Ordering::Relaxed) }
    }

    /// What was done since `mark`.
    pub fn since(&self, mark: Mark) -> UplinkActivity {
        let now = self.mark();
        let transport = self.line().transport.map(|transport| match transport {
            Transport::Tcp => UplinkTransport::Tcp,
            Transport::Quic => UplinkTransport::Quic,
        });
        UplinkActivity {
            transport,
            bytes_sent: now.sent - mark.sent,
            bytes_received: now.received - mark.received,
            is_switched: now.switches > mark.switches,
        }
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Meter;

    #[test]
    fn a_probe_s_record_tells_bytes_transport_and_switch_of_its_own_time_alone() {
        let activity = Activity::default();
        let address = |url: &str| Address::parse(url).unwrap();
        let meter = Meter::new(activity.traffic().clone());
        meter.note_sent(100);
        activity.opened(&address("https://a.example:1"));
        let mark = activity.mark();
        (0..3).for_each(|_| meter.note_sent(7));
        meter.note_received(5);
        let told = activity.since(mark);
        assert_eq!((told.bytes_sent, told.bytes_received, told.is_switched), (21, 5, false));
        assert_eq!(told.transport, Some(UplinkTransport::Tcp));
        activity.closed();
        assert_eq!(activity.since(mark).transport, None);
        // The same address again is no switch, another one is.
        activity.opened(&address("https://a.example:1"));
        assert!(!activity.since(mark).is_switched);
        activity.opened(&address("quic://a.example:2"));
        let told = activity.since(mark);
        assert_eq!((told.transport, told.is_switched), (Some(UplinkTransport::Quic), true));
        assert!(!activity.since(activity.mark()).is_switched);
    }
}
