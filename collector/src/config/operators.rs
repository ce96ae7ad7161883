//! `[operators]` and DIR/operators/: who may ask, each under a name.

use std::path::Path;

use config::{FileFormat, Map, Value};
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::operator_keys::{OPERATOR_KEYS_MAX, OperatorKeys};
use zerkalo_core::target::Sha256;

use super::{Reader, Section};
use crate::people::{self, People, Person};

/// The first operator's name where collector.toml gives none.
const NAME_DEFAULT: &str = "operator";

impl Reader<'_> {
    /// `operator_key`, or `operator_keys` with `operator_threshold`.
    pub(super) fn operator_keys(&mut self, root: &mut Section) -> Option<OperatorKeys> {
        if !root.keys.contains_key("operator_keys") {
            return self.required(root, "operator_key", "64 hexadecimal digits", |text| {
                PublicKey::from_hex(text).map(OperatorKeys::from).map_err(|error| error.to_string())
            });
        }
        if root.keys.remove("operator_key").is_some() {
            let problem = "stands beside operator_keys".to_owned();
            self.fault("operator_key".to_owned(), problem, "keep one of the two");
        }
        let keys = self.texts(root, "operator_keys").unwrap_or_default();
        let most = u32::try_from(OPERATOR_KEYS_MAX).unwrap_or(u32::MAX);
        let threshold = self.number(root, "operator_threshold", (1, most), 1);
        let remedy = "list the public halves, 64 hexadecimal digits each, and how many of them must sign";
        OperatorKeys::parse(&keys, threshold as usize)
            .map_err(|error| self.fault("operator_keys".to_owned(), error.to_string(), remedy))
            .ok()
    }

    /// The operator of this file, then those added, by name.
    pub(super) fn people(&mut self, section: &mut Section) -> Option<People> {
        let expected = "1 to 63 of a-z, 0-9, '-', '_', '.'";
        let name = self.optional(section, "name", expected, |text| {
            if people::is_name(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no such name")) }
        });
        let digest = self.digest(section);
        let name = name.unwrap_or_else(|| NAME_DEFAULT.to_owned());
        let mut people = vec![(Person(name), digest?)];
        let dir = self.dir.join(people::DIR);
        let mut files: Vec<_> = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            // Nobody was ever added.
            Err(_) => Vec::new(),
        };
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        for path in files {
            let Some(person) = self.person(&path) else { continue };
            if people.iter().any(|(known, _)| *known == person.0) {
                let problem = format!("{:?} is the name of another operator", person.0.0);
                self.fault_in(&path, &problem, "give each a file of its own name");
            }
            if people.iter().any(|(_, digest)| *digest == person.1) {
                let problem = "its token is another operator's: two names must be two people";
                self.fault_in(&path, &problem, "make it anew by `zerkalo-collector operator add`");
            }
            people.push(person);
        }
        if people.len() > people::PEOPLE_MAX {
            self.fault_in(&dir, &format!("{} operators", people.len()), "remove some");
        }
        Some(People(people))
    }

    fn person(&mut self, path: &Path) -> Option<(Person, Sha256)> {
        let remedy = "make it anew by `zerkalo-collector operator add`, or remove it";
        let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| people::is_name(name));
        let Some(name) = name else {
            self.fault_in(path, &"its name is no operator's", remedy);
            return None;
        };
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string()).and_then(|text| {
            let file = config::File::from_str(&text, FileFormat::Toml);
            let built = config::Config::builder().add_source(file).build();
            let table = built.and_then(config::Config::try_deserialize::<Map<String, Value>>);
            table.map_err(|error| error.to_string().trim_end().to_owned())
        });
        let keys = read.map_err(|problem| self.fault_in(path, &problem, remedy)).ok()?;
        let mut section = Section { prefix: format!("{}: ", path.display()), keys };
        let digest = self.digest(&mut section);
        self.finish(section);
        Some((Person(name.to_owned()), digest?))
    }

    fn digest(&mut self, section: &mut Section) -> Option<Sha256> {
        self.required(section, "api_token_sha256", "the SHA-256 of the token", |text| {
            Sha256::from_hex(text).ok_or_else(|| "is not 64 hexadecimal digits".to_owned())
        })
    }
}
