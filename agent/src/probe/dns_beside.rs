//! Questions asked beside the visit, which never waits for them: a browser asks for HTTPS records too, and goes on
//! without. Some resolvers, and boxes on the way, drop the questions they do not know.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use zerkalo_core::record::{DnsTransport, ResolverKind};

use super::StepCaps;
use super::clock::StepClock;
use super::dns::{Asked, Question, ask, exchange_of, service_question};
use super::dns_answer::Answer;
use super::late::Patience;
use super::resolvers::Resolvers;

/// Longest wait for HTTPS records, where the visit failed: whoever answers these questions answers them soon.
const SERVICES_CAP: Duration = Duration::from_secs(3);

/// Asks the system's and the public resolver for the HTTPS records of `host`.
pub fn services(resolvers: &Resolvers, host: &str, caps: StepCaps, clock: StepClock) -> Beside {
    let system = resolvers.system.first().map(|server| (ResolverKind::System, *server));
    let public = resolvers.public.map(|server| (ResolverKind::Public, server));
    let asked = system.into_iter().chain(public).map(|(kind, server)| service_question(kind, server, host));
    Beside::start(asked.collect(), StepCaps { dns: caps.dns.min(SERVICES_CAP), ..caps }, clock)
}

/// Questions under way.
#[derive(Debug)]
pub struct Beside {
    since: Instant,
    clock: StepClock,
    asked: Vec<(Question, JoinHandle<Asked>)>,
}

impl Beside {
    /// Asks all at once, by UDP, from now on.
    pub fn start(questions: Vec<Question>, caps: StepCaps, clock: StepClock) -> Self {
        let start = |question: Question| (question.clone(), tokio::spawn(ask(question, caps, clock)));
        Self { since: Instant::now(), clock, asked: questions.into_iter().map(start).collect() }
    }

    /// What came. Who has no patience takes what is there by now; the rest counts as unanswered, with the time it had.
    pub async fn end(self, patience: Patience) -> Vec<Asked> {
        let mut ended = Vec::with_capacity(self.asked.len());
        for (question, task) in self.asked {
            let is_over = task.is_finished() || patience == Patience::ToTheEnd;
            if !is_over {
                task.abort();
            }
            ended.push(match task.await {
                Ok(asked) => asked,
                Err(_) => {
                    let answer = Answer::timeout();
                    let exchange =
                        exchange_of(question, DnsTransport::Udp, self.since, answer, Vec::new(), self.clock);
                    Asked { exchange, listener: None }
                }
            });
        }
        ended
    }
}
