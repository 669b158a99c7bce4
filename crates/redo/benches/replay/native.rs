//! WAL replayed natively: each record is turned into deltas, and these are applied to pages.

use crate::store::Store;
use crate::unreferenced::{status_deltas, visibility_deltas, zeroed_page};
use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use quire_redo::{Delta, RecordView, RedoError, TransactionStatus, apply, clog, visibility_map};
use quire_types::{Fork, Key, Lsn, Slru};
use quire_wal::effects::heap::may_clear_visibility;
use quire_wal::effects::smgr::{self, SmgrEffect};
use quire_wal::effects::xact::{self, XactEffect};
use quire_wal::{ControlFile, DataPath, RawRecord, Record, WalStream, rmgr};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Bytes of WAL that are given to the stream at once.
const PIECE_BYTES: usize = 1 << 18;

/// What came of a replay.
pub struct Replay {
    /// The pages.
    pub store: Store,
    /// Records replayed.
    pub records: u64,
    /// Changes that a page already had, because it was written between the change and the crash.
    pub skipped: u64,
    /// Start of the first record.
    pub first_record: Lsn,
    /// Start of the last one.
    pub last_record: Lsn,
    /// User and system time of this thread.
    pub cpu: Duration,
}

impl Replay {
    /// Replays the WAL in a data directory from the last checkpoint's redo point to the end.
    pub fn run(data: &Path, control: &ControlFile) -> Result<Replay> {
        let before = thread_cpu()?;
        let start = control.checkpoint_copy.redo;
        let mut replay = Replay {
            store: Store::new(data),
            records: 0,
            skipped: 0,
            first_record: start,
            last_record: start,
            cpu: Duration::ZERO,
        };
        replay.log(data, control)?;
        replay.cpu = thread_cpu()? - before;
        Ok(replay)
    }

    /// Reads segment after segment until there is none, or one ends early: the rest of the last one is zeroes, or a
    /// record that the crash cut off.
    fn log(&mut self, data: &Path, control: &ControlFile) -> Result<()> {
        let segment_bytes = u64::from(control.layout.wal_segment_bytes);
        let mut stream = WalStream::new(self.first_record, segment_bytes, Some(control.system_identifier));
        let mut offset = self.first_record.segment_offset(segment_bytes);
        let mut piece = vec![0; PIECE_BYTES];
        for segment_number in self.first_record.segment_number(segment_bytes).. {
            let path = DataPath::WalSegment { timeline: 1, segment_number }.to_path_sized(segment_bytes);
            let Ok(mut segment) = File::open(data.join(path)) else { break };
            segment.seek(SeekFrom::Start(std::mem::take(&mut offset)))?;
            while let count @ 1.. = segment.read(&mut piece)? {
                stream.feed(&piece[..count]);
                while let Ok(Some(raw)) = stream.next_record() {
                    let start = raw.start;
                    self.record(raw).with_context(|| format!("record at {start}"))?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, raw: RawRecord) -> Result<()> {
        self.records += 1;
        self.last_record = raw.start;
        let delta = Delta::Record(raw.bytes, raw.start);
        let Delta::Record(bytes, start) = &delta else { bail!("a record's delta is a record") };
        let record = RecordView::parse(bytes)?;
        for block in record.blocks().filter(|block| block.rel.fork != Fork::FreeSpaceMap) {
            self.change(Key::RelBlock { rel: block.rel, block: block.block }, raw.end, &delta)?;
        }
        let decode = || Record::decode(*start, raw.end, bytes.clone());
        match record.rmgr {
            rmgr::HEAP | rmgr::HEAP2 if may_clear_visibility(record.rmgr, record.info, record.main_data) => {
                self.visibility(&decode()?)
            }
            rmgr::XACT => self.transaction(&record, raw.end),
            rmgr::SMGR => self.truncation(&record, raw.end),
            rmgr::CLOG | rmgr::MULTIXACT => self.status(&decode()?),
            rmgr::DBASE | rmgr::TBLSPC => bail!("databases and tablespaces are no part of this run"),
            _ => Ok(()),
        }
    }

    fn change(&mut self, key: Key, lsn: Lsn, delta: &Delta) -> Result<()> {
        match apply(self.store.page(key)?, key, lsn, delta) {
            Err(RedoError::NotNewer { .. }) => self.skipped += 1,
            result => result?,
        }
        Ok(())
    }

    /// Bits of the visibility map that a heap record clears without naming the map's page.
    fn visibility(&mut self, record: &Record) -> Result<()> {
        visibility_deltas(record).iter().try_for_each(|(key, delta)| self.change(*key, record.end, delta))
    }

    /// Pages of SLRU areas that come into being, and multixacts.
    fn status(&mut self, record: &Record) -> Result<()> {
        if let Some((slru, page)) = zeroed_page(record)? {
            self.store.page(Key::SlruBlock { slru, page })?.fill(0);
        }
        status_deltas(record)?.iter().try_for_each(|(key, delta)| self.change(*key, record.end, delta))
    }

    fn truncation(&mut self, record: &RecordView<'_>, lsn: Lsn) -> Result<()> {
        let SmgrEffect::Truncate { rel, blocks, .. } = smgr::parse(record.info, record.main_data)? else {
            return Ok(());
        };
        let (map, map_block) = (rel.with_fork(Fork::VisibilityMap), visibility_map::map_block(blocks));
        let truncated = Delta::VisibilityTruncated { heap_blocks: blocks };
        self.change(Key::RelBlock { rel: map, block: map_block }, lsn, &truncated)?;
        self.store.truncate(map, map_block + 1);
        self.store.truncate(rel, blocks);
        Ok(())
    }

    /// A transaction's end: its status and its subtransactions', and the relations that go with it.
    fn transaction(&mut self, record: &RecordView<'_>, lsn: Lsn) -> Result<()> {
        let (status, end) = match xact::parse(record.info, record.main_data)? {
            XactEffect::Commit(end) => (TransactionStatus::Committed, end),
            XactEffect::Abort(end) => (TransactionStatus::Aborted, end),
            _ => return Ok(()),
        };
        let own = end.prepared_xid.unwrap_or(record.xid);
        for xid in end.subxacts.into_iter().chain([own]).filter(|xid| *xid != 0) {
            let key = Key::SlruBlock { slru: Slru::Clog, page: clog::page_of(xid) };
            self.change(key, lsn, &Delta::ClogStatus { status, xids: vec![xid] })?;
        }
        end.dropped.into_iter().for_each(|rel| self.store.drop_relation(rel));
        Ok(())
    }
}

fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn duration(time: TimeVal) -> Result<Duration> {
    let microseconds = u64::try_from(time.tv_usec())?;
    Ok(Duration::from_secs(u64::try_from(time.tv_sec())?) + Duration::from_micros(microseconds))
}
