//! Comparing what PostgreSQL wrote into its cache with what storage makes of the log.
//!
//! After a CHECKPOINT every page in the cache is as PostgreSQL has it, and storage is asked for the same pages at the
//! end of the committed log. While PostgreSQL works, a page may be newer or older than that moment, so a page that
//! differs is looked at again: at its own LSN, which says exactly which version the cache holds, and after a fresh
//! checkpoint. Only what differs every time counts.
//!
//! Not compared: free space maps (advisory), unlogged and temporary relations (never in storage), SLRU areas (no LSNs).

use crate::cached_files::{CachedFile, CachedPage, Inventory};
use crate::difference::{NOTHING, first_difference};
use crate::evidence::{self, Case};
use crate::page_client::PageError;
use crate::session::Session;
use crate::setting::Setting;
use crate::{Error, postgres};
use bytes::Bytes;
use quire_api::compute::{Mismatch, Verification};
use quire_protocol::page::ErrorCode;
use quire_types::{CodecError, Fork, Key, Lsn, RelTag, size};
use quire_wal::page;
use std::collections::BTreeMap;
use std::path::Path;
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

/// One verification.
struct Verifier<'a> {
    setting: &'a Setting,
    session: &'a Session,
    progress: &'a AtomicU64,
    found: Verification,
    suspects: Vec<CachedPage>,
}

/// Compares every page of the cache. `progress` counts pages as they are compared.
pub async fn verify(setting: &Setting, session: &Session, progress: &AtomicU64) -> Result<Verification, Error> {
    progress.store(0, Ordering::Relaxed);
    let mut verifier = Verifier { setting, session, progress, found: Verification::default(), suspects: Vec::new() };
    let at = verifier.checkpoint().await?;
    for folder in Inventory::of(&setting.cache_dir()).folders()? {
        verifier.folder(&folder, at).await?;
    }
    verifier.look_again().await?;
    Ok(verifier.found)
}

impl Verifier<'_> {
    /// Has everything written, and says where the log is then.
    async fn checkpoint(&self) -> Result<Lsn, Error> {
        let client = postgres::connect(&self.setting.config, "postgres").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(self.session.committed())
    }

    async fn folder(&mut self, folder: &Path, at: Lsn) -> Result<(), Error> {
        let dir = self.setting.cache_dir();
        let files = Inventory::of(&dir).segments_in(folder)?;
        let Some((first, _)) = files.first() else { return Ok(()) };
        let sizes = self.sizes(first.tablespace, first.database, at).await?;
        for (rel, segment) in files {
            let unlogged = sizes.contains_key(&rel.with_fork(Fork::Init)) && rel.fork != Fork::Init;
            let Some(file) = CachedFile::open(&dir, rel, segment) else { continue };
            let present: Vec<CachedPage> = (0..file.blocks()).filter_map(|index| file.page(index)).collect();
            self.found.absent += u64::from(file.blocks()) - present.len() as u64;
            if unlogged || rel.fork == Fork::FreeSpaceMap {
                self.found.skipped += present.len() as u64;
                continue;
            }
            for batch in present.chunks(BATCH_PAGES) {
                self.batch(batch, at, sizes.get(&rel).copied().unwrap_or(0)).await?;
            }
        }
        Ok(())
    }

    async fn sizes(&self, tablespace: u32, database: u32, at: Lsn) -> Result<BTreeMap<RelTag, u32>, Error> {
        let (first, last) = Key::sizes_of(tablespace, database, (0, u32::MAX));
        let entries = self.session.client.scan(at, first, last, PATIENCE).await?;
        let unusable = |error: CodecError| Error::Storage { what: "size of a relation", reason: error.to_string() };
        let mut sizes = BTreeMap::new();
        for (key, value) in entries {
            if let Key::RelSize { rel } = key {
                sizes.insert(rel, size::decode(&value).map_err(unusable)?);
            }
        }
        Ok(sizes)
    }

    /// Compares pages of one file with storage's at `at`, where the fork has `blocks` blocks.
    async fn batch(&mut self, batch: &[CachedPage], at: Lsn, blocks: u32) -> Result<(), Error> {
        let (known, beyond): (Vec<_>, Vec<_>) = batch.iter().partition(|page| page.block < blocks);
        let keys = known.iter().map(|page| page.key()).collect();
        let theirs = match self.get(at, keys).await {
            // Each is looked at by itself, at the LSN at which PostgreSQL wrote it.
            Err(error) if error.refusal() == Some(ErrorCode::Guarded) => {
                batch.iter().for_each(|page| self.note(page, false));
                return Ok(());
            }
            outcome => outcome?,
        };
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
        if keys.is_empty() {
            return Ok(Vec::new());
        }
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
            Err(error) if matches!(error.refusal(), Some(ErrorCode::NoSuchKey | ErrorCode::Guarded)) => None,
            Err(error) => return Err(error.into()),
        };
        let first_difference = first_difference(page.key(), &ours, theirs.as_deref().unwrap_or(&NOTHING));
        if first_difference.is_none() || page.is_gone() {
            return Ok(None);
        }
        if keep {
            let case = Case { page, version, ours: &ours, theirs: theirs.as_deref(), refusal: None };
            let kept = evidence::put_aside(&self.setting.config, self.session, &case).await;
            tracing::error!(relation = page.relation(), block = page.block, lsn = %cache_lsn, ?kept, "page differs from storage");
            self.session.guard.add(page.rel, at).await?;
        }
        Ok(Some(Mismatch {
            relation: page.relation(),
            block: page.block,
            cache_lsn,
            storage_lsn: theirs.as_deref().map(page::lsn),
            first_difference,
        }))
    }
}
