//! Who watches a play: a terminal with the live matrix and the last lines below it, or a log of lines on stderr.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use comfy_table::presets::UTF8_FULL;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use owo_colors::OwoColorize;
use zerkalo_proto::operator_v1::{CarrierColumn, MarketRow, Matrix};

use crate::internet::MIRROR;

/// Lines of the log shown below the matrix, at least.
const LINES_SHOWN_MIN: usize = 6;
/// Lines kept for the end of the play.
const LINES_KEPT: usize = 500;
/// Columns and rows of a terminal that does not tell.
const SIZE_DEFAULT: (u16, u16) = (120, 40);
/// Enters the alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and leaves the alternate screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What was put in a mirror's place, by market and mirror.
type Replacements<'a> = BTreeMap<(&'a str, &'a str), &'a str>;

/// Who watches.
pub enum Audience {
    /// Not a soul: a test reads the report.
    Nobody,
    /// Nobody sees the matrix; lines go to stderr.
    Log,
    /// A terminal on stdout.
    Terminal(Screen),
}

impl Audience {
    /// Tells one thing that happened.
    pub fn line(&mut self, text: &str) {
        match self {
            Self::Nobody => {}
            // A closed stderr is no reason to end a play.
            Self::Log => drop(writeln!(io::stderr(), "{text}")),
            Self::Terminal(screen) => screen.line(text),
        }
    }

    /// Shows how things stand.
    pub fn show(&mut self, matrix: &Matrix, replaced: &Replacements<'_>, elapsed: Duration) {
        if let Self::Terminal(screen) = self {
            screen.draw(matrix, replaced, elapsed);
        }
    }

    /// Ends the show; a terminal keeps the last picture and every line.
    pub fn end(&mut self) {
        if let Self::Terminal(screen) = self {
            screen.leave();
        }
    }
}

/// The live picture; leaves the terminal as it was when dropped.
pub struct Screen {
    lines: VecDeque<String>,
    picture: String,
    entered: bool,
}

impl Screen {
    /// Takes the terminal over.
    pub fn enter() -> Self {
        put(ENTER);
        Self { lines: VecDeque::new(), picture: String::new(), entered: true }
    }

    fn line(&mut self, text: &str) {
        self.lines.push_back(text.to_owned());
        if self.lines.len() > LINES_KEPT {
            self.lines.pop_front();
        }
        self.redraw();
    }

    fn draw(&mut self, matrix: &Matrix, replaced: &Replacements<'_>, elapsed: Duration) {
        let title = format!("Zerkalo: market x carrier, after {} s", elapsed.as_secs());
        let whole = table(&matrix.rows, replaced);
        // A short terminal shows the mirror under attack alone.
        let fits = whole.lines().count() + LINES_SHOWN_MIN < usize::from(size().1);
        let attacked: Vec<_> = matrix.rows.iter().filter(|row| row.mirror == MIRROR).cloned().collect();
        let table = if fits { whole } else { table(&attacked, replaced) };
        self.picture = format!("{}\n{table}\n", title.bold());
        self.redraw();
    }

    fn redraw(&self) {
        let (columns, rows) = size();
        let room = usize::from(rows).saturating_sub(self.picture.lines().count() + 2);
        // Home, picture, then clear to the end: no flicker, no rest of the frame before.
        let mut frame = format!("\x1b[H{}\n", self.picture);
        for line in self.lines.iter().skip(self.lines.len().saturating_sub(room)) {
            // A longer line would wrap and break the picture.
            let short: String = line.chars().take(columns.into()).collect();
            let _ = writeln!(frame, "{}", painted(&short));
        }
        put(&(frame.replace('\n', "\x1b[K\r\n") + "\x1b[J"));
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.entered) {
            put(LEAVE);
            let lines: String = self.lines.iter().map(|line| painted(line) + "\n").collect();
            put(&format!("{}\n{lines}", self.picture));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _terminal_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn painted(line: &str) -> String {
    match line {
        _ if line.starts_with(">>>") => line.red().bold().to_string(),
        _ if line.starts_with("decision") => line.bold().to_string(),
        _ if line.starts_with("webhook") => line.cyan().to_string(),
        _ => line.to_owned(),
    }
}

fn size() -> (u16, u16) {
    crossterm::terminal::size().unwrap_or(SIZE_DEFAULT)
}

fn table(rows: &[MarketRow], replaced: &Replacements<'_>) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(size().0)
        .enforce_styling();
    table.set_header(["market", "mirror", "decision", "carriers"]);
    for row in rows {
        let mut cells = vec![
            Cell::new(row.market.to_uppercase()).add_attribute(Attribute::Bold),
            Cell::new(&row.mirror),
            decision_cell(row, replaced),
        ];
        // A carrier nobody measures from would only widen the picture.
        let measured = row.carriers.iter().filter(|column| column.cells.iter().any(|cell| cell.owners > 0));
        cells.extend(measured.map(carrier_cell));
        table.add_row(cells);
    }
    table.to_string()
}

/// The action, and who took the mirror's place.
fn decision_cell(row: &MarketRow, replaced: &Replacements<'_>) -> Cell {
    let color = match row.action.as_str() {
        "keep" => Color::Green,
        "prepare" | "hold" => Color::Yellow,
        "pause" | "rotate" => Color::Red,
        "fix_origin" => Color::Magenta,
        _ => return Cell::new("-"),
    };
    let by = replaced.get(&(row.market.as_str(), row.mirror.as_str()));
    let by = by.map_or(String::new(), |by| format!("\nreplaced by\n{by}"));
    Cell::new(row.action.to_uppercase() + &by).fg(color).add_attribute(Attribute::Bold)
}

/// Name, state, flagged owners of all, and what they saw.
fn carrier_cell(column: &CarrierColumn) -> Cell {
    let owners: u32 = column.cells.iter().map(|cell| cell.owners).sum();
    let flagged: u32 = column.cells.iter().map(|cell| cell.flagged).sum();
    let mechanism = column.cells.iter().find_map(|cell| cell.mechanisms.first()).map_or("", String::as_str);
    let color = match column.state.as_str() {
        "green" => Color::Green,
        "red" => Color::Red,
        "suspect" => Color::Yellow,
        "restricted" | "down" | "refused" => Color::Magenta,
        _ => Color::DarkGrey,
    };
    Cell::new(format!("{}\n{} {flagged}/{owners}\n{mechanism}", column.name, column.state)).fg(color)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_proto::operator_v1;

    #[test]
    fn a_cell_shows_state_flagged_owners_and_mechanism() {
        let cell = operator_v1::Cell {
            access: "mobile".into(),
            state: "red".into(),
            owners: 3,
            flagged: 2,
            mechanisms: vec!["tls.timeout".into()],
            ..Default::default()
        };
        let carriers = vec![CarrierColumn {
            carrier: "kz-kcell".into(),
            name: "Kcell".into(),
            state: "red".into(),
            cells: vec![cell],
            ..Default::default()
        }];
        let row = MarketRow {
            market: "kz".into(),
            mirror: "m1".into(),
            action: "pause".into(),
            carriers,
            ..Default::default()
        };
        let picture = table(&[row], &[(("kz", "m1"), "spare-kz")].into());
        for part in ["KZ", "m1", "PAUSE", "replaced by", "spare-kz", "Kcell", "red 2/3", "tls.timeout"] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
    }
}
