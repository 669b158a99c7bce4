//! The store that is filled from a log, and its comparison with a data directory.

use crate::server::Server;
use crate::store::{Page, Store, size};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use quire_compute::import::Import;
use quire_ingest::Ingest;
use quire_redo::mask::{PageKind, mask_page, page_kind};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, lsn::segment_file_name};
use quire_wal::effects::dbase::{self, DbaseEffect};
use quire_wal::effects::{FullPageWrites, replorigin::OriginState};
use quire_wal::postgres_version::PostgresVersion;
use quire_wal::{CheckpointState, RawRecord, Record, WalStream, page, rmgr};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;

const SEGMENT_BYTES: u64 = 16 << 20;

/// What is at the end of a page of a BRIN index's range map (`BRIN_PAGETYPE_REVMAP`).
const BRIN_RANGE_MAP: [u8; 2] = 0xF092u16.to_le_bytes();

/// Pages that were not as in the directory before they were taken from there.
#[derive(Default)]
pub struct Completed {
    pub maps: usize,
    pub range_maps: usize,
}

/// The start of a sequence's tuple, header included, which runs behind the log: values are logged ahead of their use.
const SEQUENCE_TUPLE_BYTES: usize = 24 + 8 + 8 + 1;

/// What ingest makes of a server's log.
pub struct Oracle {
    version: &'static PostgresVersion,
    store: Store,
    ingest: Ingest,
    stream: WalStream,
    /// Databases whose visibility maps the log does not have: see [`Oracle::note_databases`].
    mapless: HashSet<u32>,
    seen: BTreeSet<(u8, u8)>,
}

impl Oracle {
    /// Imports the stopped server's directory, to continue with the log from its last checkpoint.
    pub fn of(server: &Server) -> Result<Oracle> {
        let import = Import::open(&server.data_dir())?;
        let (version, start) = (import.version(), import.control().checkpoint);
        ensure!(import.start() > start && import.start().segment_offset(SEGMENT_BYTES) == 0);
        let mut store = Store::default();
        for batch in import {
            store.import(batch?);
        }
        let ingest = Ingest::begin(version, start, &store)?;
        let stream = WalStream::new(start, SEGMENT_BYTES, None);
        Ok(Oracle { version, store, ingest, stream, mapless: HashSet::new(), seen: BTreeSet::new() })
    }

    /// Fails unless the log had records of these resource managers and kinds: without them the test shows nothing.
    pub fn assert_seen(&self, kinds: &[(u8, u8)]) {
        let missing: Vec<_> = kinds.iter().filter(|kind| !self.seen.contains(kind)).collect();
        assert!(missing.is_empty(), "the log has no records of {missing:?}");
    }

    /// Page images that were given out.
    pub fn images(&self) -> usize {
        self.store.images
    }

    /// Deltas that were given out.
    pub fn deltas(&self) -> usize {
        self.store.deltas
    }

    /// What the log says of full-page writes, which the store has to say, too.
    pub fn full_page_writes(&self) -> FullPageWrites {
        let stored = self.store.get(Key::FullPageWrites).expect("imported");
        let stored = FullPageWrites::decode(&stored).expect("as written");
        assert_eq!(stored, self.ingest.full_page_writes());
        stored
    }

    /// Ingests the log up to its end; the pages whose images lack bytes and that are not as in the directory are then
    /// taken from there. Fails unless exactly the pages of relations in `database` lack bytes whose contents are in the
    /// hole: of visibility maps, and of the range maps of BRIN indexes.
    pub fn complete_from(&mut self, server: &Server, database: u32) -> Result<Completed> {
        self.catch_up(server)?;
        let mut found = Store::default();
        for batch in Import::open(&server.data_dir())? {
            found.import(batch?);
        }
        let in_database = |key: &Key| matches!(key, Key::RelBlock { rel, .. } if rel.database == database);
        let mut completed = Completed::default();
        let mut expected = BTreeSet::new();
        for (key, page) in found.pages().iter().filter(|(key, _)| in_database(key)) {
            let is_map =
                matches!(key, Key::RelBlock { rel, .. } if rel.fork == Fork::VisibilityMap) && !page::is_new(&page[..]);
            let is_range_map =
                page[PAGE_SIZE - 2..] == BRIN_RANGE_MAP && page::special(&page[..]) == PAGE_SIZE as u16 - 8;
            if is_map || is_range_map {
                expected.insert(*key);
                let differs = self.store.pages().get(key).is_none_or(|ours| masked(*key, ours) != masked(*key, page));
                completed.maps += usize::from(is_map && differs);
                completed.range_maps += usize::from(is_range_map && differs);
            }
        }
        ensure!(self.store.partial == expected, "{:?}\n{expected:?}", self.store.partial);
        expected.into_iter().for_each(|key| self.store.take_written(key, found.pages()[&key].clone()));
        self.mapless.clear();
        Ok(completed)
    }

    /// Ingests the log up to its end and compares the store with the stopped server's data directory.
    pub fn assert_equal(&mut self, server: &Server) -> Result<()> {
        self.catch_up(server)?;
        let mut found = Store::default();
        for batch in Import::open(&server.data_dir())? {
            found.import(batch?);
        }
        let mut differences = compare_values(&self.store, &found);
        differences.extend(self.compare_pages(&found));
        if !differences.is_empty() {
            let shown = differences.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
            bail!("{} differences:\n{shown}", differences.len());
        }
        self.check_written_counters()
    }

    fn catch_up(&mut self, server: &Server) -> Result<()> {
        self.stream.rewind_to_boundary();
        loop {
            let position = self.stream.position();
            let name = segment_file_name(1, position.segment_number(SEGMENT_BYTES), SEGMENT_BYTES);
            let Ok(segment) = fs::read(server.data_dir().join("pg_wal").join(name)) else { break };
            self.stream.feed(&segment[usize::try_from(position.segment_offset(SEGMENT_BYTES))?..]);
            while let Some(raw) = self.stream.next_record()? {
                self.ingest_one(&raw).with_context(|| format!("record at {}", raw.start))?;
            }
        }
        ensure!(self.ingest.log_ends_with_shutdown_checkpoint(), "the log does not end with a shutdown checkpoint");
        ensure!(self.ingest.last_record() == self.stream.last_record());
        Ok(())
    }

    fn ingest_one(&mut self, raw: &RawRecord) -> Result<()> {
        let before = *self.ingest.checkpoint_state();
        self.restart_now_and_then(raw.start)?;
        let record = Record::decode(raw.start, raw.end, raw.bytes.clone())?;
        for change in self.ingest.ingest(&record, &self.store)? {
            ensure!(change.lsn == raw.end, "{} has LSN {}", change.key, change.lsn);
            self.store.apply(change)?;
        }
        self.store.end_record();
        let operation = if record.rmgr == rmgr::XACT { rmgr::XLOG_XACT_OPMASK } else { rmgr::XLR_RMGR_INFO_MASK };
        self.seen.insert((record.rmgr, record.info & operation));
        self.note_databases(&record)?;
        check_counters(&record, &before)
    }

    /// Ingest must continue from its remembered state as if nothing had happened.
    fn restart_now_and_then(&mut self, lsn: Lsn) -> Result<()> {
        if lsn.0.is_multiple_of(1 << 12) {
            let restored = Ingest::restore(self.version, &self.ingest.state())?;
            ensure!(restored.checkpoint_state() == self.ingest.checkpoint_state());
            ensure!(restored.position() == self.ingest.position());
            self.ingest = restored;
        }
        Ok(())
    }

    /// A database that is copied through the log loses its visibility map on the way: PostgreSQL logs the map's pages
    /// as if they had a hole where their bits are. Standbys lose it as well.
    fn note_databases(&mut self, record: &Record) -> Result<()> {
        if record.rmgr != rmgr::DBASE {
            return Ok(());
        }
        match dbase::parse(record.info, &record.main_data)? {
            DbaseEffect::CreateByWal(directory) => _ = self.mapless.insert(directory.database),
            DbaseEffect::CreateByFileCopy { target, source } if self.mapless.contains(&source.database) => {
                self.mapless.insert(target.database);
            }
            _ => {}
        }
        Ok(())
    }

    fn compare_pages(&self, found: &Store) -> Vec<String> {
        let zeroes: Page = Box::new([0; PAGE_SIZE]);
        let keys: HashSet<Key> = found.pages().keys().chain(self.store.pages().keys()).copied().collect();
        let mut differences = Vec::new();
        for key in keys {
            let ours = self.store.pages().get(&key).filter(|_| self.store.contains(key)).unwrap_or(&zeroes);
            let theirs = found.pages().get(&key).unwrap_or(&zeroes);
            differences.extend(self.difference(key, ours, theirs));
        }
        differences
    }

    fn difference(&self, key: Key, ours: &Page, theirs: &Page) -> Option<String> {
        let kind = page_kind(ours, key);
        let (mut ours, mut theirs) = (masked(key, ours), masked(key, theirs));
        if matches!(key, Key::RelBlock { rel, .. } if self.mapless.contains(&rel.database))
            && kind == PageKind::VisibilityMap
        {
            // A bit too few is safe; a bit too many never is.
            theirs.iter_mut().zip(ours.iter_mut()).for_each(|(theirs, ours)| *theirs &= *ours);
        }
        let at = ours.iter().zip(theirs.iter()).position(|(a, b)| a != b)?;
        let count = ours.iter().zip(theirs.iter()).filter(|(a, b)| a != b).count();
        Some(format!("{key} ({kind:?}) differs in {count} bytes from byte {at}: {} for {}", ours[at], theirs[at]))
    }

    /// The counters in storage are at or past the exact ones.
    fn check_written_counters(&self) -> Result<()> {
        let written = CheckpointState::decode(&self.store.get(Key::Checkpoint).context("no counters")?)?;
        let exact = self.ingest.checkpoint_state();
        ensure!((exact.next_xid..exact.next_xid + 1024).contains(&written.next_xid), "{written:?} {exact:?}");
        ensure!((written.next_oid, written.next_multi) == (exact.next_oid, exact.next_multi));
        ensure!(written.next_multi_offset == exact.next_multi_offset);
        Ok(())
    }
}

/// A shutdown checkpoint must say what the counters already are. Object ids may have been reserved and not used; the
/// oldest ids move forward without a record if no file can be removed for it.
fn check_counters(record: &Record, known: &CheckpointState) -> Result<()> {
    if record.rmgr != rmgr::XLOG || record.rmgr_info() != rmgr::XLOG_CHECKPOINT_SHUTDOWN {
        return Ok(());
    }
    let said = CheckpointState::from_record_data(&record.main_data)?;
    let counters = |c: &CheckpointState| (c.next_xid, c.next_multi, c.next_multi_offset, c.newest_commit_ts_xid);
    ensure!(counters(known) == counters(&said), "known: {known:?}\nsaid: {said:?}");
    let oldest = |c: &CheckpointState| [c.oldest_xid, c.oldest_multi, c.oldest_commit_ts_xid];
    ensure!(oldest(known).iter().zip(oldest(&said)).all(|(a, b)| *a <= b), "known: {known:?}\nsaid: {said:?}");
    ensure!(known.next_oid >= said.next_oid, "known: {known:?}\nsaid: {said:?}");
    Ok(())
}

/// What is not a page, in a form in which it has to be equal.
fn comparable(store: &Store) -> BTreeMap<Key, Bytes> {
    let mut values = store.values().clone();
    values.retain(|key, _| !matches!(key, Key::ControlFile | Key::Checkpoint | Key::FullPageWrites));
    for (key, value) in &mut values {
        if matches!(key, Key::ReplicationOrigin { .. }) {
            // The file does not say how far the local log was.
            let state = OriginState::decode(value).expect("as written");
            *value = OriginState { local_lsn: Lsn::INVALID, ..state }.encode().into();
        }
    }
    values
}

/// Everything that is not a page must be equal. PostgreSQL may have extended a relation by pages it never used.
fn compare_values(store: &Store, found: &Store) -> Vec<String> {
    let (stored, found) = (comparable(store), comparable(found));
    let mut differences = Vec::new();
    for (key, value) in &found {
        match (key, stored.get(key)) {
            (_, None) => differences.push(format!("{key} is missing in storage")),
            (Key::RelSize { .. }, Some(ours)) if size(ours) <= size(value) => {}
            (_, Some(ours)) if ours == value => {}
            (_, Some(ours)) => differences.push(format!("{key} is {ours:?} in storage, {value:?} in the directory")),
        }
    }
    let extra = stored.keys().filter(|key| !found.contains_key(key));
    differences.extend(extra.map(|key| format!("{key} is in storage only")));
    differences
}

fn masked(key: Key, page: &Page) -> Page {
    let (kind, mut masked) = (page_kind(page, key), page.clone());
    match kind {
        PageKind::Slru => {}
        // A map page that PostgreSQL has initialised and set no bit on may never have been logged.
        PageKind::VisibilityMap => masked[..page::HEADER_BYTES].fill(0),
        PageKind::Sequence => {
            let tuple = usize::from(page::upper(page.as_slice()));
            masked[tuple + 24..tuple + SEQUENCE_TUPLE_BYTES].fill(0);
            mask_page(&mut masked, kind);
        }
        _ => mask_page(&mut masked, kind),
    }
    masked
}
