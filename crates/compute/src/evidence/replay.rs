//! Doing offline, step by step, what storage did to make a page, and saying where the page that PostgreSQL wrote
//! differs.
//!
//! What a wrong redo left on a page is known by the step that last wrote the bytes which differ: that step wrote them
//! wrongly, or a later one did not write them although it should have.

use super::{ChainFile, Evidence};
use crate::difference::differences;
use bytes::Bytes;
use quire_protocol::page_version::{PageVersion, VersionKind};
use quire_redo::Delta;
use quire_types::{Key, Lsn, PAGE_SIZE};
use quire_wal::record::RecordHeader;
use quire_wal::rmgr;
use serde::Serialize;

/// What a replay found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Replay {
    /// The versions of the chain, oldest first.
    pub steps: Vec<Step>,
    /// Where the page that comes out differs from the one that PostgreSQL wrote; empty if they are equal.
    pub differences: Vec<Difference>,
    /// The earliest step that wrote bytes which differ in the end.
    pub first_step: Option<usize>,
    /// Why a step could not be done; the replay ends before it.
    pub failure: Option<String>,
    /// Whether the page that comes out is the one that storage had made; none if it had made none.
    pub equals_storage: Option<bool>,
}

/// One version of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// The end of the record.
    pub lsn: Lsn,
    /// What it is: an image, or a record by its resource manager and type.
    pub what: String,
    /// Bytes of the page that it changed.
    pub changed: usize,
    /// Bytes that differ afterwards from the page that PostgreSQL wrote in the end.
    pub differ: usize,
}

/// Neighbouring bytes that differ and were last written by the same step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Offset of the first of them.
    pub offset: usize,
    /// What PostgreSQL wrote, in hexadecimal.
    pub cache: String,
    /// What comes out of the replay.
    pub replayed: String,
    /// The step that last wrote them; none if no step did.
    pub step: Option<usize>,
}

impl Replay {
    /// Whether the page that comes out is the one that PostgreSQL wrote.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.failure.is_none()
    }
}

impl Evidence {
    /// Replays the chain with this program's redo.
    pub fn replay(&self) -> Replay {
        let mut bench = Bench::new(&self.chain, &self.cache);
        let outcome = self.chain.versions.iter().try_for_each(|version| bench.step(version));
        let differences = bench.found();
        let storage = self.storage.as_ref();
        Replay {
            first_step: differences.iter().filter_map(|difference| difference.step).min(),
            differences,
            failure: outcome.err(),
            equals_storage: storage.map(|storage| *storage == bench.page),
            steps: bench.steps,
        }
    }
}

/// The page on its way.
struct Bench<'a> {
    key: Key,
    wanted: &'a [u8; PAGE_SIZE],
    page: Box<[u8; PAGE_SIZE]>,
    /// The step that last changed each byte.
    writers: Vec<Option<usize>>,
    steps: Vec<Step>,
}

impl Bench<'_> {
    fn new<'a>(chain: &ChainFile, wanted: &'a [u8; PAGE_SIZE]) -> Bench<'a> {
        let page = Box::new([0; PAGE_SIZE]);
        Bench { key: chain.key, wanted, page, writers: vec![None; PAGE_SIZE], steps: Vec::new() }
    }

    fn step(&mut self, version: &PageVersion) -> Result<(), String> {
        let what = describe(version);
        let after = after(&self.page, self.key, version).map_err(|why| format!("{what} at {}: {why}", version.lsn))?;
        let changed: Vec<usize> = (0..PAGE_SIZE).filter(|at| after[*at] != self.page[*at]).collect();
        changed.iter().for_each(|at| self.writers[*at] = Some(self.steps.len()));
        self.page = after;
        let differ = differences(self.key, self.wanted, &self.page).len();
        self.steps.push(Step { lsn: version.lsn, what, changed: changed.len(), differ });
        Ok(())
    }

    /// The bytes that differ, neighbours of the same writer together.
    fn found(&self) -> Vec<Difference> {
        let offsets = differences(self.key, self.wanted, &self.page);
        let belong_together = |a: &usize, b: &usize| a + 1 == *b && self.writers[*a] == self.writers[*b];
        let describe = |run: &[usize]| Difference {
            offset: run[0],
            cache: run.iter().map(|at| format!("{:02x}", self.wanted[*at])).collect(),
            replayed: run.iter().map(|at| format!("{:02x}", self.page[*at])).collect(),
            step: self.writers[run[0]],
        };
        offsets.chunk_by(belong_together).map(describe).collect()
    }
}

/// The page after a version.
fn after(before: &[u8; PAGE_SIZE], key: Key, version: &PageVersion) -> Result<Box<[u8; PAGE_SIZE]>, String> {
    let mut page = Box::new(match version.kind {
        VersionKind::Delta => *before,
        VersionKind::Zeroes | VersionKind::InitialDelta => [0; PAGE_SIZE],
        VersionKind::Image | VersionKind::Written | VersionKind::Partial => {
            version.payload[..].try_into().map_err(|_| "not a page".to_owned())?
        }
    });
    if matches!(version.kind, VersionKind::Delta | VersionKind::InitialDelta) {
        let delta = Delta::decode(version.payload.clone()).map_err(|error| error.to_string())?;
        quire_redo::apply(&mut page, key, version.lsn, &delta).map_err(|error| error.to_string())?;
    }
    Ok(page)
}

/// What a version is, for people.
fn describe(version: &PageVersion) -> String {
    match version.kind {
        VersionKind::Zeroes => "zeroes".into(),
        VersionKind::Image => "image".into(),
        VersionKind::Written => "page as written".into(),
        VersionKind::Partial => "partial image".into(),
        VersionKind::Delta | VersionKind::InitialDelta => match Delta::decode(version.payload.clone()) {
            Ok(Delta::Record(bytes, _) | Delta::RecordOf(_, bytes, _)) => describe_record(&bytes),
            Ok(Delta::VisibilityCleared { .. }) => "visibility cleared".into(),
            Ok(Delta::VisibilityTruncated { .. }) => "visibility truncated".into(),
            Ok(_) => "transaction status".into(),
            Err(_) => "a delta that cannot be read".into(),
        },
    }
}

fn describe_record(bytes: &Bytes) -> String {
    let Ok(header) = RecordHeader::read(bytes) else { return "a record that cannot be read".into() };
    let manager = rmgr::name(header.rmgr).map_or_else(|| format!("manager {}", header.rmgr), str::to_owned);
    match rmgr::kind::name(header.rmgr, header.info) {
        Some(kind) => format!("{manager} {kind}"),
        None => format!("{manager} {:#04x}", header.info),
    }
}

#[cfg(test)]
mod tests {
    use super::super::About;
    use super::*;
    use quire_types::{Fork, RelTag};
    use quire_wal::page;

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::VisibilityMap };
    const KEY: Key = Key::RelBlock { rel: REL, block: 0 };

    fn image(lsn: u64, at: usize, byte: u8) -> PageVersion {
        let mut page = [0; PAGE_SIZE];
        page::init(&mut page, 0);
        page[100..110].fill(0xFF);
        page[at] = byte;
        PageVersion { lsn: Lsn(lsn), kind: VersionKind::Image, payload: page.to_vec().into() }
    }

    /// Clears the bits of the heap block whose bits begin the byte at `at`.
    fn cleared(lsn: u64, at: usize) -> PageVersion {
        let heap_block = u32::try_from((at - 24) * 4).expect("small");
        let delta = Delta::VisibilityCleared { heap_blocks: vec![heap_block], bits: 3 };
        PageVersion { lsn: Lsn(lsn), kind: VersionKind::Delta, payload: delta.encode() }
    }

    fn evidence(cache: &PageVersion, versions: Vec<PageVersion>) -> Evidence {
        let about = About {
            branch: "main".into(),
            relation: "base/5/16384_vm".into(),
            block: 0,
            cache_lsn: Lsn(30),
            storage_lsn: None,
            asked_lsn: Lsn(30),
            refusal: None,
            first_difference: None,
            start_lsn: Lsn(1),
            seen_at: 1,
            version: "0".into(),
        };
        let cache = Box::new(<[u8; PAGE_SIZE]>::try_from(&cache.payload[..]).expect("a page"));
        let storage = Some(cache.clone());
        Evidence { about, cache, storage, chain: ChainFile { key: KEY, versions } }
    }

    #[test]
    fn a_chain_that_makes_the_page_is_equal() {
        let replay = evidence(&image(30, 105, 0xFC), vec![image(10, 0, 0), cleared(30, 105)]).replay();
        assert!(replay.is_equal(), "{replay:?}");
        assert_eq!(replay.equals_storage, Some(true));
        let steps: Vec<_> = replay.steps.iter().map(|step| (step.what.as_str(), step.changed, step.differ)).collect();
        assert_eq!(steps[1], ("visibility cleared", 1, 0));
        assert_eq!(steps[0].2, 1, "before the last step one byte has more bits than PostgreSQL's");
    }

    #[test]
    fn a_byte_that_differs_is_laid_at_the_step_that_last_wrote_it() {
        let PageVersion { payload, .. } = image(40, 105, 0x00);
        let mut page = payload.to_vec();
        // What the last step does is right.
        page[108] = 0xFC;
        let wanted = PageVersion { payload: page.into(), ..image(40, 0, 0) };
        let replay = evidence(&wanted, vec![image(10, 0, 0), cleared(20, 105), cleared(30, 108)]).replay();
        assert!(!replay.is_equal());
        assert_eq!((replay.first_step, replay.equals_storage), (Some(1), Some(false)));
        let difference = Difference { offset: 105, cache: "00".into(), replayed: "fc".into(), step: Some(1) };
        assert_eq!(replay.differences, [difference]);
    }

    #[test]
    fn a_step_that_cannot_be_done_ends_the_replay_with_its_reason() {
        let broken = PageVersion { payload: Bytes::from_static(b"\xFF"), ..cleared(20, 105) };
        let replay = evidence(&image(10, 0, 0), vec![image(10, 0, 0), broken, cleared(30, 108)]).replay();
        assert!(!replay.is_equal());
        assert_eq!(replay.steps.len(), 1);
        assert!(replay.failure.as_ref().is_some_and(|why| why.contains("0/14")), "{:?}", replay.failure);
    }
}
