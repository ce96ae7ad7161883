//! The facts around the visit: the agent's own network, hops, the picture, what a DNS answer holds beside addresses.

use zerkalo_core::record as core;
use zerkalo_core::words::UnixMillis;

use super::{Decoded, addresses, all, parsed, required, sha256, small, span, tls_outcome};
use crate::record::DecodeError;
use crate::record_v1 as wire;

pub(super) fn dns_detail(detail: Option<wire::DnsDetail>) -> Decoded<core::DnsDetail> {
    let Some(detail) = detail else { return Ok(core::DnsDetail::default()) };
    Ok(core::DnsDetail {
        message_id: small("dns.detail.message_id", detail.message_id)?,
        edns_payload_len: detail
            .edns_payload_len
            .map(|len| small("dns.detail.edns_payload_len", len))
            .transpose()?,
        is_authoritative: detail.is_authoritative,
        is_recursion_available: detail.is_recursion_available,
        is_authenticated: detail.is_authenticated,
        services: all(detail.services, service)?,
    })
}

fn service(service: wire::HttpsService) -> Decoded<core::HttpsService> {
    Ok(core::HttpsService {
        priority: small("dns.detail.services.priority", service.priority)?,
        target: service.target,
        alpn: service.alpn,
        hints: addresses("dns.detail.services.hints", &service.hints)?,
        ech_config: service.ech_config,
    })
}

pub(super) fn network(check: wire::NetworkCheck) -> Decoded<core::NetworkCheck> {
    Ok(core::NetworkCheck {
        checked_at: UnixMillis(check.checked_at_millis),
        ipv6: match wire::Ipv6Health::try_from(check.ipv6) {
            Ok(wire::Ipv6Health::Unspecified) => core::Ipv6Health::Unknown,
            Ok(wire::Ipv6Health::Absent) => core::Ipv6Health::Absent,
            Ok(wire::Ipv6Health::Broken) => core::Ipv6Health::Broken,
            Ok(wire::Ipv6Health::Works) => core::Ipv6Health::Works,
            Err(_) => return Err(DecodeError::invalid("network.ipv6", check.ipv6)),
        },
        captive_host: check.captive_host,
        resolver_identity: check.resolver_identity,
        clock_ahead_millis: check.clock_ahead_millis,
        host_interference: check.host_interference,
        is_offline: check.is_offline,
    })
}

pub(super) fn hop(hop: wire::HopProbe) -> Decoded<core::HopProbe> {
    let hello = required("hops.hello", hop.hello)?;
    Ok(core::HopProbe {
        address: parsed("hops.hello.address", &hello.address)?,
        sni: hello.sni,
        ttl: small("hops.ttl", hop.ttl)?,
        span: span(hello.span),
        outcome: tls_outcome("hops.hello.outcome", hello.outcome)?,
    })
}

pub(super) fn uplink(activity: wire::UplinkActivity) -> Decoded<core::UplinkActivity> {
    Ok(core::UplinkActivity {
        transport: match wire::UplinkTransport::try_from(activity.transport) {
            Ok(wire::UplinkTransport::Unspecified) => None,
            Ok(wire::UplinkTransport::Tcp) => Some(core::UplinkTransport::Tcp),
            Ok(wire::UplinkTransport::Quic) => Some(core::UplinkTransport::Quic),
            Err(_) => return Err(DecodeError::invalid("uplink.transport", activity.transport)),
        },
        bytes_sent: activity.bytes_sent,
        bytes_received: activity.bytes_received,
        is_switched: activity.is_switched,
    })
}

pub(super) fn screenshot(screenshot: wire::Screenshot) -> Decoded<core::Screenshot> {
    Ok(core::Screenshot {
        sha256: sha256("screenshot.sha256", &screenshot.sha256)?,
        len: screenshot.len,
        media_type: screenshot.media_type,
        address: parsed("screenshot.address", &screenshot.address)?,
        span: span(screenshot.span),
        failure: screenshot.failure,
    })
}

/// By which clocks a record was made.
pub(super) fn clock(clock: &wire::ClockReading) -> Decoded<core::ClockReading> {
    Ok(core::ClockReading {
        monotonic_millis: clock.monotonic_millis,
        boot: crate::evidence::fixed("boot", &clock.boot)?,
        error_millis: clock.error_millis,
    })
}
