//! The data folder of a node, and the lock that excludes a second process.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A data folder, locked until this value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    #[error(
        "cannot use the data folder {0}: {1}; check permissions and free disk space, or choose \
         another folder"
    )]
    Io(PathBuf, io::Error),
    #[error("the data folder {0} is in use by another gateway; stop it or choose another folder")]
    InUse(PathBuf),
}

impl DataFolder {
    /// Creates the folder if it is missing, and locks it. Syncs the directories, so that a removed
    /// segment does not reappear after a power loss.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of the journal's segments.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }
}
