//! The one way in which files come into being: written aside, synced, renamed, and the directory synced.
//!
//! A reader sees the whole file under its name or no file. What a crash leaves behind ends in [`TEMPORARY_SUFFIX`] and
//! is removed when the branch is opened.

use crate::error::StorageError;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Ends the name of a file that is not published yet.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file that is being written and has no name yet. Dropped without [`Staged::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    out: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    written: u64,
}

impl Staged {
    /// Starts the file that will be `target`.
    pub fn create(target: &Path) -> Result<Staged, StorageError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(TEMPORARY_SUFFIX);
        let temporary = target.with_file_name(name);
        let file = File::create(&temporary).map_err(StorageError::io("create", &temporary))?;
        Ok(Staged { out: BufWriter::with_capacity(1 << 18, file), temporary, target: target.to_owned(), written: 0 })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.out.write_all(bytes).map_err(StorageError::io("write", &self.temporary))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the file durable under its name. After an error the name holds what it held before, unless the error is
    /// [`StorageError::Unsettled`]: then whoever cares must look again after a restart.
    pub fn publish(mut self) -> Result<(), StorageError> {
        fault::point().map_err(StorageError::io("write", &self.temporary))?;
        self.out.flush().map_err(StorageError::io("write", &self.temporary))?;
        self.out.get_ref().sync_all().map_err(StorageError::io("sync", &self.temporary))?;
        fault::point().map_err(StorageError::unsettled("rename", &self.target))?;
        fs::rename(&self.temporary, &self.target).map_err(StorageError::unsettled("rename", &self.target))?;
        let synced = fault::point().and_then(|()| sync_parent(&self.target));
        synced.map_err(StorageError::unsettled("sync the directory of", &self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a publish there is nothing to remove, and a left-over is removed at the next open anyway.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Publishes a small file in one go.
pub fn publish(target: &Path, content: &[u8]) -> Result<(), StorageError> {
    let mut staged = Staged::create(target)?;
    staged.write(content)?;
    staged.publish()
}

/// Removes a file, durably. Whether it is gone after an error is not known.
pub fn remove(target: &Path) -> Result<(), StorageError> {
    let removed = fault::point().and_then(|()| fs::remove_file(target)).and_then(|()| sync_parent(target));
    removed.map_err(StorageError::unsettled("remove", target))
}

/// Creates a directory with its parents, durably.
pub fn create_directory(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    fs::create_dir(path).map_err(StorageError::io("create", path))?;
    sync_parent(path).map_err(StorageError::io("sync the parent of", path))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Lets a test fail the Nth step of publishing on its thread; costs nothing elsewhere.
pub(crate) mod fault {
    use std::io;

    #[cfg(not(test))]
    pub(super) fn point() -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    thread_local! {
        static STEPS_LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }

    #[cfg(test)]
    pub(super) fn point() -> io::Result<()> {
        match STEPS_LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("injected fault")),
            Some(left) => {
                STEPS_LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    /// Every step after `steps` good ones fails, until this is called with `None`.
    #[cfg(test)]
    pub(crate) fn fail_after(steps: Option<u32>) {
        STEPS_LEFT.set(steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpublished_file_leaves_nothing_and_a_published_one_replaces_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("manifest");
        publish(&target, b"old").unwrap();
        let mut staged = Staged::create(&target).unwrap();
        staged.write(b"new").unwrap();
        drop(staged);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        publish(&target, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_fault_keeps_the_old_file_or_says_that_it_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("manifest");
        publish(&target, b"old").unwrap();
        for (steps, unsettled) in [(0, false), (1, true), (2, true)] {
            fault::fail_after(Some(steps));
            let error = publish(&target, b"new").expect_err("injected");
            fault::fail_after(None);
            assert_eq!(matches!(error, StorageError::Unsettled { .. }), unsettled, "{error}");
            assert!(unsettled || fs::read(&target).unwrap() == b"old");
        }
    }
}
