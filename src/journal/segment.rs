//! Segment files of the journal. They are preallocated, so that a full disk is noticed before a
//! call is admitted.

use std::fs::{File, OpenOptions, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// The name of a segment file. All chains of one run share its run number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The number of the run, counted from 1.
    pub run: u32,
    /// The worker that writes the segment.
    pub worker: u16,
    /// The position in the chain, from 0.
    pub number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName {
    pub run: u32,
    pub worker: u16,
}

impl ChainName {
    /// Returns run and worker as one number, for SQL.
    pub const fn number(self) -> i64 {
        ((self.run as i64) << 16) | self.worker as i64
    }

    /// Returns the name of the chain's segment `number`.
    pub const fn segment(self, number: u32) -> SegmentName {
        SegmentName { run: self.run, worker: self.worker, number }
    }
}

impl SegmentName {
    pub const fn chain(self) -> ChainName {
        ChainName { run: self.run, worker: self.worker }
    }

    /// Returns the path of the file in `folder`.
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

    /// Creates the file with all its blocks allocated and zeroed; zeros mark what is not written
    /// yet. Truncates what an earlier failed attempt left, because no other run uses this name.
    pub fn create(self, folder: &Path, bytes: u64) -> io::Result<File> {
        let path = self.path(folder);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path)?;
        if let Err(fault) = fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Removal may fail as well if the disk is full or read-only.
            let _ = std::fs::remove_file(path);
            return Err(fault.into());
        }
        Ok(file)
    }

    pub fn open(self, folder: &Path) -> io::Result<File> {
        File::open(self.path(folder))
    }
}

/// Lists all segments in `folder`, ordered by run, worker and number.
pub fn list(folder: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for file in read_dir(folder)? {
        names.extend(file?.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
}
