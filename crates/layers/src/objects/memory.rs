//! Objects in memory: for tests, and for decoders that are given bytes of any kind.

use super::{NewObject, Object, Objects};
use crate::error::StorageError;
use bytes::Bytes;
use parking_lot::Mutex;
use quire_files::Durability;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Contents = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// Objects that end with the process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryFolder {
    contents: Contents,
}

#[derive(Debug)]
struct OpenBytes {
    path: PathBuf,
    content: Bytes,
}

#[derive(Debug)]
struct NewBytes {
    contents: Contents,
    name: String,
    written: Vec<u8>,
}

impl MemoryFolder {
    fn get(&self, name: &str) -> Option<Bytes> {
        self.contents.lock().get(name).cloned()
    }
}

impl Objects for MemoryFolder {
    fn open(&self, name: &str) -> Result<Box<dyn Object>, StorageError> {
        let path = self.locate(name);
        let content = self.get(name).ok_or_else(|| not_found("open", &path))?;
        Ok(Box::new(OpenBytes { path, content }))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.get(name).map(Vec::from))
    }

    fn create(&self, name: &str) -> Result<Box<dyn NewObject>, StorageError> {
        let contents = Arc::clone(&self.contents);
        Ok(Box::new(NewBytes { contents, name: name.to_owned(), written: Vec::new() }))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        self.contents.lock().insert(name.to_owned(), Bytes::copy_from_slice(content));
        Ok(())
    }

    fn remove(&self, name: &str, _durability: Durability) -> Result<(), StorageError> {
        let removed = self.contents.lock().remove(name);
        removed.map(drop).ok_or_else(|| not_found("remove", &self.locate(name)))
    }

    fn list(&self) -> Result<Vec<(String, u64)>, StorageError> {
        let contents = self.contents.lock();
        Ok(contents.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect())
    }

    fn locate(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

impl Object for OpenBytes {
    fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.content.get(offset..));
        let found = from.and_then(|from| from.get(..into.len()));
        let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
        into.copy_from_slice(found.map_err(StorageError::io("read", &self.path))?);
        Ok(())
    }
}

impl NewObject for NewBytes {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.written.extend_from_slice(bytes);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written.len() as u64
    }

    fn put(self: Box<Self>) -> Result<(), StorageError> {
        let NewBytes { contents, name, written } = *self;
        let mut contents = contents.lock();
        if contents.contains_key(&name) {
            return Err(StorageError::io("create", Path::new(&name))(io::ErrorKind::AlreadyExists.into()));
        }
        contents.insert(name, written.into());
        Ok(())
    }
}

fn not_found(action: &'static str, path: &Path) -> StorageError {
    StorageError::io(action, path)(io::ErrorKind::NotFound.into())
}
