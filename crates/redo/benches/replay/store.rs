//! Pages in memory, read from a data directory when they or their neighbours are first touched.

use crate::arena::Arena;
use anyhow::{Result, bail};
use quire_types::{Fork, Key, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES, Slru};
use quire_wal::DataPath;
use quire_wal::postgres_version::PG15;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use crate::files::Page;

/// What has numbered pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Area {
    Relation(RelTag),
    Slru(Slru),
}

impl Area {
    fn of(key: Key) -> Result<(Area, u32)> {
        match key {
            Key::RelBlock { rel, block } => Ok((Area::Relation(rel), block)),
            Key::SlruBlock { slru, page } => Ok((Area::Slru(slru), page)),
            other => bail!("{other} is no page"),
        }
    }

    fn key(self, number: u32) -> Key {
        match self {
            Area::Relation(rel) => Key::RelBlock { rel, block: number },
            Area::Slru(slru) => Key::SlruBlock { slru, page: number },
        }
    }

    fn segment_pages(self) -> u32 {
        match self {
            Area::Relation(_) => RELATION_SEGMENT_BLOCKS,
            Area::Slru(_) => SLRU_SEGMENT_PAGES,
        }
    }

    fn segment_path(self, segment: u32) -> String {
        match self {
            Area::Relation(rel) => DataPath::Relation { rel, segment }.to_path(&PG15),
            Area::Slru(slru) => DataPath::Slru { slru, segment }.to_path(&PG15),
        }
    }
}

/// Pages that are read together if none was touched before, and are together in the arena. A power of two that divides
/// a segment of any area.
const RUN_PAGES: u32 = 32;
/// Relations that are found without looking for them in a map.
const RECENT_RELATIONS: usize = 64;

/// Neighbouring pages.
#[derive(Clone, Copy)]
struct Run {
    /// The first page's place in the arena.
    place: u32,
    /// A bit for each page that was touched.
    touched: u32,
    /// A bit for each page that is in the arena as its file had it, or changed since.
    present: u32,
}

impl Run {
    fn of(number: u32) -> (usize, u32) {
        ((number / RUN_PAGES) as usize, number % RUN_PAGES)
    }

    /// This page and its neighbours as far as none is present.
    fn missing_around(self, within: u32) -> Range<u32> {
        let missing = !self.present;
        let before = (missing << (RUN_PAGES - 1 - within)).leading_ones();
        within + 1 - before..within + (missing >> within).trailing_ones()
    }
}

/// The pages of one area.
struct Pages {
    area: Area,
    runs: Vec<Option<Run>>,
    /// The segment that was read last, and its file if there is one.
    open: Option<(u32, Option<File>)>,
    /// Pages from here on were truncated away: what their file says does not count.
    end_of_file: u32,
}

impl Pages {
    fn new(area: Area) -> Pages {
        Pages { area, runs: Vec::new(), open: None, end_of_file: u32::MAX }
    }

    /// The page's place in the arena. What is going to be `overwritten` as a whole need not be read.
    #[inline]
    fn touch(&mut self, number: u32, overwritten: bool, arena: &mut Arena, data: &Path) -> Result<u32> {
        let (index, within) = Run::of(number);
        if let Some(Some(run)) = self.runs.get_mut(index)
            && run.present >> within & 1 == 1
        {
            run.touched |= 1 << within;
            return Ok(run.place + within);
        }
        self.touch_missing(number, overwritten, arena, data)
    }

    #[cold]
    fn touch_missing(&mut self, number: u32, overwritten: bool, arena: &mut Arena, data: &Path) -> Result<u32> {
        let (index, within) = Run::of(number);
        if index >= self.runs.len() {
            self.runs.resize(index + 1, None);
        }
        let mut run = match self.runs[index] {
            Some(run) => run,
            None => Run { place: arena.take(RUN_PAGES)?.start, touched: 0, present: 0 },
        };
        let missing = if overwritten { within..within + 1 } else { run.missing_around(within) };
        if !overwritten {
            let places = run.place + missing.start..run.place + missing.end;
            self.read(number - within + missing.start, arena.pages(places), data)?;
        }
        missing.for_each(|page| run.present |= 1 << page);
        run.touched |= 1 << within;
        self.runs[index] = Some(run);
        Ok(run.place + within)
    }

    /// Reads pages from this one on, as far as the file has them; the rest is zeroes.
    fn read(&mut self, first: u32, pages: &mut [Page], data: &Path) -> Result<()> {
        let wanted = self.end_of_file.saturating_sub(first).min(pages.len() as u32);
        let segment_pages = self.area.segment_pages();
        let start = u64::from(first % segment_pages) * PAGE_SIZE as u64;
        let (from_file, truncated) = pages.split_at_mut(wanted as usize);
        truncated.as_flattened_mut().fill(0);
        let mut missing = from_file.as_flattened_mut();
        if let Some(mut file) = self.segment(first / segment_pages, data)? {
            file.seek(SeekFrom::Start(start))?;
            missing = fill(file, missing)?;
        }
        missing.fill(0);
        Ok(())
    }

    fn segment(&mut self, segment: u32, data: &Path) -> Result<Option<&File>> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let file = match File::open(data.join(self.area.segment_path(segment))) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                opened => Some(opened?),
            };
            self.open = Some((segment, file));
        }
        Ok(self.open.as_ref().and_then(|(_, file)| file.as_ref()))
    }

    fn truncate(&mut self, end: u32, arena: &mut Arena) {
        self.end_of_file = self.end_of_file.min(end);
        let (index, within) = Run::of(end);
        if let Some(Some(run)) = self.runs.get_mut(index) {
            run.touched &= (1 << within) - 1;
            run.present |= u32::MAX << within;
            arena.pages(run.place + within..run.place + RUN_PAGES).as_flattened_mut().fill(0);
        }
        self.runs.truncate(index + 1);
    }

    /// The pages that were touched, and their places.
    fn touched(&self) -> impl Iterator<Item = (u32, u32)> {
        let runs = (0u32..).zip(&self.runs).filter_map(|(index, run)| Some((index, (*run)?)));
        runs.flat_map(|(index, run)| {
            let touched = (0..RUN_PAGES).filter(move |within| run.touched >> within & 1 == 1);
            touched.map(move |within| (index * RUN_PAGES + within, run.place + within))
        })
    }
}

/// Reads to the end of `bytes` or of the file; gives back what the file did not have.
fn fill<'b>(mut file: &File, mut bytes: &'b mut [u8]) -> Result<&'b mut [u8]> {
    while !bytes.is_empty() {
        match file.read(bytes)? {
            0 => break,
            count => bytes = &mut bytes[count..],
        }
    }
    Ok(bytes)
}

/// All pages that were touched.
pub struct Store {
    data: PathBuf,
    arena: Arena,
    areas: Vec<Pages>,
    by_area: HashMap<Area, usize>,
    /// By the low bits of the relation's number: a relation and its area's index.
    recent: [(RelTag, usize); RECENT_RELATIONS],
}

impl Store {
    /// Nothing touched yet of this data directory.
    pub fn new(data: &Path) -> Result<Store> {
        let arena = Arena::reserve()?;
        let areas = vec![Pages::new(Area::Slru(Slru::Clog))];
        let by_area = HashMap::from([(areas[0].area, 0)]);
        let none = RelTag { tablespace: 0, database: 0, relation: 0, fork: Fork::Init };
        let recent = [(none, 0); RECENT_RELATIONS];
        Ok(Store { data: data.to_owned(), arena, areas, by_area, recent })
    }

    #[inline]
    fn relation_index(&mut self, rel: RelTag) -> usize {
        let slot = rel.relation as usize % RECENT_RELATIONS;
        if self.recent[slot].0 != rel {
            self.recent[slot] = (rel, self.area_index(Area::Relation(rel)));
        }
        self.recent[slot].1
    }

    fn area_index(&mut self, area: Area) -> usize {
        *self.by_area.entry(area).or_insert_with(|| {
            self.areas.push(Pages::new(area));
            self.areas.len() - 1
        })
    }

    /// Where a block is, which is going to be changed, or `overwritten` as a whole. It stays there until it is
    /// truncated away.
    #[inline]
    pub fn place(&mut self, rel: RelTag, block: u32, overwritten: bool) -> Result<u32> {
        let index = self.relation_index(rel);
        self.areas[index].touch(block, overwritten, &mut self.arena, &self.data)
    }

    /// The page at this place.
    #[inline]
    pub fn at(&mut self, place: u32) -> &mut Page {
        self.arena.page(place)
    }

    /// The page, to be changed.
    pub fn page(&mut self, key: Key) -> Result<&mut Page> {
        let (area, number) = Area::of(key)?;
        let index = self.area_index(area);
        let place = self.areas[index].touch(number, false, &mut self.arena, &self.data)?;
        Ok(self.at(place))
    }

    /// Forgets a fork's pages from block `blocks` on.
    pub fn truncate(&mut self, rel: RelTag, blocks: u32) {
        let index = self.relation_index(rel);
        self.areas[index].truncate(blocks, &mut self.arena);
    }

    /// Forgets all forks of a relation.
    pub fn drop_relation(&mut self, rel: RelTag) {
        Fork::ALL.iter().for_each(|fork| self.truncate(rel.with_fork(*fork), 0));
    }

    /// The page, if it was touched.
    pub fn get(&self, key: Key) -> Option<&Page> {
        let (area, number) = Area::of(key).ok()?;
        let pages = &self.areas[*self.by_area.get(&area)?];
        let (index, within) = Run::of(number);
        let run = pages.runs.get(index).copied()??;
        (run.touched >> within & 1 == 1).then(|| self.arena.get(run.place + within))
    }

    /// The pages that were touched.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Page)> {
        self.areas
            .iter()
            .flat_map(|pages| pages.touched().map(|(number, place)| (pages.area.key(number), self.arena.get(place))))
    }
}
