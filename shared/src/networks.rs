//! Who announces an address: the ranges of the carriers we know, as tables of `start,end,asn[,organisation]`. Data, parsed
//! here; who looks something up decides what it means. Ranges of everybody else are not in the built-in tables: no answer
//! is "somebody else, or nobody knows".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The tables compiled in (`shared/data/asn/README.md` says where they are from, and what attribution is owed).
pub const BUILT_IN: [&str; 2] = [
    include_str!("../data/asn/ru-kz-carriers-ipv4.csv"),
    include_str!("../data/asn/ru-kz-carriers-ipv6.csv"),
];
/// When the tables compiled in were cut.
const BUILT_IN_DATE: &str = "2026-06";
/// Begins a line that says when a table was made: `# 2026-11-20`.
const DATE_PREFIX: &str = "# ";
/// Longest date shown.
const DATE_LEN_MAX: usize = 40;
/// Organisations of the tables compiled in: `carrier,asn,organisation,...`.
const BUILT_IN_ORGANISATIONS: &str = include_str!("../data/asn/carrier-asns.csv");
/// Most ranges of a table: more than the whole internet announces today of both families.
pub const RANGES_MAX: usize = 2_000_000;

/// Why a text is no table of ranges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    #[error("line {line} is no range; write start,end,asn or start,end,asn,organisation")]
    Line { line: usize },
    #[error("line {line}: the range ends before it starts, or mixes the two families")]
    Backwards { line: usize },
    #[error("the ranges around {address} overlap; an address is announced by one network")]
    Overlap { address: IpAddr },
    #[error("more than {RANGES_MAX} ranges; keep those of the carriers you watch")]
    TooMany,
}

/// Keeps of a table the rows of these networks: a table of the whole internet is too large for the journal. One that does
/// not say when it was made is as old as its file.
pub fn cut_to(table: &str, asns: &BTreeSet<u32>, file_date: &str) -> Result<String, NetworksError> {
    let networks = Networks::parse([table])?;
    let mut kept = String::new();
    for (ranges, is_v4) in [(&networks.v4, true), (&networks.v6, false)] {
        for range in ranges.iter().filter(|range| asns.contains(&range.asn)) {
            let (start, end) = (address_of(range.start, is_v4), address_of(range.end, is_v4));
            kept.push_str(&format!("{start},{end},{}", range.asn));
            if let Some(organisation) = networks.organisations.get(&range.asn) {
                kept.push_str(&format!(",\"{}\"", organisation.replace('"', "\"\"")));
            }
            kept.push('\n');
        }
    }
    let date = if networks.date.is_empty() { file_date } else { &networks.date };
    Ok(if kept.is_empty() || date.is_empty() { kept } else { format!("{DATE_PREFIX}{date}\n{kept}") })
}

/// Who announces an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcer<'a> {
    pub asn: u32,
    pub organisation: Option<&'a str>,
}

/// Ranges of both families, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    v4: Vec<Range>,
    v6: Vec<Range>,
    organisations: BTreeMap<u32, String>,
    date: String,
}

/// An inclusive range; IPv4 addresses as their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: u128,
    end: u128,
    asn: u32,
}

impl Networks {
    /// Reads tables; a heading that begins with `start` is passed over, families may be mixed. A first line `# DATE` says when
    /// a table was made.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NetworksError> {
        let mut networks = Self::default();
        for text in texts {
            for (index, line) in text.lines().enumerate() {
                if let Some(date) = line.strip_prefix(DATE_PREFIX).filter(|_| index == 0) {
                    networks.date = date.trim().chars().take(DATE_LEN_MAX).collect();
                    continue;
                }
                let is_heading = index <= 1 && line.starts_with("start");
                if !is_heading && !line.trim().is_empty() {
                    networks.take(line, index + 1)?;
                }
            }
        }
        for (ranges, is_v4) in [(&mut networks.v4, true), (&mut networks.v6, false)] {
            ranges.sort_unstable();
            if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start <= pair[0].end) {
                return Err(NetworksError::Overlap { address: address_of(pair[1].start, is_v4) });
            }
        }
        Ok(networks)
    }

    /// The tables compiled in. Parses them: keep the answer.
    pub fn built_in() -> Self {
        let mut networks = Self::parse(BUILT_IN).expect("the built-in tables are tested");
        networks.date = BUILT_IN_DATE.to_owned();
        for line in BUILT_IN_ORGANISATIONS.lines().skip(1) {
            if let [_, asn, organisation, ..] = &fields(line)[..]
                && let Ok(asn) = asn.parse()
            {
                networks.organisations.insert(asn, organisation.clone());
            }
        }
        networks
    }

    /// When the tables were made, in whatever words they say it; empty where they do not.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Who announces `address`, if that is in the tables. Embedded IPv4 is unwrapped.
    pub fn announcer(&self, address: IpAddr) -> Option<Announcer<'_>> {
        let address = crate::address::unwrap_embedded(address);
        let (ranges, bits) = match address {
            IpAddr::V4(v4) => (&self.v4, u128::from(u32::from(v4))),
            IpAddr::V6(v6) => (&self.v6, u128::from(v6)),
        };
        let after = ranges.partition_point(|range| range.start <= bits);
        let range = ranges[..after].last().filter(|range| bits <= range.end)?;
        let organisation = self.organisations.get(&range.asn).map(String::as_str);
        Some(Announcer { asn: range.asn, organisation })
    }

    fn take(&mut self, line: &str, number: usize) -> Result<(), NetworksError> {
        let unreadable = || NetworksError::Line { line: number };
        let fields = fields(line);
        let [start, end, asn, rest @ ..] = &fields[..] else { return Err(unreadable()) };
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| unreadable());
        let (start, end) = (address(start)?, address(end)?);
        let asn: u32 = asn.parse().map_err(|_| unreadable())?;
        let (ranges, start, end) = match (start, end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                (&mut self.v4, u128::from(u32::from(start)), u128::from(u32::from(end)))
            }
            (IpAddr::V6(start), IpAddr::V6(end)) => (&mut self.v6, u128::from(start), u128::from(end)),
            _ => return Err(NetworksError::Backwards { line: number }),
        };
        if end < start {
            return Err(NetworksError::Backwards { line: number });
        }
        if ranges.len() >= RANGES_MAX {
            return Err(NetworksError::TooMany);
        }
        ranges.push(Range { start, end, asn });
        if let Some(organisation) = rest.first().filter(|organisation| !organisation.is_empty()) {
            self.organisations.entry(asn).or_insert_with(|| organisation.clone());
        }
        Ok(())
    }
}

impl std::fmt::Display for Announcer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.organisation {
            Some(organisation) => write!(f, "AS{} ({organisation})", self.asn),
            None => write!(f, "AS{}", self.asn),
        }
    }
}

fn address_of(bits: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if is_v4 => IpAddr::V4(bits.into()),
        _ => IpAddr::V6(bits.into()),
    }
}

/// The fields of one line of RFC 4180; line breaks inside quotes are not for these tables.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut is_quoted) = (vec![String::new()], false);
    let mut letters = line.trim_end().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                fields.last_mut().expect("never empty").push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asn_of(networks: &Networks, address: &str) -> Option<u32> {
        networks.announcer(address.parse().unwrap()).map(|announcer| announcer.asn)
    }

    #[test]
    fn the_built_in_tables_know_the_carriers_and_nobody_else() {
        let networks = Networks::built_in();
        let check = |address, asn| assert_eq!(asn_of(&networks, address), asn, "{address}");
        check("95.167.13.50", Some(12_389));
        check("::ffff:95.167.13.50", Some(12_389));
        check("2001:1b00::1", Some(20_597));
        check("9.9.9.9", None);
        check("0.0.0.0", None);
        check("255.255.255.255", None);
        check("::", None);
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None);
        let announcer = networks.announcer("95.167.13.50".parse().unwrap()).unwrap();
        assert_eq!(announcer.to_string(), "AS12389 (PJSC Rostelecom)");
    }

    #[test]
    fn every_carrier_of_the_catalogue_has_ranges() {
        let (networks, catalogue) = (Networks::built_in(), crate::catalogue::Catalogue::built_in());
        for carrier in catalogue.carriers() {
            let known = networks.v4.iter().any(|range| carrier.asns.contains(&range.asn));
            assert!(known, "{} has no range", carrier.id);
        }
    }

    #[test]
    fn the_bounds_of_a_range_belong_to_it() {
        let table = "start,end,asn,organisation\n10.0.0.0,10.0.0.255,1,\"A, \"\"B\"\"\"\n10.0.2.0,10.0.2.0,2\n\
                     2001:db8::,2001:db8::ff,3,C\n";
        let networks = Networks::parse([table]).unwrap();
        let check = |address, asn| assert_eq!(asn_of(&networks, address), asn, "{address}");
        check("9.255.255.255", None);
        check("10.0.0.0", Some(1));
        check("10.0.0.255", Some(1));
        check("10.0.1.0", None);
        check("10.0.2.0", Some(2));
        check("10.0.2.1", None);
        check("2001:db8::ff", Some(3));
        check("2001:db8::100", None);
        assert_eq!(networks.announcer("10.0.0.1".parse().unwrap()).unwrap().organisation, Some("A, \"B\""));
    }

    #[test]
    fn a_table_is_cut_to_some_networks_and_reads_as_before() {
        let table = "start,end,asn,organisation\n::ffff,::ffff,3,C\n10.0.0.0,10.0.0.9,1,\"A, \"\"B\"\"\"\n\
                     11.0.0.0,11.0.0.9,2,D\n2001:db8::,2001:db8::ff,1,E\n";
        let kept = cut_to(table, &[1].into(), "").unwrap();
        assert_eq!(
            kept,
            "10.0.0.0,10.0.0.9,1,\"A, \"\"B\"\"\"\n2001:db8::,2001:db8::ff,1,\"A, \"\"B\"\"\"\n"
        );
        let networks = Networks::parse([kept.as_str()]).unwrap();
        assert_eq!(networks.announcer("10.0.0.9".parse().unwrap()).unwrap().organisation, Some("A, \"B\""));
        assert_eq!(asn_of(&networks, "11.0.0.1"), None);
        assert_eq!(cut_to(table, &[9].into(), "2026").as_deref(), Ok(""));
        assert_eq!(cut_to(table, &[1].into(), "2026"), Ok(format!("# 2026\n{kept}")));
        let dated = cut_to(&format!("# 2026-11-20\n{table}"), &[1].into(), "2026").unwrap();
        assert_eq!(dated, format!("# 2026-11-20\n{kept}"));
        assert_eq!(Networks::parse([dated.as_str()]).unwrap().date(), "2026-11-20");
        assert_eq!((Networks::parse([table]).unwrap().date(), Networks::built_in().date()), ("", "2026-06"));
        assert!(cut_to("x", &[1].into(), "").is_err());
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        let check = |text, error| assert_eq!(Networks::parse([text]), Err(error), "{text}");
        check("10.0.0.0,10.0.0.9", NetworksError::Line { line: 1 });
        check("start,end,asn\n10.0.0.0,10.0.0.9,x", NetworksError::Line { line: 2 });
        check("10.0.0.9,10.0.0.0,1", NetworksError::Backwards { line: 1 });
        check("10.0.0.9,::1,1", NetworksError::Backwards { line: 1 });
        let overlap = NetworksError::Overlap { address: "10.0.0.9".parse().unwrap() };
        check("10.0.0.0,10.0.0.9,1\n10.0.0.9,10.0.0.20,2", overlap);
    }
}
