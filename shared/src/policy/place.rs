//! Where the keys of a TOML text stand, so that a fault can name its place.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of a byte of the text.
    pub fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The place of each key, written with dots.
#[derive(Debug, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Reads what can be read of a text.
    pub fn of(text: &str) -> Self {
        let mut places = Self::default();
        if let Ok(table) = DeTable::parse(text) {
            places.note(text, "", table.get_ref());
        }
        places
    }

    /// The place of a key, or of the table it would stand in.
    pub fn find(&self, key: &str) -> Option<Place> {
        let whole = self.0.get(key);
        whole.or_else(|| self.0.get(key.rsplit_once('.')?.0)).copied()
    }

    fn note(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            self.0.insert(name.clone(), Place::of(text, key.span().start));
            if let DeValue::Table(inner) = value.get_ref() {
                self.note(text, &format!("{name}."), inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_they_stand() {
        let places = Places::of("a = 1\n# é\n[b]\n  c = 2\n");
        let check = |key: &str, expected: Option<(usize, usize)>| {
            assert_eq!(places.find(key).map(|place| (place.line, place.column)), expected, "{key}");
        };
        check("a", Some((1, 1)));
        check("b.c", Some((4, 3)));
        check("b.d", Some((3, 2)));
        check("x", None);
    }
}
