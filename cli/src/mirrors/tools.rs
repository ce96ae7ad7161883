//! `zerkalo mirrors tools`: what the operator runs so that agents can compare. Given words are set, the rest stays.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use zerkalo_core::address::require_public;
use zerkalo_core::target::{MirrorList, TargetUrl, Tools};

use super::{Change, next};
use crate::table::Format;

/// What to set or clear.
#[derive(Debug, Args)]
pub struct SetTools {
    /// A TLS server of yours at an address no censor looks for, which answers any name, such as 192.0.2.1:443.
    #[arg(long, value_name = "IP:PORT")]
    control_address: Option<SocketAddr>,
    /// An object of about 128 KiB at a host of yours that no censor looks for, to compare the speed of large pages with.
    #[arg(long, value_name = "URL", value_parser = TargetUrl::parse)]
    reference_object: Option<TargetUrl>,
    /// A name of yours whose server answers with the address that asked, such as whoami.example.
    #[arg(long = "whoami", value_name = "NAME")]
    whoami_name: Option<String>,
    /// Take a tool off the list; repeat for several.
    #[arg(long, value_enum, value_name = "TOOL")]
    clear: Vec<Tool>,
    #[command(flatten)]
    pub how: super::signing::How,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tool {
    ControlAddress,
    ReferenceObject,
    Whoami,
}

/// Refuses what no collector needs to be asked about.
pub fn check(set: &SetTools) -> Result<()> {
    let SetTools { control_address, reference_object, whoami_name, clear, .. } = set;
    if control_address.is_none() && reference_object.is_none() && whoami_name.is_none() && clear.is_empty() {
        bail!(
            "nothing to set: give --control-address, --reference-object, --whoami or --clear; `zerkalo mirrors ls` shows \
             what is set"
        );
    }
    let given = [
        (Tool::ControlAddress, control_address.is_some(), "--control-address"),
        (Tool::ReferenceObject, reference_object.is_some(), "--reference-object"),
        (Tool::Whoami, whoami_name.is_some(), "--whoami"),
    ];
    if let Some((_, _, flag)) = given.iter().find(|(tool, is_given, _)| *is_given && clear.contains(tool)) {
        bail!("{flag} is both set and cleared");
    }
    if let Some(address) = control_address
        && let Err(range) = require_public(address.ip())
    {
        bail!("--control-address {address} is refused: it lies in a private or special range ({range})");
    }
    if let Some(address) = control_address.filter(|address| address.port() == 0) {
        bail!("--control-address {address} is refused: ports go from 1 to 65535");
    }
    if let Some(object) = reference_object {
        object.require_public().with_context(|| format!("--reference-object {object} is refused"))?;
    }
    tools_of(set).validate().context("--whoami is refused")
}

/// The list with other tools.
pub fn with_tools(list: Option<MirrorList>, set: &SetTools) -> Result<Change> {
    let mut list = next(list)?;
    let given = tools_of(set);
    let keeps = |tool: Tool| !set.clear.contains(&tool);
    let before = std::mem::take(&mut list.tools);
    list.tools = Tools {
        control_address: given
            .control_address
            .or(before.control_address.filter(|_| keeps(Tool::ControlAddress))),
        reference_object: given
            .reference_object
            .or(before.reference_object.filter(|_| keeps(Tool::ReferenceObject))),
        whoami_name: given.whoami_name.or(before.whoami_name.filter(|_| keeps(Tool::Whoami))),
    };
    let what = json!(list.tools);
    Ok(Change { list, said: "tools set".to_owned(), kind: "tools", what })
}

/// What is set, for the table: one row a tool.
pub fn rows(tools: &Tools) -> Vec<[String; 2]> {
    let rows = [
        ("control address", tools.control_address.map(|address| address.to_string())),
        ("reference object", tools.reference_object.as_ref().map(TargetUrl::to_string)),
        ("whoami", tools.whoami_name.clone()),
    ];
    rows.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).collect()
}

fn tools_of(set: &SetTools) -> Tools {
    Tools {
        control_address: set.control_address,
        reference_object: set.reference_object.clone(),
        whoami_name: set.whoami_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: SetTools,
    }

    fn set(words: &[&str]) -> SetTools {
        Line::parse_from([&["tools"], words].concat()).set
    }

    #[test]
    fn given_tools_are_set_and_the_others_stay() {
        let first = set(&["--control-address", "9.9.9.9:443", "--whoami", "whoami.example"]);
        let list = with_tools(None, &first).unwrap().list;
        assert_eq!((list.version, list.mirrors.len()), (1, 0));
        let second = set(&["--reference-object", "https://object.example/128k", "--clear", "whoami"]);
        let change = with_tools(Some(list), &second).unwrap();
        let tools = &change.list.tools;
        assert_eq!(tools.control_address, Some("9.9.9.9:443".parse().unwrap()));
        assert_eq!(tools.whoami_name, None);
        assert_eq!(change.what["reference_object"], "https://object.example/128k");
        assert_eq!(
            rows(tools),
            [
                ["control address", "9.9.9.9:443"].map(str::to_owned),
                ["reference object", "https://object.example/128k"].map(str::to_owned)
            ]
        );
    }

    #[test]
    fn what_cannot_be_set_names_its_flag() {
        let refused = |words: &[&str], part: &str| {
            let message = format!("{:#}", check(&set(words)).unwrap_err());
            assert!(message.contains(part), "{words:?}: {message}");
        };
        refused(&[], "--control-address");
        refused(&["--control-address", "10.0.0.1:443"], "--control-address 10.0.0.1:443 is refused");
        refused(&["--control-address", "9.9.9.9:0"], "--control-address");
        refused(&["--reference-object", "https://127.0.0.1/x"], "--reference-object");
        refused(&["--whoami", "no name"], "--whoami");
        refused(&["--whoami", "w.example", "--clear", "whoami"], "--whoami is both set and cleared");
        check(&set(&["--clear", "control-address"])).unwrap();
    }
}
