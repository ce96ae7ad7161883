//! `zerkalo matrix`: market by carrier, in words and symbols, once or for as long as it is watched.
//!
//! Draws what the collector says; concludes nothing.

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Cell, Color};
use serde::Serialize;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer, refusal};
use crate::table::{Format, bare, colours_welcome, instant, print, print_json, trimmed};

/// Cursor home, then erase to the end: redraws without flicker.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Stands between a share and what it is of.
const OF_PART: &str = " % of ";

/// How the matrix is shown.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Draw again after each change, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Shows the matrix, once or after each change.
pub async fn matrix(service: &mut Service, args: MatrixArgs) -> Result<()> {
    if args.watch {
        return watch(service, args.format).await;
    }
    let matrix = answer("read the matrix", service.get_matrix(wire::GetMatrixRequest {})).await?.matrix;
    let matrix = matrix.unwrap_or_default();
    match args.format {
        Format::Json => print_json(&MatrixView::from(matrix))?,
        Format::Table => print(&draw_matrix(&matrix, colours_welcome()))?,
    }
    Ok(())
}

async fn watch(service: &mut Service, format: Format) -> Result<()> {
    const WHAT: &str = "watch the matrix";
    let mut stream = answer(WHAT, service.watch_matrix(wire::WatchMatrixRequest {})).await?;
    let on_terminal = io::stdout().is_terminal();
    while let Some(message) = stream.message().await.map_err(|status| refusal(WHAT, &status))? {
        let matrix = message.matrix.unwrap_or_default();
        match format {
            Format::Json => print(&(serde_json::to_string(&MatrixView::from(matrix))? + "\n"))?,
            Format::Table => {
                let redraw = if on_terminal { REDRAW } else { "" };
                print(&format!("{redraw}{}\n", draw_matrix(&matrix, colours_welcome())))?;
            }
        }
    }
    bail!("the collector ended the watch: it is stopping; run the command again once it serves")
}

/// The matrix as JSON.
#[derive(Debug, Serialize)]
struct MatrixView {
    /// Unix milliseconds.
    at: u64,
    rows: Vec<RowView>,
}

#[derive(Debug, Serialize)]
struct RowView {
    market: String,
    mirror: String,
    url: String,
    action: Option<String>,
    decision: Option<String>,
    carriers: Vec<CarrierJson>,
}

#[derive(Debug, Serialize)]
struct CarrierJson {
    carrier: String,
    name: String,
    state: String,
    /// Unix milliseconds.
    shutdown_suspected_since: Option<u64>,
    cells: Vec<CellJson>,
}

#[derive(Debug, Serialize)]
struct CellJson {
    access: String,
    state: String,
    owners: u32,
    flagged: u32,
    /// Owners that see a block for long, and nobody with them.
    apart: u32,
    mechanisms: Vec<String>,
    /// Unix milliseconds.
    red_since: Option<u64>,
    owners_blocked: Option<ShareJson>,
    visits_blocked: Option<ShareJson>,
    addresses_blocked: Option<ShareJson>,
    too_late: u64,
}

/// A share and its interval, in thousandths.
#[derive(Debug, Serialize)]
struct ShareJson {
    blocked: u32,
    of: u32,
    permille: u32,
    low_permille: u32,
    high_permille: u32,
}

impl From<wire::Share> for ShareJson {
    fn from(share: wire::Share) -> Self {
        let wire::Share { blocked, of, permille, low_permille, high_permille } = share;
        Self { blocked, of, permille, low_permille, high_permille }
    }
}

impl From<wire::Matrix> for MatrixView {
    fn from(matrix: wire::Matrix) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let rows = matrix.rows.into_iter().map(|row| RowView {
            market: row.market,
            mirror: row.mirror,
            url: row.url,
            action: some(row.action),
            decision: some(row.decision_id),
            carriers: row.carriers.into_iter().map(CarrierJson::from).collect(),
        });
        Self { at: matrix.at_millis, rows: rows.collect() }
    }
}

impl From<wire::CarrierColumn> for CarrierJson {
    fn from(column: wire::CarrierColumn) -> Self {
        let cells = column.cells.into_iter().map(|cell| CellJson {
            access: cell.access,
            state: cell.state,
            owners: cell.owners,
            flagged: cell.flagged,
            apart: cell.apart,
            mechanisms: cell.mechanisms,
            red_since: (cell.red_since_millis > 0).then_some(cell.red_since_millis),
            owners_blocked: cell.owners_share.map(ShareJson::from),
            visits_blocked: cell.visits_share.map(ShareJson::from),
            addresses_blocked: cell.addresses_share.map(ShareJson::from),
            too_late: cell.too_late,
        });
        let since = column.shutdown_suspected_since_millis;
        Self {
            carrier: column.carrier,
            name: column.name,
            state: column.state,
            shutdown_suspected_since: (since > 0).then_some(since),
            cells: cells.collect(),
        }
    }
}

/// One table a market: mirrors down, carriers across, the decision in force at the end.
fn draw_matrix(matrix: &wire::Matrix, colours: bool) -> String {
    if matrix.rows.is_empty() {
        return "no mirrors yet; `zerkalo mirrors add URL --market MARKET` adds one\n".to_owned();
    }
    let mut text = format!("{}   n/m: n of m owners heard see it blocked\n", instant(matrix.at_millis));
    for of_market in matrix.rows.chunk_by(|a, b| a.market == b.market && names(a).eq(names(b))) {
        let mut table = bare();
        let mut heading = vec![of_market[0].market.to_uppercase()];
        heading.extend(names(&of_market[0]).map(str::to_owned));
        heading.push("decision".to_owned());
        table.set_header(heading);
        for row in of_market {
            let mut cells = vec![Cell::new(&row.mirror)];
            cells.extend(row.carriers.iter().map(|column| carrier_cell(column, colours)));
            cells.push(Cell::new(if row.action.is_empty() { "none yet" } else { &row.action }));
            table.add_row(cells);
        }
        text += &trimmed(&table);
    }
    if text.contains(OF_PART) {
        text += "% (low-high): the share that is blocked, and its 95 % interval\n";
    }
    text
}

fn names(row: &wire::MarketRow) -> impl Iterator<Item = &str> {
    row.carriers.iter().map(|column| column.name.as_str())
}

fn carrier_cell(column: &wire::CarrierColumn, colours: bool) -> Cell {
    let mut lines = vec![format!("{} {}", symbol(&column.state), column.state)];
    if column.shutdown_suspected_since_millis > 0 {
        lines.push("shut down?".to_owned());
    }
    for cell in &column.cells {
        // A lone cell is its carrier: the state need not be said twice.
        let state = if column.cells.len() > 1 { format!("{} ", cell.state) } else { String::new() };
        let mut line = format!("{} {state}{}/{}", cell.access, cell.flagged, cell.owners);
        if let Some(mechanism) = cell.mechanisms.first() {
            line = format!("{line} {mechanism}");
        }
        lines.push(line);
        if cell.apart > 0 {
            lines.push(format!("{} apart", cell.apart));
        }
        let shares = [("visits", &cell.visits_share), ("addresses", &cell.addresses_share)];
        lines.extend(shares.into_iter().filter_map(|(what, share)| partial(what, share.as_ref()?)));
    }
    let cell = Cell::new(lines.join("\n"));
    if colours { cell.fg(colour(&column.state)) } else { cell }
}

/// What is blocked in part, with its interval; all or nothing needs no words.
fn partial(what: &str, share: &wire::Share) -> Option<String> {
    let percent = |permille: u32| (permille + 5) / 10;
    let (low, high) = (percent(share.low_permille), percent(share.high_permille));
    let is_part = share.blocked > 0 && share.blocked < share.of;
    is_part.then(|| format!("  {}{OF_PART}{what} ({low}-{high})", percent(share.permille)))
}

/// A sign beside each word, so that nothing rests on colour alone.
fn symbol(state: &str) -> char {
    match state {
        "green" => '●',
        "red" => '✕',
        "suspect" => '▲',
        "stale" => '◌',
        "restricted" => '■',
        "down" => '▼',
        "refused" => '⊘',
        _ => '○',
    }
}

fn colour(state: &str) -> Color {
    match state {
        "green" => Color::Green,
        "red" => Color::Red,
        "suspect" => Color::Yellow,
        "restricted" | "down" | "refused" => Color::Magenta,
        _ => Color::DarkGrey,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(market: &str, state: &str) -> wire::MarketRow {
        let cell = wire::Cell {
            access: "fixed".to_owned(),
            state: state.to_owned(),
            owners: 3,
            flagged: 3,
            mechanisms: vec!["tls.timeout".to_owned()],
            ..Default::default()
        };
        wire::MarketRow {
            market: market.to_owned(),
            mirror: "m1".to_owned(),
            action: "rotate".to_owned(),
            carriers: vec![wire::CarrierColumn {
                carrier: "kz-kcell".to_owned(),
                name: "Kcell".to_owned(),
                state: state.to_owned(),
                cells: vec![cell],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_state_is_a_symbol_and_a_word_and_colour_only_where_welcome() {
        let matrix = wire::Matrix { at_millis: 1, rows: vec![row("kz", "red"), row("ru", "green")] };
        let text = draw_matrix(&matrix, false);
        for part in ["KZ", "RU", "Kcell", "✕ red", "● green", "fixed 3/3 tls.timeout", "rotate"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn a_carrier_shows_both_its_accesses_and_how_much_is_blocked() {
        let share = |blocked, of, permille, low_permille, high_permille| {
            Some(wire::Share { blocked, of, permille, low_permille, high_permille })
        };
        let mut both = row("kz", "red");
        both.carriers[0].cells[0].visits_share = share(6, 15, 400, 198, 643);
        both.carriers[0].cells[0].addresses_share = share(4, 4, 1_000, 510, 1_000);
        both.carriers[0].cells.push(wire::Cell {
            access: "mobile".to_owned(),
            state: "green".to_owned(),
            owners: 4,
            visits_share: share(0, 12, 0, 0, 243),
            ..Default::default()
        });
        both.carriers[0].shutdown_suspected_since_millis = 1;
        let text = draw_matrix(&wire::Matrix { at_millis: 1, rows: vec![both] }, false);
        assert!(text.contains("shut down?"), "{text}");
        for part in ["✕ red", "fixed red 3/3 tls.timeout", "40 % of visits (20-64)", "mobile green 0/4"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains("addresses") && text.matches(OF_PART).count() == 1, "{text}");
    }
}
