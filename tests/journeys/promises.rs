//! SECURITY.md names a command for each promise: each is one that there is, and runs at least one test.

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Commands in the table of promises: every text between backticks that is one.
fn commands() -> Vec<String> {
    let text = read(&root().join("SECURITY.md"));
    let (_, table) = text.split_once("## The promises").expect("the table is there");
    let (table, _) = table.split_once("\n## ").expect("something follows");
    let rows = table.lines().filter(|line| line.starts_with('|'));
    let shown =
        rows.filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit_once('|')).map(|(_, shown)| shown);
    let quoted =
        shown.flat_map(|shown| shown.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    quoted.filter(|text| text.contains(' ')).collect()
}

/// Where the sources of what `-p PACKAGE` and `--test` or `--lib` name lie.
fn sources(words: &[&str]) -> PathBuf {
    let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
    let dir = match after("-p").expect("a package is named") {
        "zerkalo" => "cli",
        "zerkalo-core" => "shared",
        "zerkalo-torture" => "tests/torture",
        "zerkalo-decoders" => "tests/decoders",
        "zerkalo-journeys" => return root().join("tests/journeys"),
        other => other.trim_start_matches("zerkalo-"),
    };
    let below = if after("--test").is_some() { "tests" } else { "src" };
    root().join(dir).join(below)
}

/// Every file of Rust below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).flatten();
    let found = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => files(&path),
        path => vec![path],
    });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Whether a filter of `cargo test` meets a test: a module's name, a test's, or the beginning of one in a module.
fn meets_a_test(filter: &str, sources: &Path) -> bool {
    let (module, name) = filter.split_once("::").unwrap_or(("", filter));
    files(sources).iter().any(|path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_module = module.is_empty()
            || stem == module
            || path.parent().is_some_and(|dir| dir.file_name().is_some_and(|dir| *dir == *module));
        let text = read(path);
        let is_named =
            |line: &str| line.trim_start().split_once("fn ").is_some_and(|(_, rest)| rest.contains(name));
        is_module
            && ["test]", "::test("].iter().any(|mark| text.contains(mark))
            && (text.lines().any(is_named) || stem.contains(name))
    })
}

#[test]
fn every_promise_s_command_is_one_that_there_is() {
    let commands = commands();
    assert!(commands.len() > 30, "{commands:#?}");
    let makefile = read(&root().join("Makefile"));
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["cargo", "test", ..] => {
                let filter = words.last().expect("it has words");
                assert!(meets_a_test(filter, &sources(&words)), "{command} would run no test");
            }
            ["make", target, ..] => {
                assert!(makefile.contains(&format!("\n{target}: ")), "{command}: no such target")
            }
            ["zerkalo-agent", "touched"] => {}
            _ => panic!("{command} is not known to be a command"),
        }
    }
}

#[test]
fn a_command_that_runs_nothing_is_noticed() {
    let journeys = root().join("tests/journeys");
    assert!(meets_a_test("kill::", &journeys) && meets_a_test("every_agent_is_back", &journeys));
    assert!(!meets_a_test("nonesuch::", &journeys) && !meets_a_test("kill::nonesuch_at_all", &journeys));
}
