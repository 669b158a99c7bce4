//! Follows a log and keeps the shortest records of each kind, with the pages they were applied to.

use crate::Seeds;
use anyhow::Result;
use quire_fuzz::redo::Page;
use quire_fuzz::{ingest, record_bytes, redo, wal_stream};
use quire_redo::{Delta, apply};
use quire_types::{Key, PAGE_SIZE};
use quire_wal::{Record, rmgr};
use std::collections::{BTreeMap, HashMap};

/// Relations below this number were there before.
const FIRST_OF_USERS: u32 = 16384;
/// Records in a seed of ingest, and bytes of the longest.
const RUN_RECORDS: usize = 12;
const RUN_RECORD_BYTES: usize = 400;
/// One run in so many records.
const RUN_EVERY: u64 = 20_000;
/// What a seed takes of a segment.
const LOG_BYTES: usize = 9000;
/// Segments that seeds are taken of.
const SEGMENTS: usize = 6;

/// By manager, bits of `info`, and number of the block reference, or of them all.
type Kind = (u8, u8, u8, bool);

/// What was seen so far.
#[derive(Default)]
pub struct Observer {
    pages: HashMap<Key, Box<Page>>,
    records: BTreeMap<Kind, Vec<u8>>,
    redone: BTreeMap<Kind, Vec<u8>>,
    runs: Vec<Vec<Vec<u8>>>,
    seen: u64,
    logs: Vec<Vec<u8>>,
}

impl Observer {
    /// Takes a piece of a whole segment as a log.
    pub fn segment(&mut self, segment: &[u8]) {
        if self.logs.len() < SEGMENTS {
            self.logs.push([&wal_stream::SEED_PREFIX, &segment[..LOG_BYTES]].concat());
        }
    }

    /// Looks at a record and applies it.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let bytes = record_bytes::without_comparison(record);
        let info = record.info & rmgr::XLR_RMGR_INFO_MASK;
        let references = record.blocks.len().min(4) as u8;
        let has_image = record.blocks.iter().any(|block| block.image.as_ref().is_some_and(|image| image.apply));
        keep_shortest(&mut self.records, (record.rmgr, info, references, has_image), bytes.to_vec());
        self.note_run(record, &bytes);
        for number in 0..record.blocks.len() {
            self.block(record, &bytes, number)?;
        }
        Ok(())
    }

    /// Follows short records of small relations.
    fn note_run(&mut self, record: &Record, bytes: &[u8]) {
        if self.seen.is_multiple_of(RUN_EVERY) {
            self.runs.push(Vec::new());
        }
        self.seen += 1;
        let is_small = bytes.len() <= RUN_RECORD_BYTES && record.blocks.iter().all(|block| block.block < 100);
        if let Some(run) = self.runs.last_mut().filter(|run| is_small && run.len() < RUN_RECORDS) {
            run.push(bytes.to_vec());
        }
    }

    fn block(&mut self, record: &Record, bytes: &bytes::Bytes, number: usize) -> Result<()> {
        let block = &record.blocks[number];
        let key = Key::RelBlock { rel: block.rel, block: block.block };
        let restores = block.image.as_ref().is_some_and(|image| image.apply);
        let is_known = block.rel.relation >= FIRST_OF_USERS || self.pages.contains_key(&key);
        if !(is_known || restores || block.will_init) {
            return Ok(());
        }
        let page = self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_SIZE]));
        let kind = (record.rmgr, record.info & rmgr::XLR_RMGR_INFO_MASK, block.id, restores);
        let before = if restores || block.will_init { [0; PAGE_SIZE] } else { **page };
        let seed = redo::real_seed(&before, u8::try_from(number)?, bytes);
        // Of a relation that was dropped or truncated the pages are out of date, and records do not fit them.
        match apply(page, key, record.end, &Delta::Record(bytes.clone(), record.start)) {
            Ok(()) => keep_shortest(&mut self.redone, kind, seed),
            Err(_) => drop(self.pages.remove(&key)),
        }
        Ok(())
    }

    /// The seeds, by target.
    pub fn into_seeds(self) -> Seeds {
        let records: Vec<_> = self.records.into_values().collect();
        let runs = self.runs.iter().filter(|run| !run.is_empty());
        let runs = runs.map(|run| ingest::seed(run.iter().map(Vec::as_slice)));
        let singles = records.iter().filter(|record| record.len() < RUN_RECORD_BYTES);
        let ingested = runs.chain(singles.map(|record| ingest::seed([record.as_slice()]))).collect();
        for (rmgr, info, reference, restores) in self.redone.keys() {
            println!("{rmgr} {info:#04x}/{reference}{}", if *restores { " image" } else { "" });
        }
        Seeds::from([
            ("record", records),
            ("redo", self.redone.into_values().collect()),
            ("wal_stream", self.logs),
            ("ingest", ingested),
        ])
    }
}

fn keep_shortest(kept: &mut BTreeMap<Kind, Vec<u8>>, kind: Kind, seed: Vec<u8>) {
    let known = kept.entry(kind).or_insert_with(|| seed.clone());
    if seed.len() < known.len() {
        *known = seed;
    }
}
