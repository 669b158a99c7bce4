//! Databases created and dropped.

use crate::changes::{Batch, relations_of, stored_size};
use crate::error::IngestError;
use bytes::Bytes;
use quire_layers::value::Value;
use quire_types::{Key, PAGE_SIZE, RelTag, size};
use quire_wal::effects::dbase::{self, DatabaseDirectory, DbaseEffect};
use std::collections::HashSet;

/// A page that is stored as nothing.
const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// A record of the database manager.
pub(crate) fn apply(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match dbase::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        DbaseEffect::CreateByFileCopy { target, source } => copy(batch, target, source),
        DbaseEffect::CreateByWal(directory) => create(batch, directory),
        DbaseEffect::Drop(directories) => directories.into_iter().try_for_each(|directory| remove(batch, directory)),
    }
}

fn create(batch: &mut Batch<'_>, directory: DatabaseDirectory) -> Result<(), IngestError> {
    batch.set(database_key(directory), Bytes::new());
    Ok(())
}

/// Removes a database's directory in one tablespace, and all in it.
pub(crate) fn remove(batch: &mut Batch<'_>, directory: DatabaseDirectory) -> Result<(), IngestError> {
    for (rel, _) in relations(batch, directory)? {
        batch.remove_sized(Key::RelSize { rel })?;
    }
    batch.remove(relation_map_key(directory));
    batch.remove(database_key(directory));
    Ok(())
}

/// Copies everything the template has now. Pages become images, so that the new database depends on nothing of the old.
fn copy(batch: &mut Batch<'_>, target: DatabaseDirectory, source: DatabaseDirectory) -> Result<(), IngestError> {
    create(batch, target)?;
    let template = relations(batch, source)?;
    let moved = |rel: RelTag| RelTag { tablespace: target.tablespace, database: target.database, ..rel };
    let copies: HashSet<RelTag> = template.iter().map(|(rel, _)| moved(*rel)).collect();
    for (leftover, _) in relations(batch, target)?.into_iter().filter(|(rel, _)| !copies.contains(rel)) {
        batch.remove_sized(Key::RelSize { rel: leftover })?;
    }
    for (rel, blocks) in template {
        copy_relation(batch, rel, moved(rel), blocks)?;
    }
    match batch.view.value(relation_map_key(source))? {
        Some(map) => batch.set(relation_map_key(target), map),
        None => batch.remove(relation_map_key(target)),
    }
    Ok(())
}

fn copy_relation(batch: &mut Batch<'_>, from: RelTag, to: RelTag, blocks: u32) -> Result<(), IngestError> {
    let size = Key::RelSize { rel: to };
    batch.set(size, Bytes::copy_from_slice(&size::encode(blocks)));
    batch.remember_size(size, Some(blocks));
    for block in 0..blocks {
        let page = batch.view.page(Key::RelBlock { rel: from, block })?;
        let value = if page[..] == ZEROES { Value::Tombstone } else { Value::Image(page) };
        batch.push(Key::RelBlock { rel: to, block }, value);
    }
    Ok(())
}

/// The relation forks of a database, with their sizes.
fn relations(batch: &Batch<'_>, directory: DatabaseDirectory) -> Result<Vec<(RelTag, u32)>, IngestError> {
    let (from, to) = relations_of(directory.tablespace, directory.database);
    let mut found = Vec::new();
    for (key, raw) in batch.view.live(from, to)? {
        if let Key::RelSize { rel } = key {
            found.push((rel, stored_size(key, &raw)?));
        }
    }
    Ok(found)
}

fn database_key(directory: DatabaseDirectory) -> Key {
    Key::Database { tablespace: directory.tablespace, database: directory.database }
}

fn relation_map_key(directory: DatabaseDirectory) -> Key {
    Key::RelMap { tablespace: directory.tablespace, database: directory.database }
}
