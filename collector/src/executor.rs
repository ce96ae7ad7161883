//! What carries decisions out: webhooks, programs, DNS updates. One attempt at one notice each; waits, order and memory
//! are the outbox's.
//!
//! An attempt may be made again after a crash, so each kind makes a second one harmless: webhook and program by an id
//! that stays the same, the DNS update by looking first.

pub mod dns;
pub mod program;
pub mod webhook;

use std::sync::Arc;

use zerkalo_core::market::{Action, Alert, Decision, Effect};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

use crate::config::{ExecutorConfig, ExecutorKind};
use crate::state::Topic;
use dns::{Dns, DnsError};
use program::{Program, ProgramError};
use webhook::{Webhook, WebhookError};

/// Something logged that others are to be told, or to act on.
#[derive(Debug, Clone)]
pub enum Notice {
    Decision(Box<Decision>),
    Alert(Box<Alert>),
}

/// One notice on its way through one executor.
#[derive(Debug)]
pub struct Errand<'a> {
    /// The same at every attempt: what a receiver may recognise a second one by.
    pub id: &'a str,
    pub notice: &'a Notice,
    /// The notice as it was logged, byte for byte.
    pub logged: &'a [u8],
}

/// Which notices go through an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub executor: String,
    /// Empty: every market.
    pub markets: Vec<MarketId>,
    /// Empty: every action.
    pub actions: Vec<Action>,
    pub carries: Carries,
}

/// What kind of executor a route leads to, as far as notices are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// All decisions, whatever their effect, and alerts.
    Everything,
    /// Decisions to be carried out.
    Acts,
    /// The same, where another mirror takes a mirror's place.
    Replacements,
}

/// What another attempt may bring after one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Something was away, busy or slow: it may succeed.
    Passing,
    /// A plain no: it ends the same way until somebody mends something.
    Refused,
    /// Nothing that a receiver does can make it succeed.
    Hopeless,
}

/// An executor at work.
pub struct Executor {
    /// Attempts before a notice is given up.
    pub attempts: u32,
    /// Attempts refused for good before it is.
    pub refusals: u32,
    means: Means,
}

enum Means {
    Webhook(Box<Webhook>),
    Program(Program),
    Dns(Box<Dns>),
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Dns(#[from] DnsError),
}

impl AttemptError {
    /// What another attempt may bring.
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::Webhook(error) => error.outlook(),
            Self::Program(error) => error.outlook(),
            Self::Dns(error) => error.outlook(),
        }
    }
}

impl Notice {
    /// The id it is logged under.
    pub fn id(&self) -> &str {
        match self {
            Self::Decision(decision) => &decision.id,
            Self::Alert(alert) => &alert.id,
        }
    }

    /// Its number in its log.
    pub fn number(&self) -> u64 {
        match self {
            Self::Decision(decision) => decision.number,
            Self::Alert(alert) => alert.number,
        }
    }

    /// When it was made.
    pub fn at(&self) -> UnixMillis {
        match self {
            Self::Decision(decision) => decision.at,
            Self::Alert(alert) => alert.at,
        }
    }

    /// The mirror it is about.
    pub fn mirror(&self) -> Option<&MirrorId> {
        match self {
            Self::Decision(decision) => Some(&decision.mirror),
            Self::Alert(alert) => alert.mirror.as_ref(),
        }
    }

    /// The bytes to log.
    pub fn to_json(&self) -> String {
        match self {
            Self::Decision(decision) => decision.to_json(),
            Self::Alert(alert) => alert.to_json(),
        }
    }

    /// Reads what was logged.
    pub fn parse(topic: Topic, logged: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match topic {
            Topic::Decision => Self::Decision(serde_json::from_slice(logged)?),
            Topic::Alert => Self::Alert(serde_json::from_slice(logged)?),
        })
    }

    /// The market it is about.
    pub fn market(&self) -> &MarketId {
        match self {
            Self::Decision(decision) => &decision.market,
            Self::Alert(alert) => &alert.market,
        }
    }

    /// The action, or what the alert is about.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Decision(decision) => decision.action.as_str(),
            Self::Alert(alert) => alert.kind.as_str(),
        }
    }

    /// The body that goes out, the same bytes at every attempt: the logged notice itself stands inside.
    pub fn body(&self, logged: &[u8], more: &str) -> Vec<u8> {
        let kind = match self {
            Self::Decision(_) => "zerkalo.decision",
            Self::Alert(_) => "zerkalo.alert",
        };
        let head = format!(r#"{{"type":"{kind}","timestamp":"{}",{more}"data":"#, self.at().to_rfc3339());
        [head.as_bytes(), logged, b"}"].concat()
    }
}

impl Route {
    /// Whether a notice goes this way.
    pub fn takes(&self, notice: &Notice) -> bool {
        let market = notice.market();
        if !self.markets.is_empty() && !self.markets.contains(market) {
            return false;
        }
        match notice {
            Notice::Alert(_) => self.carries == Carries::Everything,
            Notice::Decision(decision) => {
                let wanted = self.actions.is_empty() || self.actions.contains(&decision.action);
                let acts = decision.effect == Effect::Act;
                wanted
                    && match self.carries {
                        Carries::Everything => true,
                        Carries::Acts => acts,
                        Carries::Replacements => acts && decision.replacement.is_some(),
                    }
            }
        }
    }
}

impl Executor {
    /// Makes one ready; nothing is attempted yet.
    pub fn new(config: &ExecutorConfig) -> Self {
        let means = match &config.kind {
            ExecutorKind::Webhook(webhook) => Means::Webhook(Box::new(Webhook::new(webhook.clone()))),
            ExecutorKind::Program(program) => Means::Program(Program::new(program.clone())),
            ExecutorKind::Dns(dns) => Means::Dns(Box::new(Dns::new((**dns).clone()))),
        };
        Self { attempts: config.attempts, refusals: config.refusals, means }
    }

    /// Whether it is a webhook.
    pub fn is_webhook(&self) -> bool {
        matches!(self.means, Means::Webhook(_))
    }

    /// One attempt; says what was done.
    pub async fn attempt(&self, errand: &Errand<'_>) -> Result<String, AttemptError> {
        match &self.means {
            Means::Webhook(webhook) => {
                webhook.attempt(errand).await?;
                Ok("told the webhook".to_owned())
            }
            Means::Program(program) => {
                program.attempt(errand).await?;
                Ok("the program carried it out".to_owned())
            }
            Means::Dns(dns) => Ok(dns.attempt(errand).await?),
        }
    }
}

/// The ways notices go, one for each executor.
pub fn routes(executors: &[ExecutorConfig]) -> Arc<[Route]> {
    let routes = executors.iter().map(|config| Route {
        executor: config.name.clone(),
        markets: config.markets.clone(),
        actions: config.actions.clone(),
        carries: match config.kind {
            ExecutorKind::Webhook(_) => Carries::Everything,
            ExecutorKind::Program(_) => Carries::Acts,
            ExecutorKind::Dns(_) => Carries::Replacements,
        },
    });
    routes.collect()
}
