//! The data folder: where a node keeps everything, and the lock that keeps a second one out.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A data folder that this process owns until it ends.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// It cannot be made, read or written.
    #[error(
        "the data folder {0} cannot be used: {1}; make it writable and make room there, or name \
         another"
    )]
    Io(PathBuf, io::Error),
    /// Another process has it.
    #[error("the data folder {0} is in use by another gateway; stop that one or name another")]
    InUse(PathBuf),
}

impl DataFolder {
    /// Makes the folder if it is not there, and locks it. What is seen in it from now on is there
    /// after a loss of power, too: a segment that was removed does not come back.
    pub fn open(path: &Path) -> Result<Self, DataFolderError> {
        let fault = |fault| DataFolderError::Io(path.to_owned(), fault);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(fault)?;
        builder.create(path.join("journal")).map_err(fault)?;
        let lock = File::create(path.join("lock")).map_err(fault)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataFolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(fault(error)),
        }
        for folder in [path, &path.join("journal")] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(fault)?;
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The journal's segments.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }
}
