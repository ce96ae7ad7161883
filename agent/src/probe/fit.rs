//! Makes a record fit the size that collectors admit. Hostile servers send much; what is shed first is what judges use
//! least: long headers, then whole certificates, then the middle of long chains and redirects.

use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::record::ProbeRecord;

use super::text::cut;

/// Room left for reference checks, which are added after the steps.
const REFERENCES_LEN_MAX: usize = 4 * 1024;
/// What a header's value is cut to, once values are cut.
const SHORT_VALUE_LEN: usize = 64;
/// Headers that judges read, kept longest.
const TELLING_HEADERS: [&str; 5] = ["location", "server", "content-type", "alt-svc", "via"];

/// Sheds until the encoded record fits.
pub fn fit(record: &mut ProbeRecord) {
    const STAGES: [fn(&mut ProbeRecord); 6] =
        [shed_values, shed_headers, shed_certificates, shed_names, shed_excerpts, shed_steps];
    for shed in STAGES {
        if zerkalo_proto::record::encode(record).len() <= BODY_LEN_MAX - REFERENCES_LEN_MAX {
            return;
        }
        shed(record);
    }
}

fn shed_values(record: &mut ProbeRecord) {
    for (name, value) in record.http.iter_mut().flat_map(|step| &mut step.headers) {
        if !TELLING_HEADERS.contains(&name.as_str()) {
            cut(value, SHORT_VALUE_LEN);
        }
        cut(name, SHORT_VALUE_LEN);
    }
}

fn shed_headers(record: &mut ProbeRecord) {
    for step in &mut record.http {
        step.headers.retain(|(name, _)| TELLING_HEADERS.contains(&name.as_str()));
    }
}

fn shed_certificates(record: &mut ProbeRecord) {
    for certificate in record.tls.iter_mut().flat_map(|step| step.chain.iter_mut().skip(1)) {
        certificate.der.clear();
    }
}

fn shed_names(record: &mut ProbeRecord) {
    for certificate in record.tls.iter_mut().flat_map(|step| &mut step.chain) {
        cut(&mut certificate.subject, SHORT_VALUE_LEN);
        cut(&mut certificate.issuer, SHORT_VALUE_LEN);
    }
}

fn shed_excerpts(record: &mut ProbeRecord) {
    let last = record.http.len().saturating_sub(1);
    for step in record.http.iter_mut().take(last) {
        step.excerpt.clear();
        step.headers.clear();
    }
}

/// The last resort: of hops and handshakes, the first and the last few tell most.
fn shed_steps(record: &mut ProbeRecord) {
    const KEPT: usize = 4;
    if record.http.len() > KEPT {
        record.http.drain(1..record.http.len() - KEPT + 1);
    }
    if record.tls.len() > KEPT {
        record.tls.drain(1..record.tls.len() - KEPT + 1);
    }
    record.tls.iter_mut().for_each(|step| step.chain.truncate(KEPT));
}
