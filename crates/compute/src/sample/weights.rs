//! Which pages to look at.
//!
//! A file is drawn with the weight of the space it takes on the disk, which leaves out what is absent; a page in it by
//! its number. So every page in the cache is about as likely as any other, and a page that PostgreSQL wrote is found
//! soon even where most of the cache came from storage: of several that are drawn the first with an LSN of this term is
//! taken.

use super::compare::Scope;
use crate::cache_dir::CacheDir;
use crate::cached_files::{CachedFile, CachedPage, Inventory};
use quire_types::{Fork, RelTag};
use quire_wal::page;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

/// Blocks that are drawn for each page that is wanted, before it is given up.
const TRIES: usize = 8;

/// A segment file.
pub(super) type Segment = (RelTag, u32);

/// Files from which pages can be drawn, weighed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Weights {
    /// Each file with the sum of the weights up to and including its own.
    files: Vec<(Segment, u64)>,
}

impl Weights {
    /// Looks at all relation files; a directory that goes away meanwhile has none.
    pub fn take(dir: &CacheDir) -> Weights {
        let weigh = |(rel, segment)| {
            ((rel, segment), std::fs::metadata(dir.relation_file(rel, segment)).map_or(0, |status| status.blocks()))
        };
        Weights::of(Inventory::of(dir).segments().map(weigh).collect())
    }

    /// Of these files with their weights, those that storage has and whose pages are as old as their LSNs say.
    fn of(files: Vec<(Segment, u64)>) -> Weights {
        let unlogged: HashSet<RelTag> = files
            .iter()
            .filter(|((rel, _), _)| rel.fork == Fork::Init)
            .map(|((rel, _), _)| rel.with_fork(Fork::Main))
            .collect();
        let is_sampled = |rel: &RelTag| match rel.fork {
            Fork::Main => !unlogged.contains(rel),
            Fork::Init => true,
            Fork::FreeSpaceMap | Fork::VisibilityMap => false,
        };
        let mut sum = 0;
        let sampled = files.into_iter().filter(|((rel, _), weight)| *weight > 0 && is_sampled(rel));
        let add = |(segment, weight)| {
            sum += weight;
            (segment, sum)
        };
        Weights { files: sampled.map(add).collect() }
    }

    /// The files.
    pub fn segments(&self) -> Vec<Segment> {
        self.files.iter().map(|(segment, _)| *segment).collect()
    }

    fn total(&self) -> u64 {
        self.files.last().map_or(0, |(_, sum)| *sum)
    }

    /// The file at a position below the total.
    fn file_at(&self, position: u64) -> Option<Segment> {
        let index = self.files.partition_point(|(_, sum)| *sum <= position);
        self.files.get(index).map(|(segment, _)| *segment)
    }
}

/// Draws up to `wanted` pages whose LSNs are within `scope`. `random` gives a number below its argument.
pub(super) fn draw(
    dir: &CacheDir,
    weights: &Weights,
    scope: Scope,
    wanted: usize,
    random: &mut dyn FnMut(u64) -> u64,
) -> Vec<CachedPage> {
    let mut one = || (0..TRIES).find_map(|_| try_one(dir, weights, scope, random));
    (0..wanted).filter_map(|_| one()).collect()
}

fn try_one(dir: &CacheDir, weights: &Weights, scope: Scope, random: &mut dyn FnMut(u64) -> u64) -> Option<CachedPage> {
    let (rel, segment) = weights.file_at(random(weights.total()))?;
    let file = CachedFile::open(dir, rel, segment)?;
    let from = random(file.blocks().into());
    let page = file.page(file.next_present(u32::try_from(from).ok()?)?)?;
    let bytes = page.read().ok()??;
    scope.contains(page::lsn(&bytes[..])).then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Lsn, PAGE_SIZE};
    use quire_wal::postgres_version::PG15;
    use std::fs;
    use std::path::Path;

    fn segment(relation: u32, fork: Fork) -> Segment {
        (RelTag { tablespace: 1663, database: 5, relation, fork }, 0)
    }

    #[test]
    fn files_are_drawn_by_their_weight_and_only_those_that_can_be_compared() {
        let (small, large) = (segment(1, Fork::Main), segment(4, Fork::Main));
        let weights = Weights::of(vec![
            (small, 10),
            (segment(1, Fork::VisibilityMap), 8),
            (segment(1, Fork::FreeSpaceMap), 8),
            (segment(2, Fork::Main), 100),
            (segment(2, Fork::Init), 1),
            (segment(3, Fork::Main), 0),
            (large, 30),
        ]);
        assert_eq!(weights.total(), 41);
        let drawn = [0, 9, 10, 11, 40].map(|position| weights.file_at(position).expect("below the total"));
        assert_eq!(drawn, [small, small, segment(2, Fork::Init), large, large]);
        assert_eq!(weights.file_at(41), None);
        assert_eq!(Weights::default().file_at(0), None);
    }

    /// A file with a page for each of these LSNs.
    fn make_file(folder: &Path, lsns: &[u64]) -> CacheDir {
        let dir = CacheDir::new(folder, &PG15);
        let (rel, segment) = segment(7, Fork::Main);
        let path = dir.relation_file(rel, segment);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        let mut bytes = Vec::new();
        for lsn in lsns {
            let mut page = [1; PAGE_SIZE];
            page::set_lsn(&mut page, Lsn(*lsn));
            bytes.extend(page);
        }
        fs::write(path, bytes).expect("written");
        dir
    }

    #[test]
    fn only_pages_of_this_term_that_storage_has_are_drawn() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = make_file(folder.path(), &[0, 5, 15, 25]);
        let weights = Weights::take(&dir);
        let scope = Scope { after: Lsn(10), upto: Lsn(20) };
        let mut number = 0;
        let mut random = |below: u64| {
            number += 1;
            number % below.max(1)
        };
        let drawn = draw(&dir, &weights, scope, 3, &mut random);
        assert!(!drawn.is_empty() && drawn.iter().all(|page| page.block == 2), "{drawn:?}");
        let nothing = Scope { after: Lsn(100), upto: Lsn(200) };
        assert!(draw(&dir, &weights, nothing, 3, &mut random).is_empty());
    }
}
