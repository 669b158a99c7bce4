//! Comparing what PostgreSQL wrote into its cache with what storage makes of the log.
//!
//! After a CHECKPOINT every page in the cache is as PostgreSQL has it, and storage is asked for the same pages at the end of the
//! committed log. While PostgreSQL works, a page may be newer or older than that moment, so a page that differs is looked at again: at
//! its own LSN, which says exactly which version the cache holds, and after a fresh checkpoint. Only what differs every time counts.
//!
//! Not compared: free space maps (advisory), unlogged and temporary relations (never in storage), SLRU areas (no LSNs).

use crate::page_client::PageError;
use crate::start::Session;
use crate::{Config, Error, place, postgres};
use bytes::Bytes;
use quire_cache::protocol::{BlockState, Blocks};
use quire_cache::{ComputeDir, Meta};
use quire_redo::mask::{PageKind, mask_page, page_kind};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag};
use quire_wal::{DataPath, page};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Pages compared with one request.
const BATCH_PAGES: usize = 128;
/// How often a page that differs is looked at again, and how long to wait before.
const ATTEMPTS: u32 = 6;
const ATTEMPT_DELAY: Duration = Duration::from_millis(200);
/// How many differing pages are described and kept.
const MISMATCHES_MAX: usize = 1000;

/// A page that differs.
#[derive(Clone, Debug, Serialize)]
pub struct Mismatch {
    /// Its relation's file, below the data directory.
    pub relation: String,
    /// Its block in the fork.
    pub block: u32,
    /// LSN in the cache's copy.
    pub cache_lsn: Lsn,
    /// LSN in storage's copy; none if storage has no such page.
    pub storage_lsn: Option<Lsn>,
    /// Offset of the first byte that differs under the masks.
    pub first_difference: Option<usize>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// Pages compared.
    pub checked: u64,
    /// Pages in the cache's files that are not in the cache, and so equal by definition.
    pub absent: u64,
    /// Pages that are never in storage.
    pub skipped: u64,
    /// Pages that differ.
    pub mismatches: Vec<Mismatch>,
}

/// A page in a file of the cache.
#[derive(Clone, Debug)]
struct CachedPage {
    rel: RelTag,
    /// The file and the offset in it.
    file: PathBuf,
    offset: u64,
    block: u32,
    /// Says whether it is still in the cache, and its block in the file.
    meta: Option<(Arc<Meta>, u32)>,
}

/// What storage has where it has nothing.
const NOTHING: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

type Page = Box<[u8; PAGE_SIZE]>;

/// One verification.
struct Verifier<'a> {
    config: &'a Config,
    session: &'a Session,
    progress: &'a AtomicU64,
    found: Verification,
    suspects: Vec<CachedPage>,
}

/// Compares every page of the cache. `progress` counts pages as they are compared.
pub async fn verify(config: &Config, session: &Session, progress: &AtomicU64) -> Result<Verification, Error> {
    progress.store(0, Ordering::Relaxed);
    let mut verifier = Verifier { config, session, progress, found: Verification::default(), suspects: Vec::new() };
    let at = verifier.checkpoint().await?;
    for folder in relation_folders(&config.pgdata())? {
        verifier.folder(&folder, at).await?;
    }
    verifier.look_again().await?;
    Ok(verifier.found)
}

impl Verifier<'_> {
    /// Has everything written, and says where the log is then.
    async fn checkpoint(&self) -> Result<Lsn, Error> {
        let client = postgres::connect(self.config, "postgres").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(self.session.committed())
    }

    async fn folder(&mut self, folder: &Path, at: Lsn) -> Result<(), Error> {
        let files = relation_files(&self.config.pgdata(), folder)?;
        let Some((first, _)) = files.first() else { return Ok(()) };
        let sizes = self.sizes(first.tablespace, first.database, at).await?;
        for (rel, segment) in files {
            let unlogged = sizes.contains_key(&rel.with_fork(Fork::Init)) && rel.fork != Fork::Init;
            let pages = cached_pages(&ComputeDir::new(&self.config.dir), rel, segment)?;
            self.found.absent += pages.absent;
            if unlogged || rel.fork == Fork::FreeSpaceMap {
                self.found.skipped += pages.present.len() as u64;
                continue;
            }
            for batch in pages.present.chunks(BATCH_PAGES) {
                self.batch(batch, at, sizes.get(&rel).copied().unwrap_or(0)).await?;
            }
        }
        Ok(())
    }

    async fn sizes(&self, tablespace: u32, database: u32, at: Lsn) -> Result<BTreeMap<RelTag, u32>, Error> {
        let key = |relation, fork| Key::RelSize { rel: RelTag { tablespace, database, relation, fork } };
        let entries = self.session.client.scan(at, key(0, Fork::Main), key(u32::MAX, Fork::Init), PATIENCE).await?;
        let size = |(key, value): (Key, Bytes)| match (key, value.first_chunk::<4>()) {
            (Key::RelSize { rel }, Some(raw)) => Some((rel, u32::from_le_bytes(*raw))),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(size).collect())
    }

    /// Compares pages of one file with storage's at `at`, where the fork has `blocks` blocks.
    async fn batch(&mut self, batch: &[CachedPage], at: Lsn, blocks: u32) -> Result<(), Error> {
        let (known, beyond): (Vec<_>, Vec<_>) = batch.iter().partition(|page| page.block < blocks);
        let keys = known.iter().map(|page| page.key()).collect();
        let theirs = if known.is_empty() { Vec::new() } else { self.get(at, keys).await? };
        for (page, theirs) in known.iter().zip(theirs) {
            let equal = page.read()?.is_none_or(|ours| first_difference(page.key(), &ours, &theirs).is_none());
            self.note(page, equal);
        }
        for page in beyond {
            let equal = page.read()?.is_none_or(|ours| first_difference(page.key(), &ours, &NOTHING).is_none());
            self.note(page, equal);
        }
        Ok(())
    }

    fn note(&mut self, page: &CachedPage, equal: bool) {
        self.found.checked += 1;
        self.progress.fetch_add(1, Ordering::Relaxed);
        if !equal {
            self.suspects.push(page.clone());
        }
    }

    async fn get(&self, at: Lsn, keys: Vec<Key>) -> Result<Vec<Bytes>, PageError> {
        self.session.client.get_pages(at, keys, PATIENCE).await
    }

    /// Looks at the suspects until they are cleared or out of attempts.
    async fn look_again(&mut self) -> Result<(), Error> {
        let mut suspects = std::mem::take(&mut self.suspects);
        for attempt in 0..ATTEMPTS {
            if suspects.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(ATTEMPT_DELAY * attempt).await;
            let at = self.checkpoint().await?;
            let last = attempt + 1 == ATTEMPTS;
            let mut left = Vec::new();
            for page in suspects {
                if let Some(mismatch) = self.suspect(&page, at, last).await? {
                    left.push(page);
                    if last && self.found.mismatches.len() < MISMATCHES_MAX {
                        self.found.mismatches.push(mismatch);
                    }
                }
            }
            suspects = left;
        }
        Ok(())
    }

    /// Compares one page with the very version that the cache has; `None` if they are equal, or the page is gone.
    async fn suspect(&self, page: &CachedPage, at: Lsn, keep: bool) -> Result<Option<Mismatch>, Error> {
        let Some(ours) = page.read()? else { return Ok(None) };
        let cache_lsn = page::lsn(&ours[..]);
        // A visibility map changes without its LSN, so only the newest version can be compared.
        let version = if page.rel.fork == Fork::VisibilityMap { at } else { cache_lsn.max(self.session.start) };
        let theirs = match self.get(version, vec![page.key()]).await {
            Ok(pages) => pages.into_iter().next(),
            Err(PageError::Refused { code: quire_protocol::page::ErrorCode::NoSuchKey, .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let first_difference = first_difference(page.key(), &ours, theirs.as_deref().unwrap_or(&NOTHING));
        if first_difference.is_none() || page.is_gone() {
            return Ok(None);
        }
        if keep {
            self.keep(page, &ours, theirs.as_deref())?;
        }
        Ok(Some(Mismatch {
            relation: page.relation(),
            block: page.block,
            cache_lsn,
            storage_lsn: theirs.as_deref().map(page::lsn),
            first_difference,
        }))
    }

    /// Puts both copies aside for whoever looks into it.
    fn keep(&self, page: &CachedPage, ours: &Page, theirs: Option<&[u8]>) -> Result<(), Error> {
        let folder = self.config.dir.join("mismatches");
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        let name = format!("{}.{}", page.relation().replace('/', "_"), page.block);
        tracing::error!(relation = page.relation(), block = page.block, folder = %folder.display(), "page differs from storage");
        place::file(&folder.join(format!("{name}.cache")), &ours[..], crate::owner::Owner::unchanged())?;
        place::file(
            &folder.join(format!("{name}.storage")),
            theirs.unwrap_or_default(),
            crate::owner::Owner::unchanged(),
        )
    }
}

impl CachedPage {
    fn key(&self) -> Key {
        Key::RelBlock { rel: self.rel, block: self.block }
    }

    fn relation(&self) -> String {
        DataPath::Relation { rel: self.rel, segment: 0 }.to_path()
    }

    /// The page as it is in the file; none if file or page are gone, or the page has left the cache.
    fn read(&self) -> Result<Option<Page>, Error> {
        let Some((meta, index)) = &self.meta else { return self.read_file() };
        loop {
            let drops = meta.drops();
            if is_absent(meta, *index) {
                return Ok(None);
            }
            let page = self.read_file()?;
            if meta.drops() == drops {
                return Ok(page);
            }
        }
    }

    fn read_file(&self) -> Result<Option<Page>, Error> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let outcome = File::open(&self.file).and_then(|file| file.read_exact_at(&mut page[..], self.offset));
        match outcome {
            Ok(()) => Ok(Some(page)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::file("read", &self.file)(error)),
        }
    }

    fn is_gone(&self) -> bool {
        self.read().is_ok_and(|page| page.is_none())
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof)
}

/// Where the two differ in more than what they may differ in; none if they are equal.
fn first_difference(key: Key, ours: &[u8; PAGE_SIZE], theirs: &[u8]) -> Option<usize> {
    let Ok(theirs) = <&[u8; PAGE_SIZE]>::try_from(theirs) else { return Some(0) };
    if *theirs == NOTHING && is_blank(ours) {
        return None;
    }
    let (mut ours, mut theirs) = (Box::new(*ours), Box::new(*theirs));
    let kind = page_kind(&ours, key);
    for page in [&mut ours, &mut theirs] {
        mask_page(page, kind);
        if kind == PageKind::Sequence {
            mask_sequence_state(page);
        }
    }
    let mut pairs = ours.iter().zip(theirs.iter());
    match kind {
        // A bit that only the cache has set costs a later VACUUM a look at the page; one that only storage has would be
        // wrong. PostgreSQL itself logs the maps of a new database without their contents.
        PageKind::VisibilityMap => pairs.position(|(ours, theirs)| theirs & !ours != 0),
        _ => pairs.position(|(ours, theirs)| ours != theirs),
    }
}

/// `last_value` and `log_cnt`: the log is ahead by the values that may still be given out without logging.
fn mask_sequence_state(page: &mut [u8; PAGE_SIZE]) {
    const HEADER_LENGTH_AT: usize = 22;
    let Some(tuple) = page::item_id(&page[..], 1) else { return };
    if let Some(tuple) = page::item_mut(&mut page[..], tuple) {
        let start = tuple.get(HEADER_LENGTH_AT).copied().map_or(0, usize::from);
        if let Some(state) = tuple.get_mut(start..start + 16) {
            state.fill(0);
        }
    }
}

/// Whether a page has never held anything that is logged: PostgreSQL extends files by pages of zeroes, and may initialise one and
/// then not use it, without a word in the log.
fn is_blank(page: &[u8; PAGE_SIZE]) -> bool {
    *page == NOTHING
        || (!page::lsn(&page[..]).is_valid() && page::max_offset_number(&page[..]) == 0 && has_no_special(page))
}

/// Tables have no special space; an index's page of that kind says something even if it is empty.
fn has_no_special(page: &[u8; PAGE_SIZE]) -> bool {
    usize::from(page::special(&page[..])) == PAGE_SIZE
}

/// Folders that hold relations, below the data directory.
pub(crate) fn relation_folders(pgdata: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folders = vec![PathBuf::from("global")];
    for name in names(&pgdata.join("base"))? {
        folders.push(Path::new("base").join(name));
    }
    for tablespace in names(&pgdata.join("pg_tblspc"))? {
        let versioned = Path::new("pg_tblspc").join(tablespace).join(quire_wal::version::CURRENT.tablespace_directory);
        folders.extend(names(&pgdata.join(&versioned))?.into_iter().map(|name| versioned.join(name)));
    }
    Ok(folders)
}

/// Segment files of relations in a folder.
fn relation_files(pgdata: &Path, folder: &Path) -> Result<Vec<(RelTag, u32)>, Error> {
    let relation = |name: String| match DataPath::parse(folder.join(name).to_str()?)? {
        DataPath::Relation { rel, segment } => Some((rel, segment)),
        _ => None,
    };
    Ok(names(&pgdata.join(folder))?.into_iter().filter_map(relation).collect())
}

/// Names in a folder; none if the folder is not there (any more) or is no folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) || error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", folder)(error)),
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Whether a page is not in the cache; one that is being written is not looked at either.
fn is_absent(meta: &Meta, index: u32) -> bool {
    index < meta.remote_nblocks() && meta.state(index) != BlockState::Present
}

/// The pages of one file: those in the cache, and how many are not.
struct FilePages {
    present: Vec<CachedPage>,
    absent: u64,
}

fn cached_pages(dir: &ComputeDir, rel: RelTag, segment: u32) -> Result<FilePages, Error> {
    let relative = DataPath::Relation { rel, segment }.to_path();
    let file = dir.data_file(&relative);
    let mut pages = FilePages { present: Vec::new(), absent: 0 };
    let Ok(metadata) = fs::metadata(&file) else { return Ok(pages) };
    let meta = Meta::open(&dir.meta_file(&relative)).ok().filter(|meta| meta.inode() == metadata.ino()).map(Arc::new);
    let blocks = u32::try_from(metadata.len() / PAGE_SIZE as u64).unwrap_or(u32::MAX).min(RELATION_SEGMENT_BLOCKS);
    for index in 0..blocks {
        if meta.as_ref().is_some_and(|meta| is_absent(meta, index)) {
            pages.absent += 1;
        } else {
            let block = segment.saturating_mul(RELATION_SEGMENT_BLOCKS).saturating_add(index);
            let offset = u64::from(index) * PAGE_SIZE as u64;
            pages.present.push(CachedPage {
                rel,
                file: file.clone(),
                offset,
                block,
                meta: meta.clone().map(|meta| (meta, index)),
            });
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key =
        Key::RelBlock { rel: RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::Main }, block: 0 };

    fn heap_page() -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        page::init(&mut page, 0);
        page
    }

    #[test]
    fn hints_and_lsns_are_no_difference_but_contents_are() {
        let (ours, mut theirs) = (heap_page(), heap_page());
        page::set_lsn(&mut theirs, Lsn(77));
        page::set_flags(&mut theirs, page::PD_PAGE_FULL);
        assert_eq!(first_difference(KEY, &ours, &theirs), None);
        page::set_special(&mut theirs, 8000);
        assert!(first_difference(KEY, &ours, &theirs).is_some());
        assert_eq!(first_difference(KEY, &ours, &[0; 3]), Some(0));
    }

    #[test]
    fn a_visibility_bit_is_wrong_only_where_the_cache_lacks_it() {
        let Key::RelBlock { rel, block } = KEY else { unreachable!("it is one") };
        let key = Key::RelBlock { rel: rel.with_fork(Fork::VisibilityMap), block };
        let (ours, mut theirs) = (heap_page(), heap_page());
        theirs[100] = 1;
        assert_eq!(first_difference(key, &ours, &theirs), Some(100));
        assert_eq!(first_difference(key, &theirs, &ours), None);
    }

    #[test]
    fn a_page_that_was_initialised_and_never_used_equals_nothing() {
        assert_eq!(first_difference(KEY, &heap_page(), &NOTHING), None);
        let mut used = heap_page();
        page::set_lsn(&mut used, Lsn(7));
        assert!(first_difference(KEY, &used, &NOTHING).is_some());
        assert!(first_difference(KEY, &NOTHING, &used).is_some());
    }

    #[test]
    fn a_sequence_may_be_behind_its_log() {
        let mut page = heap_page();
        page::set_item_id(&mut page, 1, page::ItemId::normal(8000, 41)).expect("in the page");
        page::set_lower(&mut page, 28);
        page[8000 + 22] = 24;
        let mut ahead = page;
        ahead[8024] = 33;
        ahead[8040] = 1;
        mask_sequence_state(&mut ahead);
        assert_eq!((ahead[8024], ahead[8040]), (0, 1));
        page[8022] = 255;
        mask_sequence_state(&mut page);
    }

    #[test]
    fn only_relation_files_are_looked_at() {
        let pgdata = tempfile::tempdir().expect("a folder");
        let folder = pgdata.path().join("base/5");
        fs::create_dir_all(&folder).expect("made");
        for name in ["1259", "1259_vm", "t3_16384", "PG_VERSION", "pg_internal.init", "16384.1"] {
            fs::write(folder.join(name), b"").expect("written");
        }
        let mut files = relation_files(pgdata.path(), Path::new("base/5")).expect("listed");
        files.sort();
        let found: Vec<(u32, Fork, u32)> =
            files.iter().map(|(rel, segment)| (rel.relation, rel.fork, *segment)).collect();
        assert_eq!(found, [(1259, Fork::Main, 0), (1259, Fork::VisibilityMap, 0), (16384, Fork::Main, 1)]);
        assert_eq!(relation_folders(pgdata.path()).expect("listed"), [Path::new("global"), Path::new("base/5")]);
    }
}
