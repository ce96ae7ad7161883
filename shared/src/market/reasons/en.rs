//! English.

use super::Key as K;

pub(super) const TEMPLATES: &[(K, &str)] = &[
    (K::Works, "the mirror works on {green} of {total} carriers of {market}"),
    (K::Unheard, "nothing fresh is heard of {silent} of them"),
    (
        K::Recovered,
        "for {span} no more than {leave} of {total} carriers of {market} have been red: the mirror works again",
    ),
    (K::RedCarriers, "red carriers of {market}: {red} of {total}; {action} needs {needed}"),
    (
        K::RedCarriersWeighed,
        "red carriers of {market}: {red} of {total}, weighing {weight}; {action} needs {needed}",
    ),
    (
        K::Confirmed,
        "red carriers of {market} after the hold of {span}: {red} of {total}, confirmed by verdicts no older than {age}",
    ),
    (
        K::StandbyBlocked,
        "the standby is blocked before it served: red carriers of {market}: {red} of {total}; it takes nobody's place",
    ),
    (
        K::CauseName,
        "the name itself is listed: {how} by {owners} of {of} owners that tell how; a new name helps",
    ),
    (
        K::CauseAddresses,
        "the addresses are blocked, not the name: {how} by {owners} of {of} owners that tell how; a new name on the \
             same range would die too, so move hosting or CDN and keep the name",
    ),
    (
        K::CauseEch,
        "only the encrypted ClientHello is blocked: {how} by {owners} of {of} owners that tell how; switch ECH off at \
             the CDN, no domain needs burning",
    ),
    (
        K::CauseQuic,
        "only QUIC is blocked: {how} by {owners} of {of} owners that tell how; stop advertising h3, no domain needs \
             burning",
    ),
    (
        K::ImpairedQuic,
        "QUIC fails on {count} of {total} carriers of {market} while the page loads over TCP: stop advertising h3, no \
             domain needs burning",
    ),
    (
        K::ImpairedEch,
        "the encrypted ClientHello fails on {count} of {total} carriers of {market} while the plain one passes: switch \
             ECH off at the CDN, no domain needs burning",
    ),
    (
        K::ImpairedTransfer,
        "long transfers freeze or crawl on {count} of {total} carriers of {market} while the page begins to load: move \
             hosting or CDN, keep the name",
    ),
    (
        K::ImpairedAddresses,
        "some of the mirror's addresses fail on {count} of {total} carriers of {market} while others answer: move \
             hosting or drop these addresses, keep the name",
    ),
    (
        K::ControlFails,
        "the control fails too, on {down} of {total} carriers of {market}: the site is down, no domain needs burning",
    ),
    (
        K::DomainLost,
        "the name no longer exists at the control either, on {down} of {total} carriers of {market}: the registrar or \
             the registry took it",
    ),
    (
        K::NetworkState,
        "{restricted} of {total} carriers of {market} are in whitelist mode, shut down or captive: a state of the \
             network, no domain needs burning",
    ),
    (
        K::OriginRefuses,
        "the origin itself refuses on {refused} of {total} carriers of {market}: change the CDN's or server's country \
             rule, no domain needs burning",
    ),
    (K::Silence, "too little is heard: {fresh} of {total} carriers of {market} have fresh evidence"),
    (K::Leader, "{carrier} usually falls first: have a fresh mirror ready"),
    (K::LagHistory, "{carrier} has followed {leader} within {span} (median of {count} falls)"),
    (
        K::LagPlaybook,
        "the others are expected to follow {leader} within {span} (the playbook's figure, there is no history yet)",
    ),
    (K::LaggardWorks, "{carrier}, which usually falls last, still works: the block may be spreading"),
    (K::Carrier, "{carrier} is {state}: {cells}"),
    (K::CellFirst, "a first {access} owner of {owners} sees it blocked"),
    (K::CellBlocked, "{flagged} of {owners} {access} owners see it blocked"),
    (K::CellBlockedBy, "{flagged} of {owners} {access} owners see it blocked by {mechanisms}"),
    (K::CellState, "{access} is {state}"),
    (K::Ordered, "ordered by {author}: {reason}"),
    (K::OrderedUntil, "ordered by {author} until {until}: {reason}"),
    (K::Frozen, "the market is frozen by {author}: nothing is carried out"),
    (K::DryRun, "the market's policy is a dry run: nothing is carried out"),
    (K::WaitsForPeople, "it waits for approvals: {given} of {needed} given"),
    (K::QuietHours, "quiet hours: it waits for a person's yes or until {until}"),
    (
        K::CoolDown,
        "the market's last rotation was a moment ago: it waits for a person's yes or until {until}",
    ),
    (
        K::RotationsADay,
        "the market rotated {count} times in 24 hours: it waits for a person's yes or until {until}",
    ),
    (K::Approved, "approved by {authors}"),
    (K::WaitOver, "what it waited for is over, and the block is not"),
    (K::TakesItsPlace, "{mirror} takes its place: it works on every carrier heard of, {green} of {total}"),
    (K::NoStandby, "no standby works on every carrier heard of: nothing can take its place yet"),
    (K::StandbyFound, "a standby that works has turned up"),
    (
        K::AdvicePause,
        "{open} works and {blocked} is blocked everywhere: pause the sources of {blocked}, rotate {blocked}, keep {open}",
    ),
    (
        K::AdvicePrepare,
        "{open} works and in {blocked} only {carrier} is blocked: prepare a mirror for {blocked}",
    ),
    (K::AdviceFalling, "{blocked} is blocked everywhere and {falling} is starting to fall: rotate both"),
    (
        K::AdviceDead,
        "{blocked} is blocked everywhere and {falling} at least in part: the mirror is dead, rotate both",
    ),
    (
        K::AlertPoolEmpty,
        "{market}: nothing can take the place of {mirror}: of {fresh} standbys none works on every carrier heard of; \
             list one that does",
    ),
    (K::AlertPoolLow, "{market}: {fresh} standbys are left; list more"),
    (
        K::AlertPoolForecast,
        "by {lives} lives about {needed} new domains are needed in 30 days (between {low} and {high})",
    ),
    (
        K::AlertPoolUnforeseen,
        "too few mirrors were lost to a block to forecast the need: {deaths} of {lives}, and {needed} are needed",
    ),
    (
        K::AlertUnblocked,
        "{mirror} was burned in {market} and has worked on all its carriers for {span}: it may be offered again; \
             nobody puts it back but you",
    ),
    (K::AlertApproval, "{decision}: the rotation of {mirror} in {market} waits"),
    (
        K::AlertBlockSuspected,
        "{mirror} may be blocked in {market}: a first word before any carrier is red; nothing is changed by it. A decision \
             follows within minutes, or it was noise",
    ),
    (
        K::AlertListExpiring,
        "the mirror list is good for {left} more, until {at}: sign it anew (`zerkalo mirrors sign`)",
    ),
    (
        K::AlertListEnded,
        "the mirror list ended at {at}: agents measure nothing until it is signed anew (`zerkalo mirrors sign`)",
    ),
    (K::ActionKeep, "keep"),
    (K::ActionPrepare, "prepare"),
    (K::ActionPause, "pause"),
    (K::ActionRotate, "rotate"),
    (K::ActionRetire, "retire"),
    (K::ActionHold, "hold"),
    (K::ActionMoveHosting, "move hosting"),
    (K::ActionChangeCdnRule, "change the CDN's rule"),
    (K::ActionDisableEch, "disable ECH"),
    (K::ActionDisableH3, "disable h3"),
    (K::ActionFixOrigin, "fix the origin"),
    (K::ActionDomainLost, "domain lost"),
    (K::StateRed, "red"),
    (K::StateSuspect, "suspect"),
    (K::StateRestricted, "restricted"),
    (K::StateDown, "down"),
    (K::StateRefused, "refused"),
    (K::StateGreen, "green"),
    (K::StateStale, "stale"),
    (K::StateInsufficient, "insufficient"),
    (K::AccessFixed, "fixed"),
    (K::AccessMobile, "mobile"),
    (K::Days, "d"),
    (K::Hours, "h"),
    (K::Minutes, "min"),
    (K::Seconds, "s"),
];
