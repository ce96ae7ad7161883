//! Images with ext4 in them, and their mounts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Page size of the images; pages of zeros are left as holes.
const PAGE_LEN: usize = 4_096;
/// How long an unmount may find the file system busy.
const UNMOUNT_WAIT_MAX: Duration = Duration::from_secs(10);

/// The bytes of an empty ext4 of `len` bytes, made in `dir`.
pub fn empty_ext4(dir: &Path, len: u64) -> Result<Vec<u8>> {
    let path = dir.join("empty");
    File::create(&path)?.set_len(len)?;
    // Everything is written now: no thread of the kernel's writes to it behind our back later.
    let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-E", options]).arg(&path))?;
    let bytes = fs::read(&path)?;
    fs::remove_file(&path)?;
    Ok(bytes)
}

/// Writes an image, leaving holes for zeros.
pub fn write_sparse(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(content.len() as u64)?;
    for (number, page) in content.chunks(PAGE_LEN).enumerate() {
        // Slices are compared fast even in debug builds.
        if *page != [0; PAGE_LEN][..page.len()] {
            file.write_all_at(page, (number * PAGE_LEN) as u64)?;
        }
    }
    Ok(())
}

/// A mounted image; unmounted when dropped.
pub struct Mounted {
    dir: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts `image` on `dir`, made if absent; ext4 replays its journal.
    pub fn new(image: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(dir))?;
        Ok(Self { dir: dir.to_owned(), is_mounted: true })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it; waits for threads that still hold files in it.
    pub fn unmount(mut self) -> Result<()> {
        self.is_mounted = false;
        let began = Instant::now();
        loop {
            match run(Command::new("umount").arg(&self.dir)) {
                Err(error) if began.elapsed() > UNMOUNT_WAIT_MAX => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
                Ok(()) => return Ok(()),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            // The mount namespace ends with the process, and with it whatever stays mounted.
            let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
