//! Where agents stand, by the network their streams come from.

use zerkalo_collector::journal::Journal;
use zerkalo_core::journal::{Event, JournalEntry, Whereabouts};
use zerkalo_core::words::Vicinity;
use zerkalo_proto::operator_v1::{Agent as Listed, ListAgentsRequest};

use crate::world::{Collector, Site};

/// Kazakhtelecom's: none of Kcell's.
const KAZAKHTELECOM: u32 = 9_198;

async fn listed(collector: &Collector, site: &Site) -> Listed {
    let mut operator = collector.operator(site).await;
    let agents = operator.list_agents(ListAgentsRequest {}).await.unwrap().into_inner().agents;
    agents.into_iter().next().unwrap()
}

fn observed(site: &Site) -> Vec<Option<u32>> {
    let events = site.journal().into_iter().map(|entry| entry.event);
    let asns = events.map(|event| match event {
        Event::Observed { whereabouts, .. } => Some(whereabouts.asn),
        _ => None,
    });
    asns.flatten().collect()
}

#[tokio::test]
async fn an_agent_elsewhere_is_marked_until_its_stream_comes_from_somewhere_else() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    collector.stop().await;
    let mut journal = Journal::open(&site.dir.join("journal"), |_| {}).unwrap();
    let whereabouts = Whereabouts { asn: Some(KAZAKHTELECOM), vicinity: Some(Vicinity([1; 8])) };
    let event = Event::Observed { agent: agent.id.clone(), whereabouts };
    journal.append(&[JournalEntry { at: zerkalo_collector::clock::now(), event }]).unwrap();
    drop(journal);
    let collector = site.serve().await;
    assert_eq!(collector.metric("zerkalo_agents_elsewhere").await, 1);
    let marked = listed(&collector, &site).await;
    assert_eq!((marked.asn, marked.elsewhere), (KAZAKHTELECOM, true));
    // Loopback is in nobody's network: that tells nothing, and nothing follows from it.
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!(welcome.peer_address, "127.0.0.1");
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(1).await;
    let unmarked = listed(&collector, &site).await;
    assert_eq!((unmarked.asn, unmarked.elsewhere, unmarked.records), (0, false, 1));
    assert_eq!(collector.metric("zerkalo_agents_elsewhere").await, 0);
    // The same again is no news.
    drop(link);
    let _ = collector.connect(&site, &agent).await;
    collector.stop().await;
    assert_eq!(observed(&site), [Some(KAZAKHTELECOM), None]);
    let events: Vec<_> = site.journal().into_iter().map(|entry| entry.event).collect();
    let place = |wanted: fn(&Event) -> bool| events.iter().rposition(wanted).unwrap();
    let (seen, spoke) = (
        place(
            |event| matches!(event, Event::Observed { whereabouts, .. } if *whereabouts == Whereabouts::default()),
        ),
        place(|event| matches!(event, Event::Record { .. })),
    );
    assert!(seen < spoke, "a stream's network is noted before its records");
}

#[tokio::test]
async fn a_clock_that_is_off_is_shown() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "anna", "kz-kcell").await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    assert_eq!(listed(&collector, &site).await.clock_ahead_millis, None);
    let mut facts = crate::world::facts("m1");
    facts.network =
        Some(zerkalo_core::record::NetworkCheck { clock_ahead_millis: Some(-300_000), ..Default::default() });
    let record = agent.sign(crate::world::body(&facts));
    link.send_records(&[record]).await;
    link.acked(1).await;
    assert_eq!(listed(&collector, &site).await.clock_ahead_millis, Some(-300_000));
    collector.stop().await;
}
