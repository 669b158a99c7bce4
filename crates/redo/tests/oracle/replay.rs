//! WAL replayed natively onto the pages of a data directory, each record checked against the images it carries.
//!
//! Where redo differs from PostgreSQL, or knows no such record, the page continues as PostgreSQL's, so that one fault
//! is counted once.

use crate::damage::Damage;
use crate::files::Files;
use crate::pages::{Pages, lies_in};
use crate::regress::{Coverage, Outcome};
use crate::unreferenced::{status_deltas, visibility_delta, zeroed_page};
use crate::{gin, gist, spgist};
use anyhow::{Context, Result, anyhow, ensure};
use quire_redo::mask::{self, PageKind, page_kind};
use quire_redo::{Delta, apply, finish_image, supports, visibility_map};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, Slru};
use quire_wal::effects;
use quire_wal::effects::dbase::{DatabaseDirectory, DbaseEffect};
use quire_wal::effects::heap::visibility_cleared;
use quire_wal::effects::smgr::SmgrEffect;
use quire_wal::effects::xact::XactEffect;
use quire_wal::page::{HEADER_BYTES, is_new, lsn as page_lsn, set_lsn};
use quire_wal::postgres_version::PG15;
use quire_wal::{Block, DataPath, ImageUse, RawRecord, Record, RecordView, ServerVersion, WalStream, rmgr};
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{fmt, fs};

pub use crate::files::Page;

const SEGMENT_BYTES: u64 = 16 << 20;

/// A difference between our page and PostgreSQL's.
pub struct Mismatch {
    pub key: Key,
    /// End of the record, or our page's LSN.
    pub lsn: Lsn,
    /// What was compared.
    pub what: String,
    /// How it differs.
    pub difference: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}, {}: {}", self.key, self.lsn, self.what, self.difference)
    }
}

/// The pages as redo left them, and what was seen on the way.
pub struct Replay {
    pub pages: Pages,
    /// Which server wrote the log.
    server: ServerVersion,
    /// Records by kind and block reference, and how many of those pages were compared.
    pub seen: BTreeMap<(u8, u8, u8), (usize, usize)>,
    pub coverage: Coverage,
    pub mismatches: Vec<Mismatch>,
    /// Pages of which nothing is known since a record that redo could not replay and that carried no image.
    pub lost: HashSet<Key>,
    /// Pages of visibility maps that `CREATE DATABASE` copied and logged without their contents: it takes them for
    /// pages with tuples, on which what is between line pointers and tuples does not count. Storage, like a standby,
    /// knows fewer bits than the server then, which is safe.
    pub hollow_maps: HashSet<Key>,
    pub last_record: Lsn,
    /// Truncations that cut a page of a visibility map.
    pub map_truncations: usize,
    pub damage: Damage,
    pub gin: gin::Variants,
    pub gist: gist::Variants,
    pub spgist: spgist::Variants,
}

impl Replay {
    /// Starts from these pages, with the log of this server.
    pub fn new(pages: Pages, server: ServerVersion) -> Replay {
        Replay {
            pages,
            server,
            seen: BTreeMap::new(),
            coverage: Coverage::default(),
            mismatches: vec![],
            lost: HashSet::new(),
            hollow_maps: HashSet::new(),
            last_record: Lsn::INVALID,
            map_truncations: 0,
            damage: Damage::new(),
            gin: gin::Variants::default(),
            gist: gist::Variants::default(),
            spgist: spgist::Variants::default(),
        }
    }

    /// Replays everything from the record at `start` on.
    pub fn run(&mut self, data: &Path, start: Lsn, system_id: u64) -> Result<()> {
        let mut stream = WalStream::new(start, SEGMENT_BYTES, Some(system_id));
        let mut offset = start.segment_offset(SEGMENT_BYTES) as usize;
        for segment_number in start.segment_number(SEGMENT_BYTES).. {
            let path = data.join(DataPath::WalSegment { timeline: 1, segment_number }.to_path(&PG15));
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
        // A record whose image is restored shows nothing of redo, and lacks what redo would need.
        if !record.blocks.iter().any(restores) {
            self.observe(&record);
        }
        self.coverage.record(&record);
        for block in &record.blocks {
            self.block(raw, &record, block)?;
        }
        let visibility = visibility_cleared(&record).map(visibility_delta);
        for (key, delta) in visibility.chain(status_deltas(&record)?) {
            self.change(key, record.end, &delta)?;
        }
        match record.rmgr {
            rmgr::SMGR => self.truncation(&record)?,
            rmgr::XACT => self.drop_relations(&record)?,
            rmgr::DBASE => self.databases(&record)?,
            _ => {}
        }
        self.zeroed_pages(&record)
    }

    fn observe(&mut self, record: &Record) {
        self.gin.observe(record);
        self.gist.observe(record);
        self.spgist.observe(record);
    }

    fn block(&mut self, raw: &RawRecord, record: &Record, block: &Block) -> Result<()> {
        let key = Key::RelBlock { rel: block.rel, block: block.block };
        let seen = self.seen.entry((record.rmgr, record.info & 0xF0, block.id)).or_default();
        seen.0 += 1;
        seen.1 += usize::from(block.image.as_ref().is_some_and(|image| !image.apply));
        let outcome = self.replay(raw, record, block, key)?;
        self.coverage.page(record, outcome);
        match outcome {
            Outcome::NotReplayed | Outcome::Differs => self.adopt(record, block, key),
            _ => {
                self.lost.remove(&key);
                Ok(())
            }
        }
    }

    fn replay(&mut self, raw: &RawRecord, record: &Record, block: &Block, key: Key) -> Result<Outcome> {
        let restores = restores(block);
        let is_blind = self.lost.contains(&key) && !block.will_init;
        if !restores && (is_blind || !supports(record.rmgr, record.info)) {
            return Ok(Outcome::NotReplayed);
        }
        self.damage.try_out(self.pages.get(key), key, record.end, &raw.bytes);
        let delta = Delta::of_record(record.rmgr, record.info, Some(self.server), raw.bytes.clone(), raw.start);
        match self.change(key, record.end, &delta) {
            Ok(()) if restores => {
                self.note_hollow_map(key);
                Ok(Outcome::Restored)
            }
            Ok(()) => self.compare(key, record, block),
            Err(error) => {
                self.differs(record, block, key, format!("{error:#}"));
                Ok(Outcome::Differs)
            }
        }
    }

    fn note_hollow_map(&mut self, key: Key) {
        let Some(page) = self.pages.get(key).filter(|page| page_kind(page, key) == PageKind::VisibilityMap) else {
            return;
        };
        if page[HEADER_BYTES..].iter().all(|byte| *byte == 0) {
            self.hollow_maps.insert(key);
        }
    }

    /// Applies a delta as storage would: encoded, decoded, onto the page as it was left.
    fn change(&mut self, key: Key, lsn: Lsn, delta: &Delta) -> Result<()> {
        let page = self.pages.make(key);
        let stored = Delta::decode(delta.encode())?;
        ensure!(stored == *delta, "delta changed in storage");
        if is_initial(&stored, key) {
            // What was there before must not matter.
            page.fill(0xEE);
        }
        let applied = catch_unwind(AssertUnwindSafe(|| apply(page, key, lsn, &stored)));
        Ok(applied.map_err(|_| anyhow!("redo panicked"))??)
    }

    /// Takes the page as the record has it, or forgets what was known of it.
    fn adopt(&mut self, record: &Record, block: &Block, key: Key) -> Result<()> {
        let Some(image) = &block.image else {
            self.lost.insert(key);
            return Ok(());
        };
        let page = self.pages.make(key);
        *page = *image.restore()?;
        if !is_new(page) {
            set_lsn(page, record.end);
        }
        finish_image(page, &record.into(), &block.into(), record.end)?;
        self.lost.remove(&key);
        Ok(())
    }

    fn compare(&mut self, key: Key, record: &Record, block: &Block) -> Result<Outcome> {
        let image = block.image.as_ref().filter(|image| !image.apply);
        let (Some(ours), Some(image)) = (self.pages.get(key), image) else { return Ok(Outcome::NotCompared) };
        let theirs = image.restore()?;
        // Bits of the map are cleared under another lock than the one that orders records, so an image may be ahead of
        // its record; the files are compared in the end.
        if page_kind(&theirs, key) == PageKind::VisibilityMap {
            return Ok(Outcome::NotCompared);
        }
        let Some(byte) = mask::first_difference(ours, &theirs, key) else { return Ok(Outcome::Equal) };
        let difference = format!("byte {byte} is {:#04x}, PostgreSQL's {:#04x}", ours[byte], theirs[byte]);
        self.differs(record, block, key, difference);
        Ok(Outcome::Differs)
    }

    fn differs(&mut self, record: &Record, block: &Block, key: Key, difference: String) {
        let name = rmgr::name(record.rmgr).unwrap_or("?");
        let what = format!("{name} {:#04x} block {}", record.info & 0xF0, block.id);
        self.mismatches.push(Mismatch { key, lsn: record.end, what, difference });
    }

    /// A truncated relation's pages are gone; if it grows again, they are new.
    fn truncation(&mut self, record: &Record) -> Result<()> {
        let SmgrEffect::Truncate { rel, blocks, .. } = effects::smgr::parse(record.info, &record.main_data)? else {
            return Ok(());
        };
        let (map, map_block) = (rel.with_fork(Fork::VisibilityMap), visibility_map::map_block(blocks));
        let map_key = Key::RelBlock { rel: map, block: map_block };
        if self.pages.get(map_key).is_some() {
            self.map_truncations += 1;
            self.change(map_key, record.end, &Delta::VisibilityTruncated { heap_blocks: blocks })?;
        }
        self.pages.truncate(map, map_block + 1);
        self.pages.truncate(rel, blocks);
        Ok(())
    }

    fn drop_relations(&mut self, record: &Record) -> Result<()> {
        if let XactEffect::Commit(end) | XactEffect::Abort(end) = effects::xact::parse(record.info, &record.main_data)?
        {
            end.dropped.into_iter().for_each(|rel| self.pages.drop_relation(rel));
        }
        Ok(())
    }

    fn databases(&mut self, record: &Record) -> Result<()> {
        match effects::dbase::parse(record.info, &record.main_data)? {
            DbaseEffect::CreateByFileCopy { target, source } => {
                self.pages.copy_directory(target, source);
                let copies: Vec<_> =
                    self.hollow_maps.iter().filter_map(|key| key_of_copy(*key, target, source)).collect();
                self.hollow_maps.extend(copies);
            }
            DbaseEffect::CreateByWal(_) => {}
            DbaseEffect::Drop(directories) => {
                directories.into_iter().for_each(|directory| self.pages.drop_directory(directory));
            }
        }
        Ok(())
    }

    fn zeroed_pages(&mut self, record: &Record) -> Result<()> {
        if let Some((slru, page)) = zeroed_page(record)? {
            self.pages.make(Key::SlruBlock { slru, page }).fill(0);
        }
        Ok(())
    }

    /// Compares with the files of a server that was stopped: pages that differ, and how many were compared of each
    /// kind.
    pub fn compare_files(&self, files: &Files) -> (Vec<Mismatch>, BTreeMap<String, usize>) {
        let (mut mismatches, mut compared) = (vec![], BTreeMap::new());
        for (key, file) in files.pages.iter() {
            let kind = page_kind(file, key);
            // Sequences log values ahead of those that were taken, and free space maps are not logged.
            let is_unlogged = relation(key).is_some_and(|rel| files.unlogged.contains(&rel));
            let is_known = !is_unlogged && !self.lost.contains(&key);
            if is_known && !matches!(kind, PageKind::FreeSpaceMap | PageKind::Sequence) {
                *compared.entry(kind_name(kind)).or_default() += 1;
                mismatches.extend(self.compare_file(key, file, kind));
            }
        }
        (mismatches, compared)
    }

    fn compare_file(&self, key: Key, file: &Page, kind: PageKind) -> Option<Mismatch> {
        let ours = self.pages.get(key).unwrap_or(&[0; PAGE_SIZE]);
        if self.hollow_maps.contains(&key) && has_no_bit_more(ours, file) {
            return None;
        }
        if self.server < SETS_NEXT_MULTIXACT && is_next_multixact(key, ours, file) {
            return None;
        }
        let split_state = || (kind == PageKind::Gist).then(|| gist::split_state_difference(ours, file))?;
        let byte = mask::first_difference(ours, file, key).or_else(split_state)?;
        let difference = format!("byte {byte} is {:#04x}, PostgreSQL's {:#04x}", ours[byte], file[byte]);
        Some(Mismatch { key, lsn: page_lsn(ours), what: format!("file, {}", kind_name(kind)), difference })
    }
}

/// What a page of the source's is called in the target.
fn key_of_copy(key: Key, target: DatabaseDirectory, source: DatabaseDirectory) -> Option<Key> {
    match key {
        Key::RelBlock { rel, block } if lies_in(rel, source) => {
            let DatabaseDirectory { database, tablespace } = target;
            Some(Key::RelBlock { rel: RelTag { database, tablespace, ..rel }, block })
        }
        _ => None,
    }
}

/// The first server that sets the offset of the next multixact along with a multixact's own. Redo does so for every
/// server, as redo of the newer ones does with the log of the older ones, which set it to the same when they create the
/// next multixact.
const SETS_NEXT_MULTIXACT: ServerVersion = ServerVersion::new(15, 16);

/// Whether a page of multixact offsets has one entry that the server's lacks, and nothing else.
fn is_next_multixact(key: Key, ours: &Page, file: &Page) -> bool {
    let entries = || ours.chunks_exact(4).zip(file.chunks_exact(4)).filter(|(ours, file)| ours != file);
    matches!(key, Key::SlruBlock { slru: Slru::MultixactOffsets, .. })
        && entries().count() == 1
        && entries().all(|(_, file)| file == [0; 4])
}

/// Whether each bit of our page of a visibility map is in the server's.
fn has_no_bit_more(ours: &Page, file: &Page) -> bool {
    ours[HEADER_BYTES..].iter().zip(&file[HEADER_BYTES..]).all(|(ours, file)| ours & !file == 0)
}

/// Whether redo puts an image in the page's place (`BKPIMAGE_APPLY`).
fn restores(block: &Block) -> bool {
    block.image.as_ref().is_some_and(|image| image.apply)
}

/// Whether the page after a delta depends on nothing that was before it.
fn is_initial(delta: &Delta, key: Key) -> bool {
    let parsed = delta.record().and_then(|(bytes, _)| RecordView::parse_for(bytes, key).ok());
    let block = parsed.and_then(|(_, block)| block);
    block.is_some_and(|block| block.will_init || block.image == ImageUse::Restore)
}

fn kind_name(kind: PageKind) -> String {
    format!("{kind:?}").split(' ').next().unwrap_or_default().to_owned()
}

/// The relation that this key is a page of, by its main fork; the init fork is a relation of its own, always logged.
fn relation(key: Key) -> Option<RelTag> {
    match key {
        Key::RelBlock { rel, .. } if rel.fork != Fork::Init => Some(rel.with_fork(Fork::Main)),
        _ => None,
    }
}
