//! Where answers meet the screen: tables, JSON, colour. Knows no question and no collector.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use zerkalo_core::words::UnixMillis;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document, for programs.
    Json,
}

/// How decisions are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Table,
    /// One JSON array.
    Json,
    /// One decision a line: exactly the bytes the collector logged.
    Jsonl,
}

/// Draws rows under headings; columns wrap to the terminal's width, where there is one.
pub fn draw<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = bare();
    table.set_header(headings);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    trimmed(&table)
}

/// An empty table of the house style.
pub fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The table as text, without blanks at the ends of lines.
pub fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Writes to standard output.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a value as indented JSON to standard output.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Whether colours are welcome: on a terminal, unless NO_COLOR says otherwise (no-color.org).
pub fn colours_welcome() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An instant for people; `never` for zero.
pub fn instant(millis: u64) -> String {
    if millis == 0 { "never".to_owned() } else { UnixMillis(millis).to_rfc3339() }
}

/// A text, or a dash where it is empty.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
