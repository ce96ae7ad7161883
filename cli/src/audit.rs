//! `zerkalo audit`: who changed what, and whether the chain of lines holds. Verifies exported files without a collector.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use zerkalo_core::audit::{AuditHead, AuditLine};
use zerkalo_core::target::Sha256;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, print};

/// Lines asked for at once; the collector sends fewer where they are long.
const PAGE_LINES: u32 = 1_000;

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show who changed what.
    ///
    /// With -o json: the very lines, one JSON object each; a file of them all can be verified anywhere.
    Ls {
        /// Only the last so many; without it all.
        #[arg(long, value_name = "COUNT")]
        last: Option<usize>,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Check that every line follows from the one before; names the place where one does not.
    Verify(Verify),
}

/// What to verify.
#[derive(Debug, Args)]
pub struct Verify {
    /// A file written by `zerkalo audit ls -o json`; without it the collector is asked.
    pub file: Option<PathBuf>,
    /// The hash of the last line, as it was printed before: shows whether lines were cut off the file's end.
    #[arg(long, value_name = "SHA256", requires = "file", value_parser = head)]
    head: Option<Sha256>,
}

/// Verifies an exported file.
pub fn verify_offline(args: &Verify) -> Result<()> {
    let path = args.file.as_deref().context("name a file")?;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let (_, end) = follow(&lines).with_context(|| format!("{} is broken", path.display()))?;
    if args.head.is_some_and(|head| head != end.sha256) {
        bail!(
            "{} is broken: it ends at line {} with the hash {}, not with the one given: lines were cut off or changed",
            path.display(),
            end.number,
            end.sha256
        );
    }
    Ok(print(&said(&end))?)
}

/// Carries out one command about the audit log.
pub async fn audit(service: &mut Service, command: Audit) -> Result<()> {
    let (lines, head) = fetch(service).await?;
    match command {
        Audit::Verify(_) => {
            let (_, end) = follow(&lines).context("the collector's audit log is broken")?;
            end.require(&head).context("the collector's audit log is broken")?;
            print(&said(&end))?;
        }
        Audit::Ls { last, format: Format::Json } => {
            let skipped = last.map_or(0, |last| lines.len().saturating_sub(last));
            print(&lines.iter().skip(skipped).map(|line| format!("{line}\n")).collect::<String>())?;
        }
        Audit::Ls { last, format: Format::Table } => {
            let (read, _) = follow(&lines).context("the collector's audit log is broken; see -o json")?;
            let skipped = last.map_or(0, |last| read.len().saturating_sub(last));
            print(&draw(["line", "when", "who", "what", "of what"], read.iter().skip(skipped).map(row)))?;
        }
    }
    Ok(())
}

async fn fetch(service: &mut Service) -> Result<(Vec<String>, AuditHead)> {
    let mut lines: Vec<String> = Vec::new();
    loop {
        let request = wire::ListAuditRequest { after: lines.len() as u64, limit: PAGE_LINES };
        let page = answer("read the audit log", service.list_audit(request)).await?;
        let is_last = page.lines.is_empty();
        lines.extend(page.lines);
        if is_last || lines.len() as u64 >= page.head_number {
            let sha256 = Sha256::from_hex(&page.head_sha256).context("the collector sent no hash")?;
            return Ok((lines, AuditHead { number: page.head_number, sha256, ..AuditHead::default() }));
        }
    }
}

fn follow(lines: &[impl AsRef<str>]) -> Result<(Vec<AuditLine>, AuditHead)> {
    let (mut read, mut at) = (Vec::with_capacity(lines.len()), AuditHead::default());
    for line in lines {
        let (line, next) = at.follow(line.as_ref())?;
        read.push(line);
        at = next;
    }
    Ok((read, at))
}

fn said(end: &AuditHead) -> String {
    format!("{} lines, each follows from the one before; the last has the hash {}\n", end.number, end.sha256)
}

fn row(line: &AuditLine) -> [String; 5] {
    let about: Vec<String> =
        line.about.iter().map(|(name, text)| format!("{name}={}", text.escape_debug())).collect();
    [line.number.to_string(), line.at.to_rfc3339(), line.by.clone(), line.act.clone(), about.join(" ")]
}

fn head(text: &str) -> Result<Sha256, String> {
    Sha256::from_hex(text).ok_or_else(|| "a hash is 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::audit::Act;
    use zerkalo_core::words::UnixMillis;

    #[test]
    fn an_exported_file_is_verified_without_a_collector_and_its_fault_placed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (mut lines, mut at) = (Vec::new(), AuditHead::default());
        for number in 0..3 {
            let act = Act { by: format!("p{number}"), token: String::new(), act: "x", about: vec![] };
            let (line, next) = at.append(UnixMillis(number), &act);
            lines.push(line);
            at = next;
        }
        let verify = |lines: &[String], head: Option<Sha256>| {
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            let done = verify_offline(&Verify { file: Some(path.clone()), head });
            done.map_err(|error| format!("{error:#}"))
        };
        assert_eq!(verify(&lines, Some(at.sha256)), Ok(()));
        let cut = verify(&lines[..2], Some(at.sha256)).unwrap_err();
        assert!(cut.contains("ends at line 2"), "{cut}");
        lines[1] = lines[1].replace("p1", "p9");
        let changed = verify(&lines, None).unwrap_err();
        assert!(changed.contains("audit.jsonl") && changed.contains("line 3"), "{changed}");
    }
}
