//! WAL replayed natively onto the pages of a data directory, each record checked against the images it carries.

use crate::damage::Damage;
use anyhow::{Context, Result, ensure};
use quire_redo::mask::{self, PageKind, page_kind};
use quire_redo::{Delta, TransactionStatus, apply, clog, commit_ts, multixact, supports, visibility_map};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES, Slru};
use quire_wal::effects::multixact::MultixactEffect;
use quire_wal::effects::slru::{ClogEffect, CommitTsEffect};
use quire_wal::effects::smgr::SmgrEffect;
use quire_wal::effects::xact::{Completion, XactEffect};
use quire_wal::effects::{self, heap::visibility_cleared};
use quire_wal::page::lsn as page_lsn;
use quire_wal::{Block, DataPath, RawRecord, Record, WalStream, rmgr};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::{fmt, fs};

pub type Page = [u8; PAGE_SIZE];

const SEGMENT_BYTES: u64 = 16 << 20;

/// The relations and SLRU areas of a data directory.
#[derive(Default)]
pub struct Files {
    pub pages: HashMap<Key, Box<Page>>,
    /// Relations with an init fork, which may be empty.
    pub unlogged: HashSet<RelTag>,
}

impl Files {
    pub fn load(data: &Path) -> Result<Files> {
        let mut files = Files::default();
        for folder in ["global", "base", "pg_xact", "pg_multixact", "pg_commit_ts"] {
            files.load_folder(data, &data.join(folder))?;
        }
        Ok(files)
    }

    fn load_folder(&mut self, data: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(data)?.to_str().context("file name is not UTF-8")?;
            if path.is_dir() {
                self.load_folder(data, &path)?;
            } else if let Some(file) = DataPath::parse(name) {
                self.load_file(file, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn load_file(&mut self, file: DataPath, bytes: &[u8]) -> Result<()> {
        if let DataPath::Relation { rel, .. } = file
            && rel.fork == Fork::Init
        {
            self.unlogged.insert(rel.with_fork(Fork::Main));
        }
        let Some(key_of) = page_keys(file) else { return Ok(()) };
        for (number, page) in bytes.chunks_exact(PAGE_SIZE).enumerate() {
            self.pages.insert(key_of(number as u32), Box::new(page.try_into()?));
        }
        Ok(())
    }
}

/// How the pages of a file are named.
fn page_keys(path: DataPath) -> Option<Box<dyn Fn(u32) -> Key>> {
    match path {
        DataPath::Relation { rel, segment } => {
            Some(Box::new(move |block| Key::RelBlock { rel, block: segment * RELATION_SEGMENT_BLOCKS + block }))
        }
        DataPath::Slru { slru, segment } => {
            Some(Box::new(move |page| Key::SlruBlock { slru, page: segment * SLRU_SEGMENT_PAGES + page }))
        }
        _ => None,
    }
}

/// A difference between our page and PostgreSQL's.
pub struct Mismatch {
    pub key: Key,
    /// Our page's LSN.
    pub lsn: Lsn,
    /// What was compared.
    pub what: String,
    /// First byte that differs under the masks.
    pub byte: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}, {}: byte {} differs", self.key, self.lsn, self.what, self.byte)
    }
}

/// The pages as redo left them, and what was seen on the way.
pub struct Replay {
    pub pages: HashMap<Key, Box<Page>>,
    /// Records by kind and block reference, and how many of those pages were compared.
    pub seen: BTreeMap<(u8, u8, u8), (usize, usize)>,
    pub mismatches: Vec<Mismatch>,
    /// Relations with records that redo does not know.
    pub foreign: HashSet<RelTag>,
    pub last_record: Lsn,
    /// Truncations that cut a page of a visibility map.
    pub map_truncations: usize,
    pub damage: Damage,
}

impl Replay {
    /// Starts from these pages.
    pub fn new(pages: HashMap<Key, Box<Page>>) -> Replay {
        let (seen, mismatches, foreign) = Default::default();
        Replay {
            pages,
            seen,
            mismatches,
            foreign,
            last_record: Lsn::INVALID,
            map_truncations: 0,
            damage: Damage::new(),
        }
    }

    /// Replays everything from the record at `start` on.
    pub fn run(&mut self, data: &Path, start: Lsn, system_id: u64) -> Result<()> {
        let mut stream = WalStream::new(start, SEGMENT_BYTES, Some(system_id));
        let mut offset = start.segment_offset(SEGMENT_BYTES) as usize;
        for segment_number in start.segment_number(SEGMENT_BYTES).. {
            let path = data.join(DataPath::WalSegment { timeline: 1, segment_number }.to_path());
            let Ok(segment) = fs::read(path) else { break };
            // In pieces, so that what was read is given back before more is held.
            for piece in segment[std::mem::take(&mut offset)..].chunks(1 << 20) {
                stream.feed(piece);
                while let Some(raw) = stream.next_record()? {
                    self.record(&raw).with_context(|| format!("record at {}", raw.start))?;
                    self.last_record = raw.start;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, raw: &RawRecord) -> Result<()> {
        let record = Record::decode(raw.start, raw.end, raw.bytes.clone())?;
        for block in &record.blocks {
            self.block(raw, &record, block)?;
        }
        for (key, delta) in visibility_deltas(&record).into_iter().chain(status_deltas(&record)?) {
            self.change(key, record.end, &delta)?;
        }
        self.truncation(&record)?;
        self.zeroed_pages(&record)
    }

    fn block(&mut self, raw: &RawRecord, record: &Record, block: &Block) -> Result<()> {
        let key = Key::RelBlock { rel: block.rel, block: block.block };
        let restores = block.image.as_ref().is_some_and(|image| image.apply);
        let seen = self.seen.entry((record.rmgr, record.info & 0xF0, block.id)).or_default();
        seen.0 += 1;
        if !restores && !supports(record.rmgr, record.info) {
            self.foreign.insert(block.rel);
            return Ok(());
        }
        self.damage.try_out(self.pages.get(&key).map(|page| &**page), key, record.end, &raw.bytes);
        self.change(key, record.end, &Delta::Record(raw.bytes.clone(), raw.start))?;
        self.compare(key, record, block)
    }

    /// Applies a delta as storage would: encoded, decoded, onto the page as it was left.
    fn change(&mut self, key: Key, lsn: Lsn, delta: &Delta) -> Result<()> {
        let page = self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_SIZE]));
        let stored = Delta::decode(delta.encode())?;
        ensure!(stored == *delta, "delta changed in storage");
        if stored.will_init(key) {
            // What was there before must not matter.
            page.fill(0xEE);
        }
        Ok(apply(page, key, lsn, &stored)?)
    }

    fn compare(&mut self, key: Key, record: &Record, block: &Block) -> Result<()> {
        let Some(image) = block.image.as_ref().filter(|image| !image.apply) else { return Ok(()) };
        self.seen.entry((record.rmgr, record.info & 0xF0, block.id)).or_default().1 += 1;
        let (ours, theirs) = (&*self.pages[&key], image.restore()?);
        // Bits of the map are cleared under another lock than the one that orders records, so an image may be ahead of
        // its record; the files are compared in the end.
        if page_kind(&theirs, key) == PageKind::VisibilityMap {
            return Ok(());
        }
        if let Some(byte) = mask::first_difference(ours, &theirs, key) {
            let name = rmgr::name(record.rmgr).unwrap_or("?");
            let what = format!("{name} {:#04x} block {}", record.info, block.id);
            self.mismatches.push(Mismatch { key, lsn: page_lsn(ours), what, byte });
        }
        Ok(())
    }

    /// A truncated relation's pages are gone; if it grows again, they are new.
    fn truncation(&mut self, record: &Record) -> Result<()> {
        if record.rmgr != rmgr::SMGR {
            return Ok(());
        }
        let SmgrEffect::Truncate { rel, blocks, .. } = effects::smgr::parse(record.info, &record.main_data)? else {
            return Ok(());
        };
        let map = rel.with_fork(Fork::VisibilityMap);
        let map_key = Key::RelBlock { rel: map, block: visibility_map::map_block(blocks) };
        if self.pages.contains_key(&map_key) {
            self.map_truncations += 1;
            self.change(map_key, record.end, &Delta::VisibilityTruncated { heap_blocks: blocks })?;
        }
        self.pages.retain(|key, _| !matches!(key, Key::RelBlock { rel: r, block } if *r == rel && *block >= blocks));
        Ok(())
    }

    fn zeroed_pages(&mut self, record: &Record) -> Result<()> {
        if let Some((slru, page)) = zeroed_page(record)? {
            self.pages.insert(Key::SlruBlock { slru, page }, Box::new([0; PAGE_SIZE]));
        }
        Ok(())
    }

    /// Compares with the files of a server that was stopped: pages that differ, and how many were compared of each kind.
    pub fn compare_files(&self, files: &Files) -> (Vec<Mismatch>, BTreeMap<String, usize>) {
        let (mut mismatches, mut compared) = (vec![], BTreeMap::new());
        for (key, file) in &files.pages {
            let kind = page_kind(file, *key);
            // Sequences log values ahead of those that were taken, and free space maps are not logged.
            let is_unlogged =
                relation(*key).is_some_and(|rel| files.unlogged.contains(&rel) || self.foreign.contains(&rel));
            if !is_unlogged && !matches!(kind, PageKind::FreeSpaceMap | PageKind::Sequence) {
                let name = format!("{kind:?}").split(' ').next().unwrap_or_default().to_owned();
                *compared.entry(name).or_default() += 1;
                mismatches.extend(self.compare_file(*key, file, kind));
            }
        }
        (mismatches, compared)
    }

    fn compare_file(&self, key: Key, file: &Page, kind: PageKind) -> Option<Mismatch> {
        let ours = self.pages.get(&key).map_or([0; PAGE_SIZE], |page| **page);
        let byte = mask::first_difference(&ours, file, key)?;
        Some(Mismatch { key, lsn: page_lsn(&ours), what: format!("file, {kind:?}"), byte })
    }
}

/// The relation that this key is a page of, by its main fork; the init fork is a relation of its own, always logged.
fn relation(key: Key) -> Option<RelTag> {
    match key {
        Key::RelBlock { rel, .. } if rel.fork != Fork::Init => Some(rel.with_fork(Fork::Main)),
        _ => None,
    }
}

fn visibility_deltas(record: &Record) -> Vec<(Key, Delta)> {
    visibility_cleared(record)
        .map(|cleared| {
            let rel = cleared.rel.with_fork(Fork::VisibilityMap);
            let key = Key::RelBlock { rel, block: visibility_map::map_block(cleared.block) };
            (key, Delta::VisibilityCleared { heap_blocks: vec![cleared.block], bits: cleared.bits })
        })
        .collect()
}

fn status_deltas(record: &Record) -> Result<Vec<(Key, Delta)>> {
    match record.rmgr {
        rmgr::XACT => Ok(transaction_deltas(record, &effects::xact::parse(record.info, &record.main_data)?)),
        rmgr::MULTIXACT => Ok(multixact_deltas(effects::multixact::parse(record.info, &record.main_data)?)),
        _ => Ok(vec![]),
    }
}

fn transaction_deltas(record: &Record, effect: &XactEffect) -> Vec<(Key, Delta)> {
    let (status, completion) = match effect {
        XactEffect::Commit(completion) => (TransactionStatus::Committed, completion),
        XactEffect::Abort(completion) => (TransactionStatus::Aborted, completion),
        _ => return vec![],
    };
    let xids = transactions(record, completion);
    let mut deltas: Vec<(Key, Delta)> = by_page(&xids, clog::page_of)
        .map(|(page, xids)| (Key::SlruBlock { slru: Slru::Clog, page }, Delta::ClogStatus { status, xids }))
        .collect();
    if status == TransactionStatus::Committed {
        let time = completion.origin.map_or(completion.time, |origin| origin.time);
        let origin = record.origin.unwrap_or(0);
        deltas.extend(by_page(&xids, commit_ts::page_of).map(|(page, xids)| {
            (Key::SlruBlock { slru: Slru::CommitTs, page }, Delta::CommitTs { time, origin, xids })
        }));
    }
    deltas
}

fn transactions(record: &Record, completion: &Completion) -> Vec<u32> {
    let xid = completion.prepared_xid.unwrap_or(record.xid);
    let own = if xid == 0 { None } else { Some(xid) };
    own.into_iter().chain(completion.subxacts.iter().copied()).collect()
}

fn by_page(xids: &[u32], page_of: fn(u32) -> u32) -> impl Iterator<Item = (u32, Vec<u32>)> {
    let mut pages: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    xids.iter().for_each(|xid| pages.entry(page_of(*xid)).or_default().push(*xid));
    pages.into_iter()
}

fn multixact_deltas(effect: MultixactEffect) -> Vec<(Key, Delta)> {
    let MultixactEffect::Create { multi, offset, members } = effect else { return vec![] };
    let next = offset + members.len() as u32;
    let mut deltas: Vec<_> = [(multi, offset), (multi + 1, next)]
        .map(|entry| {
            let page = multixact::offset_page_of(entry.0);
            (Key::SlruBlock { slru: Slru::MultixactOffsets, page }, Delta::MultixactOffset { entries: vec![entry] })
        })
        .into();
    deltas.extend((offset..).zip(members).map(|(first, member)| {
        let page = multixact::member_page_of(first);
        (
            Key::SlruBlock { slru: Slru::MultixactMembers, page },
            Delta::MultixactMembers { first, members: vec![member] },
        )
    }));
    deltas
}

fn zeroed_page(record: &Record) -> Result<Option<(Slru, u32)>> {
    let data = &record.main_data;
    Ok(match record.rmgr {
        rmgr::CLOG => match effects::slru::parse_clog(record.info, data)? {
            ClogEffect::ZeroPage(page) => Some((Slru::Clog, page)),
            ClogEffect::Truncate { .. } => None,
        },
        rmgr::COMMIT_TS => match effects::slru::parse_commit_ts(record.info, data)? {
            CommitTsEffect::ZeroPage(page) => Some((Slru::CommitTs, page)),
            CommitTsEffect::Truncate { .. } => None,
        },
        rmgr::MULTIXACT => match effects::multixact::parse(record.info, data)? {
            MultixactEffect::ZeroOffsetsPage(page) => Some((Slru::MultixactOffsets, page)),
            MultixactEffect::ZeroMembersPage(page) => Some((Slru::MultixactMembers, page)),
            _ => None,
        },
        _ => None,
    })
}
