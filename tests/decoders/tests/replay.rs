//! Every file of the corpora, and mutations of each, through the body of its fuzz target. One test, so that nothing else
//! allocates meanwhile.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zerkalo_decoders::mutation::{Dice, mutated};
use zerkalo_decoders::{Read, TARGETS, Target};

/// Most of the corpora together, in bytes: they are replayed at every change.
const CORPORA_LEN_MAX: u64 = 1024 * 1024;
/// Largest file, in bytes.
const FILE_LEN_MAX: usize = 24 * 1024;
/// Mutations of each file; `ZERKALO_MUTATIONS` names another number, `ZERKALO_MUTATION_SECS` a time for each target instead.
const MUTATIONS: u64 = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// Files of a target, by name.
fn files(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(root().join(kind).join(target)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_reader_holds_over_its_corpus_and_mutations_of_it() {
    every_target_has_its_fuzz_target_and_no_other();
    let (mut failed, mut len, mut runs) = (Vec::new(), 0, 0);
    let wanted = std::env::var("ZERKALO_MUTATION_TARGET").ok();
    for target in TARGETS.iter().filter(|target| wanted.as_deref().is_none_or(|wanted| wanted == target.name))
    {
        let corpus = files("corpus", target.name);
        let mut all = corpus.clone();
        all.extend(files("regressions", target.name));
        len += all.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let (mut is_read, mut is_refused) = (false, false);
        for (path, bytes) in &all {
            assert!(bytes.len() <= FILE_LEN_MAX, "{} is too long", path.display());
            match guarded(target, bytes) {
                Ok(Read::Whole) => is_read = true,
                Ok(Read::Refused) => is_refused = true,
                Err(why) => failed.push(format!("{}: {why}", path.display())),
            }
        }
        let ran = mutations(target, &corpus);
        runs += ran.count;
        failed.extend(ran.failed);
        // A corpus of which nothing is read tries half of its reader.
        if !is_read || !is_refused && ran.refused == 0 {
            failed.push(format!("{}: all of its {} files are read alike", target.name, all.len()));
        }
    }
    println!("{runs} mutations over {len} bytes of corpora");
    assert!(len <= CORPORA_LEN_MAX, "the corpora have {len} bytes: minimise them (make fuzz)");
    assert!(failed.is_empty(), "{} failures:\n{}", failed.len(), failed.join("\n"));
}

fn guarded(target: &Target, bytes: &[u8]) -> Result<Read, String> {
    catch_unwind(AssertUnwindSafe(|| target.run(bytes))).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
    })
}

/// What became of mutations.
#[derive(Default)]
struct Ran {
    count: u64,
    refused: u64,
    /// Each with its file in target/tmp/fuzz-failures.
    failed: Vec<String>,
}

fn mutations(target: &Target, corpus: &[(PathBuf, Vec<u8>)]) -> Ran {
    let each = number("ZERKALO_MUTATIONS").unwrap_or(MUTATIONS);
    let time = number("ZERKALO_MUTATION_SECS").map(Duration::from_secs);
    let salt = number("ZERKALO_MUTATION_SEED").unwrap_or(0);
    let (began, mut ran) = (Instant::now(), Ran::default());
    for round in 0.. {
        let is_over = time.map_or(round >= each, |time| began.elapsed() >= time);
        if is_over || ran.failed.len() > 10 {
            break;
        }
        for (index, (_, bytes)) in corpus.iter().enumerate() {
            let mut dice = Dice::of(target.name, salt << 48 ^ (index as u64) << 32 ^ round);
            let other = &corpus[(index + round as usize) % corpus.len()].1;
            let made = mutated(bytes, other, &mut dice);
            ran.count += 1;
            match guarded(target, &made) {
                Ok(read) => ran.refused += u64::from(read == Read::Refused),
                Err(why) => {
                    let path = keep(target, &made);
                    ran.failed.push(format!("{}: {why}; kept as {}", target.name, path.display()));
                }
            }
        }
    }
    if time.is_some() {
        println!(
            "{}: {} mutations, {} refused, in {:?}",
            target.name,
            ran.count,
            ran.refused,
            began.elapsed()
        );
    }
    ran
}

fn keep(target: &Target, bytes: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
    std::fs::create_dir_all(&dir).unwrap();
    let digest = Dice::of(&String::from_utf8_lossy(bytes), 0);
    let path = dir.join(format!("{}-{digest:x?}", target.name).replace(['(', ')'], "-"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The table, the fuzz crate, the corpora and its description name the same targets.
fn every_target_has_its_fuzz_target_and_no_other() {
    let table: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(table.len(), TARGETS.len(), "a name stands twice");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let bins = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(bins.map(str::to_owned).collect::<BTreeSet<_>>(), table);
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for name in &table {
        let source = std::fs::read_to_string(root().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("run(\"{name}\", bytes)")), "{name}: {source}");
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in fuzz/README.md");
    }
    for kind in ["corpus", "regressions"] {
        for entry in std::fs::read_dir(root().join(kind)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(table.contains(&name), "fuzz/{kind}/{name} is no target's");
        }
    }
}
