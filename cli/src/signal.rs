//! `zerkalo signal` and `zerkalo active`: which mirror of a market is live, and who else may ask.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::words::{CarrierId, MarketId};
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer, refusal};
use crate::table::{Format, draw, instant, print, print_json};

/// What can be done with tokens of the signal endpoints.
#[derive(Debug, Subcommand)]
pub enum Signal {
    /// Make a token for redirectors and trackers; it is shown once.
    Token {
        /// A market that may be read with it; repeat for several.
        #[arg(long = "market", value_name = "MARKET", required = true)]
        markets: Vec<MarketId>,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// List the tokens: never their text.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Take a token back.
    Revoke {
        /// As `zerkalo signal ls` shows it.
        id: String,
    },
}

/// Whose live mirror.
#[derive(Debug, Args)]
pub struct ActiveArgs {
    market: MarketId,
    /// As this carrier sees it.
    #[arg(long, value_name = "CARRIER")]
    carrier: Option<CarrierId>,
    /// Print it again after each change, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Carries out one command about signal tokens.
pub async fn signal(service: &mut Service, command: Signal) -> Result<()> {
    match command {
        Signal::Token { markets, format } => {
            let markets: Vec<_> = markets.into_iter().map(String::from).collect();
            let request = wire::CreateSignalTokenRequest { markets: markets.clone() };
            let made = answer("make the token", service.create_signal_token(request)).await?;
            show_made(&made, &markets, format)
        }
        Signal::Ls { format } => {
            let request = wire::ListSignalTokensRequest {};
            let tokens = answer("list the tokens", service.list_signal_tokens(request)).await?.tokens;
            match format {
                Format::Json => print_json(&tokens.iter().map(to_json).collect::<Vec<_>>())?,
                Format::Table => print(&draw(["token", "markets", "made", "by"], tokens.iter().map(row)))?,
            }
            Ok(())
        }
        Signal::Revoke { id } => {
            let request = wire::RevokeSignalTokenRequest { id: id.clone() };
            answer("revoke the token", service.revoke_signal_token(request)).await?;
            print(&format!("{id} is revoked: who asks with it gets a 404 from now on\n"))?;
            Ok(())
        }
    }
}

/// Shows a market's live mirror, once or after each change.
pub async fn active(service: &mut Service, args: ActiveArgs) -> Result<()> {
    let market = args.market.to_string();
    let carrier = args.carrier.map(String::from).unwrap_or_default();
    if !args.watch {
        let request = wire::ActiveMirrorRequest { market: market.clone(), carrier };
        let found = answer("find the live mirror", service.active_mirror(request)).await?.active;
        return show_active(&market, found.as_ref(), args.format);
    }
    const WHAT: &str = "watch the live mirror";
    let request = wire::WatchActiveMirrorRequest { market: market.clone(), carrier };
    let mut stream = answer(WHAT, service.watch_active_mirror(request)).await?;
    while let Some(message) = stream.message().await.map_err(|status| refusal(WHAT, &status))? {
        show_active(&market, message.active.as_ref(), args.format)?;
    }
    bail!("the collector ended the watch: it is stopping; run the command again once it serves")
}

fn show_active(market: &str, active: Option<&wire::ActiveMirror>, format: Format) -> Result<()> {
    let text = match (format, active) {
        (Format::Json, active) => {
            let json = active.map(|active| {
                json!({ "market": active.market, "carrier": active.carrier, "mirror": active.mirror,
                        "url": active.url, "state": active.state })
            });
            format!("{}\n", json.unwrap_or_else(|| json!({ "market": market, "mirror": null })))
        }
        (Format::Table, Some(active)) => format!("{} {} ({})\n", active.mirror, active.url, active.state),
        (Format::Table, None) => format!("no mirror of market {market} can be used there now\n"),
    };
    print(&text)?;
    Ok(())
}

fn show_made(made: &wire::CreateSignalTokenResponse, markets: &[String], format: Format) -> Result<()> {
    let base = if made.listen.is_empty() {
        "http://HOST:PORT".to_owned()
    } else {
        format!("http://{}", made.listen)
    };
    let urls: Vec<_> =
        markets.iter().map(|market| format!("{base}/signal/{}/{market}.json", made.token)).collect();
    if format == Format::Json {
        print_json(&json!({ "token": made.token, "id": made.id, "urls": urls }))?;
        return Ok(());
    }
    let mut text =
        format!("token {} (shown once; `zerkalo signal revoke {}` takes it back)\n", made.token, made.id);
    urls.iter().for_each(|url| text += &format!("  {url}\n"));
    text += "  .txt instead of .json gives the bare URL; ?carrier=CARRIER asks for one carrier;\n  \
             ?http=1 answers 200 while a mirror is live and 503 otherwise\n";
    if made.listen.is_empty() {
        text +=
            "the collector serves no signal endpoints yet: set listen under [signal] in its collector.toml\n";
    }
    print(&text)?;
    Ok(())
}

fn row(token: &wire::SignalToken) -> [String; 4] {
    [token.id.clone(), token.markets.join(", "), instant(token.made_at_millis), token.made_by.clone()]
}

fn to_json(token: &wire::SignalToken) -> serde_json::Value {
    json!({ "id": token.id, "markets": token.markets, "made_at": token.made_at_millis, "made_by": token.made_by })
}
