//! A disk in our hands: one file under FUSE that logs every write and flush. It caches nothing and reorders nothing:
//! what a power cut would do to it is `cut.rs`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

/// The file's name in its directory.
pub const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
/// How long the kernel may believe what we say of the file: it never changes.
const TTL: Duration = Duration::from_secs(3_600);
/// Largest write taken at once, in bytes.
const WRITE_LEN_MAX: u32 = 1024 * 1024;

/// What the disk was told, in order.
#[derive(Debug, Clone)]
pub enum Step {
    Write {
        at_nanos: u64,
        offset: u64,
        data: Vec<u8>,
    },
    /// Everything written before it is safe.
    Flush {
        at_nanos: u64,
    },
}

impl Step {
    /// When it came.
    pub fn at_nanos(&self) -> u64 {
        match self {
            Self::Write { at_nanos, .. } | Self::Flush { at_nanos } => *at_nanos,
        }
    }
}

/// The disk's content, and how it came to be.
#[derive(Debug, Default)]
pub struct Disk {
    pub content: Vec<u8>,
    pub steps: Vec<Step>,
    /// The next write that holds these bytes fails, and is not carried out.
    failing: Option<&'static [u8]>,
    /// Writes that failed.
    failed: u64,
}

/// A disk on its mount point; gone when dropped.
pub struct Served {
    disk: Arc<Mutex<Disk>>,
    _session: BackgroundSession,
}

impl Served {
    /// Serves a disk of `content` as `dir`/[`NAME`].
    pub fn start(dir: &Path, content: Vec<u8>) -> io::Result<Self> {
        let disk = Arc::new(Mutex::new(Disk { content, ..Disk::default() }));
        let session = fuser::spawn_mount(Handle(disk.clone()), dir, &Config::default())?;
        Ok(Self { disk, _session: session })
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<Step> {
        lock(&self.disk).steps.clone()
    }

    /// What the disk holds.
    pub fn content(&self) -> Vec<u8> {
        lock(&self.disk).content.clone()
    }

    /// The next write that holds `needle` fails and is not carried out, as on a worn-out sector.
    pub fn fail_next(&self, needle: &'static [u8]) {
        lock(&self.disk).failing = Some(needle);
    }

    /// Writes that failed so far.
    pub fn failed(&self) -> u64 {
        lock(&self.disk).failed
    }
}

/// The machine's monotonic clock, the same in every process.
pub fn monotonic_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

struct Handle(Arc<Mutex<Disk>>);

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            _ => (FileType::RegularFile, 0o600, lock(&self.0).content.len() as u64),
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4_096,
        }
    }
}

impl Filesystem for Handle {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Where the kernel offers less, smaller writes do.
        let _ = config.set_max_write(WRITE_LEN_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Without the kernel's page cache: what the loop device writes comes here at once.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = lock(&self.0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(disk.content.len());
        let end = start.saturating_add(size as usize).min(disk.content.len());
        reply.data(&disk.content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut disk = lock(&self.0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let holds = |needle: &[u8]| data.windows(needle.len()).any(|part| part == needle);
        if disk.failing.is_some_and(holds) {
            disk.failing = None;
            disk.failed += 1;
            return reply.error(Errno::EIO);
        }
        let Some(place) = disk.content.get_mut(start..start.saturating_add(data.len())) else {
            return reply.error(Errno::ENOSPC);
        };
        place.copy_from_slice(data);
        disk.steps.push(Step::Write { at_nanos: monotonic_nanos(), offset, data: data.to_vec() });
        drop(disk);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.0).steps.push(Step::Flush { at_nanos: monotonic_nanos() });
        reply.ok();
    }
}
