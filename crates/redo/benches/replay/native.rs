//! WAL replayed natively: records are applied to pages, a page of WAL at a time.
//!
//! What waits for memory waits together: all records of a run are parsed, and the beginnings of their pages fetched
//! meanwhile; then the parts of these that they are going to touch; then they are applied, in the order of the log.

use crate::prefetch::prefetch;
use crate::store::Store;
use crate::unreferenced::{status_deltas, visibility_delta, zeroed_page};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use quire_redo::{Delta, RedoError, TransactionStatus, apply, apply_block, clog, touch, visibility_map};
use quire_types::{Fork, Key, Lsn, Slru};
use quire_wal::effects::heap::{VisibilityCleared, visibility_cleared_by};
use quire_wal::effects::smgr::{self, SmgrEffect};
use quire_wal::effects::xact::{self, XactEffect};
use quire_wal::postgres_version::PG15;
use quire_wal::{BlockView, ImageUse, RecordView};
use quire_wal::{ControlFile, DataPath, Record, RecordRef, RecordRun, ServerVersion, WalStream, rmgr};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Bytes of WAL that are given to the stream at once.
const PIECE_BYTES: usize = 1 << 18;

/// Changes that are looked at before the one that is being made.
const AHEAD: usize = 12;

/// A change that is to be made.
enum Step<'a> {
    /// What the record does to one of its pages, and where this is.
    Block { record: RecordRef<'a>, view: RecordView<'a>, block: BlockView<'a>, place: u32 },
    /// Bits of the visibility map that the record that ends there clears without naming the map's page.
    Visibility(VisibilityCleared, Lsn),
}

/// What came of a replay.
pub struct Replay {
    /// The pages.
    pub store: Store,
    /// Transactions that ended, not yet noted in the commit log.
    ended: Vec<(TransactionStatus, u32)>,
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
            store: Store::new(data)?,
            ended: Vec::new(),
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
        let mut run = RecordRun::default();
        for segment_number in self.first_record.segment_number(segment_bytes).. {
            let path = DataPath::WalSegment { timeline: 1, segment_number }.to_path_sized(&PG15, segment_bytes);
            let Ok(mut segment) = File::open(data.join(path)) else { break };
            segment.seek(SeekFrom::Start(std::mem::take(&mut offset)))?;
            while stream.feed_from(&mut segment, PIECE_BYTES)? > 0 {
                while let Ok(true) = stream.next_run(&mut run) {
                    self.run_records(&run)?;
                }
            }
        }
        Ok(())
    }

    fn run_records(&mut self, run: &RecordRun) -> Result<()> {
        let mut plan = Vec::with_capacity(2 * run.records().len());
        for record in run.records() {
            self.records += 1;
            self.last_record = record.start;
            self.plan(record, &mut plan).with_context(|| format!("record at {}", record.start))?;
        }
        self.carry_out(&mut plan)?;
        self.note_ended()
    }

    /// Finds the pages of a record and starts to fetch them. What is no change of these pages is done at once, if no
    /// change that is only planned can meet with it, and after those otherwise.
    fn plan<'a>(&mut self, record: RecordRef<'a>, plan: &mut Vec<Step<'a>>) -> Result<()> {
        let (view, first, others) = RecordView::parse_first(record.bytes)?;
        for block in first.into_iter().chain(others).filter(|block| block.rel.fork != Fork::FreeSpaceMap) {
            let overwritten = block.will_init || block.image == ImageUse::Restore;
            let place = self.store.place(block.rel, block.block, overwritten)?;
            prefetch(self.store.at(place), touch::HEAD);
            plan.push(Step::Block { record, view, block, place });
        }
        match view.rmgr {
            rmgr::HEAP | rmgr::HEAP2 => {
                let block = |id| view.block(id).map(|block| (block.rel, block.block));
                let cleared = visibility_cleared_by(view.rmgr, view.info, view.main_data, block);
                plan.extend(cleared.map(|cleared| Step::Visibility(cleared, record.end)));
            }
            rmgr::XACT if view.info & rmgr::XLOG_XACT_HAS_INFO == 0 => self.transaction(&view)?,
            rmgr::XACT | rmgr::SMGR | rmgr::CLOG | rmgr::MULTIXACT => {
                self.carry_out(plan)?;
                self.note_ended()?;
                self.other(record, &view)?;
            }
            rmgr::DBASE | rmgr::TBLSPC => bail!("databases and tablespaces are no part of this run"),
            _ => {}
        }
        Ok(())
    }

    /// Does what was planned, and forgets it.
    fn carry_out(&mut self, plan: &mut Vec<Step<'_>>) -> Result<()> {
        plan.iter().take(AHEAD).for_each(|step| self.look_at(step));
        for (index, step) in plan.iter().enumerate() {
            if let Some(later) = plan.get(index + AHEAD) {
                self.look_at(later);
            }
            match step {
                Step::Block { record, view, block, place } => {
                    // pgbench makes no records that servers would redo in different ways.
                    let (page, server) = (self.store.at(*place), ServerVersion::UNRECORDED);
                    match apply_block(page, view, block, record.start, record.end, server) {
                        Err(RedoError::NotNewer { .. }) => self.skipped += 1,
                        result => result?,
                    }
                }
                Step::Visibility(cleared, lsn) => self.visibility(*cleared, *lsn)?,
            }
        }
        plan.clear();
        Ok(())
    }

    /// Starts to fetch the parts of its page that a step is going to touch.
    #[inline]
    fn look_at(&mut self, step: &Step<'_>) {
        if let Step::Block { view, block, place, .. } = step {
            let page = self.store.at(*place);
            touch::touched(page, view, block).into_iter().for_each(|part| prefetch(page, part));
        }
    }

    /// What changes the commit log's pages as a whole, or which pages there are.
    fn other(&mut self, record: RecordRef<'_>, view: &RecordView<'_>) -> Result<()> {
        match view.rmgr {
            rmgr::XACT => self.transaction(view),
            rmgr::SMGR => self.truncation(view, record.end),
            _ => self.status(&decode(record)?),
        }
    }

    fn change(&mut self, key: Key, lsn: Lsn, delta: &Delta) -> Result<()> {
        match apply(self.store.page(key)?, key, lsn, delta) {
            Err(RedoError::NotNewer { .. }) => self.skipped += 1,
            result => result?,
        }
        Ok(())
    }

    fn visibility(&mut self, cleared: VisibilityCleared, lsn: Lsn) -> Result<()> {
        let (key, delta) = visibility_delta(cleared);
        self.change(key, lsn, &delta)
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
    fn transaction(&mut self, record: &RecordView<'_>) -> Result<()> {
        let (status, end) = match xact::parse(record.info, record.main_data)? {
            XactEffect::Commit(end) => (TransactionStatus::Committed, end),
            XactEffect::Abort(end) => (TransactionStatus::Aborted, end),
            _ => return Ok(()),
        };
        let own = end.prepared_xid.unwrap_or(record.xid);
        let xids = end.subxacts.into_iter().chain([own]).filter(|xid| *xid != 0);
        self.ended.extend(xids.map(|xid| (status, xid)));
        end.dropped.into_iter().for_each(|rel| self.store.drop_relation(rel));
        Ok(())
    }

    /// Notes in the commit log how transactions ended, those together that are on the same page.
    fn note_ended(&mut self) -> Result<()> {
        let ended = std::mem::take(&mut self.ended);
        for alike in ended.chunk_by(|a, b| a.0 == b.0 && clog::page_of(a.1) == clog::page_of(b.1)) {
            let [(status, xid), ..] = *alike else { continue };
            let key = Key::SlruBlock { slru: Slru::Clog, page: clog::page_of(xid) };
            let xids = alike.iter().map(|(_, xid)| *xid).collect();
            self.change(key, self.last_record, &Delta::ClogStatus { status, xids })?;
        }
        Ok(())
    }
}

fn decode(record: RecordRef<'_>) -> Result<Record> {
    Ok(Record::decode(record.start, record.end, Bytes::copy_from_slice(record.bytes))?)
}

fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn duration(time: TimeVal) -> Result<Duration> {
    let microseconds = u64::try_from(time.tv_usec())?;
    Ok(Duration::from_secs(u64::try_from(time.tv_sec())?) + Duration::from_micros(microseconds))
}
