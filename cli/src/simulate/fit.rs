//! `zerkalo simulate fit`: the noise of a market, read off a journal's verdicts, offline.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use zerkalo_core::fold::Fold;
use zerkalo_core::simulate::{Noise, fit};

use crate::journal::read_journal;
use crate::table::print;

/// Verdicts fitted to at most: months of a large fleet, a few hundred megabytes.
const VERDICTS_MAX: usize = 4_000_000;

#[derive(Debug, Args)]
pub struct FitArgs {
    /// A collector's DIR/journal, or one segment of it (the first, unless nothing before it matters).
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
}

/// Folds the journal and prints the noise found, as a file with comments on what it rests on.
pub(super) fn fit_journal(args: &FitArgs) -> Result<()> {
    let mut fold = Fold::new();
    fold.keep_verdicts();
    let mut verdicts = Vec::new();
    read_journal(&args.journal, |entry| {
        fold.apply(&entry);
        verdicts.extend(fold.take_verdicts());
        let is_full = verdicts.len() >= VERDICTS_MAX;
        Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if verdicts.is_empty() {
        bail!("{} holds no record of an agent in the field: there is nothing to fit", args.journal.display());
    }
    let fitted = fit(&verdicts, &Noise::built_in());
    print(&fitted.to_file())?;
    Ok(())
}
