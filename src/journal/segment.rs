//! Segments: the files of a chain. Preallocated, so that a full disk is met before a call is.

use std::fs::{File, OpenOptions, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// Which file: the chains of one run of the process share its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The start of the process, counted from 1.
    pub run: u32,
    /// The worker that writes it.
    pub worker: u16,
    /// Its place in the chain, from 0.
    pub number: u32,
}

/// A chain: one worker's segments of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName {
    /// The start of the process.
    pub run: u32,
    /// The worker.
    pub worker: u16,
}

impl ChainName {
    /// As one number, for SQL.
    pub const fn number(self) -> i64 {
        ((self.run as i64) << 16) | self.worker as i64
    }

    /// The chain's segment of that number.
    pub const fn segment(self, number: u32) -> SegmentName {
        SegmentName { run: self.run, worker: self.worker, number }
    }
}

impl SegmentName {
    /// The chain it belongs to.
    pub const fn chain(self) -> ChainName {
        ChainName { run: self.run, worker: self.worker }
    }

    /// Where it lies in `folder`.
    pub fn path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{:08}-{:03}-{:08}.journal", self.run, self.worker, self.number))
    }

    fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_suffix(".journal")?.split('-');
        let name = Self {
            run: parts.next()?.parse().ok()?,
            worker: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(name)
    }

    /// Makes the file with all its blocks; zeros mark where nothing is written yet. What an
    /// attempt that failed has left is overwritten: no other run has this name.
    pub fn create(self, folder: &Path, bytes: u64) -> io::Result<File> {
        let path = self.path(folder);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path)?;
        if let Err(fault) = fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // A disk on which nothing can be made may let nothing be removed either.
            let _ = std::fs::remove_file(path);
            return Err(fault.into());
        }
        Ok(file)
    }

    /// Opens it for reading.
    pub fn open(self, folder: &Path) -> io::Result<File> {
        File::open(self.path(folder))
    }
}

/// All segments in `folder`, in the order of runs, workers and numbers.
pub fn list(folder: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for file in read_dir(folder)? {
        names.extend(file?.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
}
