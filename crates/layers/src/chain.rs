//! What a read has to put together: a base and the deltas after it.
//!
//! Sources are asked from the newest to the oldest, but their LSNs overlap: a worker's image has the LSN of the last
//! delta it includes, beside which it is kept or in a newer memtable or layer, and a page that PostgreSQL wrote comes
//! with the LSN of an older record. So a base ends the search only within its source; other sources are still asked for
//! what is between the base and the LSN that is read.

use crate::error::{ReadError, ReplayError};
use crate::value::{Kind, Version};
use bytes::Bytes;
use quire_crash::work;
use quire_redo::RedoError;
use quire_redo::delta::Delta;
use quire_types::{Key, Lsn, PAGE_SIZE};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Applies one delta to a page; in production `quire_redo::apply`.
pub type Redo = fn(&mut [u8; PAGE_SIZE], Key, Lsn, &Delta) -> Result<(), RedoError>;

/// The versions that make up a page at an LSN.
#[derive(Clone, Debug)]
pub struct Chain {
    key: Key,
    upto: Lsn,
    base: Option<Version>,
    deltas: BTreeMap<Lsn, Version>,
    epoch: u64,
}

impl Chain {
    /// Nothing found yet of `key` as of `upto`.
    pub fn new(key: Key, upto: Lsn) -> Chain {
        Chain { key, upto, base: None, deltas: BTreeMap::new(), epoch: 0 }
    }

    /// The same, of a store in which so often written pages were kept.
    #[must_use]
    pub fn in_epoch(self, epoch: u64) -> Chain {
        Chain { epoch, ..self }
    }

    /// The store's epoch before anything was looked up.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The page it is of.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The LSN it is as of.
    pub fn upto(&self) -> Lsn {
        self.upto
    }

    /// Only versions above this LSN matter any more.
    pub fn floor(&self) -> Lsn {
        self.base.as_ref().map_or(Lsn::INVALID, |base| base.lsn)
    }

    /// Takes a version above the floor and at most at the LSN that is read; says when its source is exhausted.
    pub fn offer(&mut self, version: Version) -> ControlFlow<()> {
        debug_assert!(version.lsn > self.floor() && version.lsn <= self.upto);
        if version.kind.is_base() {
            self.deltas.retain(|lsn, _| *lsn > version.lsn);
            self.base = Some(version);
            return ControlFlow::Break(());
        }
        self.deltas.insert(version.lsn, version);
        ControlFlow::Continue(())
    }

    /// Whether there is no version at all.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.deltas.is_empty()
    }

    /// The base and the deltas, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.base.iter().chain(self.deltas.values())
    }

    /// Deltas that have to be replayed.
    pub fn delta_count(&self) -> u32 {
        self.to_replay().count() as u32
    }

    /// Their length together.
    pub fn delta_bytes(&self) -> u64 {
        self.to_replay().map(|version| version.payload.len() as u64).sum()
    }

    /// LSN of the newest version; invalid if there is none.
    pub fn last_lsn(&self) -> Lsn {
        self.deltas.last_key_value().map_or(self.floor(), |(lsn, _)| *lsn)
    }

    /// LSN of the image that the page is rebuilt from; none if it starts from zeroes.
    pub fn image_lsn(&self) -> Option<Lsn> {
        self.image().map(|base| base.lsn)
    }

    /// LSN of the image that the page is rebuilt from if bytes of it were not logged.
    pub fn partial_lsn(&self) -> Option<Lsn> {
        self.image().filter(|base| base.kind == Kind::Partial).map(|base| base.lsn)
    }

    fn image(&self) -> Option<&Version> {
        self.base.as_ref().filter(|base| base.kind.is_image())
    }

    fn to_replay(&self) -> impl Iterator<Item = &Version> {
        self.versions().filter(|version| version.kind.is_delta())
    }

    /// The page. A stored image is given out as it is; anything else is rebuilt in one pass.
    pub fn replay(&self, redo: Redo) -> Result<Bytes, ReadError> {
        if let Some(image) = self.image().filter(|image| self.deltas.is_empty() && image.payload.len() == PAGE_SIZE) {
            return Ok(image.payload.clone());
        }
        let mut raw = self.first_page()?;
        let page: &mut [u8; PAGE_SIZE] = raw.as_mut_slice().try_into().expect("a first page is a page");
        for version in self.to_replay() {
            work::at_record(version.lsn);
            let failed = |source: ReplayError| self.failure(version.lsn, source);
            let delta = Delta::decode(version.payload.clone()).map_err(ReplayError::Delta).map_err(failed)?;
            redo(page, self.key, version.lsn, &delta).map_err(|error| failed(error.into()))?;
        }
        Ok(raw.into())
    }

    fn first_page(&self) -> Result<Vec<u8>, ReadError> {
        match self.image() {
            None => Ok(vec![0; PAGE_SIZE]),
            Some(image) if image.payload.len() == PAGE_SIZE => Ok(image.payload.to_vec()),
            Some(image) => Err(self.failure(image.lsn, ReplayError::Image)),
        }
    }

    fn failure(&self, lsn: Lsn, source: ReplayError) -> ReadError {
        ReadError::Redo { key: self.key, lsn, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Slru;

    const KEY: Key = Key::SlruBlock { slru: Slru::Clog, page: 0 };

    fn version(lsn: u64, kind: Kind) -> Version {
        Version { lsn: Lsn(lsn), kind, payload: Bytes::new() }
    }

    fn lsns(chain: &Chain) -> Vec<u64> {
        chain.versions().map(|version| version.lsn.0).collect()
    }

    #[test]
    fn a_base_from_an_older_source_may_lie_above_one_from_a_newer_source() {
        let mut chain = Chain::new(KEY, Lsn(100));
        assert!(chain.offer(version(50, Kind::Image)).is_break());
        assert!(chain.offer(version(90, Kind::Delta)).is_continue());
        assert!(chain.offer(version(70, Kind::Delta)).is_continue());
        assert!(chain.offer(version(80, Kind::Image)).is_break());
        assert_eq!(lsns(&chain), [80, 90]);
        assert_eq!((chain.floor(), chain.last_lsn(), chain.image_lsn()), (Lsn(80), Lsn(90), Some(Lsn(80))));
    }

    #[test]
    fn every_kind_of_image_is_a_base_and_only_one_of_them_lacks_bytes() {
        for kind in [Kind::Image, Kind::Written, Kind::Partial] {
            let mut chain = Chain::new(KEY, Lsn(100));
            let page = Version { payload: vec![7; PAGE_SIZE].into(), ..version(60, kind) };
            assert!(chain.offer(page).is_break());
            assert_eq!((chain.image_lsn(), chain.delta_count()), (Some(Lsn(60)), 0));
            assert_eq!(chain.partial_lsn().is_some(), kind == Kind::Partial);
            assert_eq!(chain.replay(quire_redo::apply).unwrap(), vec![7; PAGE_SIZE]);
        }
    }

    #[test]
    fn an_initialising_delta_is_a_base_and_is_replayed() {
        let mut chain = Chain::new(KEY, Lsn(100));
        assert!(chain.offer(version(90, Kind::Delta)).is_continue());
        assert!(chain.offer(version(60, Kind::InitialDelta)).is_break());
        assert_eq!((chain.delta_count(), chain.image_lsn()), (2, None));
    }

    #[test]
    fn without_a_version_a_page_is_zeroes_and_a_malformed_delta_is_an_error() {
        let mut chain = Chain::new(KEY, Lsn(100));
        assert!(chain.is_empty());
        assert!(chain.replay(quire_redo::apply).unwrap().iter().all(|byte| *byte == 0));
        assert!(chain.offer(version(60, Kind::Delta)).is_continue());
        assert!(matches!(chain.replay(quire_redo::apply), Err(ReadError::Redo { lsn: Lsn(60), .. })));
    }
}
