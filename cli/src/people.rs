//! API tokens: `zerkalo tokens create --name ... --scope ...`, `ls`, `revoke`. Who may ask, as what, until when.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::enrolment::new_secret_file;
use crate::operator::Operator;
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// How far a token reaches; each holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Sees everything but other people's tokens and the audit log.
    Viewer,
    /// Gives orders, puts signed lists in force, lets boxes in.
    Operator,
    /// Says who else may ask.
    Admin,
}

/// A token asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    pub name: &'a str,
    pub scope: Scope,
    pub days: u32,
    pub out: Option<&'a Path>,
    pub format: Format,
}

/// Makes a token and hands it over: on the screen, or as a whole operator's file.
pub async fn create(service: &mut Service, operator: &Operator, asked: &Asked<'_>) -> Result<()> {
    // The file comes first: a token that cannot be written down would be lost.
    let file = asked.out.map(new_secret_file).transpose()?;
    let request = wire::CreateApiTokenRequest {
        name: asked.name.to_owned(),
        scope: word(asked.scope),
        valid_days: asked.days,
    };
    let made = answer("make the API token", service.create_api_token(request)).await;
    let until = made.as_ref().map_or(0, |made| made.expires_at_millis);
    let Some((path, mut file)) = asked.out.zip(file) else {
        let made = made?;
        match asked.format {
            Format::Json => {
                print_json(&json!({ "name": asked.name, "token": made.token, "expires_at_millis": until }))?
            }
            Format::Table => {
                print(&format!("{}\n", made.token))?;
                eprintln!(
                    "the API token of {} until {}; it is not shown again. `--out FILE` writes a whole operator's file",
                    asked.name,
                    instant(until)
                );
            }
        }
        return Ok(());
    };
    let written = made.and_then(|made| {
        file.write_all(file_text(operator, &made.token).as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))
    });
    if written.is_err() {
        // Best effort: an empty file left behind would only be in the way of the next try.
        let _ = std::fs::remove_file(path);
    }
    written?;
    match asked.format {
        Format::Json => {
            print_json(&json!({ "name": asked.name, "file": path, "expires_at_millis": until }))?;
        }
        Format::Table => print(&format!(
            "{} written: hand it to {}, to be ~/.config/zerkalo/operator.toml there; good until {}\n",
            path.display(),
            asked.name,
            instant(until)
        ))?,
    }
    Ok(())
}

/// Lists who may ask: never a token's text.
pub async fn list(service: &mut Service, format: Format) -> Result<()> {
    let request = wire::ListApiTokensRequest {};
    let tokens = answer("list the API tokens", service.list_api_tokens(request)).await?.tokens;
    match format {
        Format::Json => print_json(&tokens.iter().map(to_json).collect::<Vec<_>>())?,
        Format::Table => {
            print(&draw(["name", "scope", "made", "by", "good until"], tokens.iter().map(row)))?;
        }
    }
    Ok(())
}

/// Takes a person's token away.
pub async fn revoke(service: &mut Service, name: &str) -> Result<()> {
    let request = wire::RevokeApiTokenRequest { name: name.to_owned() };
    answer("revoke the API token", service.revoke_api_token(request)).await?;
    print(&format!("the token of {name} is revoked; what it watches has ended\n"))?;
    Ok(())
}

fn file_text(operator: &Operator, token: &str) -> String {
    format!(
        r#"# A person's secrets: who holds this file can ask the collector as that person. It signs no mirror lists.
url = "{url}"
api_token = "{token}"
# Public halves of the keys that sign mirror lists, and how many of them must.
operator_keys = {keys:?}
operator_threshold = {threshold}
ca_pem = """
{ca_pem}
"""
"#,
        url = operator.url,
        keys = operator.keys.to_hex(),
        threshold = operator.keys.threshold(),
        ca_pem = operator.ca_pem.trim_end(),
    )
}

fn word(scope: Scope) -> String {
    let value = scope.to_possible_value().expect("no scope is hidden");
    value.get_name().to_owned()
}

fn row(token: &wire::ApiToken) -> [String; 5] {
    let until = match (token.expires_at_millis, token.expired) {
        (0, _) => "revoked".to_owned(),
        (at, true) => format!("EXPIRED {}", instant(at)),
        (at, false) => instant(at),
    };
    let made = if token.made_at_millis == 0 { "-".to_owned() } else { instant(token.made_at_millis) };
    [token.name.clone(), token.scope.clone(), made, or_dash(&token.made_by), until]
}

fn to_json(token: &wire::ApiToken) -> serde_json::Value {
    let some = |millis: u64| (millis > 0).then_some(millis);
    json!({
        "name": token.name,
        "scope": token.scope,
        "made_at_millis": some(token.made_at_millis),
        "made_by": (!token.made_by.is_empty()).then_some(&token.made_by),
        "expires_at_millis": some(token.expires_at_millis),
        "expired": token.expired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_s_end_is_read_at_a_glance() {
        let check = |expires_at_millis, expired, expected: &str| {
            let token = wire::ApiToken { expires_at_millis, expired, ..wire::ApiToken::default() };
            assert_eq!(row(&token)[4], expected);
        };
        check(0, false, "revoked");
        check(1_000, false, "1970-01-01T00:00:01.000Z");
        check(1_000, true, "EXPIRED 1970-01-01T00:00:01.000Z");
        assert_eq!(word(Scope::Admin), "admin");
    }
}
