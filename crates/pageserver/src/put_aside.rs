//! Work that made this pageserver panic twice, and is not done again.
//!
//! A bug of redo would otherwise end the process each time that the page is read, with all branches. Read from the
//! notes of panics ([`quire_crash::notes`]) when the pageserver opens; it is tried again once the notes are removed.

use crate::shard_key::ShardKey;
use quire_crash::{Note, Work, notes};
use quire_types::{Key, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// So many panics are enough: the first may have had a cause outside, such as faulty memory.
const PANICS_MIN: usize = 2;

/// What one shard does not do any more.
#[derive(Clone, Debug, Default)]
pub struct PutAside {
    /// Pages that are not rebuilt, and where redo was.
    pub pages: BTreeMap<Key, Lsn>,
    /// Where records begin that are not taken in.
    pub records: BTreeSet<Lsn>,
    /// Where the evidence is.
    pub folder: PathBuf,
}

impl PutAside {
    /// What the notes in `data_dir` say of a shard.
    pub fn read(data_dir: &Path, shard: ShardKey) -> io::Result<PutAside> {
        Ok(PutAside::of(&notes::read(data_dir)?, shard, data_dir.join(notes::FOLDER)))
    }

    fn of(notes: &[Note], wanted: ShardKey, folder: PathBuf) -> PutAside {
        let (mut pages, mut records) = (BTreeMap::<Key, Vec<Lsn>>::new(), BTreeMap::<Lsn, usize>::new());
        for work in notes.iter().filter_map(|note| note.work) {
            match work {
                Work::Page { branch, shard, key, record, .. } if (ShardKey { branch, shard }) == wanted => {
                    pages.entry(key).or_default().push(record);
                }
                Work::Record { branch, shard, lsn } if (ShardKey { branch, shard }) == wanted => {
                    *records.entry(lsn).or_default() += 1;
                }
                _ => {}
            }
        }
        pages.retain(|_, panics| panics.len() >= PANICS_MIN);
        records.retain(|_, panics| *panics >= PANICS_MIN);
        let pages = pages.into_iter().filter_map(|(key, panics)| Some((key, *panics.last()?))).collect();
        PutAside { pages, records: records.into_keys().collect(), folder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{BranchKey, ShardId, Slru};

    const SHARD: ShardKey = ShardKey {
        branch: BranchKey { project: quire_types::ProjectId([1; 16]), branch: quire_types::BranchId([2; 16]) },
        shard: ShardId::UNSHARDED,
    };

    fn note(work: Work) -> Note {
        Note { place: String::new(), text: String::new(), thread: String::new(), work: Some(work) }
    }

    fn page(branch: BranchKey, number: u32, record: u64) -> Note {
        let key = Key::SlruBlock { slru: Slru::Clog, page: number };
        note(Work::Page { branch, shard: SHARD.shard, key, lsn: Lsn(1000), record: Lsn(record) })
    }

    fn record(lsn: u64) -> Note {
        note(Work::Record { branch: SHARD.branch, shard: SHARD.shard, lsn: Lsn(lsn) })
    }

    #[test]
    fn two_panics_over_the_same_put_it_aside_and_nothing_else() {
        let ours = SHARD.branch;
        let notes = [
            page(ours, 1, 70),
            page(ours, 2, 80),
            page(ours, 1, 75),
            page(BranchKey::default(), 2, 80),
            page(BranchKey::default(), 2, 80),
            record(500),
            record(600),
            record(600),
        ];
        let found = PutAside::of(&notes, SHARD, PathBuf::new());
        assert_eq!(found.pages, BTreeMap::from([(Key::SlruBlock { slru: Slru::Clog, page: 1 }, Lsn(75))]));
        assert_eq!(found.records, BTreeSet::from([Lsn(600)]));
    }
}
