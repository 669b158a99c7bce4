//! Pages in memory, read from a data directory when they are first touched.

use anyhow::{Context, Result, bail};
use quire_types::{Fork, Key, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES, Slru};
use quire_wal::DataPath;
use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
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
            Area::Relation(rel) => DataPath::Relation { rel, segment }.to_path(),
            Area::Slru(slru) => DataPath::Slru { slru, segment }.to_path(),
        }
    }
}

/// Mixes the few numbers that an area is; nobody chooses them so that they collide.
#[derive(Default)]
struct AreaHasher(u64);

impl Hasher for AreaHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// The pages of one area.
struct Pages {
    touched: Vec<Option<Box<Page>>>,
    files: Files,
    /// Pages from here on were truncated away: what their file says does not count.
    end_of_file: u32,
}

impl Pages {
    fn new(area: Area) -> Pages {
        Pages { touched: Vec::new(), files: Files { area, open: None }, end_of_file: u32::MAX }
    }

    fn page(&mut self, number: u32, data: &Path) -> Result<&mut Page> {
        let index = number as usize;
        if index >= self.touched.len() {
            self.touched.resize_with(index + 1, || None);
        }
        let page = &mut self.touched[index];
        if page.is_none() {
            let mut new = Box::new([0; PAGE_SIZE]);
            if number < self.end_of_file {
                self.files.read(number, &mut new, data)?;
            }
            *page = Some(new);
        }
        page.as_deref_mut().context("the page was read just now")
    }

    fn truncate(&mut self, end: u32) {
        self.touched.truncate(end as usize);
        self.end_of_file = self.end_of_file.min(end);
    }
}

/// The segment files of an area, of which one is open.
struct Files {
    area: Area,
    /// The segment, and its file if there is one.
    open: Option<(u32, Option<File>)>,
}

impl Files {
    /// Reads a page, if the file has it.
    fn read(&mut self, number: u32, page: &mut Page, data: &Path) -> Result<()> {
        let segment_pages = self.area.segment_pages();
        let offset = u64::from(number % segment_pages) * PAGE_SIZE as u64;
        let Some(file) = self.segment(number / segment_pages, data)? else { return Ok(()) };
        match file.read_exact_at(page.as_mut_slice(), offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => page.fill(0),
            result => result?,
        }
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
}

/// All pages that were touched.
pub struct Store {
    data: PathBuf,
    areas: HashMap<Area, Pages, BuildHasherDefault<AreaHasher>>,
}

impl Store {
    /// Nothing touched yet of this data directory.
    pub fn new(data: &Path) -> Store {
        Store { data: data.to_owned(), areas: HashMap::default() }
    }

    fn pages(&mut self, area: Area) -> &mut Pages {
        self.areas.entry(area).or_insert_with(|| Pages::new(area))
    }

    /// The page, to be changed.
    pub fn page(&mut self, key: Key) -> Result<&mut Page> {
        let (area, number) = Area::of(key)?;
        let pages = self.areas.entry(area).or_insert_with(|| Pages::new(area));
        pages.page(number, &self.data)
    }

    /// Forgets a fork's pages from block `blocks` on.
    pub fn truncate(&mut self, rel: RelTag, blocks: u32) {
        self.pages(Area::Relation(rel)).truncate(blocks);
    }

    /// Forgets all forks of a relation.
    pub fn drop_relation(&mut self, rel: RelTag) {
        Fork::ALL.iter().for_each(|fork| self.truncate(rel.with_fork(*fork), 0));
    }

    /// The page, if it was touched.
    pub fn get(&self, key: Key) -> Option<&Page> {
        let (area, number) = Area::of(key).ok()?;
        self.areas.get(&area)?.touched.get(number as usize)?.as_deref()
    }

    /// The pages that were touched.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Page)> {
        self.areas.iter().flat_map(|(area, pages)| {
            let numbered = (0..).zip(&pages.touched);
            numbered.filter_map(|(number, page)| Some((area.key(number), page.as_deref()?)))
        })
    }
}
