//! Pages that storage keeps as PostgreSQL wrote them, because WAL does not describe them.
//!
//! `CREATE DATABASE` copies a template through PostgreSQL's buffers and logs each page as if it had tuples: without
//! what is between `pd_lower` and `pd_upper`. Of a page of a visibility map or of the map of a BRIN index that is
//! everything. From the log alone storage would rebuild an empty page. PostgreSQL has the real one on its disk, once a
//! checkpoint has flushed it; so storage has to have it then.
//!
//! There are three kinds, and each is known without asking storage for the page:
//! - images that were logged without bytes that PostgreSQL reads: seen in the log when it is shipped
//!   ([`PartialPages`]);
//! - pages without an LSN, which no record describes: seen by the shim when they are written, and marked in the file's
//!   meta;
//! - sequences, whose pages are behind their records: the same.
//!
//! ```text
//! checkpoint, smgrimmedsync, clean stop: fsync(file) -> shim: is anything marked? -> KeepPages -> [`AsWritten::keep`]
//!     the marked pages, each read while it is not written -> pageserver, which answers when they are durable
//!     -> fsync returns
//! ```
//!
//! **Where in history they are kept.** A page with an LSN is kept at that LSN. PostgreSQL flushes the log up to it
//! before it writes the page, and all records of the page up to it are in the page, and none after: so redo of what
//! comes after finds what it found on PostgreSQL's own disk. (A bit of a visibility map may be cleared before the
//! record that says so; clearing it again changes nothing, and a cleared bit is never wrong.) A page without an LSN is
//! kept at the position to which storage has ingested the log, and only if no record of the log up to there describes
//! the page; so the first one that does finds it.
//!
//! **Sequences are kept at a clean stop only.** PostgreSQL logs 32 values ahead, and hands them out without another
//! record. Its page says how many are left; were that put in the place of the record while PostgreSQL runs, a crash
//! would bring values back that were handed out since. After a shutdown checkpoint the first value is logged anew.
//!
//! Invariants:
//! - a page that is marked, or listed as partial, does not leave the cache;
//! - a flush returns only when storage has all that was marked in the file before, and every partial page that was
//!   written; without storage it waits, as on a disk that hangs;
//! - a mark is taken off while the block is owned, together with the reading of the page, and put on again if storage
//!   did not take it.

mod found;
pub mod partial;

use crate::Error;
use crate::cached_files::is_unlogged;
use crate::fill::files::Files;
use crate::metrics::Metrics;
use crate::page_client::{PageClient, PageError};
use crate::quorum::Quorum;
use found::Found;
pub use found::mark;
use parking_lot::{Mutex, MutexGuard};
pub use partial::PartialPages;
use quire_cache::FileId;
use quire_protocol::page::{Keeping, MAX_KEYS, WrittenPage};
use quire_types::{Key, Lsn, RELATION_SEGMENT_BLOCKS, Term};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often pages are sent again whose relation changed while they were under way.
const ATTEMPTS: u32 = 3;
/// How long a flush may wait for the pages of a relation under guard, before full-page writes are the better way.
pub const GUARD_WAIT_MAX: Duration = Duration::from_secs(20);

/// Whose pages these are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The files of the cache.
    pub files: Arc<Files>,
    /// Storage.
    pub client: PageClient,
    /// Says what is committed.
    pub quorum: Arc<Quorum>,
    /// The compute's term, which has fenced all earlier ones.
    pub term: Term,
    /// Pages of which the log has only a part.
    pub partial: Arc<PartialPages>,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// Has storage keep pages as they were written, for one session.
#[derive(Debug)]
pub struct AsWritten {
    parts: Parts,
    /// Files of sequences that were written.
    sequences: Mutex<BTreeSet<FileId>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl AsWritten {
    /// Nothing was written yet.
    pub fn new(parts: Parts) -> AsWritten {
        AsWritten { parts, sequences: Mutex::default(), one_at_a_time: tokio::sync::Mutex::default() }
    }

    /// Returns once storage has what is marked in a file, and all partial pages that are in files.
    pub async fn keep(self: &Arc<AsWritten>, file: FileId) -> Result<(), Error> {
        let _one = self.one_at_a_time.lock().await;
        for _ in 0..ATTEMPTS {
            if self.keep_partial().await? + self.keep_marked(file).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// PostgreSQL has shut down: has storage keep how far each sequence really is. Without it a cold start leaves gaps.
    pub async fn keep_sequences(self: &Arc<AsWritten>) -> Result<(), Error> {
        let _one = self.one_at_a_time.lock().await;
        let files: Vec<FileId> = self.sequences().iter().copied().collect();
        for some in files.chunks(MAX_KEYS).map(<[FileId]>::to_vec) {
            let pages = self.clone().gather(move |this| this.sequence_pages(&some)).await?;
            self.send(pages).await?;
        }
        Ok(())
    }

    /// Sends the partial pages that PostgreSQL has written, in pieces; how many storage did not take.
    async fn keep_partial(self: &Arc<AsWritten>) -> Result<usize, Error> {
        let mut refused = 0;
        for some in self.parts.partial.list().chunks(MAX_KEYS).map(<[(Key, Lsn)]>::to_vec) {
            let pages = self.clone().gather(move |this| this.partial_pages(&some)).await?;
            refused += self.send(pages).await?;
        }
        Ok(refused)
    }

    /// Sends what is marked in a file, in pieces; how many pages storage did not take.
    async fn keep_marked(self: &Arc<AsWritten>, file: FileId) -> Result<usize, Error> {
        let (mut refused, mut from) = (0, 0);
        while from < RELATION_SEGMENT_BLOCKS {
            let (pages, next) = self.clone().gather(move |this| this.marked_pages(file, from)).await?;
            refused += self.send(pages).await?;
            from = next;
        }
        Ok(refused)
    }

    async fn gather<R: Send + 'static>(
        self: Arc<AsWritten>,
        look: impl FnOnce(&AsWritten) -> io::Result<R> + Send + 'static,
    ) -> Result<R, Error> {
        let looked = tokio::task::spawn_blocking(move || look(&self)).await.map_err(|_| Error::ShuttingDown)?;
        looked.map_err(|error| Error::System("cannot read a page that storage is to keep", error))
    }

    /// Those of some partial pages that PostgreSQL has written. Pages of files that are gone are forgotten.
    fn partial_pages(&self, some: &[(Key, Lsn)]) -> io::Result<Vec<Found>> {
        let Parts { files, partial, .. } = &self.parts;
        let mut pages: Vec<Found> = Vec::new();
        for (key, lsn) in some {
            let page = found::partial(files, partial, *key, *lsn);
            pages.extend(page.inspect_err(|_| pages.iter().for_each(Found::remark))?);
        }
        Ok(pages)
    }

    /// Some of the pages of a file that are marked, from a block on, and where to continue. Sequences are only noted.
    fn marked_pages(&self, id: FileId, from: u32) -> io::Result<(Vec<Found>, u32)> {
        let nothing = (Vec::new(), RELATION_SEGMENT_BLOCKS);
        let Ok(file) = self.parts.files.get(id) else { return Ok(nothing) };
        if from == 0 && !file.meta().take_undescribed() || is_unlogged(self.parts.files.dir(), id) {
            return Ok(nothing);
        }
        let blocks = Range { start: from, end: RELATION_SEGMENT_BLOCKS };
        Ok(found::marked_while_running(&file, blocks, MAX_KEYS)?.unwrap_or_else(|| {
            self.sequences().insert(id);
            nothing
        }))
    }

    fn sequence_pages(&self, files: &[FileId]) -> io::Result<Vec<Found>> {
        let open = |id: &FileId| self.parts.files.get(*id).ok().filter(|_| !is_unlogged(self.parts.files.dir(), *id));
        let mut pages: Vec<Found> = Vec::new();
        for file in files.iter().filter_map(open) {
            let marked = found::marked(&file, 0..1, 1);
            pages.extend(marked.inspect_err(|_| pages.iter().for_each(Found::remark))?.0);
        }
        Ok(pages)
    }

    /// Has pages kept, however long storage takes; how many it did not take. Those are marked again.
    async fn send(&self, pages: Vec<Found>) -> Result<usize, Error> {
        if pages.is_empty() {
            return Ok(0);
        }
        let outcome = self.send_retrying(pages.iter().map(Found::to_message).collect()).await;
        let answers = outcome.inspect_err(|_| pages.iter().for_each(Found::remark))?;
        let mut refused = 0;
        for (page, answer) in pages.iter().zip(answers) {
            match answer {
                Keeping::Kept => {
                    self.parts.partial.forget(page.key, page.lsn);
                    self.parts.metrics.kept_as_written();
                }
                Keeping::Gone | Keeping::Logged => {
                    page.remark();
                    refused += usize::from(answer == Keeping::Logged);
                }
            }
        }
        Ok(refused)
    }

    async fn send_retrying(&self, pages: Vec<WrittenPage>) -> Result<Vec<Keeping>, PageError> {
        // Everything that the pages say was committed before they were written.
        let Parts { client, quorum, term, .. } = &self.parts;
        let upto = pages.iter().fold(quorum.committed_lsn(), |upto, page| upto.max(lsn_of(&page.page)));
        loop {
            match client.keep_pages(*term, upto, pages.clone(), PATIENCE).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, pages = pages.len(), "PostgreSQL waits for storage to keep pages as they were written");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn sequences(&self) -> MutexGuard<'_, BTreeSet<FileId>> {
        self.sequences.lock()
    }
}

/// The LSN on a page.
fn lsn_of(page: &[u8]) -> Lsn {
    quire_wal::page::lsn(page)
}
