//! A file of measurements: one JSON object, or one a line, plain or gzipped. Bounded, whatever it unpacks to.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use flate2::read::MultiGzDecoder;

/// Largest measurement read, in bytes: pages of ten hops at the largest that OONI's probes keep (512 KiB), in base64.
const MEASUREMENT_LEN_MAX: u64 = 16 * 1024 * 1024;
/// First bytes of a gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Hands on each measurement of a file, with the line it begins on.
pub fn for_each_measurement(path: &Path, mut take: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let place = || format!("cannot read {}", path.display());
    let mut lines = Lines { reader: open(path)?, number: 0 };
    let Some(first) = lines.next_text().with_context(place)? else {
        bail!("{} is empty", path.display());
    };
    let begins_at = lines.number;
    if serde_json::from_str::<serde::de::IgnoredAny>(&first).is_ok() {
        take(begins_at, &first)?;
        while let Some(line) = lines.next_text().with_context(place)? {
            take(lines.number, &line)?;
        }
        return Ok(());
    }
    // No whole value on the first line: one object over many, or nothing of ours.
    let mut whole = first;
    while let Some(line) = lines.next_text().with_context(place)? {
        if whole.len() as u64 + line.len() as u64 > MEASUREMENT_LEN_MAX {
            return Err(too_long(begins_at)).with_context(place);
        }
        whole += &line;
    }
    take(begins_at, &whole)
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let place = || format!("cannot read {}", path.display());
    let mut raw: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).with_context(place)?))
    };
    let is_gzip = raw.fill_buf().with_context(place)?.starts_with(&GZIP_MAGIC);
    Ok(if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(raw))) } else { raw })
}

/// Lines of bounded length; a small file that unpacks without end fills no memory.
struct Lines {
    reader: Box<dyn BufRead>,
    /// Of the last line read, from 1.
    number: u64,
}

impl Lines {
    /// The next line that is not blank.
    fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            let mut bytes = Vec::new();
            self.number += 1;
            self.reader
                .by_ref()
                .take(MEASUREMENT_LEN_MAX + 1)
                .read_until(b'\n', &mut bytes)
                .with_context(|| format!("line {}", self.number))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if bytes.len() as u64 > MEASUREMENT_LEN_MAX {
                return Err(too_long(self.number));
            }
            if !bytes.trim_ascii().is_empty() {
                let text = String::from_utf8(bytes);
                return text.map(Some).with_context(|| format!("line {} is not UTF-8", self.number));
            }
        }
    }
}

fn too_long(line: u64) -> anyhow::Error {
    anyhow!("the measurement at line {line} has more than {MEASUREMENT_LEN_MAX} bytes")
}
