//! Programs as executors: what they are given, and what becomes of those that hang, flood, fail or leave others behind.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use zerkalo_collector::config::ProgramConfig;
use zerkalo_collector::executor::program::{Program, ProgramError};
use zerkalo_collector::executor::{Errand, Notice, Outlook};

use crate::world::PATIENCE;

struct Script {
    dir: TempDir,
    program: Program,
}

impl Script {
    fn new(text: &str, timeout_secs: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("act");
        // Written under another name: a file that is open for writing cannot be executed.
        let text = format!("#!/bin/sh\n{text}\n");
        std::fs::write(dir.path().join("draft"), text).unwrap();
        std::fs::set_permissions(dir.path().join("draft"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(dir.path().join("draft"), &path).unwrap();
        let arguments = vec!["one argument; $HOME".to_owned()];
        let program = Program::new(ProgramConfig {
            program: path,
            arguments,
            dir: dir.path().to_owned(),
            timeout_secs,
        });
        Self { dir, program }
    }

    async fn run(&self) -> Result<(), ProgramError> {
        self.run_with(decision("why")).await
    }

    async fn run_with(&self, decision: serde_json::Value) -> Result<(), ProgramError> {
        let logged = decision.to_string();
        let notice = Notice::Decision(Box::new(serde_json::from_value(decision).unwrap()));
        let errand = Errand { id: "kz-000007-2", notice: &notice, logged: logged.as_bytes() };
        tokio::time::timeout(PATIENCE, self.program.attempt(&errand)).await.expect("it ends in time")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Waits until the process whose number a file holds is gone, or a zombie that its new parent has yet to bury.
    async fn dies(&self, name: &str) {
        let stat = PathBuf::from("/proc").join(self.read(name).trim()).join("stat");
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let wait = async {
            while !gone() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is killed");
    }
}

fn decision(reason: &str) -> serde_json::Value {
    json!({
        "id": "kz-000007", "number": 7, "at": 1, "market": "kz", "mirror": "m1", "url": "https://m1.example/",
        "action": "rotate", "effect": "act", "replacement": {"mirror": "m2", "url": "https://m2.example/"},
        "reasons": [reason], "carriers": [], "evidence": [], "rules_version": "", "policy_version": "",
        "journal_position": 1,
    })
}

#[tokio::test]
async fn a_program_is_given_the_decision_a_key_and_nothing_of_the_collectors_environment() {
    let script = Script::new("cat > got; env > env; printf %s \"$1\" > argument", 20);
    script.run().await.unwrap();
    let got: serde_json::Value = serde_json::from_str(&script.read("got")).unwrap();
    assert_eq!(got["type"], "zerkalo.decision");
    assert_eq!(got["idempotency_key"], "kz-000007-2");
    assert_eq!(got["data"]["replacement"]["mirror"], "m2");
    assert_eq!(script.read("argument"), "one argument; $HOME", "no shell of ours read it");
    let env = script.read("env");
    let names: std::collections::BTreeSet<_> =
        env.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.contains("ZERKALO_IDEMPOTENCY_KEY") && names.contains("PATH"), "{env}");
    // What the shell itself sets may be there too.
    let others: Vec<_> = names.iter().filter(|name| std::env::var_os(name).is_some()).collect();
    assert!(others.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)), "{others:?}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_everything_it_started() {
    let script = Script::new("sleep 600 & echo $! > child; echo waiting >&2; sleep 600", 1);
    let error = script.run().await.unwrap_err().to_string();
    assert_eq!(error, "it ran longer than 1 s and was killed, saying \"waiting\"");
    script.dies("child").await;
}

#[tokio::test]
async fn exit_codes_signals_and_the_last_words_are_told_apart() {
    let said = async |text| Script::new(text, 20).run().await.unwrap_err().to_string();
    assert_eq!(
        said("echo first >&2; echo the zone is locked >&2; exit 75").await,
        "it asked to be tried again later (exit code 75), saying \"the zone is locked\""
    );
    assert_eq!(said("exit 3").await, "it ended with exit status: 3, without a word");
    let killed = said("echo oh >&2; kill -9 $$").await;
    assert!(killed.contains("signal: 9") && killed.ends_with("saying \"oh\""), "{killed}");
    let script = Script::new("exit 0", 20);
    std::fs::remove_file(script.path("act")).unwrap();
    let error = script.run().await.unwrap_err().to_string();
    assert!(error.contains("act cannot be started"), "{error}");
}

#[tokio::test]
async fn an_exit_code_is_a_no_and_a_hang_a_signal_or_75_is_none() {
    let outlook = async |script: Script| script.run().await.unwrap_err().outlook();
    assert_eq!(outlook(Script::new("exit 75", 20)).await, Outlook::Passing);
    assert_eq!(outlook(Script::new("kill -9 $$", 20)).await, Outlook::Passing);
    assert_eq!(outlook(Script::new("sleep 600", 1)).await, Outlook::Passing);
    assert_eq!(outlook(Script::new("exit 1", 20)).await, Outlook::Refused);
    let gone = Script::new("exit 0", 20);
    std::fs::remove_file(gone.path("act")).unwrap();
    assert_eq!(outlook(gone).await, Outlook::Refused);
}

#[tokio::test]
async fn a_flood_of_nonsense_costs_nothing_but_time() {
    let script = Script::new("head -c 30000000 /dev/urandom; head -c 3000000 /dev/zero >&2; exit 4", 20);
    let error = script.run().await.unwrap_err().to_string();
    assert!(error.starts_with("it ended with exit status: 4") && error.len() < 1_000, "{}", error.len());
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_judged_by_its_exit_code_alone() {
    // More than any pipe holds.
    Script::new("exit 0", 20).run_with(decision(&"x".repeat(1_000_000))).await.unwrap();
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed_and_not_waited_for() {
    let script = Script::new("sleep 600 & echo $! > child; exit 0", 20);
    script.run().await.unwrap();
    script.dies("child").await;
}

#[tokio::test]
async fn an_attempt_cut_off_leaves_no_process() {
    let script = Script::new("sleep 600 & echo $! > draft-child; mv draft-child child; sleep 600", 500);
    let started = async {
        while !script.path("child").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        result = script.run() => panic!("it ended: {result:?}"),
        () = started => {}
    }
    script.dies("child").await;
}
