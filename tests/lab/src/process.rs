//! Child processes that cannot outlive us, and a temporary home that does not either.
//!
//! Every child dies with this process, however it dies (Linux's parent-death signal). A directory cannot: a tiny shell
//! waits for our end of its pipe to close and removes it, even after SIGKILL.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// Lines of a child's log shown when it fails.
const LOG_TAIL_LINES: usize = 15;

/// Finds a program of this workspace beside the running one (or beside `deps/`, where test binaries lie).
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this program lies")?;
    let dirs: Vec<&Path> = exe.ancestors().skip(1).take(2).collect();
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
        format!(
            "{name} is not beside this program in {}: build it first (`make demo` does)",
            dirs[0].display()
        )
    })
}

/// A running child, and how to start it again.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` with its output going to `log`, which is appended to.
    ///
    /// The parent-death signal is tied to the thread that forks: call this from a thread that lives as long as the
    /// children should, such as a runtime's worker.
    pub fn start(name: &str, program: &Path, args: &[&str], log: &Path) -> Result<Self> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(program, &args, log)?;
        Ok(Self { name: name.to_owned(), program: program.to_owned(), args, log: log.to_owned(), child })
    }

    /// Starts the same once more; the one before must be dead.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.program, &self.args, &self.log)?;
        Ok(())
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id; `None` once it ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails, with the end of its log, if it is no longer running.
    pub fn require_running(&mut self) -> Result<()> {
        match self.ended() {
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, tail(&self.log)),
            None => Ok(()),
        }
    }

    /// Waits for its end; fails, with the end of its log, unless it succeeds.
    pub async fn succeed(mut self) -> Result<()> {
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(());
        }
        bail!("{} failed ({status}):\n{}", self.name, tail(&self.log))
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// A directory that goes when we go.
#[derive(Debug)]
pub struct Home {
    dir: tempfile::TempDir,
    _sweeper: std::process::Child,
}

impl Home {
    /// Makes the directory and the shell that will remove it.
    pub fn create() -> Result<Self> {
        Self::create_in(&std::env::temp_dir())
    }

    /// The same in a directory of the caller's choice.
    pub fn create_in(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("zerkalo-lab-").tempdir_in(parent);
        let dir = dir.context("no temporary directory")?;
        // Dying children may still write, on a busy machine for long: another look catches what they made.
        let script = "cat >/dev/null; i=0; while [ $i -lt 150 ]; do rm -rf \"$0\" && [ ! -e \"$0\" ] && break; \
                      i=$((i + 1)); sleep 0.2; done";
        let sweeper = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Self { dir, _sweeper: sweeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn spawn(program: &Path, args: &[String], log: &Path) -> Result<Child> {
    let open = || File::options().create(true).append(true).open(log);
    let (out, err) = (open()?, open()?);
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    die_with_us(&mut command);
    let spawned = Command::from(command).kill_on_drop(true).spawn();
    spawned.with_context(|| format!("cannot start {}", program.display()))
}

/// Has the kernel kill the child when the thread that forks it dies.
#[allow(unsafe_code)]
fn die_with_us(command: &mut std::process::Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure makes only async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the request was made.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_fails_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let start =
            |script: &str| Process::start("child", Path::new("/bin/sh"), &["-c", script], &log).unwrap();
        start("exit 0").succeed().await.unwrap();
        let error = start("echo no luck >&2; exit 3").succeed().await.unwrap_err().to_string();
        assert!(error.contains("child failed") && error.contains("no luck"), "{error}");
        let mut sleeper = start("sleep 600");
        sleeper.require_running().unwrap();
        sleeper.kill().await.unwrap();
        assert!(sleeper.require_running().is_err());
    }

    #[test]
    fn a_home_goes_with_its_owner() {
        let home = Home::create().unwrap();
        let path = home.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = program("zerkalo-nonesuch").unwrap_err().to_string();
        assert!(
            error.contains("zerkalo-nonesuch is not beside") && error.contains("build it first"),
            "{error}"
        );
    }
}
