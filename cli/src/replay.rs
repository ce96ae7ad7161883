//! `zerkalo replay`: folds a journal again, offline, and prints the decisions: the bytes the collector logged.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use zerkalo_core::fold::Fold;

use crate::decisions::print_log;
use crate::journal::read_journal;
use crate::table::LogFormat;

/// The journal to fold.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A collector's DIR/journal, or one segment of it (the first, unless nothing before it matters).
    journal: PathBuf,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = LogFormat::Jsonl)]
    format: LogFormat,
}

/// Folds and prints.
pub fn replay(args: &ReplayArgs) -> Result<()> {
    let mut fold = Fold::new();
    let mut logged = Vec::new();
    read_journal(&args.journal, |entry| {
        logged.extend(fold.apply(&entry).decisions.iter().map(|decision| decision.to_json()));
        Ok(ControlFlow::Continue(()))
    })?;
    print_log(&logged, args.format)
}
