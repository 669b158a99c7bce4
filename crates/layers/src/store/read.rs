//! Finding versions: the chain of a page, the value of a key, the values of a range.

use super::Store;
use super::tables::Run;
use crate::chain::Chain;
use crate::error::StorageError;
use crate::source::Source;
use crate::value::{Place, Version};
use bytes::Bytes;
use quire_types::{Key, Lsn};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Live values of a range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Keys and values, in key order.
    pub entries: Vec<(Key, Bytes)>,
    /// Whether the range may hold more behind the last entry.
    pub more: bool,
}

impl Store {
    /// The chain of each page as of `upto`, all from the same state of the store, and how many layers were visited.
    pub fn chains(&self, keys: &[Key], upto: Lsn) -> Result<(Vec<Chain>, usize), StorageError> {
        let (mut chains, runs) = self.chains_in_memory(keys, upto)?;
        let mut visited = 0;
        for chain in &mut chains {
            for layer in layers_of(&runs, chain.key()) {
                visited += usize::from(look(layer, chain)?);
            }
        }
        Ok((chains, visited))
    }

    fn chains_in_memory(&self, keys: &[Key], upto: Lsn) -> Result<(Vec<Chain>, Arc<Vec<Run>>), StorageError> {
        let tables = self.read();
        let mut chains = Vec::with_capacity(keys.len());
        for key in keys {
            let mut chain = Chain::new(*key, upto).in_epoch(tables.epoch);
            for table in tables.sources() {
                look(table, &mut chain)?;
            }
            chains.push(chain);
        }
        Ok((chains, Arc::clone(&tables.runs)))
    }

    /// All versions of a key above `after` and at most at `upto`, by their places.
    pub fn history(&self, key: Key, after: Lsn, upto: Lsn) -> Result<BTreeMap<Place, Version>, StorageError> {
        let mut history = BTreeMap::new();
        let mut note = |version: Version| {
            // Newer sources come first.
            history.entry(version.place()).or_insert(version);
            ControlFlow::Continue(())
        };
        let runs = {
            let tables = self.read();
            visit_all(tables.sources(), key, after, upto, &mut note)?;
            Arc::clone(&tables.runs)
        };
        visit_all(layers_of(&runs, key), key, after, upto, &mut note)?;
        Ok(history)
    }

    /// The newest version at or below `upto` of a key that is not a page.
    pub fn newest(&self, key: Key, upto: Lsn) -> Result<Option<Version>, StorageError> {
        let runs = {
            let tables = self.read();
            if let Some(version) = first_newest(tables.sources(), key, upto)? {
                return Ok(Some(version));
            }
            Arc::clone(&tables.runs)
        };
        first_newest(layers_of(&runs, key), key, upto)
    }

    /// The values of keys in `[from, to]` that are not pages and are alive at `upto`: up to `limit` of them, or of
    /// about `limit_bytes`.
    pub fn scan(
        &self,
        from: Key,
        to: Key,
        upto: Lsn,
        limit: usize,
        limit_bytes: usize,
    ) -> Result<Scanned, StorageError> {
        let mut scanned = Scanned::default();
        let mut bytes = 0;
        for (first, last) in ranges_without_pages(from, to) {
            let mut next = Bound::Included(first);
            while let Some(chunk) = self.scan_chunk(next, last, upto, limit)? {
                for (key, version) in chunk.newest {
                    let Some(value) = version.into_bytes() else { continue };
                    if scanned.entries.len() >= limit || bytes >= limit_bytes {
                        scanned.more = true;
                        return Ok(scanned);
                    }
                    bytes += value.len();
                    scanned.entries.push((key, value));
                }
                let Some(horizon) = chunk.horizon else { break };
                next = Bound::Excluded(horizon);
            }
        }
        Ok(scanned)
    }

    /// The newest versions of some keys from `from` on; none if there are no more.
    fn scan_chunk(&self, from: Bound<Key>, to: Key, upto: Lsn, limit: usize) -> Result<Option<Chunk>, StorageError> {
        let mut chunk = Chunk::default();
        let runs = {
            let tables = self.read();
            for table in tables.sources() {
                chunk.add(table.newest_in_range(from, to, upto, limit)?, limit);
            }
            Arc::clone(&tables.runs)
        };
        for (_, layer) in runs.iter().rev().flat_map(|run| &run.layers) {
            chunk.add(layer.newest_in_range(from, to, upto, limit)?, limit);
        }
        Ok(chunk.cut_at_horizon())
    }
}

/// What the sources have of a range, as far as all of them were read.
#[derive(Debug, Default)]
struct Chunk {
    newest: BTreeMap<Key, Version>,
    /// Some source was not read past this key.
    horizon: Option<Key>,
}

impl Chunk {
    /// Adds what a source gave when it was asked for at most `limit` keys; newer sources come first.
    fn add(&mut self, found: Vec<(Key, Version)>, limit: usize) {
        if let Some((last, _)) = found.last().filter(|_| found.len() >= limit) {
            self.horizon = Some(self.horizon.map_or(*last, |horizon| horizon.min(*last)));
        }
        for (key, version) in found {
            self.newest.entry(key).or_insert(version);
        }
    }

    fn cut_at_horizon(mut self) -> Option<Chunk> {
        if let Some(horizon) = self.horizon {
            self.newest.retain(|key, _| *key <= horizon);
        }
        (!self.newest.is_empty()).then_some(self)
    }
}

/// The layers that may have a key, newest first: one of each run at most.
fn layers_of(runs: &[Run], key: Key) -> impl Iterator<Item = &dyn Source> {
    runs.iter().rev().filter_map(move |run| {
        let at = run.layers.partition_point(|(_, layer)| layer.summary().last_key < key);
        run.layers.get(at).map(|(_, layer)| layer.as_ref() as &dyn Source)
    })
}

/// The newest version of a key at or below `upto`, where newer sources have newer versions.
fn first_newest<'a>(
    sources: impl Iterator<Item = &'a dyn Source>,
    key: Key,
    upto: Lsn,
) -> Result<Option<Version>, StorageError> {
    for source in sources {
        if let Some(version) = source.newest(key, upto)? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Shows all versions of `key` above `after` and at most at `upto`, those of newer sources first.
fn visit_all<'a>(
    sources: impl Iterator<Item = &'a dyn Source>,
    key: Key,
    after: Lsn,
    upto: Lsn,
    visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let mut may_hold = sources.filter(|source| source.may_hold(key, after, upto));
    may_hold.try_for_each(|source| source.visit(key, after, upto, visit))
}

/// Looks for what a chain lacks; says whether the source had to be read.
fn look(source: &dyn Source, chain: &mut Chain) -> Result<bool, StorageError> {
    let (key, floor, upto) = (chain.key(), chain.floor(), chain.upto());
    if !source.may_hold(key, floor, upto) {
        return Ok(false);
    }
    source.visit(key, floor, upto, &mut |version| chain.offer(version))?;
    Ok(true)
}

/// The parts of `[from, to]` that are between the ranges of page keys.
fn ranges_without_pages(from: Key, to: Key) -> impl Iterator<Item = (Key, Key)> {
    let clip = move |(first, last): (Key, Key)| (first.max(from), last.min(to));
    Key::VALUES.into_iter().map(clip).filter(|(first, last)| first <= last)
}
