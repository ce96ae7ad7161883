//! One market from beginning to end: agents take their turns, records travel, the desk decides.
//!
//! Sound shortcuts: an agent whose visits work and whose owner nobody doubts sleeps to its next visit that will not work;
//! the turns between are counted, and its cell is told of the last one before it is looked at.

use super::agents::Agent;
use super::chance::Chance;
use super::desk::{Desk, Filed, Heard, Seen, Turn, Visit};
use super::noise::Noise;
use super::queue::Queue;
use super::scenario::Scenario;
use super::world::{Met, World};
use crate::cell::News;
use crate::fold::{ASK_AGAIN_SECS, Doubt};
use crate::market::Action;
use crate::policy::Policy;
use crate::verdict::Outcome;
use crate::words::{AgentId, OwnerId, UnixMillis};

/// When every simulation begins: any instant would do.
const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// How long an ok visit of a sleeper is taken to last, in ms.
const SLEEPER_VISIT_MILLIS: u64 = 1_000;

/// Actions that tell the operator of a block.
const WARNINGS: [Action; 3] = [Action::Prepare, Action::Pause, Action::Rotate];

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub policy: &'a Policy,
    pub noise: &'a Noise,
    pub seed: u64,
    /// Owners on each carrier, one agent each.
    pub owners: u32,
    pub interval_secs: u64,
    /// Whether a first failure makes others look at once.
    pub is_adaptive: bool,
}

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// From the onset to the first word to people, be it early or a decision, in ms.
    pub alert_millis: Option<u64>,
    /// From the onset to the first `prepare`, `pause` or `rotate`, in ms.
    pub warning_millis: Option<u64>,
    /// From the moment enough carriers were blocked to the first `rotate`, in ms.
    pub rotation_millis: Option<u64>,
    pub turns: Vec<Turn>,
    /// Carriers that turned red.
    pub reds: u64,
    /// Those of them that half of the carrier's honest owners saw free.
    pub reds_by_liars: u64,
    /// Times the market left `keep` or `hold` for `prepare`, `pause` or `rotate`; and rotations.
    pub alerts: u64,
    pub rotations: u64,
    /// Early words to people.
    pub suspicions: u64,
    /// Visits, those slept through among them.
    pub visits: u64,
    pub slept: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin { agent: usize, plan: u32 },
    End(Visit),
    Arrive(Visit),
    Wish { agent: usize },
    ControlBegin { plan: u32 },
    ControlEnd { began: UnixMillis, works: bool },
    ControlArrive { began: UnixMillis, works: bool },
    ControlWish,
    Overdue,
    Tick { plan: u32 },
}

struct Run<'a> {
    setup: &'a Setup<'a>,
    now: UnixMillis,
    queue: Queue<Event>,
    chance: Chance,
    world: World,
    agents: Vec<Agent>,
    /// When each agent was last asked for a look, and when its cell last heard of it.
    asked: Vec<UnixMillis>,
    heard: Vec<UnixMillis>,
    doubt: Option<Doubt<Seen>>,
    control: Agent,
    control_asked: UnixMillis,
    desk: Desk<'a>,
    ticks: u32,
    /// Agents whose next beginning was drawn to fail.
    is_odd: Vec<bool>,
    visits: u64,
    slept: u64,
}

/// Plays one scenario; `number` tells runs of one seed apart.
pub fn play(setup: &Setup<'_>, scenario: Scenario, number: u64) -> Story {
    let onset = START.plus_millis(scenario.onset_millis());
    let end = onset.plus_millis(scenario.watched_millis());
    let mut run = Run::new(setup, scenario, number, onset);
    while let Some((at, event)) = run.queue.next() {
        if at > end {
            break;
        }
        run.now = at;
        let action = run.take(event);
        if action == Some(Action::Rotate) && scenario.ends_with_rotation() {
            break;
        }
    }
    run.now = run.now.max(end);
    run.story(scenario, onset)
}

impl<'a> Run<'a> {
    fn new(setup: &'a Setup<'a>, scenario: Scenario, number: u64, onset: UnixMillis) -> Self {
        let carriers = setup.policy.carriers.len() as u32;
        let run = number << 8 | scenario as u64;
        let chance_of = |part| Chance::new(setup.seed, run, part);
        let mut chance = chance_of(0);
        let interval = setup.interval_secs * 1_000;
        let agents: Vec<Agent> = (0..carriers * setup.owners)
            .map(|number| {
                let name = format!("a{number}");
                let id = AgentId::parse(&name).expect("a letter and digits make a name");
                let owner = OwnerId::parse(&name).expect("a letter and digits make a name");
                Agent::new(id, owner, interval, START.plus_millis(chance.below(interval)), false)
            })
            .collect();
        let id = AgentId::parse("control").expect("a plain word is a name");
        let owner = OwnerId::parse("control").expect("a plain word is a name");
        let control = Agent::new(id, owner, interval, START.plus_millis(chance.below(interval)), true);
        let count = agents.len();
        let is_liar = |number: u32| scenario.lies(number / setup.owners, number % setup.owners, setup.owners);
        let liars = (0..).zip(&agents).filter(|(number, _)| is_liar(*number));
        let liars = liars.map(|(_, agent)| agent.owner.clone()).collect();
        let mut run = Self {
            setup,
            now: START,
            queue: Queue::new(),
            world: World::new(setup.noise, (carriers, setup.owners), chance_of, START, (scenario, onset)),
            chance,
            asked: vec![UnixMillis::default(); count],
            heard: vec![UnixMillis::default(); count],
            doubt: None,
            control,
            control_asked: UnixMillis::default(),
            desk: Desk::new(setup.policy, setup.owners, liars),
            ticks: 0,
            is_odd: vec![false; count],
            agents,
            visits: 0,
            slept: 0,
        };
        (0..count).for_each(|agent| run.plan(agent));
        run.plan_control();
        run
    }

    fn take(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Begin { agent, plan } if plan == self.agents[agent].plan => self.begin(agent),
            Event::ControlBegin { plan } if plan == self.control.plan => self.begin_control(),
            Event::Tick { plan } if plan == self.ticks => return self.step(),
            // Plans have changed since.
            Event::Begin { .. } | Event::ControlBegin { .. } | Event::Tick { .. } => {}
            Event::End(visit) => self.end(visit),
            Event::Arrive(visit) => return self.arrive(visit),
            Event::Wish { agent } => self.wish(agent),
            Event::ControlEnd { began, works } => {
                self.control.end(self.now, true, 0);
                self.plan_control();
                let at = self.now.plus_millis(self.setup.noise.road.record_millis.draw(&mut self.chance));
                self.queue.plan(at, Event::ControlArrive { began, works });
            }
            Event::ControlArrive { began, works } => {
                let judged = self.desk.hear_control(began, works);
                return self.observe_all(judged);
            }
            Event::ControlWish => {
                self.control.request();
                self.plan_control();
            }
            Event::Overdue => {
                let judged = self.desk.give_up_waiting(self.now);
                return self.observe_all(judged);
            }
        }
        None
    }

    /// Plans the agent's next beginning anew.
    fn plan(&mut self, agent: usize) {
        self.agents[agent].plan += 1;
        let Agent { plan, .. } = self.agents[agent];
        if let Some(at) = self.agents[agent].next_begin(self.now) {
            self.queue.plan(at, Event::Begin { agent, plan });
        }
    }

    fn plan_control(&mut self) {
        self.control.plan += 1;
        if let Some(at) = self.control.next_begin(self.now) {
            self.queue.plan(at, Event::ControlBegin { plan: self.control.plan });
        }
    }

    fn begin(&mut self, agent: usize) {
        let noise = &self.setup.noise.probe;
        let drawn = self.agents[agent].is_asleep().then_some(self.is_odd[agent]);
        self.wake(agent);
        let met = self.world.meet(agent, self.now, drawn.filter(|odd| *odd), &mut self.chance);
        self.agents[agent].begin(self.now, &mut self.chance);
        let lasts = match met {
            Met::Ok => noise.ok_millis,
            Met::Blocked | Met::Restricted => noise.blocked_millis,
        };
        let ended = self.now.plus_millis(lasts.draw(&mut self.chance));
        self.visits += 1;
        self.queue.plan(ended, Event::End(Visit { agent, began: self.now, ended, met }));
    }

    fn begin_control(&mut self) {
        let works = self.world.control_works(self.now, &mut self.chance);
        let noise = &self.setup.noise.probe;
        let lasts = if works { noise.ok_millis } else { noise.blocked_millis };
        self.control.begin(self.now, &mut self.chance);
        let ended = self.now.plus_millis(lasts.draw(&mut self.chance));
        self.queue.plan(ended, Event::ControlEnd { began: self.now, works });
    }

    fn end(&mut self, visit: Visit) {
        let noise = self.setup.noise;
        let handshakes = match visit.met {
            Met::Ok => noise.probe.ok_handshakes,
            Met::Blocked | Met::Restricted => noise.probe.blocked_handshakes,
        };
        self.agents[visit.agent].end(self.now, visit.met == Met::Ok, handshakes);
        self.plan(visit.agent);
        let at = self.now.plus_millis(noise.road.record_millis.draw(&mut self.chance));
        self.queue.plan(at, Event::Arrive(visit));
    }

    /// A wish reached an agent.
    fn wish(&mut self, agent: usize) {
        self.wake(agent);
        self.agents[agent].request();
        self.plan(agent);
    }

    fn arrive(&mut self, visit: Visit) -> Option<Action> {
        let agent = &self.agents[visit.agent];
        let was_well = self.desk.was_well(visit.agent, &agent.owner);
        match self.desk.file(visit, (&agent.id, &agent.owner), self.now) {
            Filed::Waits(until) => {
                self.queue.plan(until, Event::Overdue);
                self.ask_control(visit.began);
                if was_well {
                    self.ask_around(visit.agent);
                }
                None
            }
            Filed::Judged(heard) => self.heard(heard, visit.met == Met::Ok),
        }
    }

    fn observe_all(&mut self, judged: Vec<(Visit, Outcome)>) -> Option<Action> {
        let mut action = None;
        for (visit, outcome) in judged {
            let agent = &self.agents[visit.agent];
            let heard = self.desk.observe(visit, (&agent.id, &agent.owner), outcome);
            action = self.heard(heard, false).or(action);
        }
        action
    }

    /// A verdict reached its cell: others may be asked, the cell and the market move, who is calm may sleep.
    fn heard(&mut self, heard: Heard, is_ok: bool) -> Option<Action> {
        let carrier = heard.agent / self.setup.owners as usize;
        self.heard[heard.agent] = self.now;
        if heard.news != News::Nothing {
            self.ask_around(heard.agent);
        }
        self.catch_up(carrier);
        let is_different = self.desk.settle(carrier, self.now);
        let action = if is_different || !self.desk.is_calm() { self.step() } else { None };
        if !is_ok || !self.desk.is_calm() {
            self.desk.suspect(self.now);
        }
        self.pursue();
        if is_ok {
            self.try_to_sleep(heard.agent);
        }
        action
    }

    fn step(&mut self) -> Option<Action> {
        for carrier in 0..self.setup.policy.carriers.len() {
            self.catch_up(carrier);
            self.desk.settle(carrier, self.now);
        }
        let action = self.desk.step(self.now);
        self.ticks += 1;
        if let Some(at) = self.desk.next_deadline(self.now) {
            self.queue.plan(at, Event::Tick { plan: self.ticks });
        }
        action
    }

    /// Asks the control, where its last look may have begun before `since`.
    fn ask_control(&mut self, since: UnixMillis) {
        if self.control_asked <= since || self.now >= self.control_asked.plus_secs(ASK_AGAIN_SECS) {
            self.control_asked = self.now;
            let at = self.now.plus_millis(self.setup.noise.road.wish_millis.draw(&mut self.chance));
            self.queue.plan(at, Event::ControlWish);
        }
    }

    /// Asks everyone else on the carrier, one owner on each other carrier, and the control: the fold's own rule.
    fn ask_around(&mut self, spoke: usize) {
        self.ask_control(UnixMillis::default());
        let owners = self.setup.owners as usize;
        for carrier in 0..self.setup.policy.carriers.len() {
            let agents = carrier * owners..(carrier + 1) * owners;
            if carrier == spoke / owners {
                agents.filter(|agent| *agent != spoke).for_each(|agent| self.ask(agent));
            } else if let Some(free) = agents.into_iter().find(|agent| self.may_ask(*agent)) {
                self.ask(free);
            }
        }
    }

    /// Asks again about what is in doubt: the fold's own rule.
    fn pursue(&mut self) {
        let (carriers, seen) = self.desk.in_doubt();
        if carriers.is_empty() {
            self.doubt = None;
            return;
        }
        if !Doubt::pursue(&mut self.doubt, seen, self.now) {
            return;
        }
        let owners = self.setup.owners as usize;
        for carrier in carriers {
            (carrier * owners..(carrier + 1) * owners).for_each(|agent| self.ask(agent));
        }
    }

    fn may_ask(&self, agent: usize) -> bool {
        self.setup.is_adaptive && self.now >= self.asked[agent].plus_secs(ASK_AGAIN_SECS)
    }

    fn ask(&mut self, agent: usize) {
        if self.may_ask(agent) {
            self.asked[agent] = self.now;
            let at = self.now.plus_millis(self.setup.noise.road.wish_millis.draw(&mut self.chance));
            self.queue.plan(at, Event::Wish { agent });
        }
    }

    /// Lets an agent sleep to its next visit that its own noise or a spell may spoil.
    fn try_to_sleep(&mut self, agent: usize) {
        let is_busy = self.agents[agent].is_asleep() || self.agents[agent].next_begin(self.now).is_none();
        let owner = &self.agents[agent].owner;
        if is_busy || !self.desk.is_calm() || !self.desk.is_owner_calm(agent, owner, self.now) {
            return;
        }
        let good_turns = self.world.good_turns(&mut self.chance);
        let odd_at = self.agents[agent].turn_after(good_turns);
        let calm_until = self.world.calm_until(agent, self.now);
        let spoilt_at = self.agents[agent].turn_from(calm_until);
        self.is_odd[agent] = odd_at < spoilt_at;
        let at = odd_at.min(spoilt_at);
        self.agents[agent].sleep();
        self.agents[agent].plan += 1;
        self.queue.plan(at, Event::Begin { agent, plan: self.agents[agent].plan });
    }

    fn wake(&mut self, agent: usize) {
        if self.agents[agent].is_asleep() {
            self.tell_of_sleeper(agent);
            let turns = self.agents[agent].wake(self.now, self.setup.noise.probe.ok_handshakes);
            // The last of them its cell was told of.
            self.desk.pass_over(agent, &self.agents[agent].owner, turns.saturating_sub(1));
            self.slept += turns;
            self.visits += turns;
        }
    }

    /// Tells a carrier's cell of its sleepers' last turns, so that none of them passes for silent.
    fn catch_up(&mut self, carrier: usize) {
        let owners = self.setup.owners as usize;
        let patience = self.setup.interval_secs * 1_500;
        for agent in carrier * owners..(carrier + 1) * owners {
            if self.now > self.heard[agent].plus_millis(patience) && self.agents[agent].is_asleep() {
                self.tell_of_sleeper(agent);
            }
        }
    }

    fn tell_of_sleeper(&mut self, agent: usize) {
        let sleeper = &self.agents[agent];
        let begun_before = UnixMillis(self.now.0.saturating_sub(SLEEPER_VISIT_MILLIS));
        let Some((began, _)) = sleeper.slept_until(begun_before) else { return };
        let ended = began.plus_millis(SLEEPER_VISIT_MILLIS);
        if ended > self.heard[agent] {
            // Not before what the cell knows already, which would make it go over its window again: when exactly a visit
            // went well matters to nothing but its freshness.
            let ended = ended.max(self.desk.newest(agent / self.setup.owners as usize)).min(self.now);
            let visit = Visit { agent, began, ended, met: Met::Ok };
            self.desk.observe(visit, (&sleeper.id, &sleeper.owner), Outcome::Ok);
            self.heard[agent] = ended;
        }
    }

    fn story(mut self, scenario: Scenario, onset: UnixMillis) -> Story {
        (0..self.agents.len()).for_each(|agent| self.wake(agent));
        let due = onset.plus_millis(scenario.pause_due_millis(self.setup.policy.pause_red_carriers));
        let turns = std::mem::take(&mut self.desk.turns);
        let warns = |turn: &Turn| WARNINGS.contains(&turn.action);
        let first = |wanted: &[Action], since: UnixMillis| {
            let turn = turns.iter().find(|turn| turn.at >= onset && wanted.contains(&turn.action));
            turn.map(|turn| turn.at.since_millis(since))
        };
        let is_first = |index: usize| index == 0 || !warns(&turns[index - 1]);
        let alerts = turns.iter().enumerate().filter(|(index, turn)| warns(turn) && is_first(*index)).count();
        let suspicions = std::mem::take(&mut self.desk.suspicions);
        let early = suspicions.iter().find(|at| **at >= onset).map(|at| at.since_millis(onset));
        let warning_millis = first(&WARNINGS, onset);
        Story {
            alert_millis: early.into_iter().chain(warning_millis).min(),
            warning_millis,
            suspicions: suspicions.len() as u64,
            rotation_millis: first(&[Action::Rotate], due),
            alerts: alerts as u64,
            rotations: turns.iter().filter(|turn| turn.action == Action::Rotate).count() as u64,
            turns,
            reds: self.desk.reds,
            reds_by_liars: self.desk.reds_by_liars,
            visits: self.visits,
            slept: self.slept,
        }
    }
}
