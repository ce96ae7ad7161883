//! The facts around the visit: the agent's own network, hops, the picture, what a DNS answer holds beside addresses.

use zerkalo_core::record as core;

use super::{span, tls_outcome};
use crate::record_v1 as wire;

pub(super) fn dns_detail(detail: &core::DnsDetail) -> wire::DnsDetail {
    let service = |service: &core::HttpsService| wire::HttpsService {
        priority: u32::from(service.priority),
        target: service.target.clone(),
        alpn: service.alpn.clone(),
        hints: service.hints.iter().map(ToString::to_string).collect(),
        ech_config: service.ech_config.clone(),
    };
    wire::DnsDetail {
        message_id: u32::from(detail.message_id),
        edns_payload_len: detail.edns_payload_len.map(u32::from),
        is_authoritative: detail.is_authoritative,
        is_recursion_available: detail.is_recursion_available,
        is_authenticated: detail.is_authenticated,
        services: detail.services.iter().map(service).collect(),
    }
}

pub(super) fn network(check: &core::NetworkCheck) -> wire::NetworkCheck {
    wire::NetworkCheck {
        checked_at_millis: check.checked_at.0,
        captive_host: check.captive_host.clone(),
        ipv6: match check.ipv6 {
            core::Ipv6Health::Unknown => wire::Ipv6Health::Unspecified,
            core::Ipv6Health::Absent => wire::Ipv6Health::Absent,
            core::Ipv6Health::Broken => wire::Ipv6Health::Broken,
            core::Ipv6Health::Works => wire::Ipv6Health::Works,
        }
        .into(),
        resolver_identity: check.resolver_identity.clone(),
        clock_ahead_millis: check.clock_ahead_millis,
        host_interference: check.host_interference.clone(),
        is_offline: check.is_offline,
    }
}

pub(super) fn hop(hop: &core::HopProbe) -> wire::HopProbe {
    let hello = wire::TlsHandshake {
        address: hop.address.to_string(),
        sni: hop.sni.clone(),
        span: span(hop.span),
        outcome: Some(tls_outcome(&hop.outcome)),
        ..Default::default()
    };
    wire::HopProbe { ttl: u32::from(hop.ttl), hello: Some(hello) }
}

pub(super) fn uplink(activity: core::UplinkActivity) -> wire::UplinkActivity {
    let transport = match activity.transport {
        None => wire::UplinkTransport::Unspecified,
        Some(core::UplinkTransport::Tcp) => wire::UplinkTransport::Tcp,
        Some(core::UplinkTransport::Quic) => wire::UplinkTransport::Quic,
    };
    wire::UplinkActivity {
        transport: transport.into(),
        bytes_sent: activity.bytes_sent,
        bytes_received: activity.bytes_received,
        is_switched: activity.is_switched,
    }
}

pub(super) fn screenshot(screenshot: &core::Screenshot) -> wire::Screenshot {
    wire::Screenshot {
        sha256: screenshot.sha256.0.to_vec(),
        len: screenshot.len,
        media_type: screenshot.media_type.clone(),
        address: screenshot.address.to_string(),
        span: span(screenshot.span),
        failure: screenshot.failure.clone(),
    }
}

/// By which clocks a record was made.
pub(super) fn clock(clock: core::ClockReading) -> wire::ClockReading {
    wire::ClockReading {
        monotonic_millis: clock.monotonic_millis,
        boot: clock.boot.to_vec(),
        error_millis: clock.error_millis,
    }
}
