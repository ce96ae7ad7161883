//! Runs a program of the operator's for a decision: no shell, the decision as JSON on its standard input.
//!
//! It gets a process group of its own, which is killed when the program ends or its time is up, whatever it left
//! behind. Its environment is PATH and the idempotency key, nothing else: no secret of the collector's reaches it.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use super::{Errand, Outlook};
use crate::config::ProgramConfig;

/// The idempotency key in the program's environment; in its JSON it is `idempotency_key`.
pub const KEY_VARIABLE: &str = "ZERKALO_IDEMPOTENCY_KEY";
/// "Try again later", in sysexits.h.
const EX_TEMPFAIL: i32 = 75;
/// Longest line of standard error that is kept: it goes into a log and a table.
const LINE_LEN_MAX: usize = 300;
/// Bytes read at once from what it writes.
const PIPE_READ_LEN: usize = 8 * 1024;
/// How long pipes may stay open once the whole group is killed: who still holds them has left the group.
const PIPES_WAIT: Duration = Duration::from_secs(1);
/// How long a killed program may take to be gone.
const REAP_WAIT: Duration = Duration::from_secs(5);

/// One program.
pub struct Program {
    config: ProgramConfig,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{} cannot be started", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("it ran longer than {limit_secs} s and was killed{said}")]
    Timeout { limit_secs: u64, said: Said },
    #[error("it asked to be tried again later (exit code {EX_TEMPFAIL}){said}")]
    Later { said: Said },
    #[error("it ended with {status}{said}")]
    Failed { status: ExitStatus, said: Said },
    #[error("its end cannot be waited for")]
    Wait(#[source] std::io::Error),
}

impl ProgramError {
    /// What another attempt may bring: an exit code says no, a signal, a late end or a full machine may not come again.
    pub fn outlook(&self) -> Outlook {
        use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
        match self {
            Self::Start { source, .. }
                if matches!(source.kind(), NotFound | PermissionDenied | InvalidInput) =>
            {
                Outlook::Refused
            }
            Self::Failed { status, .. } if status.code().is_some() => Outlook::Refused,
            Self::Start { .. }
            | Self::Timeout { .. }
            | Self::Later { .. }
            | Self::Failed { .. }
            | Self::Wait(_) => Outlook::Passing,
        }
    }
}

/// The last line a program wrote to its standard error, ready to stand behind a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str(", without a word") } else { write!(f, ", saying {:?}", self.0) }
    }
}

impl Program {
    /// Nothing is started yet.
    pub fn new(config: ProgramConfig) -> Self {
        Self { config }
    }

    /// One run; dropping it kills the group.
    pub async fn attempt(&self, errand: &Errand<'_>) -> Result<(), ProgramError> {
        let input = errand.notice.body(errand.logged, &format!(r#""idempotency_key":"{}","#, errand.id));
        let mut child = self.start(errand.id)?;
        let mut group = Group::of(&child);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (gone, is_gone) = oneshot::channel::<()>();
        let ended = async {
            let status =
                tokio::time::timeout(Duration::from_secs(self.config.timeout_secs), child.wait()).await;
            group.kill();
            if status.is_err() {
                // Killed, so it ends; a zombie for a moment if not.
                let _ = tokio::time::timeout(REAP_WAIT, child.wait()).await;
            }
            drop(gone);
            status.ok()
        };
        let mut last = LastLine::default();
        let talk = async {
            let late = async {
                let _ = is_gone.await;
                tokio::time::sleep(PIPES_WAIT).await;
            };
            let all = async {
                tokio::join!(
                    feed(pipes.0, &input),
                    drain(pipes.1, |_| ()),
                    drain(pipes.2, |some| last.read(some))
                )
            };
            tokio::select! { _ = all => {}, () = late => {} }
        };
        let (status, ()) = tokio::join!(ended, talk);
        let said = last.finish();
        let Some(status) = status else {
            return Err(ProgramError::Timeout { limit_secs: self.config.timeout_secs, said });
        };
        let status = status.map_err(ProgramError::Wait)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(EX_TEMPFAIL) => Err(ProgramError::Later { said }),
            _ => Err(ProgramError::Failed { status, said }),
        }
    }

    fn start(&self, key: &str) -> Result<Child, ProgramError> {
        let program = &self.config.program;
        let mut command = Command::new(program);
        command.args(&self.config.arguments).env_clear().env(KEY_VARIABLE, key);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = pipes.current_dir(&self.config.dir).process_group(0).kill_on_drop(true).spawn();
        started.map_err(|source| ProgramError::Start { program: program.clone(), source })
    }
}

/// The processes a program started, itself among them: killed when this goes.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // Nobody left in it is the usual case.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whoever does not read what it is given is not waited for: the exit code says what became of it.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
    }
}

/// Reads to the end and keeps nothing itself, so that a flood costs time, which is limited, and no memory.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, mut see: impl FnMut(&[u8])) {
    let Some(mut pipe) = pipe else { return };
    let mut some = [0; PIPE_READ_LEN];
    while let Ok(len @ 1..) = pipe.read(&mut some).await {
        see(&some[..len]);
    }
}

/// The last line with anything in it, cut to [`LINE_LEN_MAX`].
#[derive(Debug, Default)]
struct LastLine {
    whole: Vec<u8>,
    growing: Vec<u8>,
}

impl LastLine {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if self.growing.trim_ascii().is_empty() => self.growing.clear(),
                b'\n' => self.whole = std::mem::take(&mut self.growing),
                byte if self.growing.len() < LINE_LEN_MAX => self.growing.push(*byte),
                _ => {}
            }
        }
    }

    fn finish(mut self) -> Said {
        self.read(b"\n");
        let text = String::from_utf8_lossy(&self.whole);
        // What goes to a terminal later must not steer it.
        let harmless: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Said(harmless.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_short_and_harmless() {
        let check = |written: &[&[u8]], expected: &str| {
            let mut last = LastLine::default();
            written.iter().for_each(|some| last.read(some));
            assert_eq!(last.finish(), Said(expected.to_owned()));
        };
        check(&[], "");
        check(&[b"one\ntw", b"o\n\n  \n"], "two");
        check(&[b"one\nlast without an end"], "last without an end");
        check(&[b"\x1b[31mred\xff\r\n"], "[31mred\u{fffd}");
        check(&[&[b'x'; 100_000], b"\n"], &"x".repeat(LINE_LEN_MAX));
        assert_eq!(Said::default().to_string(), ", without a word");
    }
}
