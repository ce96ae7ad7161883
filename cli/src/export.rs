//! `zerkalo export`: a journal's records in OONI's format, one measurement a line, each with the control it was judged by.
//!
//! Pairs a record with the first control that began after it did and within the wait of its market's policy, as the
//! collector does; a record that found none is exported without.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use zerkalo_core::admission::ended_at;
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::fold::Boot;
use zerkalo_core::journal::{Event, JournalEntry, SettingsText};
use zerkalo_core::ooni::{Exported, export};
use zerkalo_core::policy::{Policy, parse_all};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::words::{AgentId, CarrierId, Country, MirrorId, Station, UnixMillis};

use crate::journal::read_journal;

/// Controls kept for each mirror, as the collector keeps them.
const CONTROLS_MAX: usize = 16;
/// Records that may wait for a control; the oldest goes without.
const WAITING_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExportFormat {
    /// OONI Web Connectivity measurements, one JSON object a line.
    Ooni,
}

/// What to export.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A collector's DIR/journal, or one segment of it (the first, unless nothing before it matters).
    journal: PathBuf,
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// Records of this mirror only.
    #[arg(long, value_name = "MIRROR")]
    mirror: Option<MirrorId>,
    /// At most this many measurements, from the journal's beginning.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

/// Reads the journal and writes measurements to standard output.
pub fn export_journal(args: &ExportArgs) -> Result<()> {
    let mut exporter = Exporter {
        mirror: args.mirror.clone(),
        left: args.limit.unwrap_or(u64::MAX),
        out: std::io::BufWriter::new(std::io::stdout().lock()),
        places: Places::default(),
        controls: BTreeMap::new(),
        waiting: VecDeque::new(),
        unplaced: 0,
    };
    read_journal(&args.journal, |entry| exporter.take(entry))?;
    while let Some(waiting) = exporter.waiting.pop_front() {
        exporter.write(&waiting, None)?;
    }
    exporter.out.flush()?;
    if exporter.unplaced > 0 {
        eprintln!(
            "note: {} records of carriers that the catalogue does not know are left out",
            exporter.unplaced
        );
    }
    Ok(())
}

/// Where agents stand, as the journal says so far.
#[derive(Default)]
struct Places {
    stations: BTreeMap<AgentId, Station>,
    /// The networks their streams were seen to come from.
    observed: BTreeMap<AgentId, u32>,
    /// What their steady clocks tell.
    boots: BTreeMap<AgentId, Boot>,
    catalogue: Option<Catalogue>,
    policies: Vec<Policy>,
}

struct Waiting {
    facts: Box<ProbeRecord>,
    asn: u32,
    country: Option<Country>,
    began_at: UnixMillis,
    until: UnixMillis,
}

struct Exporter<W> {
    mirror: Option<MirrorId>,
    /// Measurements that may still be written.
    left: u64,
    out: W,
    places: Places,
    controls: BTreeMap<MirrorId, VecDeque<(UnixMillis, Box<ProbeRecord>)>>,
    waiting: VecDeque<Waiting>,
    unplaced: u64,
}

impl<W: Write> Exporter<W> {
    fn take(&mut self, entry: JournalEntry) -> Result<ControlFlow<()>> {
        self.give_up_on_the_overdue(entry.at)?;
        match entry.event {
            Event::Settings(text) => self.places.settle(&text)?,
            Event::Enrolled(enrolment) => {
                self.places.stations.insert(enrolment.agent, enrolment.station);
            }
            Event::Observed { agent, whereabouts } => drop(match whereabouts.asn {
                Some(asn) => self.places.observed.insert(agent, asn),
                None => self.places.observed.remove(&agent),
            }),
            Event::Record { signed, facts, .. } => self.take_record(&signed.agent, facts, entry.at)?,
            _ => {}
        }
        Ok(if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn take_record(&mut self, agent: &AgentId, facts: Box<ProbeRecord>, at: UnixMillis) -> Result<()> {
        let boot = self.places.boots.entry(agent.clone()).or_default();
        boot.note(&facts, at);
        let by_steady = boot.ended_at();
        let Some(mirror) = facts.mirror.clone().filter(|_| !facts.is_picture_alone()) else { return Ok(()) };
        if self.mirror.as_ref().is_some_and(|wanted| *wanted != mirror) {
            return Ok(());
        }
        let began_at = began_at(&facts, by_steady, at);
        match self.places.stations.get(agent) {
            Some(Station::Control) if self.places.is_within_a_carrier(agent) => Ok(()),
            Some(Station::Control) => self.take_control(mirror, began_at, facts),
            Some(Station::Field { carrier, .. }) => {
                let Some((asn, country, wait_secs)) = self.places.network(carrier) else {
                    self.unplaced += 1;
                    return Ok(());
                };
                let asn = self.places.observed.get(agent).copied().unwrap_or(asn);
                let until = began_at.plus_secs(wait_secs);
                self.pair(&mirror, Waiting { facts, asn, country, began_at, until })
            }
            None => Ok(()),
        }
    }

    fn pair(&mut self, mirror: &MirrorId, waiting: Waiting) -> Result<()> {
        let controls = self.controls.get(mirror).into_iter().flatten();
        let fits = |control: &&(UnixMillis, Box<ProbeRecord>)| {
            control.0 >= waiting.began_at && control.0 <= waiting.until
        };
        if let Some((_, control)) = controls.filter(fits).min_by_key(|(began_at, _)| *began_at) {
            let control = control.clone();
            return self.write(&waiting, Some(&control));
        }
        self.waiting.push_back(waiting);
        if self.waiting.len() > WAITING_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.write(&oldest, None)?;
        }
        Ok(())
    }

    fn take_control(
        &mut self,
        mirror: MirrorId,
        began_at: UnixMillis,
        facts: Box<ProbeRecord>,
    ) -> Result<()> {
        let (served, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| {
                waiting.facts.mirror.as_ref() == Some(&mirror)
                    && (waiting.began_at..=waiting.until).contains(&began_at)
            });
        self.waiting = rest;
        for waiting in served {
            self.write(&waiting, Some(&facts))?;
        }
        let controls = self.controls.entry(mirror).or_default();
        controls.push_back((began_at, facts));
        if controls.len() > CONTROLS_MAX {
            controls.pop_front();
        }
        Ok(())
    }

    fn give_up_on_the_overdue(&mut self, now: UnixMillis) -> Result<()> {
        let (overdue, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.until < now);
        self.waiting = rest;
        overdue.iter().try_for_each(|waiting| self.write(waiting, None))
    }

    fn write(&mut self, waiting: &Waiting, control: Option<&ProbeRecord>) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let measurement =
            export(&Exported { record: &waiting.facts, control, asn: waiting.asn, country: waiting.country });
        writeln!(self.out, "{}", measurement.to_json())?;
        Ok(())
    }
}

impl Places {
    fn settle(&mut self, text: &SettingsText) -> Result<()> {
        let catalogue =
            Catalogue::parse(&text.catalogue).context("the journal's catalogue is of a newer collector")?;
        self.policies = parse_all(&text.policies, &catalogue)
            .context("a policy in the journal is of a newer collector")?;
        self.catalogue = Some(catalogue);
        Ok(())
    }

    /// Whether a control was seen in a carrier's network: then the collector does not take it for one either.
    fn is_within_a_carrier(&self, agent: &AgentId) -> bool {
        let carriers = self.catalogue.iter().flat_map(Catalogue::carriers);
        let asn = self.observed.get(agent);
        asn.is_some_and(|asn| carriers.into_iter().any(|carrier| carrier.asns.contains(asn)))
    }

    /// A carrier's first ASN, its market's country, and how long a record of it waits for a control, in seconds.
    fn network(&self, carrier: &CarrierId) -> Option<(u32, Option<Country>, u64)> {
        let carrier = self.catalogue.as_ref()?.carrier(carrier)?;
        let policy = self.policies.iter().find(|policy| policy.market == carrier.market);
        let wait_secs = policy.map_or(0, |policy| policy.cell.control_wait_secs);
        Some((*carrier.asns.first()?, Country::of_market(&carrier.market), wait_secs))
    }
}

/// When a record's visit began, by the collector's clock.
fn began_at(facts: &ProbeRecord, by_steady: Option<UnixMillis>, arrived_at: UnixMillis) -> UnixMillis {
    ended_at(facts, by_steady, arrived_at).minus_millis(facts.duration_micros.div_ceil(1000))
}
