//! Objects as files of a directory.

use super::{NewObject, Object, Objects};
use crate::error::StorageError;
use quire_files::{ASIDE_SUFFIX, Durability, Staged, remove_leftovers, sync_folder_of};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The objects of a directory.
#[derive(Debug)]
pub struct LocalFolder {
    dir: PathBuf,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

#[derive(Debug)]
struct NewFile {
    staged: Staged,
    path: PathBuf,
}

impl LocalFolder {
    /// Objects of a directory that was just made.
    pub fn new(dir: &Path) -> LocalFolder {
        LocalFolder { dir: dir.to_owned() }
    }

    /// Those that a process before this one may have left in a directory, with its names and those of the directories
    /// above made durable: a crash of the process may have come between a rename and that, and what is read now is told
    /// to others, who remove their WAL. What was never put is removed.
    pub fn open(dir: &Path) -> Result<LocalFolder, StorageError> {
        let inside = dir.join("object");
        let mut names = std::iter::once(inside.as_path()).chain(dir.ancestors().take(3));
        names.try_for_each(|name| sync_folder_of(name).map_err(StorageError::io("sync the directory of", name)))?;
        remove_leftovers(dir).map_err(StorageError::io("remove what was never put from", dir))?;
        Ok(LocalFolder::new(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Objects for LocalFolder {
    fn open(&self, name: &str) -> Result<Box<dyn Object>, StorageError> {
        let path = self.path(name);
        let file = File::open(&path).map_err(StorageError::io("open", &path))?;
        let bytes = file.metadata().map_err(StorageError::io("stat", &path))?.len();
        Ok(Box::new(OpenFile { path, file, bytes }))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read", &path)(error)),
        }
    }

    fn create(&self, name: &str) -> Result<Box<dyn NewObject>, StorageError> {
        let path = self.path(name);
        Ok(Box::new(NewFile { staged: Staged::create(&path)?, path }))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        Ok(quire_files::publish(&self.path(name), content, Durability::Machine)?)
    }

    fn remove(&self, name: &str, durability: Durability) -> Result<(), StorageError> {
        let path = self.path(name);
        match durability {
            Durability::Machine => Ok(quire_files::remove(&path)?),
            Durability::Process => fs::remove_file(&path).map_err(StorageError::io("remove", &path)),
        }
    }

    fn list(&self) -> Result<Vec<(String, u64)>, StorageError> {
        let failed = StorageError::io("list", &self.dir);
        let list = || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if metadata.is_file() && !name.ends_with(ASIDE_SUFFIX) {
                    found.push((name, metadata.len()));
                }
            }
            Ok(found)
        };
        list().map_err(failed)
    }

    fn locate(&self, name: &str) -> PathBuf {
        self.path(name)
    }
}

impl Object for OpenFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.file.read_exact_at(into, offset).map_err(StorageError::io("read", &self.path))
    }
}

impl NewObject for NewFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        Ok(self.staged.write(bytes)?)
    }

    fn written(&self) -> u64 {
        self.staged.written()
    }

    fn put(self: Box<Self>) -> Result<(), StorageError> {
        if self.staged.publish_if_absent(Durability::Machine)? {
            Ok(())
        } else {
            Err(StorageError::io("create", &self.path)(io::ErrorKind::AlreadyExists.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_object_is_replaced_and_what_was_never_put_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = LocalFolder::new(dir.path());
        assert_eq!(objects.read("state").unwrap(), None);
        objects.replace("state", b"before").unwrap();
        objects.replace("state", b"now").unwrap();
        assert_eq!(objects.read("state").unwrap().as_deref(), Some(&b"now"[..]));
        let mut unfinished = objects.create("layer").unwrap();
        unfinished.write(b"half").unwrap();
        std::mem::forget(unfinished);
        let objects = LocalFolder::open(dir.path()).unwrap();
        assert_eq!(objects.list().unwrap(), [("state".to_owned(), 3)]);
        objects.remove("state", Durability::Machine).unwrap();
        assert_eq!((objects.list().unwrap(), objects.read("state").unwrap()), (vec![], None));
    }
}
