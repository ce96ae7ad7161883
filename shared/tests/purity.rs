//! The core touches no world: no dependency that could, no name of the standard library that would.
//!
//! Looks at the tree cargo resolves and at the words of the source; each check is shown to fail on a made-up offender.
#![allow(clippy::unwrap_used)] // A test that cannot go on should stop.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that read a clock, a socket, a file or chance. A name ending in `*` stands for all that begin so.
const WORLDLY_CRATES: &[&str] = &[
    "async-*",
    "axum*",
    "backoff",
    "chrono",
    "curl*",
    "dirs*",
    "futures*",
    "getrandom",
    "hickory-*",
    "hyper*",
    "jiff",
    "libc",
    "mio",
    "nix",
    "notify",
    "once_cell",
    "prost*",
    "quinn*",
    "rand*",
    "redb",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls*",
    "sled",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio*",
    "tonic*",
    "tracing*",
    "ureq",
    "uuid",
    "windows-sys",
    "zerkalo-*",
];

/// Words that reach out of the core, or make its answers depend on more than its arguments.
const WORLDLY_WORDS: &[(&str, &str)] = &[
    ("TcpStream", "sockets"),
    ("TcpListener", "sockets"),
    ("UdpSocket", "sockets"),
    ("ToSocketAddrs", "name resolution"),
    ("UnixStream", "sockets"),
    ("SystemTime", "the clock"),
    ("Instant", "the clock"),
    ("HashMap", "an order that changes from run to run"),
    ("HashSet", "an order that changes from run to run"),
    ("async", "async"),
    ("await", "async"),
    ("thread_local", "hidden state"),
    ("OnceLock", "hidden state"),
    ("LazyLock", "hidden state"),
    ("Mutex", "hidden state"),
    ("RwLock", "hidden state"),
    ("println", "the terminal"),
    ("eprintln", "the terminal"),
    ("unsafe", "unsafe"),
];

/// Modules of the standard library that are the world.
const WORLDLY_MODULES: &[&str] =
    &["env", "fs", "io", "os", "process", "thread", "time::Instant", "time::SystemTime"];

#[test]
fn no_dependency_of_the_core_touches_the_world() {
    let tree = normal_dependencies();
    assert!(
        tree.lines().any(|line| line.starts_with("zerkalo-core ")),
        "the tree is not the core's:\n{tree}"
    );
    assert_eq!(worldly_dependencies(&tree), Vec::<String>::new());
}

#[test]
fn no_source_of_the_core_touches_the_world() {
    let files = rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.len() > 10, "only {} files found", files.len());
    let mut offences = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        offences
            .extend(worldly_words(&text).into_iter().map(|offence| format!("{}: {offence}", file.display())));
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn a_worldly_dependency_is_noticed() {
    let check = |line: &str, worldly: bool| {
        let tree = format!("zerkalo-core v0.1.0 (/x/shared)\n{line}\nserde v1.0.0\n");
        assert_eq!(!worldly_dependencies(&tree).is_empty(), worldly, "{line}");
    };
    for line in
        ["tokio v1.54.1", "rand_core v0.9.0", "getrandom v0.3.1", "chrono v0.4.0", "zerkalo-proto v0.1.0"]
    {
        check(line, true);
    }
    for line in ["toml v0.9.12", "timely v1.0.0", "url v2.5.8"] {
        check(line, false);
    }
}

#[test]
fn a_worldly_word_is_noticed() {
    let check = |text: &str, worldly: bool| {
        assert_eq!(!worldly_words(text).is_empty(), worldly, "{text}: {:?}", worldly_words(text));
    };
    check("use std::net::{IpAddr, TcpStream};", true);
    check("let now = std::time::SystemTime::now();", true);
    check("use std::{collections::BTreeMap, fs};", true);
    check("use std::fs;", true);
    check("let home = std :: env :: var(\"HOME\");", true);
    check("pub async fn judge() {}", true);
    check("std::thread::spawn(|| ());", true);
    check("let seen = HashMap::new();", true);
    check("// std::fs is refused here\nuse std::net::IpAddr;", false);
    check("use std::time::Duration;", false);
    check("/// An Instant is an argument.\npub struct InstantLike;", false);
    check("let text = \"no async, no clock: HashMap\";", false);
}

/// What cargo resolves for the core alone: normal dependencies of this host, without procedural macros, one a line.
fn normal_dependencies() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "zerkalo-core", "--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn worldly_dependencies(tree: &str) -> Vec<String> {
    let is_worldly = |name: &str| {
        WORLDLY_CRATES.iter().any(|worldly| match worldly.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *worldly,
        })
    };
    tree.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "zerkalo-core" && is_worldly(name))
        .map(str::to_owned)
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Offences in one source text: words anywhere in code, modules anywhere in a path or a group under `std`.
fn worldly_words(source: &str) -> Vec<String> {
    let code: String = source.lines().map(code_of).collect::<Vec<_>>().join("\n");
    let mut offences: Vec<String> = code
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter_map(|word| WORLDLY_WORDS.iter().find(|(worldly, _)| *worldly == word))
        .map(|(word, reason)| format!("`{word}` ({reason})"))
        .collect();
    let packed: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    for (at, _) in packed.match_indices("std::") {
        let rest = &packed[at + "std::".len()..];
        let rest = &rest[..rest.find(';').unwrap_or(rest.len())];
        let items: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split(['{', '}', ',']).collect(),
            None => vec![rest],
        };
        for module in WORLDLY_MODULES {
            let names = |item: &&str| {
                item.strip_prefix(module)
                    .is_some_and(|tail| !tail.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            if items.iter().any(names) {
                offences.push(format!("`std::{module}`"));
            }
        }
    }
    offences
}

/// A line without its comment and without the insides of its texts.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut in_text = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_text => {
                chars.next();
            }
            '"' => in_text = !in_text,
            '/' if !in_text && chars.peek() == Some(&'/') => break,
            _ if !in_text => code.push(c),
            _ => {}
        }
    }
    code
}
