//! Relations under guard: storage keeps their pages as PostgreSQL writes them, and does not redo them.
//!
//! The [sampler](crate::sample) finds a page of an index on which PostgreSQL and redo differ, again and again. That one
//! relation goes under guard: each of its pages that is in the cache, and each that is written from now on, is marked
//! as one that WAL does not describe ([`crate::as_written`]), so it does not leave the cache, and no flush returns,
//! before storage has it as it is. Storage gives nothing of the relation that it would have to make by redo of later
//! records: an error is better than a wrong page. Everything else continues as it was, with full-page writes off.
//!
//! The guard is a small file in storage, so that it outlives the compute. It ends when the relation is gone, as after
//! `REINDEX` or `VACUUM FULL`, which write another file.
//!
//! What it costs is an image of each page of that relation for each checkpoint in which it was written. If that takes
//! too long, or if a second relation differs, full-page writes come back for the branch.

use crate::as_written::AsWritten;
use crate::fill::files::{CacheFile, Files};
use crate::kept::KeptFiles;
use crate::materialise::Materialiser;
use crate::{Error, as_written};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_cache::protocol::Blocks;
use quire_cache::{CacheError, FileId};
use quire_protocol::page::GUARD_PREFIX;
use quire_types::{Fork, Lsn, PAGE_SIZE, RelTag};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often files that have come are put under guard, and relations that have gone are let go.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most relations; a compute with more has another problem.
const RELATIONS_MAX: usize = 16;
/// Forks whose pages storage has. A free space map is a hint.
const FORKS: [Fork; 3] = [Fork::Main, Fork::VisibilityMap, Fork::Init];

/// The guard of one session.
#[derive(Debug)]
pub struct Guard {
    files: Arc<Files>,
    kept: Arc<KeptFiles>,
    materialiser: Arc<Materialiser>,
    as_written: Arc<AsWritten>,
    /// Main forks, and from which LSN on.
    relations: Mutex<BTreeMap<RelTag, Lsn>>,
    is_overwhelmed: AtomicBool,
}

impl Guard {
    /// What storage has under guard.
    pub async fn open(
        files: Arc<Files>,
        kept: Arc<KeptFiles>,
        materialiser: Arc<Materialiser>,
        as_written: Arc<AsWritten>,
    ) -> Result<Guard, Error> {
        let found = kept.list(GUARD_PREFIX).await?;
        let relations = found.iter().filter_map(|file| Some((relation_of(&file.name)?, file.lsn))).collect();
        Ok(Guard {
            files,
            kept,
            materialiser,
            as_written,
            relations: Mutex::new(relations),
            is_overwhelmed: AtomicBool::new(false),
        })
    }

    /// Puts a relation under guard from `since` on, unless it is. If it is not the first, full-page writes have to come
    /// back.
    pub async fn add(self: &Arc<Guard>, rel: RelTag, since: Lsn) -> Result<(), Error> {
        let rel = rel.with_fork(Fork::Main);
        let known = self.relations().len();
        if self.contains(rel) {
            return Ok(());
        }
        if known > 0 {
            self.is_overwhelmed.store(true, Ordering::SeqCst);
        }
        if known < RELATIONS_MAX {
            self.kept.try_set(name_of(rel), Some((since, Bytes::new()))).await?;
            self.relations().insert(rel, since);
            self.clone().look_after(rel).await?;
        }
        Ok(())
    }

    /// Whether a fork's relation is under guard.
    pub fn contains(&self, rel: RelTag) -> bool {
        self.relations().contains_key(&rel.with_fork(Fork::Main))
    }

    /// The relations, by the paths of their files, for people.
    pub fn paths(&self) -> Vec<String> {
        self.relations().keys().map(|rel| self.path_of(*rel)).collect()
    }

    /// Whether the guard does not do, asked once: several relations differ, or storage takes too long for their pages.
    pub fn is_overwhelmed(&self) -> bool {
        self.is_overwhelmed.swap(false, Ordering::SeqCst)
    }

    /// A flush of a file has waited for so long.
    pub fn note_wait(&self, file: FileId, waited: Duration) {
        let FileId::Relation { rel, .. } = file else { return };
        if waited > as_written::GUARD_WAIT_MAX && self.contains(rel) {
            self.is_overwhelmed.store(true, Ordering::SeqCst);
        }
    }

    /// Puts the files of a relation that was just made under guard, or those of all relations of its database, before
    /// anybody writes them. The shared relations are database 0.
    pub async fn laid_out(
        self: &Arc<Guard>,
        tablespace: u32,
        database: u32,
        relation: Option<u32>,
    ) -> Result<(), Error> {
        let is_there = |rel: &RelTag| {
            (rel.tablespace, rel.database) == (tablespace, database)
                && relation.is_none_or(|relation| relation == rel.relation)
        };
        let relations: Vec<RelTag> = self.relations().keys().copied().filter(is_there).collect();
        for rel in relations {
            self.clone().look_after(rel).await?;
        }
        Ok(())
    }

    /// Looks after the guarded relations' files until aborted.
    pub async fn keep(self: Arc<Guard>) {
        loop {
            quire_crash::plant("compute.guard");
            tokio::time::sleep(INTERVAL).await;
            let relations: Vec<RelTag> = self.relations().keys().copied().collect();
            for rel in relations {
                let outcome =
                    if self.is_gone(rel) { self.let_go(rel).await } else { self.clone().look_after(rel).await };
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a relation is not looked after for now");
                }
            }
        }
    }

    /// Puts files that have come under guard. What is written later is kept when PostgreSQL flushes it; what is there
    /// may never be flushed again.
    async fn look_after(self: Arc<Guard>, rel: RelTag) -> Result<(), Error> {
        let as_written = self.as_written.clone();
        let guard = self.clone();
        let marked = tokio::task::spawn_blocking(move || guard.mark_all(rel)).await.map_err(|_| Error::ShuttingDown)?;
        let marked = marked.map_err(|error| Error::Cache(self.files.dir().meta(), error))?;
        for file in marked {
            as_written.keep(file).await?;
        }
        Ok(())
    }

    /// Marks all pages of files that are not under guard yet, and says which these are.
    fn mark_all(&self, rel: RelTag) -> Result<Vec<FileId>, CacheError> {
        let segments = |fork| (0..).map(move |segment| FileId::Relation { rel: rel.with_fork(fork), segment });
        let there = |fork| segments(fork).map_while(|id| Some((id, self.files.get(id).ok()?)));
        let is_new = |(_, file): &(FileId, Arc<CacheFile>)| !file.meta().is_guarded();
        let new: Vec<_> = FORKS.into_iter().flat_map(there).filter(is_new).collect();
        // For all of them first: a file that is under guard is not looked at again.
        for (_, file) in &new {
            file.meta().make_room(0..blocks_of(file))?;
        }
        for (_, file) in new.iter().filter(|(_, file)| file.meta().guard()) {
            (0..blocks_of(file)).try_for_each(|block| as_written::mark(file, block))?;
        }
        Ok(new.into_iter().map(|(id, _)| id).collect())
    }

    /// A file that was removed may be seen for a while as an empty one.
    fn is_gone(&self, rel: RelTag) -> bool {
        let is_laid_out = rel.database == 0 || self.materialiser.complete().contains(&(rel.tablespace, rel.database));
        is_laid_out && !self.files.dir().relation_file(rel, 0).exists()
    }

    async fn let_go(&self, rel: RelTag) -> Result<(), Error> {
        self.kept.try_set(name_of(rel), None).await?;
        self.relations().remove(&rel);
        tracing::info!(relation = %self.path_of(rel), "a relation under guard is gone");
        Ok(())
    }

    fn path_of(&self, rel: RelTag) -> String {
        self.files.dir().path_of(FileId::Relation { rel, segment: 0 })
    }

    fn relations(&self) -> MutexGuard<'_, BTreeMap<RelTag, Lsn>> {
        self.relations.lock()
    }
}

/// What there is of a file.
fn blocks_of(file: &CacheFile) -> u32 {
    let bytes = file.data().metadata().map_or(0, |status| status.len());
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX).min(file.meta().capacity())
}

fn name_of(rel: RelTag) -> String {
    format!("{GUARD_PREFIX}{}/{}/{}", rel.tablespace, rel.database, rel.relation)
}

fn relation_of(name: &str) -> Option<RelTag> {
    let numbers: Vec<u32> =
        name.strip_prefix(GUARD_PREFIX)?.split('/').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [tablespace, database, relation] = numbers[..] else { return None };
    Some(RelTag { tablespace, database, relation, fork: Fork::Main })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_relation_is_known_by_the_name_of_its_file() {
        let rel = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
        assert_eq!(name_of(rel), "guard/1663/5/16384");
        assert_eq!(relation_of(&name_of(rel)), Some(rel));
        for name in ["guard/1663/5", "guard/1663/5/x", "fsm/1663/5/16384"] {
            assert_eq!(relation_of(name), None, "{name}");
        }
    }
}
