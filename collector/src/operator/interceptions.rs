//! What an operator asks of the ledger of intercepting certificates: a selection of it that fits an answer.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use zerkalo_core::ledger::{Ledger, Sighting};
use zerkalo_proto::operator::{issuer_to_wire, sighting_to_wire};
use zerkalo_proto::operator_v1::{
    InterceptingCertificate, ListInterceptionsRequest, ListInterceptionsResponse,
};

/// Bytes of certificates in one answer: clients read 4 MiB, and their issuers, each named by one at least, take less.
const CERTIFICATES_LEN_MAX: usize = 1_500_000;
/// Bytes of a certificate beside its texts, and of each text's frame; generous.
const NUMBERS_LEN: usize = 192;
/// See [`NUMBERS_LEN`].
const FRAME_LEN: usize = 16;

/// The certificates asked for, the latest seen first, as many as fit; with their issuers.
pub fn listed(ledger: &Ledger, request: &ListInterceptionsRequest) -> ListInterceptionsResponse {
    let wanted = request.issuer.to_lowercase();
    let is_asked_for = |sighting: &&Sighting| {
        sighting.last_seen.0 >= request.since_millis && sighting.issuer.to_lowercase().contains(&wanted)
    };
    let mut found: Vec<&Sighting> = ledger.sightings().filter(is_asked_for).collect();
    found.sort_by_key(|sighting| Reverse(sighting.last_seen));
    let mut len = 0;
    let certificates: Vec<_> = found
        .iter()
        .map(|sighting| sighting_to_wire(sighting))
        .take_while(|certificate| {
            len += len_of(certificate);
            len <= CERTIFICATES_LEN_MAX
        })
        .collect();
    let named: BTreeSet<&str> = certificates.iter().map(|certificate| certificate.issuer.as_str()).collect();
    let issuers = ledger.issuers();
    let issuers = issuers.iter().filter(|view| named.contains(view.issuer.as_str())).map(issuer_to_wire);
    ListInterceptionsResponse {
        issuers: issuers.collect(),
        left_out: (found.len() - certificates.len()) as u64,
        certificates,
        evicted: ledger.evicted(),
    }
}

/// About how long a certificate is on the wire, never less than it is.
fn len_of(certificate: &InterceptingCertificate) -> usize {
    let networks = certificate.networks.iter().map(|network| network.carrier.len() + 2 * FRAME_LEN);
    let mirrors = certificate.mirrors.iter().map(|mirror| mirror.len() + FRAME_LEN);
    let names = certificate.subject.len() + certificate.issuer.len();
    NUMBERS_LEN + names + networks.chain(mirrors).sum::<usize>()
}
