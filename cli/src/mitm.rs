//! `zerkalo mitm`: who was seen breaking TLS open, with which certificates, and when an issuer had no valid one.
//!
//! Shows what the collector's ledger says; concludes nothing.

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// Characters of a digest in a table: enough to tell certificates apart; JSON has them whole.
const DIGEST_SHOWN_LEN: usize = 16;
/// Characters of an instant in a table: the day is what tells.
const DAY_LEN: usize = 10;

/// What can be asked about interception.
#[derive(Debug, Subcommand)]
pub enum Mitm {
    /// List intercepting certificates and their issuers, the latest seen first.
    Ls {
        /// Only of issuers whose name holds this text, in any case.
        #[arg(long, value_name = "TEXT", default_value = "")]
        issuer: String,
        /// Only seen within the last so many days.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        since_days: Option<u32>,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// Carries out one question about interception.
pub async fn mitm(service: &mut Service, command: Mitm) -> Result<()> {
    let Mitm::Ls { issuer, since_days, format } = command;
    let since_millis = match since_days {
        Some(days) => now()?.minus_millis(u64::from(days) * 86_400_000).0,
        None => 0,
    };
    let request = wire::ListInterceptionsRequest { issuer, since_millis };
    let found = answer("list intercepting certificates", service.list_interceptions(request)).await?;
    match format {
        Format::Json => print_json(&LedgerView::from(found))?,
        Format::Table => print(&draw_ledger(found))?,
    }
    Ok(())
}

fn now() -> Result<UnixMillis> {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("this machine's clock is before 1970; set it")?;
    Ok(UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// The ledger as JSON; instants are Unix milliseconds.
#[derive(Debug, Serialize)]
struct LedgerView {
    issuers: Vec<IssuerJson>,
    certificates: Vec<CertificateJson>,
    left_out: u64,
    evicted: u64,
}

#[derive(Debug, Serialize)]
struct IssuerJson {
    issuer: String,
    interceptor: String,
    certificates: u32,
    first_seen: u64,
    last_seen: u64,
    gaps: Vec<PeriodJson>,
    own_gaps: Vec<PeriodJson>,
}

#[derive(Debug, Serialize)]
struct CertificateJson {
    sha256: String,
    subject: String,
    issuer: String,
    not_before: u64,
    not_after: u64,
    interceptor: String,
    place: String,
    networks: Vec<NetworkJson>,
    mirrors: Vec<String>,
    first_seen: u64,
    last_seen: u64,
    records: u64,
}

#[derive(Debug, Serialize)]
struct NetworkJson {
    carrier: String,
    access: String,
}

#[derive(Debug, Serialize)]
struct PeriodJson {
    from: u64,
    until: u64,
}

impl From<wire::ListInterceptionsResponse> for LedgerView {
    fn from(found: wire::ListInterceptionsResponse) -> Self {
        Self {
            issuers: found.issuers.into_iter().map(IssuerJson::from).collect(),
            certificates: found.certificates.into_iter().map(CertificateJson::from).collect(),
            left_out: found.left_out,
            evicted: found.evicted,
        }
    }
}

impl From<wire::InterceptingIssuer> for IssuerJson {
    fn from(issuer: wire::InterceptingIssuer) -> Self {
        let periods = |periods: Vec<wire::Period>| periods.iter().map(PeriodJson::from).collect();
        Self {
            issuer: issuer.issuer,
            interceptor: issuer.interceptor,
            certificates: issuer.certificates,
            first_seen: issuer.first_seen_millis,
            last_seen: issuer.last_seen_millis,
            gaps: periods(issuer.gaps),
            own_gaps: periods(issuer.own_gaps),
        }
    }
}

impl From<wire::InterceptingCertificate> for CertificateJson {
    fn from(certificate: wire::InterceptingCertificate) -> Self {
        let validity = certificate.validity.unwrap_or_default();
        let networks = certificate.networks.into_iter();
        Self {
            sha256: certificate.sha256,
            subject: certificate.subject,
            issuer: certificate.issuer,
            not_before: validity.from_millis,
            not_after: validity.until_millis,
            interceptor: certificate.interceptor,
            place: certificate.place,
            networks: networks
                .map(|network| NetworkJson { carrier: network.carrier, access: network.access })
                .collect(),
            mirrors: certificate.mirrors,
            first_seen: certificate.first_seen_millis,
            last_seen: certificate.last_seen_millis,
            records: certificate.records,
        }
    }
}

impl From<&wire::Period> for PeriodJson {
    fn from(period: &wire::Period) -> Self {
        Self { from: period.from_millis, until: period.until_millis }
    }
}

/// Issuers with their gaps, then certificates; then what is missing.
fn draw_ledger(found: wire::ListInterceptionsResponse) -> String {
    if found.certificates.is_empty() {
        return "no intercepting certificate was seen\n".to_owned();
    }
    let mut text = draw(
        ["issuer", "who", "certificates", "seen", "no valid certificate issued", "none of its own"],
        found.issuers.iter().map(|issuer| {
            [
                or_dash(&issuer.issuer),
                issuer.interceptor.clone(),
                issuer.certificates.to_string(),
                days(issuer.first_seen_millis, issuer.last_seen_millis),
                gaps(&issuer.gaps),
                gaps(&issuer.own_gaps),
            ]
        }),
    );
    text += "\n";
    text += &draw(
        ["certificate", "subject", "issuer", "valid", "networks", "mirrors", "seen", "records"],
        found.certificates.into_iter().map(row),
    );
    if found.left_out > 0 {
        text += &format!("{} more, seen longer ago; ask for an --issuer or --since-days\n", found.left_out);
    }
    if found.evicted > 0 {
        text += &format!("{} were dropped from the ledger for want of room\n", found.evicted);
    }
    text
}

fn row(certificate: wire::InterceptingCertificate) -> [String; 8] {
    let validity = certificate.validity.unwrap_or_default();
    let digest: String = certificate.sha256.chars().take(DIGEST_SHOWN_LEN).collect();
    let networks =
        certificate.networks.iter().map(|network| format!("{} {}", network.carrier, network.access));
    [
        format!("{digest} {}", certificate.place),
        or_dash(&certificate.subject),
        or_dash(&certificate.issuer),
        days(validity.from_millis, validity.until_millis),
        networks.collect::<Vec<_>>().join("\n"),
        certificate.mirrors.join("\n"),
        days(certificate.first_seen_millis, certificate.last_seen_millis),
        certificate.records.to_string(),
    ]
}

fn gaps(gaps: &[wire::Period]) -> String {
    let lines: Vec<String> = gaps.iter().map(|gap| days(gap.from_millis, gap.until_millis)).collect();
    or_dash(&lines.join("\n"))
}

/// Two days, or one where they are the same.
fn days(from_millis: u64, until_millis: u64) -> String {
    let day = |millis: u64| instant(millis).chars().take(DAY_LEN).collect::<String>();
    match (day(from_millis), day(until_millis)) {
        (from, until) if from == until => from,
        (from, until) => format!("{from} to {until}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MILLIS: u64 = 86_400_000;

    fn found() -> wire::ListInterceptionsResponse {
        let period = |from: u64, until: u64| wire::Period {
            from_millis: from * DAY_MILLIS,
            until_millis: until * DAY_MILLIS,
        };
        let issuer = "C=KZ,O=ISCA,CN=Information Security Certification Authority".to_owned();
        let network = wire::Network { carrier: "kz-kcell".to_owned(), access: "mobile".to_owned() };
        wire::ListInterceptionsResponse {
            certificates: vec![wire::InterceptingCertificate {
                sha256: "ab".repeat(32),
                subject: "CN=mirror.example".to_owned(),
                issuer: issuer.clone(),
                validity: Some(period(1, 76)),
                interceptor: "state_ca".to_owned(),
                place: "leaf".to_owned(),
                networks: vec![network],
                mirrors: vec!["m1".to_owned(), "m2".to_owned()],
                first_seen_millis: 2 * DAY_MILLIS,
                last_seen_millis: 3 * DAY_MILLIS,
                records: 41,
            }],
            issuers: vec![wire::InterceptingIssuer {
                issuer,
                interceptor: "state_ca".to_owned(),
                certificates: 1,
                first_seen_millis: 2 * DAY_MILLIS,
                last_seen_millis: 3 * DAY_MILLIS,
                gaps: vec![period(76, 80)],
                own_gaps: vec![],
            }],
            left_out: 7,
            evicted: 5,
        }
    }

    #[test]
    fn the_table_tells_who_where_when_and_what_is_missing() {
        let text = draw_ledger(found());
        for part in [
            "Information Security Certification Authority",
            "state_ca",
            "1970-03-18 to 1970-03-22",
            "abababababababab leaf",
            "kz-kcell mobile",
            "m2",
            "1970-01-03 to 1970-01-04",
            "41",
            "7 more, seen longer ago",
            "5 were dropped",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let none = draw_ledger(wire::ListInterceptionsResponse::default());
        assert_eq!(none, "no intercepting certificate was seen\n");
    }

    #[test]
    fn json_holds_whole_digests_and_milliseconds() {
        let json = serde_json::to_value(LedgerView::from(found())).unwrap();
        let certificate = &json["certificates"][0];
        assert_eq!(certificate["sha256"], "ab".repeat(32));
        assert_eq!(certificate["not_after"], 76 * DAY_MILLIS);
        assert_eq!(certificate["networks"][0]["carrier"], "kz-kcell");
        assert_eq!(json["issuers"][0]["gaps"][0]["until"], 80 * DAY_MILLIS);
        assert_eq!((&json["left_out"], &json["evicted"]), (&7.into(), &5.into()));
    }
}
