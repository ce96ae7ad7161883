//! The commands of the box's host: what it is used for, what it has touched, the way out.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use zerkalo_core::target::Category;

use super::STATE_DEFAULT;
use crate::consent::{self, Language};
use crate::leave::leave;
use crate::state::{Identity, StateDir};
use crate::uplink::wall_clock;
use crate::{clock, list, touched};

/// What a host can say.
#[derive(Debug, Subcommand)]
pub enum ConsentCommand {
    /// Print what the host of a box agrees to.
    Show {
        /// en, ru or kk; by default the environment's.
        #[arg(long)]
        language: Option<Language>,
    },
    /// Agree to it: nothing is measured before.
    Accept {
        /// The version of the terms that you read.
        version: u32,
        /// In which language: en, ru or kk; by default the environment's.
        #[arg(long)]
        language: Option<Language>,
        /// Only these kinds of sites: news, human_rights, commerce, culture, communication, other; by default all.
        #[arg(long, value_name = "CATEGORY,...", value_delimiter = ',')]
        categories: Vec<Category>,
        /// Where the identity is kept.
        #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
        dir: PathBuf,
    },
    /// Withdraw: stops at once, and has the collector forget this box.
    Revoke {
        /// Where the identity is kept.
        #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
        dir: PathBuf,
    },
}

/// What of the targets is shown, and how.
#[derive(Debug, Args)]
pub struct TouchedArgs {
    /// Where the identity is kept.
    #[arg(long, value_name = "STATE", default_value = STATE_DEFAULT)]
    dir: PathBuf,
    /// Print JSON: {"targets": [{"name", "address", "manner", "first", "last", "count"}], "forgotten": N}; times in
    /// milliseconds since 1970.
    #[arg(long)]
    json: bool,
}

/// The language of whoever runs this.
pub fn own_language() -> Language {
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|locale| !locale.is_empty()));
    Language::of_locale(&locale.unwrap_or_default())
}

/// Carries out `consent`.
pub async fn consent_command(command: ConsentCommand) -> Result<()> {
    match command {
        ConsentCommand::Show { language } => {
            print(&consent::terms(language.unwrap_or_else(own_language)));
        }
        ConsentCommand::Accept { version, language, categories, dir } => {
            let categories = if categories.is_empty() { Category::ALL.to_vec() } else { categories };
            let language = language.unwrap_or_else(own_language);
            let state = StateDir::create(&dir)?;
            clock::load(&state);
            let consent = consent::accept(&state, version, language, &categories, wall_clock())?;
            print(&format!(
                "accepted: version {} of the terms, for {}; `zerkalo-agent consent revoke` withdraws\n",
                consent.version,
                words(&consent.categories)
            ));
        }
        ConsentCommand::Revoke { dir } => {
            let state = StateDir::existing(&dir);
            clock::load(&state);
            consent::withdraw(&state, wall_clock())?;
            print("withdrawn: this box measures nothing any more\n");
            if !state.is_enrolled() {
                return Ok(());
            }
            let agent = state.identity()?.agent;
            leave(&state).await.with_context(|| {
                format!(
                    "the collector was NOT told to forget this box; run the same again later, or ask the operator for \
                     `zerkalo agents revoke {agent}`"
                )
            })?;
            print("the collector has forgotten this box; if you agree again, enrol it with a new token\n");
        }
    }
    Ok(())
}

/// What was agreed to, and what of the list that allows.
pub fn show_agreement(state: &StateDir, identity: &Identity) -> Result<()> {
    match consent::standing(state) {
        Ok(consent) => {
            print(&format!(
                "agreed to version {} of the terms, for {}\n",
                consent.version,
                words(&consent.categories)
            ));
            if let Some(list) = list::load(state, &state.operator_key(identity)?.into(), wall_clock())? {
                let (all, own) = (list.mirrors.len(), consent.agreed(&list).mirrors.len());
                match &list.stop {
                    Some(reason) => print(&format!("STOPPED by the operator: {reason}\n")),
                    None => {
                        print(&format!("list version {}: {own} of {all} mirrors agreed to\n", list.version))
                    }
                }
            }
        }
        Err(missing) => print(&format!("measures nothing: {missing}\n")),
    }
    Ok(())
}

/// Carries out `touched`.
pub fn touched_command(args: &TouchedArgs) -> Result<()> {
    let kept = touched::kept(&StateDir::existing(&args.dir))?;
    if args.json {
        print(&(serde_json::to_string_pretty(&kept)? + "\n"));
        return Ok(());
    }
    if kept.targets.is_empty() {
        print("nothing was touched yet\n");
        return Ok(());
    }
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let wide = |of: fn(&touched::Target) -> &str| {
        kept.targets.iter().map(|line| of(&line.target).chars().count()).max().unwrap_or_default().max(7)
    };
    let (names, addresses) = (wide(|target| &target.name), wide(|target| &target.address));
    let mut text = format!(
        "{:<9}  {:<names$}  {:<addresses$}  {:>7}  {:<20}  last\n",
        "how", "name", "address", "times", "first"
    );
    for touched::Line { target, times } in &kept.targets {
        text += &format!(
            "{:<9}  {:<names$}  {:<addresses$}  {:>7}  {:<20}  {}\n",
            target.manner.as_str(),
            dash(&target.name),
            dash(&target.address),
            times.count,
            times.first.to_string(),
            times.last
        );
    }
    if kept.forgotten > 0 {
        text += &format!("and {} more, touched longer ago\n", kept.forgotten);
    }
    print(&text);
    Ok(())
}

fn words(categories: &[Category]) -> String {
    categories.iter().map(|category| category.as_str()).collect::<Vec<_>>().join(", ")
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
