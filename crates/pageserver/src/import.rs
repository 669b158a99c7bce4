//! Filling a branch with the pages and files of a data directory.
//!
//! Everything lies at one LSN, where ingest will start. Values are gathered in a memtable and written out as layers as
//! it grows. The manifest is published last; a directory without one is an import that was not finished, and is removed.

use crate::accounts::Account;
use crate::error::StorageError;
use crate::image_policy::ImageSettings;
use crate::layer::LayerWriter;
use crate::manifest::{Manifest, Origin, RunEntry};
use crate::memtable::Memtable;
use crate::value::{Value, Version};
use bytes::Bytes;
use quire_types::Key;
use std::fs;
use std::path::{Path, PathBuf};

/// Why a value was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A page that is not 8 KiB long.
    #[error("the value of {0} is not a page")]
    NotAPage(Key),
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An import under way.
#[derive(Debug)]
pub struct Import {
    dir: PathBuf,
    manifest: Manifest,
    table: Memtable,
    memtable_bytes: usize,
}

impl Import {
    /// Begins in an empty `dir`, removing what an unfinished import left there.
    pub fn begin(
        dir: &Path,
        origin: Origin,
        settings: ImageSettings,
        memtable_bytes: usize,
    ) -> Result<Import, StorageError> {
        discard(dir)?;
        quire_files::create_folder(dir)?;
        let manifest = Manifest::new(origin, settings);
        Ok(Import { dir: dir.to_owned(), manifest, table: Memtable::default(), memtable_bytes })
    }

    /// Takes one value: a page for a page's key, anything for others.
    pub fn put(&mut self, key: Key, bytes: Bytes) -> Result<(), ImportError> {
        let value = match key.is_page() {
            true => Value::Image(bytes),
            false => Value::Bytes(bytes),
        };
        let start = self.manifest.origin.start;
        let version = Version::new(key, start, &value).ok_or(ImportError::NotAPage(key))?;
        self.table.insert(key, version, Account::default());
        if self.table.bytes() >= self.memtable_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Makes the branch exist.
    pub fn finish(mut self) -> Result<(), StorageError> {
        self.flush()?;
        self.manifest.publish(&self.dir)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.table.is_empty() {
            return Ok(());
        }
        let table = std::mem::take(&mut self.table);
        let (id, origin) = (self.manifest.next_layer, self.manifest.origin);
        let path = Manifest::layer_path(&self.dir, id);
        let mut writer = LayerWriter::create(&path, origin.timeline, origin.shard)?;
        for (key, version) in table.entries() {
            writer.add(key, version)?;
        }
        writer.finish(table.carries().map(Ok))?;
        self.manifest.next_layer += 1;
        self.manifest.runs.push(RunEntry { tier: 0, layers: vec![id] });
        Ok(())
    }
}

/// Removes a directory with all that is in it, if it exists.
pub fn discard(dir: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StorageError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}
