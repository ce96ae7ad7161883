//! System calls that lie, by a filter of the kernel's (seccomp): the programs under test stay as they are.

use std::collections::BTreeMap;

use anyhow::Result;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Numbers of fsync, fdatasync, sync_file_range and syncfs.
#[cfg(target_arch = "x86_64")]
const SYNCS: [i64; 4] = [74, 75, 277, 306];
#[cfg(target_arch = "aarch64")]
const SYNCS: [i64; 4] = [82, 83, 84, 267];
/// The error of a disk that fails.
pub const EIO: u32 = 5;

/// What a sync says from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// Success, though nothing was done: the negative control of every power cut.
    Succeed,
    /// That the disk failed.
    Fail,
}

/// Makes every sync of this thread, and of all threads it starts from now on, say so. There is no way back.
pub fn lie(syncs: Syncs) -> Result<()> {
    let errno = match syncs {
        Syncs::Succeed => 0,
        Syncs::Fail => EIO,
    };
    let rules: BTreeMap<_, _> = SYNCS.into_iter().map(|number| (number, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into()?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
