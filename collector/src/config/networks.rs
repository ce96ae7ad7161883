//! The operator's table of networks, as text: from a CSV file, or from a database in MaxMind's format as GeoLite2-ASN is
//! published. Cut to the networks that matter here, for it is journaled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use zerkalo_core::networks::{self, NetworksError};

use crate::clock;

/// Largest table taken: it is journaled, and the built-in one has a fifth of this.
const TABLE_LEN_MAX: usize = 1024 * 1024;
/// Largest file: ranges of the whole internet, with names, take a sixth of this as CSV and a tenth as a database.
const FILE_LEN_MAX: u64 = 256 * 1024 * 1024;
/// Stands before a database's description of itself; no text holds it.
const DATABASE_MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// What a database of networks calls a network's number, and its owner.
const NUMBER: &str = "autonomous_system_number";
/// See [`NUMBER`].
const ORGANISATION: &str = "autonomous_system_organization";

/// Why a file is no table of networks. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("it cannot be read ({0}); paths are relative to the collector's directory")]
    Read(#[source] std::io::Error),
    #[error("it is longer than {FILE_LEN_MAX} bytes; is it a table of networks?")]
    FileTooLong,
    #[error(
        "it is neither a table in CSV nor a database in MaxMind's format; unpack what is packed (GeoLite2-ASN.mmdb lies inside \
         its .tar.gz)"
    )]
    Unknown,
    #[error("the database is damaged ({0}); fetch it anew")]
    Damaged(#[from] MaxMindDbError),
    #[error(
        "the database is of the kind {kind:?} and tells no networks; take GeoLite2-ASN or another that does"
    )]
    OtherKind { kind: String },
    #[error(transparent)]
    Csv(#[from] NetworksError),
    #[error("it holds no range of a carrier in the catalogue")]
    Nothing,
    #[error("the ranges of the catalogue's carriers take more than {TABLE_LEN_MAX} bytes")]
    TooLong,
}

/// The rows of `asns`, behind the date of the table: of the database's making, or what the CSV says, or of its file.
pub fn table(path: &Path, asns: &BTreeSet<u32>) -> Result<String, TableError> {
    let file = std::fs::metadata(path).map_err(TableError::Read)?;
    if file.len() > FILE_LEN_MAX {
        return Err(TableError::FileTooLong);
    }
    let bytes = std::fs::read(path).map_err(TableError::Read)?;
    let is_database = bytes.windows(DATABASE_MARKER.len()).any(|window| window == DATABASE_MARKER);
    let kept = if is_database {
        let (text, date) = rows(&bytes, asns)?;
        networks::cut_to(&text, asns, &date)?
    } else {
        let text = String::from_utf8(bytes).map_err(|_| TableError::Unknown)?;
        let date = file.modified().map(clock::day).unwrap_or_default();
        networks::cut_to(&text, asns, &date)?
    };
    match kept.len() {
        0 => Err(TableError::Nothing),
        len if len > TABLE_LEN_MAX => Err(TableError::TooLong),
        _ => Ok(kept),
    }
}

/// A range of one network.
struct Row {
    start: IpAddr,
    end: IpAddr,
    asn: u32,
}

/// What a database says of `asns`, as CSV, and when it was made.
fn rows(bytes: &[u8], asns: &BTreeSet<u32>) -> Result<(String, String), TableError> {
    let reader = Reader::from_source(bytes)?;
    let date = clock::day(reader.metadata().build_time()?);
    let (mut rows, mut organisations) = (Vec::<Row>::new(), BTreeMap::new());
    // Many ranges share one entry.
    let mut entries = BTreeMap::<usize, Option<u32>>::new();
    for found in reader.networks(WithinOptions::default())? {
        let found = found?;
        let Some(offset) = found.offset() else { continue };
        let asn = match entries.get(&offset) {
            Some(asn) => *asn,
            None => {
                let asn = found.decode_path::<u32>(&[PathElement::Key(NUMBER)])?;
                entries.insert(offset, asn);
                asn
            }
        };
        let Some(asn) = asn.filter(|asn| asns.contains(asn)) else { continue };
        if let std::collections::btree_map::Entry::Vacant(entry) = organisations.entry(asn) {
            let name = found.decode_path::<String>(&[PathElement::Key(ORGANISATION)])?;
            entry.insert(name.unwrap_or_default());
        }
        let network = found.network()?;
        let row = Row { start: network.network(), end: network.broadcast(), asn };
        match rows.last_mut() {
            Some(last) if last.asn == asn && follows(last.end, row.start) => last.end = row.end,
            _ => rows.push(row),
        }
    }
    if entries.values().all(Option::is_none) {
        return Err(TableError::OtherKind { kind: reader.metadata().database_type.clone() });
    }
    let line = |row: &Row| {
        let name = organisations[&row.asn].replace(['\r', '\n'], " ").replace('"', "\"\"");
        format!("{},{},{},\"{name}\"\n", row.start, row.end, row.asn)
    };
    Ok((rows.iter().map(line).collect(), date))
}

/// Whether `next` is the address behind `last`.
fn follows(last: IpAddr, next: IpAddr) -> bool {
    match (last, next) {
        (IpAddr::V4(last), IpAddr::V4(next)) => u32::from(last).checked_add(1) == Some(next.into()),
        (IpAddr::V6(last), IpAddr::V6(next)) => u128::from(last).checked_add(1) == Some(next.into()),
        _ => false,
    }
}
