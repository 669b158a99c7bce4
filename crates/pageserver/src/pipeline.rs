//! From WAL bytes to changes: the one who feeds a shard.

use crate::ingest_gate::MustWait;
use crate::shard_pages::{KeepError, LatestView, PatientView, ShardPages};
use quire_crash::{Work, work};
use quire_ingest::{Ingest, IngestError};
use quire_layers::error::ApplyError;
use quire_layers::manifest::Origin;
use quire_protocol::page::{Keeping, WrittenPage};
use quire_types::Lsn;
use quire_wal::postgres_version::PostgresVersion;
use quire_wal::{CheckpointState, RawRecord, Record, WalError, WalStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So often in a row may bytes be fed that are not WAL, before they are believed to be what the log holds.
const WAL_FAILURES_MAX: u32 = 8;

/// Why ingest stopped. It does not continue before a restart, because going on would give wrong pages.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The bytes are not WAL, where a record should be that was not taken yet: another source may have better ones.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The bytes are a record of the log, since their checksum is right, but not one that can be decoded.
    #[error("the record at {lsn} cannot be decoded: {source}")]
    Record {
        /// Where it starts.
        lsn: Lsn,
        /// What is wrong.
        source: WalError,
    },
    /// The record cannot be ingested.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// Its changes were refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The WAL does not follow what came before.
    #[error("WAL at {got} was received where {expected} comes next")]
    Gap {
        /// The next byte.
        expected: Lsn,
        /// What came.
        got: Lsn,
    },
    /// The record made ingest panic before, more than once.
    #[error(
        "ingest panicked twice at the record at {lsn}, which is not tried again; report this with the files in {folder}"
    )]
    PutAside {
        /// Where it begins.
        lsn: Lsn,
        /// Where the notes are.
        folder: PathBuf,
    },
    /// It stopped before.
    #[error("ingest has stopped")]
    Stopped,
}

/// What a shutdown checkpoint at the end of the log has to say.
#[derive(Clone, Debug)]
pub struct LogEnd {
    /// Start of the last record; invalid if there is none.
    pub last_record: Lsn,
    /// The counters.
    pub checkpoint: CheckpointState,
    /// Whether the last record is a shutdown checkpoint.
    pub shut_down: bool,
}

/// When an open memtable is frozen.
#[derive(Clone, Copy, Debug)]
pub struct MemtableLimits {
    /// When it has this size.
    pub bytes: usize,
    /// When the last freeze was so long ago.
    pub age: Duration,
}

/// Ingest of one shard. It alone applies changes and freezes memtables.
#[derive(Debug)]
pub struct Pipeline {
    pages: Arc<ShardPages>,
    limits: MemtableLimits,
    ingest: Ingest,
    stream: WalStream,
    last_freeze: Instant,
    wal_failures: u32,
    is_stopped: bool,
}

impl Pipeline {
    /// Continues where the shard is durable, with the log of a server of `version`.
    pub fn open(
        pages: &Arc<ShardPages>,
        version: &'static PostgresVersion,
        limits: MemtableLimits,
    ) -> Result<Pipeline, PipelineError> {
        let origin = pages.origin();
        let state = pages.store().ingest_state();
        let ingest = if state.is_empty() {
            Ingest::begin(version, origin.start, &LatestView(pages))?
        } else {
            Ingest::restore(version, &state)?
        };
        let segment_bytes = origin.segment_bytes.into();
        let stream = match ingest.last_record() {
            Some(last) => WalStream::resume(ingest.position(), last, segment_bytes, None),
            None => WalStream::at_boundary(ingest.position(), segment_bytes, None),
        };
        let stream = stream.of_version(version);
        let (pages, last_freeze) = (Arc::clone(pages), Instant::now());
        Ok(Pipeline { pages, limits, ingest, stream, last_freeze, wal_failures: 0, is_stopped: false })
    }

    /// The next byte of WAL that is needed; once ingest has stopped, the end of the last record before that.
    pub fn position(&self) -> Lsn {
        if self.is_stopped { self.ingest.position() } else { self.stream.position() }
    }

    /// Takes WAL that starts at `begin`; what came before is skipped. Gives the next byte that is needed.
    ///
    /// After bytes that are not WAL the same bytes may be fed again, from another source, some times. After any other
    /// error the shard is told why, and nothing more is taken: ingest never passes a record that it could not take in.
    pub fn feed(&mut self, begin: Lsn, wal: &[u8]) -> Result<Lsn, PipelineError> {
        self.check_not_stopped()?;
        let expected = self.position();
        if begin > expected {
            return Err(PipelineError::Gap { expected, got: begin });
        }
        let known = usize::try_from(expected.bytes_since(begin)).unwrap_or(usize::MAX);
        self.stream.feed(wal.get(known..).unwrap_or_default());
        let result = self.take_records();
        self.pages.announce_ingested();
        if let Err(error) = &result {
            self.note_failure(error);
        }
        result.map(|()| self.position())
    }

    fn take_records(&mut self) -> Result<(), PipelineError> {
        while let Some(record) = self.stream.next_record()? {
            self.take_record(&record)?;
            self.wal_failures = 0;
        }
        self.freeze_if_due();
        Ok(())
    }

    fn note_failure(&mut self, error: &PipelineError) {
        self.wal_failures += 1;
        match error {
            PipelineError::Wal(_) if self.wal_failures < WAL_FAILURES_MAX => self.stream.rewind_to_boundary(),
            _ => {
                self.is_stopped = true;
                self.pages.stop_ingest(&error.to_string());
            }
        }
    }

    fn take_record(&mut self, raw: &RawRecord) -> Result<(), PipelineError> {
        let put_aside = self.pages.put_aside();
        if put_aside.records.contains(&raw.start) {
            return Err(PipelineError::PutAside { lsn: raw.start, folder: put_aside.folder.clone() });
        }
        let Origin { branch, shard, .. } = *self.pages.origin();
        let _working = work::begin(Work::Record { branch, shard, lsn: raw.start });
        quire_crash::plant("pageserver.ingest");
        let record = Record::decode(raw.start, raw.end, raw.bytes.clone())
            .map_err(|source| PipelineError::Record { lsn: raw.start, source })?;
        let changes = self.ingest.ingest(&record, &PatientView(&self.pages))?;
        let must_wait = self.pages.apply(&changes, raw.end)?;
        self.count(&record);
        let is_full = self.is_full();
        if is_full {
            self.freeze();
        }
        if is_full || must_wait == MustWait::Yes {
            self.pages.metrics().ingest_waits();
            self.pages.announce_ingested();
            self.pages.wait_for_room();
            self.check_not_stopped()?;
        }
        Ok(())
    }

    fn check_not_stopped(&self) -> Result<(), PipelineError> {
        if self.is_stopped || self.pages.progress().health.is_stopped() { Err(PipelineError::Stopped) } else { Ok(()) }
    }

    fn count(&self, record: &Record) {
        let images = || record.blocks.iter().filter_map(|block| block.image.as_ref());
        let image_bytes = images().map(|image| image.bytes.len() as u64).sum();
        let bytes = record.end.bytes_since(record.start);
        self.pages.metrics().record_ingested(bytes, images().count() as u64, image_bytes);
    }

    /// Freezes the open memtable if it is full, as images can make it, or if the last freeze was long ago, so that what
    /// is durable follows a slow branch, too.
    pub fn freeze_if_due(&mut self) {
        if self.is_full() || self.last_freeze.elapsed() >= self.limits.age {
            self.freeze();
        }
    }

    fn is_full(&self) -> bool {
        self.pages.store().open_bytes() >= self.limits.bytes
    }

    /// Freezes what was taken in so far. After an error ingest's state is not that of the memtable any more.
    pub fn freeze(&mut self) {
        if !self.is_stopped {
            self.pages.freeze(self.ingest.state());
            self.last_freeze = Instant::now();
        }
    }

    /// Keeps pages as PostgreSQL wrote them, at the end of the last record, and freezes what was taken in.
    pub fn keep(&mut self, upto: Lsn, pages: &[WrittenPage]) -> Result<Vec<Keeping>, KeepError> {
        self.check_not_stopped().map_err(|_| KeepError::Stopped)?;
        let kept = self.pages.keep_pages(upto, pages)?;
        kept.grown.into_iter().for_each(|(key, blocks)| self.ingest.note_size(key, blocks));
        if kept.keepings.contains(&Keeping::Kept) {
            self.freeze();
        }
        Ok(kept.keepings)
    }

    /// What a shutdown checkpoint at `lsn` has to say; none if ingest is not exactly there.
    pub fn log_end(&self, lsn: Lsn) -> Option<LogEnd> {
        let is_there = self.ingest.position() == lsn && !self.is_stopped;
        is_there.then(|| LogEnd {
            last_record: self.ingest.last_record().unwrap_or(Lsn::INVALID),
            checkpoint: *self.ingest.checkpoint_state(),
            shut_down: self.ingest.log_ends_with_shutdown_checkpoint(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImagePool;
    use crate::metrics::Metrics;
    use crate::put_aside::PutAside;
    use crate::shard_pages::ShardPagesParts;
    use quire_layers::image_policy::ImageSettings;
    use quire_layers::import::Import;
    use quire_layers::layer::BlockCache;
    use quire_layers::manifest::{Manifest, Origin};
    use quire_layers::store::Store;
    use quire_types::{BranchKey, Key, ShardId};
    use quire_wal::effects::FullPageWrites;
    use quire_wal::postgres_version::PG15;
    use quire_wal::record::record_crc;
    use quire_wal::{WalWriter, rmgr};
    use std::path::Path;

    const SEGMENT_BYTES: u32 = 16 << 20;
    const START: Lsn = Lsn(SEGMENT_BYTES as u64);

    fn import(dir: &Path) {
        let (branch, shard) = (BranchKey::default(), ShardId::UNSHARDED);
        let origin = Origin { branch, shard, start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 15 };
        let mut import = Import::begin(dir, origin, ImageSettings::default(), 1 << 20).unwrap();
        import.put(Key::Checkpoint, CheckpointState::default().encode().into()).unwrap();
        import.put(Key::FullPageWrites, FullPageWrites { on: true, since: START }.encode().into()).unwrap();
        import.finish().unwrap();
    }

    fn open(dir: &Path) -> Pipeline {
        open_without(dir, PutAside::default())
    }

    fn open_without(dir: &Path, put_aside: PutAside) -> Pipeline {
        let objects = Arc::new(quire_layers::objects::LocalFolder::open(dir).unwrap());
        let manifest = Manifest::load(objects.as_ref()).unwrap().expect("it was imported");
        let parts = ShardPagesParts {
            redo: quire_redo::apply,
            backlog_max: 100,
            pool: ImagePool::new(),
            metrics: Metrics::new().shard(BranchKey::default(), ShardId::UNSHARDED),
            put_aside,
        };
        let pages = ShardPages::new(Store::open(objects, manifest, &BlockCache::new(1 << 16), 4 << 10).unwrap(), parts);
        let limits = MemtableLimits { bytes: 1 << 20, age: Duration::from_secs(3600) };
        Pipeline::open(&pages, &PG15, limits).unwrap()
    }

    /// Three records and where each starts; the second has a right checksum and cannot be decoded.
    fn wal() -> (Vec<u8>, [Lsn; 3], Lsn) {
        let mut writer = WalWriter::new(&PG15, START, Lsn::INVALID, 1, 7, SEGMENT_BYTES.into());
        let starts = [0; 3].map(|_| writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, b"abc"));
        let end = writer.position();
        let mut wal = writer.into_vec();
        let record = &mut wal[starts[1].bytes_since(START) as usize..starts[2].bytes_since(START) as usize];
        let bytes = u32::from_le_bytes(*record.first_chunk().unwrap()) as usize;
        // The number of a block that no record has.
        record[24] = 100;
        let checksum = record_crc(&record[..bytes]);
        record[20..24].copy_from_slice(&checksum.to_le_bytes());
        (wal, starts, end)
    }

    #[test]
    fn a_record_of_which_ingest_panicked_twice_stops_it_before_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("0-1");
        import(&dir);
        let mut writer = WalWriter::new(&PG15, START, Lsn::INVALID, 1, 7, SEGMENT_BYTES.into());
        let [_, bad, _] = [0; 3].map(|_| writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, b"abc"));
        let put_aside = PutAside { records: [bad].into(), ..PutAside::default() };
        let mut pipeline = open_without(&dir, put_aside);
        let stopped = pipeline.feed(START, &writer.into_vec());
        assert!(matches!(stopped, Err(PipelineError::PutAside { lsn, .. }) if lsn == bad), "{stopped:?}");
        assert_eq!(pipeline.position(), bad);
        let health = pipeline.pages.progress().health;
        assert!(health.is_stopped() && health.reason().is_some_and(|reason| reason.contains("panicked twice")));
    }

    #[test]
    fn ingest_never_passes_a_record_that_cannot_be_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("0-1");
        import(&dir);
        let (wal, [_, bad, _], end) = wal();
        for attempt in ["first", "after reopening"] {
            let mut pipeline = open(&dir);
            let begin = pipeline.position();
            let wal = &wal[begin.bytes_since(START) as usize..];
            let stopped = pipeline.feed(begin, wal);
            assert!(matches!(stopped, Err(PipelineError::Record { lsn, .. }) if lsn == bad), "{attempt}: {stopped:?}");
            // From this source or another, with or without the record.
            for from in [begin, bad, end] {
                let again = pipeline.feed(from, &wal[from.bytes_since(begin) as usize..]);
                assert!(matches!(again, Err(PipelineError::Stopped)), "{attempt}: {again:?}");
            }
            assert_eq!(pipeline.position(), bad);
            pipeline.freeze();
            pipeline.pages.flush().unwrap();
            let progress = pipeline.pages.progress();
            assert_eq!(progress.ingested, bad);
            assert!(progress.durable <= bad);
            assert!(progress.health.reason().expect("it says why").contains(&bad.to_string()));
        }
    }

    #[test]
    fn a_log_that_begins_inside_a_record_is_not_the_branchs() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("0-1");
        import(&dir);
        let before = Lsn(START.0 - 8192);
        let mut writer = WalWriter::new(&PG15, before, Lsn::INVALID, 1, 7, SEGMENT_BYTES.into());
        writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, &[7; 9000]);
        writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, b"abc");
        let wal = writer.into_vec();
        let mut pipeline = open(&dir);
        assert!(matches!(pipeline.feed(START, &wal[8192..]), Err(PipelineError::Wal(_))));
        assert_eq!(pipeline.position(), START);
    }

    #[test]
    fn bytes_that_are_no_wal_may_be_better_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("0-1");
        import(&dir);
        let (wal, [first, bad, _], _) = wal();
        let whole = &wal[..bad.bytes_since(START) as usize];
        let mut damaged = whole.to_vec();
        damaged[first.bytes_since(START) as usize + 24] ^= 1;
        let mut pipeline = open(&dir);
        assert!(matches!(pipeline.feed(START, &damaged), Err(PipelineError::Wal(_))));
        assert_eq!(pipeline.position(), START);
        assert_eq!(pipeline.feed(START, whole).unwrap(), bad);
    }
}
