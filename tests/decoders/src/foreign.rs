//! What others publish and the command line reads: OONI's measurements, lists of fingerprints. Its readers are no library:
//! they are compiled in here.

use std::path::Path;
use std::sync::OnceLock;

use zerkalo_core::fingerprint::{Fingerprints, Row};
use zerkalo_core::ooni::{Measurement, import, judge_import};

use crate::segments::scratch;
use crate::statements::survives;
use crate::{Read, refused};

#[allow(dead_code)]
#[path = "../../../cli/src/certificate.rs"]
mod certificate;
#[allow(dead_code)]
#[path = "../../../cli/src/ooni/file.rs"]
mod file;
#[allow(dead_code)]
#[path = "../../../cli/src/fingerprints/list.rs"]
mod list;

pub use certificate::read_certificate;

/// A file of measurements: each one read is judged, and its record passes the wire.
pub fn ooni(bytes: &[u8]) -> Read {
    static KNOWN: OnceLock<Fingerprints> = OnceLock::new();
    let mut place = tempfile::NamedTempFile::new_in(scratch()).expect("room for a file");
    std::io::Write::write_all(&mut place, bytes).expect("room for a file");
    let mut read = Read::Refused;
    let ended = file::for_each_measurement(place.path(), |line, text| {
        assert!(line > 0);
        match Measurement::parse(text).and_then(|measurement| import(&measurement, read_certificate)) {
            Ok(import) => {
                survives(&import.record);
                import.control.iter().for_each(survives);
                let verdict = judge_import(&import, KNOWN.get_or_init(Fingerprints::built_in)).verdict;
                assert!(!verdict.rule.is_empty());
                read = Read::Whole;
            }
            Err(error) => drop(refused(&error, bytes)),
        }
        Ok(())
    });
    if let Err(error) = ended {
        refused(&format!("{error:#}"), bytes);
    }
    read
}

/// A list in CSV: each row is one, or says why not.
pub fn fingerprints_csv(bytes: &[u8]) -> Read {
    let entries = match list::rows(bytes, Path::new("fingerprints.csv")) {
        Ok(entries) => entries,
        Err(error) => return refused(&format!("{error:#}"), bytes),
    };
    let mut read = Read::Refused;
    for entry in entries {
        assert!(entry.line > 0);
        match entry.row.and_then(Row::new) {
            Ok(row) => {
                assert!(!row.name().is_empty() && !row.describe().is_empty());
                read = Read::Whole;
            }
            Err(error) => drop(refused(&error, bytes)),
        }
    }
    read
}
