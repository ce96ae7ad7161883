//! Carries a scenario out: starts the lab and the fleet, makes the moves, waits for the states, tells the audience.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::{self, Fleet, WebhookTarget};
use crate::internet::{Internet, PLACES, Pool};
use crate::observation::Observation;
use crate::report::{ActTiming, Check, Report, Timings};
use crate::scenario::{Act, Move, Scenario};
use crate::screen::Audience;
use crate::webhook::{Received, Receiver};
use zerkalo_core::market::Decision;

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How long a state may take on a busy machine; the usual is a thirtieth.
const ACT_MAX: Duration = Duration::from_secs(300);
/// How long the ending may lag behind the last act's state: the last carriers' records, the last webhook.
const ENDING_MAX: Duration = Duration::from_secs(180);
/// Characters of a webhook's body shown: the whole names every record behind the decision.
const WEBHOOK_SHOWN_MAX: usize = 200;
/// The webhook key of this lab: no secret.
const WEBHOOK_KEY: &[u8] = b"the laboratory's webhook secret!";

/// Who sets the pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Acts keep their times: somebody watches.
    Live,
    /// Each act begins as soon as the state before it is reached.
    AsSoonAsReached,
}

/// A scenario on stage.
pub struct Play {
    scenario: Scenario,
    pace: Pace,
    internet: Internet,
    receiver: Receiver,
    fleet: Fleet,
    begun: Instant,
    last: Observation,
    timings: Timings,
}

impl Play {
    /// Starts the lab and the fleet.
    pub async fn start(scenario: Scenario, pace: Pace, audience: &mut Audience) -> Result<Self> {
        let begun = Instant::now();
        audience.line(&format!("scenario {}: {}", scenario.name, scenario.story));
        let internet = Internet::start_with(Pool::WithStandbys).await?;
        let receiver = Receiver::start(WEBHOOK_KEY).await?;
        let target = WebhookTarget { url: receiver.url(), secret: receiver.secret() };
        audience.line(&format!(
            "starting one collector, one control agent and {} owners' agents in eight carriers",
            fleet::AGENTS - 1
        ));
        let fleet = Fleet::start(&internet, Some(target), &fleet::crew(&PLACES)).await?;
        let started_secs = begun.elapsed().as_secs_f64();
        audience.line(&format!("everything runs after {started_secs:.1} s"));
        let timings = Timings { started_secs, ..Timings::default() };
        Ok(Self { scenario, pace, internet, receiver, fleet, begun, last: Observation::default(), timings })
    }

    /// Plays all acts, then judges. What was started keeps running until `self` is dropped.
    pub async fn run(&mut self, audience: &mut Audience) -> Result<Report> {
        let mut early = Vec::new();
        for act in self.scenario.acts.clone() {
            self.wait_for_cue(&act, audience).await?;
            let what = self.make_moves(&act, audience)?;
            let began = Instant::now();
            let missing = self.wait_for_state(&act, audience).await?;
            self.timings
                .acts
                .push(ActTiming { act: what.clone(), reached_secs: began.elapsed().as_secs_f64() });
            let passed = missing.is_none();
            early.push(Check {
                name: format!("{what}: its state is reached"),
                passed,
                detail: missing.unwrap_or_default(),
            });
            if !passed {
                break;
            }
        }
        let mut report = self.wait_for_ending(&early, audience).await?;
        self.timings.total_secs = self.begun.elapsed().as_secs_f64();
        report.timings = self.timings.clone();
        Ok(report)
    }

    /// The running fleet.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    async fn wait_for_cue(&mut self, act: &Act, audience: &mut Audience) -> Result<()> {
        let cue = Duration::from_secs(act.at_secs);
        while self.pace == Pace::Live && self.begun.elapsed() < cue {
            self.look(audience).await?;
            tokio::time::sleep(LOOK_EVERY.min(cue.saturating_sub(self.begun.elapsed()))).await;
        }
        Ok(())
    }

    fn make_moves(&self, act: &Act, audience: &mut Audience) -> Result<String> {
        let mut done = Vec::new();
        for step in &act.moves {
            let what = match step {
                Move::Censor(carrier, trick) => {
                    self.internet.carrier(carrier).context("no such carrier in the lab")?.interfere(*trick);
                    format!("{carrier} {trick}")
                }
                Move::OriginDown => {
                    self.internet.origin().take_down();
                    "the operator's own server goes down".to_owned()
                }
            };
            audience.line(&format!(">>> {what}"));
            done.push(what);
        }
        if done.is_empty() {
            done.push("nobody changes anything".to_owned());
        }
        Ok(done.join("; "))
    }

    /// Waits for the act's state; gives what was missing if it was not reached in time.
    async fn wait_for_state(&mut self, act: &Act, audience: &mut Audience) -> Result<Option<String>> {
        self.look(audience).await?;
        let (before, began) = (self.last.clone(), Instant::now());
        loop {
            match self.last.reached(&act.until, &before) {
                Ok(()) => return Ok(None),
                Err(missing) if began.elapsed() > ACT_MAX => {
                    audience.line(&format!("not reached in {} s: {missing}", ACT_MAX.as_secs()));
                    return Ok(Some(missing));
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
            self.look(audience).await?;
        }
    }

    /// Looks until everything expected holds, at most [`ENDING_MAX`]: carriers hear of a move one after the other.
    async fn wait_for_ending(&mut self, early: &[Check], audience: &mut Audience) -> Result<Report> {
        let began = Instant::now();
        loop {
            self.look(audience).await?;
            let report = Report::new(&self.scenario, &self.last, early.to_vec(), self.timings.clone());
            // What an act did not reach, no wait mends; what was missing by now is in the report.
            let is_hopeless = early.iter().any(|check| !check.passed);
            if report.passed || is_hopeless || began.elapsed() > ENDING_MAX {
                return Ok(report);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One look: what is new goes to the audience.
    async fn look(&mut self, audience: &mut Audience) -> Result<()> {
        self.fleet.require_running()?;
        let now = Observation::take(self.fleet.collector().operator(), &self.receiver).await?;
        for decision in now.decisions.iter().skip(self.last.decisions.len()) {
            decision_lines(decision).iter().for_each(|line| audience.line(line));
        }
        for webhook in now.webhooks.iter().skip(self.last.webhooks.len()) {
            webhook_lines(webhook).iter().for_each(|line| audience.line(line));
        }
        self.last = now;
        audience.show(&self.last.matrix, &self.last.replacements(), self.begun.elapsed());
        Ok(())
    }
}

fn decision_lines(decision: &Decision) -> Vec<String> {
    let (market, mirror) = (decision.market.as_str().to_uppercase(), &decision.mirror);
    let before = decision.previous.map_or(String::new(), |action| format!(" (was {action})"));
    let by = decision.replacement.as_ref();
    let by = by.map_or(String::new(), |one| format!(", replaced by {} ({})", one.mirror, one.url));
    let head = format!("decision {}: {market} {mirror}: {}{by}{before}", decision.id, decision.action);
    std::iter::once(head)
        .chain(decision.reasons.iter().map(|reason| format!("    because {reason}")))
        .collect()
}

fn webhook_lines(webhook: &Received) -> [String; 2] {
    let data = &webhook.body["data"];
    let signature = match &webhook.fault {
        None => "its signature holds".to_owned(),
        Some(fault) => format!("SIGNATURE AT FAULT: {fault}"),
    };
    let word = |key: &str| data[key].as_str();
    // A decision has an action, an alert a kind and seldom a mirror.
    let mirror = word("mirror").map(|mirror| format!(" {mirror}")).unwrap_or_default();
    let what = word("action").or(word("kind")).unwrap_or("?");
    let about = format!("{}{mirror}: {what}", word("market").unwrap_or("?").to_uppercase());
    let beginning: String = webhook.text.chars().take(WEBHOOK_SHOWN_MAX).collect();
    [format!("webhook {}: {about}; received, {signature}", webhook.id), format!("    {beginning}...")]
}
