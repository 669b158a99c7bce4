//! Where the files of a shard are kept: the seam between the engine and its storage.
//!
//! Layers, the manifest and small files are *objects*, each with a name of its own. A layer is put under a name that
//! nobody had, and never changes; the manifest and small files are replaced whole. An object appears under its name
//! whole and durable, or not at all, whatever happens meanwhile.
//!
//! [`LocalFolder`] keeps them as files of one directory, [`MemoryFolder`] in memory. `objects/tests.rs` asks of every
//! implementation what is promised here.

mod local;
mod memory;

#[cfg(test)]
mod tests;

pub use local::LocalFolder;
pub use memory::MemoryFolder;

use crate::error::StorageError;
use quire_files::Durability;
use std::fmt;
use std::path::PathBuf;

/// The objects of one shard.
///
/// # Errors
/// Of every method: [`StorageError::Io`] if nothing has changed, [`StorageError::Unsettled`] if that is not known.
pub trait Objects: fmt::Debug + Send + Sync {
    /// Opens an object to read ranges of it. It stays readable after it was removed.
    fn open(&self, name: &str) -> Result<Box<dyn Object>, StorageError>;

    /// The whole of a small object; none if no object has the name.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError>;

    /// Begins an object that is put under `name` once it is whole, unless another has the name by then.
    fn create(&self, name: &str) -> Result<Box<dyn NewObject>, StorageError>;

    /// Puts a small object in place of what has the name, if anything has.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StorageError>;

    /// Removes an object. With [`Durability::Process`] it may be back after a crash of the machine.
    fn remove(&self, name: &str, durability: Durability) -> Result<(), StorageError>;

    /// The names of all objects, and how many bytes each has, in no order.
    fn list(&self) -> Result<Vec<(String, u64)>, StorageError>;

    /// Where an object is, for messages.
    fn locate(&self, name: &str) -> PathBuf;
}

/// An object that is open to be read.
pub trait Object: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> u64;

    /// Fills `into` with its bytes from `offset` on.
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<(), StorageError>;
}

/// An object in the making. Dropped before [`NewObject::put`], it leaves nothing.
pub trait NewObject: fmt::Debug + Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// Bytes written so far.
    fn written(&self) -> u64;

    /// Puts it under its name, durably; an error if another object has the name.
    fn put(self: Box<Self>) -> Result<(), StorageError>;
}
