//! Memory for pages, whose number is not known at first.

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use quire_types::PAGE_SIZE;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use crate::files::Page;

/// Pages that there are addresses for.
const PAGES_MAX: u32 = 4 << 20;
/// Pages of memory to have at hand, more than a run of the usual size needs.
const WARM_PAGES: u32 = 64 << 10;
const ARENA_BYTES: usize = PAGES_MAX as usize * PAGE_SIZE;

/// Pages in one range of addresses. The system gives memory for those that are taken, in huge pages if it can: there is
/// less to fault in, and the processor finds more of them without walking tables.
pub struct Arena {
    memory: NonNull<Page>,
    taken: u32,
}

impl Arena {
    /// Reserves addresses.
    pub fn reserve() -> Result<Arena> {
        let length = NonZeroUsize::new(ARENA_BYTES).context("an arena has pages")?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new private mapping at an address of the system's choice touches no memory that anybody has.
        let memory = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        // SAFETY: the range is the mapping just made, and the advice does not change its contents. It may be refused,
        // by a system without huge pages, and then they are small.
        let _huge_or_not = unsafe { madvise(memory, length.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(Arena { memory: memory.cast(), taken: 0 })
    }

    /// The places of `count` pages that are together and hold anything.
    pub fn take(&mut self, count: u32) -> Result<Range<u32>> {
        ensure!(count <= PAGES_MAX - self.taken, "more than {PAGES_MAX} pages were touched");
        let first = self.taken;
        self.taken += count;
        Ok(first..self.taken)
    }

    /// A page that was taken.
    #[inline]
    pub fn page(&mut self, place: u32) -> &mut Page {
        &mut self.all_mut()[place as usize]
    }

    /// Pages that were taken.
    pub fn pages(&mut self, places: Range<u32>) -> &mut [Page] {
        &mut self.all_mut()[places.start as usize..places.end as usize]
    }

    /// A page that was taken, to be read.
    pub fn get(&self, place: u32) -> &Page {
        // SAFETY: as in `all_mut`, and the shared borrow keeps everybody from writing.
        let all = unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.taken as usize) };
        &all[place as usize]
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [Page] {
        // SAFETY: the mapping holds `PAGES_MAX` pages, `taken` is never more, any bytes are a page, and the mapping is
        // this object's alone for as long as it lives.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.taken as usize) }
    }
}

/// Takes memory and gives it back. A virtual machine's host gives memory when it is touched for the first time, which
/// takes longer than a whole replay; what was touched just before is at hand for the next request to the system.
pub fn warm_up() -> Result<()> {
    let mut arena = Arena::reserve()?;
    let places = arena.take(WARM_PAGES)?;
    arena.pages(places).as_flattened_mut().fill(1);
    Ok(())
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and borrows of it ended with the arena's.
        let unmapped = unsafe { munmap(self.memory.cast(), ARENA_BYTES) };
        debug_assert!(unmapped.is_ok(), "the arena's mapping is whole");
    }
}
