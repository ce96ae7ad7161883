//! The arms that tell a frozen or slow road from a fast one: the mirror's large page, over the visit's own connection
//! where it serves, so that no further handshake shows the name; and, where that came slowly or not whole, an object of
//! about the same size at a host no censor looks for. When a large page is due is `pages.rs`' business.

use std::net::IpAddr;

use zerkalo_core::goodput::is_slow;
use zerkalo_core::record::{Arm, Cause, HttpExchange, HttpOutcome, ResolverKind};
use zerkalo_core::target::TargetUrl;

use super::http::{Ask, HttpConnection, Reading};
use super::road::Road;

/// Addresses tried for the reference object.
const REFERENCE_ADDRESSES_MAX: usize = 2;

/// Readings of one probe: the large page twice, and the object.
const READINGS_MAX: u32 = 3;

/// What is read beside the page itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flow {
    /// Read after a visit that went through; `None` where it is not due.
    pub large_page: Option<TargetUrl>,
    /// Read where a page came slowly or not whole, and by hand always.
    pub reference_object: Option<TargetUrl>,
}

/// How the largest page of a probe came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Fast,
    Slow,
    /// Not whole: stalled, reset, closed.
    Broken,
}

/// How the probe's large page came; `None` where none was read. One that broke off once is broken; one that was slow once
/// and fast once is fast.
pub fn pace<'a>(steps: impl IntoIterator<Item = &'a HttpExchange>) -> Option<Pace> {
    let mut found = None;
    for step in steps.into_iter().filter(|step| step.arm == Arm::LargePage) {
        let pace = match (&step.outcome, is_slow(step)) {
            (HttpOutcome::Complete, Some(true)) => Pace::Slow,
            (HttpOutcome::Complete, _) => Pace::Fast,
            _ => Pace::Broken,
        };
        found = match found {
            Some(Pace::Broken) => found,
            Some(Pace::Fast) if pace == Pace::Slow => found,
            _ => Some(pace),
        };
    }
    found
}

/// Whether the mirror's page, the large one where it was read, came slowly or broke off.
pub fn is_odd(steps: &[HttpExchange]) -> bool {
    let of = |arm: Arm| steps.iter().rfind(move |step| step.arm == arm);
    of(Arm::LargePage).or_else(|| of(Arm::Main)).is_some_and(|step| {
        is_slow(step) == Some(true) || step.status.is_some() && step.outcome != HttpOutcome::Complete
    })
}

impl Road<'_> {
    /// Reads the large page, where the visit went through and one is due, and what it is compared with.
    pub async fn flow_arms(&mut self, is_reached: bool) {
        let flow = &self.assignment.flow;
        if flow.large_page.is_none() && flow.reference_object.is_none() {
            return;
        }
        self.renew(self.settings.timeout);
        if let Some(page) = flow.large_page.as_ref().filter(|_| is_reached) {
            self.read_large_page(page).await;
        }
        if let Some(object) = flow.reference_object.as_ref()
            && (self.assignment.cause == Cause::Manual || is_odd(&self.facts.http))
        {
            self.read_reference_object(object).await;
        }
        if let Some(page) = flow.large_page.as_ref().filter(|_| pace(&self.facts.http) == Some(Pace::Slow)) {
            self.read_once_more(page).await;
        }
    }

    /// A bad line slows one reading and not the next: a page that came slowly is read again after the object, over the
    /// same connection.
    async fn read_once_more(&mut self, page: &TargetUrl) {
        let until = self.clock.until(self.settings.caps.connect);
        if let Some(mut connection) = self.kept.take()
            && connection.can_ask(page, until).await
            && !self.clock.is_over()
        {
            self.read(connection, Arm::LargePage, page).await;
        }
    }

    /// A page that broke off is read once more, over another connection: some freezes strike every second one.
    async fn read_large_page(&mut self, page: &TargetUrl) {
        let until = self.clock.until(self.settings.caps.connect);
        let mut connection = self.kept.take();
        if let Some(kept) = &mut connection
            && !kept.can_ask(page, until).await
        {
            connection = None;
        }
        if connection.is_none() {
            connection = self.open_large_page(page).await;
        }
        let Some(connection) = connection else { return };
        if self.read(connection, Arm::LargePage, page).await == HttpOutcome::Complete {
            return;
        }
        if let Some(connection) = self.open_large_page(page).await {
            self.read(connection, Arm::LargePage, page).await;
        }
    }

    /// A new connection to where the visit itself went.
    async fn open_large_page(&mut self, page: &TargetUrl) -> Option<HttpConnection> {
        if self.is_name_spent() || self.clock.is_over() {
            return None;
        }
        let host = page.host();
        let is_own = |step: &&HttpExchange| step.arm == Arm::Main && step.url.host() == host;
        let address = self.facts.http.iter().find(is_own)?.address.ip();
        self.open(Arm::LargePage, page, address).await
    }

    async fn read_reference_object(&mut self, object: &TargetUrl) {
        for address in self.addresses_of_reference(object).await.into_iter().take(REFERENCE_ADDRESSES_MAX) {
            if self.clock.is_over() {
                break;
            }
            if let Some(connection) = self.open(Arm::ReferenceObject, object, address).await {
                self.read(connection, Arm::ReferenceObject, object).await;
                break;
            }
        }
    }

    async fn addresses_of_reference(&mut self, object: &TargetUrl) -> Vec<IpAddr> {
        if let Some(address) = object.literal_address() {
            return vec![address];
        }
        let host = object.host();
        if !self.facts.dns.iter().any(|step| step.name == host) {
            self.ask_system(&host).await;
        }
        self.answered(ResolverKind::System, &host)
    }

    /// Reads a page to its end; what it says is of no interest unless it is an error.
    async fn read(&mut self, mut connection: HttpConnection, arm: Arm, url: &TargetUrl) -> HttpOutcome {
        let ask = Ask { arm, url, canary: None, reading: Reading::Whole };
        // Two readings and the object must fit the arms' deadline.
        let cap = self.settings.caps.flow.min(self.settings.timeout / READINGS_MAX);
        let mut step = connection.exchange(ask, cap, self.clock).await;
        if step.status.is_some_and(|status| (200..300).contains(&status)) {
            step.excerpt.clear();
            step.title = None;
        }
        let outcome = step.outcome.clone();
        self.facts.http.push(step);
        if arm == Arm::LargePage {
            self.kept = Some(connection);
        }
        outcome
    }
}
