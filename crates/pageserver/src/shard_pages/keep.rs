//! Pages as PostgreSQL wrote them, which hold bytes that the log lacks.
//!
//! A database is created as a copy of a template with a BRIN index. Its pages are logged without the bytes between
//! `pd_lower` and `pd_upper`, which are all of the contents of a page of the index's range map. When PostgreSQL writes
//! that page the compute sends it, and here it becomes a version at the LSN of the page: everything logged since
//! applies to it.
//!
//! A page without an LSN was not logged at all, as the init fork of some access methods. It is kept at the end of what
//! was ingested, unless the log knows better.
//!
//! All pages of a request are looked at first, and then taken in together.

use super::ShardPages;
use super::read::stored_size;
use bytes::Bytes;
use quire_ingest::GAP_BLOCKS_MAX;
use quire_layers::accounts::Account;
use quire_layers::chain::Chain;
use quire_layers::error::{ReadError, StorageError};
use quire_layers::small_files::FileError;
use quire_layers::store::KeptPage;
use quire_layers::value::{Kind, Version};
use quire_protocol::page::{Keeping, WrittenPage};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, size};
use quire_wal::page;
use std::collections::{BTreeMap, HashMap};

/// Why pages were not kept; then none was.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Something else than a page of a main fork, a visibility map or an init fork.
    #[error("{0} is not a page that can be kept")]
    WrongPage(Key),
    /// The page is of a time that was not waited for.
    #[error("{key} was written at {lsn}, and {ingested} is ingested")]
    Ahead {
        /// The page.
        key: Key,
        /// Its LSN.
        lsn: Lsn,
        /// Everything before is ingested.
        ingested: Lsn,
    },
    /// The relation would grow by more than it can.
    #[error("{key} is too far behind the end of its relation at {blocks} blocks")]
    Gap {
        /// The page.
        key: Key,
        /// Blocks of the relation.
        blocks: u32,
    },
    /// What there is already cannot be read or rebuilt.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The compute may not write.
    #[error(transparent)]
    Fenced(#[from] FileError),
    /// The pages cannot be made durable now.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Ingest has stopped.
    #[error("ingest has stopped")]
    Stopped,
}

/// What became of pages that PostgreSQL wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Of each, in the order given.
    pub keepings: Vec<Keeping>,
    /// Size keys of the relations that became longer, and their blocks.
    pub grown: Vec<(Key, u32)>,
}

impl ShardPages {
    /// Keeps pages as PostgreSQL wrote them; everything before `upto` was in the log when they were read. Nothing may
    /// be [applied](ShardPages::apply) meanwhile, and the pages are not durable before the next freeze is.
    pub fn keep_pages(&self, upto: Lsn, pages: &[WrittenPage]) -> Result<Kept, KeepError> {
        let at = self.progress().ingested;
        pages.iter().try_for_each(|written| check(written, at))?;
        let keeping = self.store().begin_keeping();
        let mut plan = Plan { pages: self, at, upto, sizes: HashMap::new(), kept_pages: BTreeMap::new() };
        let keepings = pages.iter().map(|written| plan.keep(written)).collect::<Result<Vec<_>, _>>()?;
        let grown = plan.grown();
        keeping.insert(plan.kept_pages.into_values());
        drop(keeping);
        let kept = pages.iter().zip(&keepings).filter(|(_, keeping)| **keeping == Keeping::Kept);
        self.metrics().pages_kept(kept.clone().count() as u64);
        self.images.take_up(kept.map(|(written, _)| written.key));
        Ok(Kept { keepings, grown })
    }

    /// The images between the written page and the next base that workers made without it, made again; and what is
    /// between the last base and the newest version, unless the log has given the page another base since. `later` are
    /// the versions above the written page, oldest first.
    fn images_after(
        &self,
        written: &WrittenVersion,
        later: &[Version],
    ) -> Result<(Vec<Version>, Option<Account>), ReadError> {
        let depending = depending_on_written(later);
        let account = depending.iter().fold(Account::default(), Account::after);
        let (mut images, mut deltas, mut base) = (Vec::new(), Vec::new(), written.version.clone());
        for version in depending {
            if version.kind.is_delta() {
                deltas.push(version.clone());
                continue;
            }
            let payload = self.replay_on(written.key, base, &mut deltas)?;
            base = Version { payload, ..version.clone() };
            images.push(base.clone());
        }
        Ok((images, (depending.len() == later.len()).then_some(account)))
    }

    fn replay_on(&self, key: Key, base: Version, deltas: &mut Vec<Version>) -> Result<Bytes, ReadError> {
        let mut chain = Chain::new(key, Lsn::MAX);
        for version in std::iter::once(base).chain(deltas.drain(..)) {
            // Whether older versions are wanted does not matter: there are none.
            let _ = chain.offer(version);
        }
        self.rebuilder.replay(&chain)
    }
}

fn check(written: &WrittenPage, ingested: Lsn) -> Result<(), KeepError> {
    let key = written.key;
    match key {
        Key::RelBlock { rel, .. } if rel.fork != Fork::FreeSpaceMap && written.page.len() == PAGE_SIZE => {}
        _ => return Err(KeepError::WrongPage(key)),
    }
    let lsn = page::lsn(&written.page);
    if lsn > ingested { Err(KeepError::Ahead { key, lsn, ingested }) } else { Ok(()) }
}

/// The versions that a page below them changes: deltas, and images beside them. A base that is alone is what the log
/// says, or another written page.
fn depending_on_written(later: &[Version]) -> &[Version] {
    let mut last_delta = Lsn::INVALID;
    let stands_alone = |version: &Version| match version.kind {
        Kind::Delta => {
            last_delta = version.lsn;
            false
        }
        Kind::Image => version.lsn != last_delta,
        _ => true,
    };
    &later[..later.iter().position(stands_alone).unwrap_or(later.len())]
}

/// A written page as it is to be stored.
struct WrittenVersion {
    key: Key,
    version: Version,
}

/// How long a relation is.
#[derive(Clone, Copy)]
struct Size {
    /// Its blocks with those of the plan; none if it does not exist.
    blocks: Option<u32>,
    /// When the log changed it last.
    lsn: Lsn,
    has_grown: bool,
}

/// What is to be taken in.
struct Plan<'a> {
    pages: &'a ShardPages,
    /// The end of the last record.
    at: Lsn,
    upto: Lsn,
    sizes: HashMap<Key, Size>,
    kept_pages: BTreeMap<Key, KeptPage>,
}

impl Plan<'_> {
    fn keep(&mut self, written: &WrittenPage) -> Result<Keeping, KeepError> {
        let Key::RelBlock { rel, block } = written.key else { return Err(KeepError::WrongPage(written.key)) };
        let size = self.size(rel)?;
        let Some(blocks) = size.blocks else { return Ok(Keeping::Gone) };
        let lsn = page::lsn(&written.page);
        let version = |lsn| Version { lsn, kind: Kind::Written, payload: written.page.clone() };
        match lsn.is_valid() {
            true if block >= blocks => Ok(Keeping::Gone),
            true => self.keep_logged(WrittenVersion { key: written.key, version: version(lsn) }),
            false if size.lsn > self.upto => Ok(Keeping::Logged),
            false if block < blocks && !self.is_unlogged(written.key)? => Ok(Keeping::Logged),
            false => {
                self.grow_to(rel, block, blocks)?;
                self.give(written.key, version(self.at), Some(Account::default()));
                Ok(Keeping::Kept)
            }
        }
    }

    fn keep_logged(&mut self, written: WrittenVersion) -> Result<Keeping, KeepError> {
        let (key, lsn) = (written.key, written.version.lsn);
        let mut later = self.pages.store().history(key, lsn, self.at)?;
        let planned = self.kept_pages.get(&key).into_iter().flat_map(|keepsake| &keepsake.versions);
        later.extend(planned.filter(|version| version.lsn > lsn).map(|version| (version.place(), version.clone())));
        let later: Vec<Version> = later.into_values().collect();
        let (images, account) = self.pages.images_after(&written, &later)?;
        for version in std::iter::once(written.version).chain(images) {
            self.give(key, version, account);
        }
        Ok(Keeping::Kept)
    }

    fn give(&mut self, key: Key, version: Version, account: Option<Account>) {
        let keepsake =
            self.kept_pages.entry(key).or_insert_with(|| KeptPage { key, versions: Vec::new(), account: None });
        keepsake.versions.push(version);
        keepsake.account = account.or(keepsake.account);
    }

    /// Whether the log says nothing of a block but that it is there: it is zeroes, or was kept as PostgreSQL wrote it
    /// before.
    fn is_unlogged(&self, key: Key) -> Result<bool, ReadError> {
        let chain = self.pages.rebuilder.chain(key, self.at)?;
        let planned = self.kept_pages.get(&key).into_iter().flat_map(|keepsake| &keepsake.versions);
        let is_unlogged = |version: &Version| match version.kind {
            Kind::Tombstone => true,
            Kind::Written => !page::lsn(&version.payload).is_valid(),
            _ => false,
        };
        Ok(chain.versions().chain(planned).all(is_unlogged))
    }

    /// Makes the relation hold the block, as ingest does ([`quire_ingest`]).
    fn grow_to(&mut self, rel: RelTag, block: u32, blocks: u32) -> Result<(), KeepError> {
        if block < blocks {
            return Ok(());
        }
        if block - blocks > GAP_BLOCKS_MAX || block == u32::MAX {
            return Err(KeepError::Gap { key: Key::RelBlock { rel, block }, blocks });
        }
        let zeroes = Version { lsn: self.at, kind: Kind::Tombstone, payload: Bytes::new() };
        for skipped in blocks..block {
            self.give(Key::RelBlock { rel, block: skipped }, zeroes.clone(), Some(Account::default()));
        }
        if let Some(size) = self.sizes.get_mut(&Key::RelSize { rel }) {
            (size.blocks, size.has_grown) = (Some(block + 1), true);
        }
        Ok(())
    }

    fn size(&mut self, rel: RelTag) -> Result<Size, ReadError> {
        let key = Key::RelSize { rel };
        if let Some(size) = self.sizes.get(&key) {
            return Ok(*size);
        }
        let newest = self.pages.store().newest(key, self.at)?;
        let lsn = newest.as_ref().map_or(Lsn::INVALID, |version| version.lsn);
        let blocks = newest.and_then(Version::into_bytes).map(|raw| stored_size(key, &raw)).transpose()?;
        let size = Size { blocks, lsn, has_grown: false };
        self.sizes.insert(key, size);
        Ok(size)
    }

    /// Gives the relations that became longer their new sizes.
    fn grown(&mut self) -> Vec<(Key, u32)> {
        let grown = self.sizes.iter().filter(|(_, size)| size.has_grown);
        let grown: Vec<(Key, u32)> = grown.filter_map(|(key, size)| Some((*key, size.blocks?))).collect();
        for (key, blocks) in &grown {
            let payload = Bytes::copy_from_slice(&size::encode(*blocks));
            self.give(*key, Version { lsn: self.at, kind: Kind::Bytes, payload }, None);
        }
        grown
    }
}
