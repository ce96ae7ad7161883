//! `zerkalo mirrors ls`: the list in force, for people and for programs.

use std::net::IpAddr;

use anyhow::Result;
use zerkalo_core::target::{Category, Mirror, MirrorList, ReferenceSide, TargetUrl};
use zerkalo_core::words::MarketId;

use super::tools;
use crate::table::{Format, draw, or_dash, print, print_json};

/// Prints the list in force.
pub(super) fn show(list: Option<&MirrorList>, format: Format) -> Result<()> {
    match (format, list) {
        (Format::Json, list) => print_json(&list)?,
        (Format::Table, None) => print("no list yet; `zerkalo mirrors add URL --market MARKET` makes one\n")?,
        (Format::Table, Some(list)) => {
            if let Some(reason) = &list.stop {
                print(&format!(
                    "STOPPED: agents touch nothing ({reason}); `zerkalo mirrors resume` ends it\n"
                ))?;
            }
            let end = list.expires_at.map_or_else(
                || "without an end: sign it anew, `zerkalo mirrors sign`".to_owned(),
                |end| format!("good until {end}"),
            );
            print(&format!("version {}, issued {}, {end}\n", list.version, list.issued_at))?;
            if let Some(keys) = &list.keys {
                print(&format!("lists are signed by {keys}\n"))?;
            }
            print(&draw(
                [
                    "mirror",
                    "URL",
                    "markets",
                    "canary",
                    "pins",
                    "expected addresses",
                    "large page",
                    "standby",
                    "category",
                ],
                list.mirrors.iter().map(row),
            ))?;
            if !list.references.is_empty() {
                let rows = list.references.iter().map(|reference| {
                    [
                        reference.market.to_string(),
                        side_word(reference.side).to_owned(),
                        reference.url.to_string(),
                    ]
                });
                print(&draw(["market", "side", "reference"], rows))?;
            }
            if !list.tools.is_empty() {
                print(&draw(["tool", "set to"], tools::rows(&list.tools)))?;
            }
        }
    }
    Ok(())
}

pub(super) fn row(mirror: &Mirror) -> [String; 9] {
    let join = |words: Vec<String>| or_dash(&words.join(" "));
    [
        mirror.id.to_string(),
        mirror.url.to_string(),
        join(mirror.markets.iter().map(MarketId::to_string).collect()),
        mirror.canary.clone().unwrap_or_else(|| "-".to_owned()),
        mirror.key_pins.len().to_string(),
        join(mirror.expected_addresses.iter().map(IpAddr::to_string).collect()),
        mirror.large_page.as_ref().map_or_else(|| "-".to_owned(), TargetUrl::path_and_query),
        if mirror.standby { "yes" } else { "-" }.to_owned(),
        mirror.category.map_or("-", Category::as_str).to_owned(),
    ]
}

fn side_word(side: ReferenceSide) -> &'static str {
    match side {
        ReferenceSide::Domestic => "domestic",
        ReferenceSide::Foreign => "foreign",
    }
}
