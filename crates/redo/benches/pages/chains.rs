//! The chains to measure: a server runs a little SQL on tables of one page each, and all records of that page are kept
//! as storage keeps them.

use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use quire_redo::mask::first_difference;
use quire_redo::{Delta, apply};
use quire_types::{Key, Lsn, PAGE_SIZE};
use quire_wal::postgres_version::PG15;
use quire_wal::{ControlFile, DataPath, RawRecord, Record, WalStream, rmgr};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Images would hide the records before them, and a server that does things by itself would add others.
const SETTINGS: &str = "
full_page_writes = off
autovacuum = off
fsync = off
max_wal_size = 1GB
checkpoint_timeout = 1h
";

/// Rows of one integer take 36 bytes of a page, so that 226 fit, and one row that is null. The index's keys come in no
/// order. Rows of 500 bytes fill a page with 15 versions, so that it has to be pruned every so often; each update is
/// a transaction of its own.
const TABLES: &str = "
create table inserts (x int);
create table leaf (x int);
create index leaf_x on leaf (x);
create table updates (x int, wide text);
alter table updates alter wide set storage plain;
insert into updates values (0, repeat('x', 500));
checkpoint;
insert into inserts select i from generate_series(1, 226) i;
insert into inserts values (null);
insert into leaf select i * 37 % 101 from generate_series(1, 100) i;
";
const UPDATE: &str = "update updates set x = x + 1";
const UPDATES: usize = 100;

/// A page as storage has it: an image or nothing, and encoded deltas with the LSNs of their records' ends.
pub struct Chain {
    key: Key,
    image: Option<Bytes>,
    deltas: Vec<(Lsn, Bytes)>,
}

impl Chain {
    /// What `Chain::replay` of the pageserver does.
    pub fn rebuild(&self) -> Result<Bytes> {
        let mut raw = self.image.as_ref().map_or_else(|| vec![0; PAGE_SIZE], |image| image.to_vec());
        let page: &mut [u8; PAGE_SIZE] = raw.as_mut_slice().try_into()?;
        for (lsn, payload) in &self.deltas {
            let delta = Delta::decode(payload.clone())?;
            apply(page, self.key, *lsn, &delta)?;
        }
        Ok(raw.into())
    }

    /// The same page with its first deltas made into an image, so that `count` are left.
    fn with_deltas_left(&self, count: usize) -> Result<Chain> {
        let (before, left) = self.deltas.split_at(self.deltas.len() - count);
        let before = Chain { deltas: before.to_vec(), image: self.image.clone(), ..*self };
        Ok(Chain { key: self.key, image: Some(before.rebuild()?), deltas: left.to_vec() })
    }

    /// Deltas whose record is of this kind.
    fn count(&self, manager: u8, operation: u8) -> Result<usize> {
        let mut count = 0;
        for (lsn, payload) in &self.deltas {
            let delta = Delta::decode(payload.clone())?;
            let Some((bytes, start)) = delta.record() else { continue };
            let record = Record::decode(start, *lsn, bytes.clone())?;
            count += usize::from((record.rmgr, record.info & rmgr::XLOG_HEAP_OPMASK) == (manager, operation));
        }
        Ok(count)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.deltas.iter().map(|(_, payload)| payload.len()).sum();
        let base = if self.image.is_some() { "an image" } else { "nothing" };
        write!(f, "{base} and {} records of {bytes} bytes together", self.deltas.len())
    }
}

/// One chain for each benchmark.
pub struct Chains {
    /// A half-full heap page, and one more row.
    pub image_and_one_insert: Chain,
    /// A heap page from its first row to its last.
    pub page_of_227_inserts: Chain,
    /// A root page that is a leaf, from its making on.
    pub leaf_with_100_inserts: Chain,
    /// A heap page with one row, and the prunings that made room for its versions.
    pub page_with_100_hot_updates: Chain,
}

impl Chains {
    /// Makes them, and checks each against the server's page.
    pub fn make() -> Result<Chains> {
        let cluster = Cluster::create(SETTINGS)?;
        cluster.start()?;
        let before = control_file(&cluster)?;
        cluster.script(TABLES)?;
        cluster.pgbench(&["-c", "1", "-t", &UPDATES.to_string()], Some(UPDATE))?;
        let names = ["inserts", "leaf_x", "updates"];
        let paths = names.iter().map(|name| relation_path(&cluster, name)).collect::<Result<Vec<_>>>()?;
        cluster.stop()?;
        let mut log = read_log(&cluster.data(), &before)?;
        let mut chain = |path: &str, block| checked_chain(&mut log, &cluster.data(), path, block);
        let chains = Chains::of(chain(&paths[0], 0)?, chain(&paths[1], 1)?, chain(&paths[2], 0)?)?;
        Ok(chains)
    }

    fn of(inserts: Chain, leaf: Chain, updates: Chain) -> Result<Chains> {
        let half = Chain { deltas: inserts.deltas[..inserts.deltas.len() / 2].to_vec(), image: None, key: inserts.key };
        let chains = Chains {
            image_and_one_insert: half.with_deltas_left(1)?,
            page_of_227_inserts: inserts,
            leaf_with_100_inserts: leaf,
            page_with_100_hot_updates: updates,
        };
        let inserted = chains.page_of_227_inserts.count(rmgr::HEAP, rmgr::XLOG_HEAP_INSERT)?;
        let leaf_inserted = chains.leaf_with_100_inserts.count(rmgr::BTREE, rmgr::XLOG_BTREE_INSERT_LEAF)?;
        let updated = chains.page_with_100_hot_updates.count(rmgr::HEAP, rmgr::XLOG_HEAP_HOT_UPDATE)?;
        let pruned = chains.page_with_100_hot_updates.count(rmgr::HEAP2, rmgr::XLOG_HEAP2_PRUNE)?;
        ensure!((inserted, leaf_inserted, updated) == (227, 100, UPDATES), "{inserted}, {leaf_inserted}, {updated}");
        ensure!(pruned > 0, "the page was never pruned");
        Ok(chains)
    }

    /// All of them.
    pub fn named(&self) -> [(&'static str, &Chain); 4] {
        [
            ("image_and_one_insert", &self.image_and_one_insert),
            ("page_of_227_inserts", &self.page_of_227_inserts),
            ("leaf_with_100_inserts", &self.leaf_with_100_inserts),
            ("page_with_100_hot_updates", &self.page_with_100_hot_updates),
        ]
    }
}

/// Every page's deltas since the server was made.
type Log = BTreeMap<Key, Vec<(Lsn, Bytes)>>;

fn read_log(data: &Path, control: &ControlFile) -> Result<Log> {
    let segment_bytes = u64::from(control.layout.wal_segment_bytes);
    let mut stream = WalStream::new(control.checkpoint, segment_bytes, Some(control.system_identifier));
    let segment_number = control.checkpoint.segment_number(segment_bytes);
    let path = data.join(DataPath::WalSegment { timeline: 1, segment_number }.to_path(&PG15));
    let offset = usize::try_from(control.checkpoint.segment_offset(segment_bytes))?;
    stream.feed(&fs::read(path)?[offset..]);
    let mut log = Log::new();
    while let Some(raw) = stream.next_record()? {
        note(&mut log, &raw)?;
    }
    Ok(log)
}

fn note(log: &mut Log, raw: &RawRecord) -> Result<()> {
    let record = Record::decode(raw.start, raw.end, raw.bytes.clone())?;
    for block in &record.blocks {
        let key = Key::RelBlock { rel: block.rel, block: block.block };
        let payload = Delta::Record(raw.bytes.clone(), raw.start).encode();
        log.entry(key).or_default().push((raw.end, payload));
    }
    Ok(())
}

/// The chain of a page of the relation in this file, if it makes the page that is there.
fn checked_chain(log: &mut Log, data: &Path, path: &str, block: u32) -> Result<Chain> {
    let Some(DataPath::Relation { rel, .. }) = DataPath::parse(path, &PG15) else {
        anyhow::bail!("{path} is no relation's file")
    };
    let key = Key::RelBlock { rel, block };
    let chain = Chain { key, image: None, deltas: log.remove(&key).context("the page has no records")? };
    let ours = chain.rebuild()?;
    let file = fs::read(data.join(path))?;
    let start = usize::try_from(block)? * PAGE_SIZE;
    let theirs = file.get(start..start + PAGE_SIZE).context("the page is not in the file")?;
    let difference = first_difference(ours.as_ref().try_into()?, theirs.try_into()?, key);
    ensure!(difference.is_none(), "{key} differs from the server's at byte {difference:?}");
    Ok(chain)
}

fn relation_path(cluster: &Cluster, name: &str) -> Result<String> {
    let query = format!("select pg_relation_filepath('{name}')");
    let (status, output) = cluster.output(Path::new("psql"), &["-XAt", "-d", "postgres", "-c", &query])?;
    ensure!(status.success(), "{output}");
    Ok(output.trim().to_owned())
}

fn control_file(cluster: &Cluster) -> Result<ControlFile> {
    Ok(ControlFile::parse(&fs::read(cluster.data().join("global/pg_control"))?)?)
}
