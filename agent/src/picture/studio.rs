//! Pictures beside the measuring loop: the loop says how visits ended and asks what is due; the studio takes one picture
//! at a time and makes the record that tells of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use zerkalo_core::record::{ProbeRecord, Screenshot, Span};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{MirrorId, UnixMillis};

use super::pending::Pending;
use super::photographer::Photographer;
use super::turns::{Subject, Turn, Turns};
use super::{MEDIA_TYPE, Order, Shot};
use crate::schedule::Schedule;
use crate::uplink::{SharedSpool, chain, wall_clock};
use crate::worth::Worth;

/// What this host gives to pictures.
pub struct Studio {
    /// `None` where there is nobody, or no picture is wanted: then nothing here does anything.
    photographer: Option<Photographer>,
    pending: Option<Pending>,
    trust: KeyTrust,
    turns: Turns,
    under_way: JoinSet<Developed>,
    failed: VecDeque<Developed>,
}

/// Whether the browser is told of keys that this host trusts and it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyTrust {
    /// It has the public authorities itself.
    Browsers,
    /// The host trusts by its own `ca_file`.
    Hosts,
}

/// A picture, or why there is none, with what it is of.
#[derive(Debug)]
pub struct Developed {
    subject: Subject,
    started_at: UnixMillis,
    took: Duration,
    shot: Shot,
}

impl Studio {
    /// A studio; `pending` takes the pictures to the uplink.
    pub fn new(photographer: Option<Photographer>, pending: Option<Pending>, trust: KeyTrust) -> Self {
        let (turns, under_way, failed) = (Turns::default(), JoinSet::new(), VecDeque::new());
        Self { photographer, pending, trust, turns, under_way, failed }
    }

    /// Somebody wants a picture with the next visit.
    pub fn ask(&mut self, mirror: MirrorId) {
        match self.photographer {
            Some(_) => self.turns.ask(mirror),
            None => tracing::debug!(%mirror, "a picture is wanted, and this host takes none"),
        }
    }

    /// How a visit ended.
    pub fn ended(&mut self, record: &ProbeRecord, is_reached: bool, now: Duration) {
        if self.photographer.is_some() {
            self.turns.ended(record, is_reached, now);
        }
    }

    /// Forgets mirrors that are listed no more.
    pub fn retain(&mut self, is_listed: impl Fn(&MirrorId) -> bool) {
        self.turns.retain(is_listed);
    }

    /// Begins what is due, and takes its handshakes off the budget.
    pub fn begin_due(&mut self, schedule: &mut Schedule, now: Duration) {
        let Some(photographer) = self.photographer.clone().filter(|_| self.under_way.is_empty()) else {
            return;
        };
        match self
            .turns
            .next(now, |host, count| schedule.is_idle(host) && schedule.has_room(host, count, now))
        {
            None => {}
            Some(Turn::Fail(subject, why)) => self.failed.push_back(Developed {
                subject,
                started_at: wall_clock(),
                took: Duration::ZERO,
                shot: Shot::failed(why.to_owned(), 0),
            }),
            Some(Turn::Take(subject, handshakes)) => {
                schedule.note_handshakes(&subject.url.host(), handshakes, now);
                let trusted_key = subject.trusted_key.filter(|_| self.trust == KeyTrust::Hosts);
                let order = Order {
                    url: subject.url.to_string(),
                    address: subject.address,
                    connections_max: handshakes,
                    trusted_key: trusted_key.map(|key| key.0),
                };
                self.under_way.spawn(async move {
                    let (started_at, began) = (wall_clock(), Instant::now());
                    let shot = photographer.take(&order).await;
                    Developed { subject, started_at, took: began.elapsed(), shot }
                });
            }
        }
    }

    /// Gives up whatever is being taken.
    pub fn abandon(&mut self) {
        self.under_way = JoinSet::new();
    }

    /// When to look again, if nothing else happens.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        self.turns.wake(now).filter(|_| self.under_way.is_empty())
    }

    /// The next picture at its end.
    pub async fn developed(&mut self) -> Developed {
        if let Some(failed) = self.failed.pop_front() {
            return failed;
        }
        match self.under_way.join_next().await {
            Some(developed) => developed.expect("a picture's task does not panic and is never aborted"),
            None => std::future::pending().await,
        }
    }

    /// Keeps a picture: its record in the spool, its bytes for the uplink.
    pub async fn keep(&self, developed: Developed, spool: &SharedSpool) {
        let record = developed.record();
        let Developed { subject, shot: Shot { picture: shot, .. }, .. } = developed;
        let drafted = shot.as_ref().ok().zip(self.pending.as_ref());
        let drafted = drafted.map(|(content, pending)| (pending, pending.draft(content)));
        if let Some((_, Err(error))) = &drafted {
            return tracing::warn!(mirror = %subject.mirror, %error, "a picture could not be kept and is lost");
        }
        let body = zerkalo_proto::record::encode(&record);
        let kept = spool.append(body, Worth::Picture, wall_clock()).await;
        match (&kept, drafted) {
            (Ok(_), Some((pending, Ok(sha256)))) => match pending.release(&sha256) {
                Ok(0) => {}
                Ok(dropped) => {
                    tracing::warn!(dropped, "old pictures gave way to a new one before they were sent")
                }
                Err(error) => tracing::warn!(%error, "a picture could not be kept and is lost"),
            },
            (Err(_), Some((pending, Ok(sha256)))) => pending.discard(&sha256),
            _ => {}
        }
        let failure = shot.as_ref().err();
        match kept {
            Ok(link) => {
                tracing::info!(mirror = %subject.mirror, failure, sequence = link.sequence, "took a picture")
            }
            Err(error) => tracing::error!(
                mirror = %subject.mirror, error = chain(&error), "a picture's record could not be kept and is lost"
            ),
        }
    }
}

impl Developed {
    /// What it costs the line: the page, and the picture's way to the collector.
    pub fn line_bytes(&self) -> u64 {
        let picture = self.shot.picture.as_ref().map_or(0, Vec::len);
        self.shot.line_bytes + picture as u64
    }

    /// The record that tells of the picture alone.
    fn record(&self) -> ProbeRecord {
        let Self { subject, started_at, took, shot: Shot { picture, .. } } = self;
        let content = picture.as_deref().unwrap_or_default();
        let duration_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        ProbeRecord {
            clock: None,
            mirror: Some(subject.mirror.clone()),
            url: subject.url.clone(),
            list_version: subject.list_version,
            cause: subject.cause,
            started_at: *started_at,
            duration_micros,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            dns: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            http: Vec::new(),
            quic: Vec::new(),
            references: Vec::new(),
            network: None,
            hops: Vec::new(),
            uplink: None,
            screenshot: Some(Screenshot {
                sha256: Sha256::of(content),
                len: content.len() as u64,
                media_type: MEDIA_TYPE.to_owned(),
                address: subject.address,
                span: Span { start_micros: 0, duration_micros },
                failure: picture.as_ref().err().cloned(),
            }),
        }
    }
}
