//! The pages in a data directory's files.

use crate::pages::Pages;
use anyhow::{Context, Result};
use quire_types::{Fork, Key, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES};
use quire_wal::DataPath;
use quire_wal::postgres_version::PG15;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

pub type Page = [u8; PAGE_SIZE];

/// The relations and SLRU areas of a data directory.
#[derive(Default)]
pub struct Files {
    pub pages: Pages,
    /// Relations with an init fork, which may be empty.
    pub unlogged: HashSet<RelTag>,
}

impl Files {
    pub fn load(data: &Path) -> Result<Files> {
        let mut files = Files::default();
        for folder in ["global", "base", "pg_tblspc", "pg_xact", "pg_multixact", "pg_commit_ts"] {
            files.load_folder(data, &data.join(folder))?;
        }
        Ok(files)
    }

    fn load_folder(&mut self, data: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(data)?.to_str().context("file name is not UTF-8")?;
            if path.is_dir() {
                self.load_folder(data, &path)?;
            } else if let Some(file) = DataPath::parse(name, &PG15) {
                self.load_file(file, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn load_file(&mut self, file: DataPath, bytes: &[u8]) -> Result<()> {
        if let DataPath::Relation { rel, .. } = file
            && rel.fork == Fork::Init
        {
            self.unlogged.insert(rel.with_fork(Fork::Main));
        }
        let Some(key_of) = page_keys(file) else { return Ok(()) };
        for (number, page) in bytes.chunks_exact(PAGE_SIZE).enumerate() {
            self.pages.make(key_of(number as u32)).copy_from_slice(page);
        }
        Ok(())
    }
}

/// How the pages of a file are named.
fn page_keys(path: DataPath) -> Option<Box<dyn Fn(u32) -> Key>> {
    match path {
        DataPath::Relation { rel, segment } => {
            Some(Box::new(move |block| Key::RelBlock { rel, block: segment * RELATION_SEGMENT_BLOCKS + block }))
        }
        DataPath::Slru { slru, segment } => {
            Some(Box::new(move |page| Key::SlruBlock { slru, page: segment * SLRU_SEGMENT_PAGES + page }))
        }
        _ => None,
    }
}
