//! Under a server with which redo was not compared before: its pages are compared until there were many of each kind.
//!
//! The usual sample draws pages by their share of the cache, and might meet a rare kind of index after days. So where
//! it is not known that redo is right for a server, all files are gone through again and again, and each page that the
//! server wrote is compared unless a thousand of its kind were equal already. A page counts once for each LSN that it
//! is found with.

use super::Sampler;
use super::compare::{Comparison, Finding, Scope};
use super::weights::Segment;
use crate::Error;
use crate::cache_dir::CacheDir;
use crate::cached_files::{CachedFile, CachedPage};
use crate::session::Session;
use quire_redo::mask::{PageKind, page_kind};
use quire_types::{Key, Lsn};
use quire_wal::page;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pages of the cache that are looked at in one go, of which those that are wanted are compared.
const TURN_PAGES: usize = 512;
/// How long files are left alone after all were gone through.
const REST: Duration = Duration::from_secs(10);

/// Going through all files of the cache, in turns.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    files: Vec<Segment>,
    /// The file at hand, and where in it to continue.
    open: Option<(CachedFile, u32)>,
    ended: Option<Instant>,
}

/// A page that is to be compared.
struct Wanted {
    page: CachedPage,
    kind: &'static str,
    lsn: Lsn,
}

impl Sweep {
    fn is_over(&self) -> bool {
        self.files.is_empty() && self.open.is_none()
    }

    /// The next page in the cache.
    fn next(&mut self, dir: &CacheDir) -> Option<CachedPage> {
        loop {
            if let Some((file, from)) = &mut self.open {
                // Behind the last present block the search continues at the first.
                let found = file.next_present(*from).filter(|block| *block >= *from && *block < file.blocks());
                if let Some(block) = found {
                    *from = block + 1;
                    if let Some(page) = file.page(block) {
                        return Some(page);
                    }
                    continue;
                }
            }
            let (rel, segment) = self.files.pop()?;
            self.open = CachedFile::open(dir, rel, segment).map(|file| (file, 0));
        }
    }

    /// Looks at some pages; those that `is_wanted`.
    fn turn(
        &mut self,
        dir: &CacheDir,
        scope: Scope,
        is_wanted: impl Fn(&'static str, (Key, Lsn)) -> bool,
    ) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for _ in 0..TURN_PAGES {
            let Some(page) = self.next(dir) else {
                self.open = None;
                self.ended = Some(Instant::now());
                break;
            };
            let Ok(Some(bytes)) = page.read() else { continue };
            let (kind, lsn) = (name(page_kind(&bytes, page.key())), page::lsn(&bytes[..]));
            if scope.contains(lsn) && is_wanted(kind, (page.key(), lsn)) {
                wanted.push(Wanted { page, kind, lsn });
            }
        }
        wanted
    }
}

impl Sampler {
    /// Compares some more pages, if the server is one that needs it.
    pub(super) async fn cover(&mut self) -> Result<(), Error> {
        let Some((session, _)) = self.handle.running() else { return Ok(()) };
        if self.handle.setting().version.doubts(session.server).is_none() || self.is_resting() {
            return Ok(());
        }
        if self.sweep.is_over() {
            self.sweep = Sweep { files: self.weights(&session).await?.segments(), ..Sweep::default() };
        }
        let scope = super::scope(&session);
        for Wanted { page, kind, lsn } in self.turn(&session, scope).await? {
            // There may have been enough of them since they were looked at.
            if !self.handle.covered().wants(session.server, kind, (page.key(), lsn)) {
                continue;
            }
            match Comparison::new(&session, scope).of(&page).await? {
                Finding::Incomparable => {}
                Finding::Equal => {
                    self.handle.metrics().sampled();
                    self.handle.covered().equal(session.server, kind, (page.key(), lsn));
                }
                Finding::Differs(mismatch) => {
                    self.handle.metrics().sampled();
                    self.suspect(&session, &page, &mismatch).await?;
                }
            }
        }
        Ok(())
    }

    fn is_resting(&self) -> bool {
        self.sweep.is_over() && self.sweep.ended.is_some_and(|since| since.elapsed() < REST)
    }

    async fn turn(&mut self, session: &Arc<Session>, scope: Scope) -> Result<Vec<Wanted>, Error> {
        let (mut sweep, handle) = (std::mem::take(&mut self.sweep), self.handle.clone());
        let (dir, server) = (handle.setting().cache_dir(), session.server);
        let looking = move || {
            let wanted = sweep.turn(&dir, scope, |kind, page| handle.covered().wants(server, kind, page));
            (sweep, wanted)
        };
        let (sweep, wanted) = tokio::task::spawn_blocking(looking).await.map_err(|_| Error::ShuttingDown)?;
        self.sweep = sweep;
        Ok(wanted)
    }
}

/// The resource manager that pages of a kind belong to.
fn name(kind: PageKind) -> &'static str {
    match kind {
        PageKind::Heap { .. } => "Heap",
        PageKind::Sequence => "Sequence",
        PageKind::Btree => "Btree",
        PageKind::Hash => "Hash",
        PageKind::Gin => "Gin",
        PageKind::Gist => "Gist",
        PageKind::SpGist => "SPGist",
        PageKind::Brin => "BRIN",
        PageKind::Extension => "Generic",
        PageKind::New | PageKind::VisibilityMap | PageKind::FreeSpaceMap | PageKind::Slru => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, PAGE_SIZE, RelTag};
    use quire_wal::postgres_version::PG15;
    use std::fs;

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

    #[test]
    fn a_sweep_comes_by_every_page_of_this_term_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        let path = dir.relation_file(REL, 0);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        let mut bytes = Vec::new();
        for block in 0..TURN_PAGES as u64 + 10 {
            let mut page = [1; PAGE_SIZE];
            page::set_lsn(&mut page, Lsn(10 + block));
            bytes.extend(page);
        }
        fs::write(path, bytes).expect("written");
        let gone = RelTag { relation: 1, ..REL };
        let mut sweep = Sweep { files: vec![(gone, 0), (REL, 0)], ..Sweep::default() };
        let scope = Scope { after: Lsn(12), upto: Lsn(10_000) };
        let mut blocks = Vec::new();
        while !sweep.is_over() {
            blocks.extend(sweep.turn(&dir, scope, |_, _| true).iter().map(|wanted| wanted.page.block));
        }
        assert_eq!(blocks, (3..TURN_PAGES as u32 + 10).collect::<Vec<_>>());
        assert!(sweep.ended.is_some());
    }
}
