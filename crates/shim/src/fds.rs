//! What each open descriptor is to the shim.
//!
//! One word per descriptor, changed when it is opened, duplicated and closed, looked at by every call. A child
//! inherits the table with the descriptors. A word is a tag in its three lowest bits and a value above: nothing here
//! allocates, and the meta mapping of a tracked file is its own bookkeeping.

use libc::c_int;
use quire_cache::{FileArea, Meta};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors at or past this are not looked after: opening a tracked file there fails.
const DESCRIPTORS_MAX: usize = 65_536;

static TABLE: [AtomicU64; DESCRIPTORS_MAX] = [const { AtomicU64::new(0) }; DESCRIPTORS_MAX];

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// Not below the data directory.
    Foreign,
    /// A WAL segment of the timeline that is written.
    Wal {
        /// Its number.
        segment_number: u64,
    },
    /// A WAL segment of another timeline.
    OtherTimeline,
    /// A file with a meta mapping at this address, see [`Meta::into_raw`].
    Tracked(NonNull<u8>),
    /// A file or directory that storage keeps whole.
    Kept {
        /// Where it is.
        area: FileArea,
    },
    /// Something else below the data directory.
    Local,
}

const FOREIGN: u64 = 0;
const WAL: u64 = 1;
const OTHER_TIMELINE: u64 = 2;
const TRACKED: u64 = 3;
const LOCAL: u64 = 4;
const KEPT: u64 = 5;
const TAG_BITS: u32 = 3;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

impl Descriptor {
    fn encode(self) -> u64 {
        match self {
            Descriptor::Foreign => FOREIGN,
            Descriptor::Wal { segment_number } => segment_number << TAG_BITS | WAL,
            Descriptor::OtherTimeline => OTHER_TIMELINE,
            // A mapping starts at a page, so its lowest bits are free.
            Descriptor::Tracked(meta) => meta.as_ptr().expose_provenance() as u64 | TRACKED,
            Descriptor::Kept { area } => u64::from(area as u32) << TAG_BITS | KEPT,
            Descriptor::Local => LOCAL,
        }
    }

    #[inline]
    fn decode(word: u64) -> Descriptor {
        let value = word & !TAG_MASK;
        match word & TAG_MASK {
            WAL => Descriptor::Wal { segment_number: value >> TAG_BITS },
            OTHER_TIMELINE => Descriptor::OtherTimeline,
            TRACKED => match NonNull::new(std::ptr::with_exposed_provenance_mut(value as usize)) {
                Some(meta) => Descriptor::Tracked(meta),
                None => Descriptor::Local,
            },
            LOCAL => Descriptor::Local,
            KEPT => match u32::try_from(value >> TAG_BITS).ok().and_then(FileArea::from_number) {
                Some(area) => Descriptor::Kept { area },
                None => Descriptor::Local,
            },
            _ => Descriptor::Foreign,
        }
    }
}

#[inline]
fn slot(fd: c_int) -> Option<&'static AtomicU64> {
    usize::try_from(fd).ok().and_then(|index| TABLE.get(index))
}

/// What `fd` is.
#[inline]
pub fn get(fd: c_int) -> Descriptor {
    slot(fd).map_or(Descriptor::Foreign, |slot| Descriptor::decode(slot.load(Ordering::Relaxed)))
}

/// Says what `fd` is from now on, and gives up whatever it was. False if `fd` is too high to be looked after.
pub fn set(fd: c_int, descriptor: Descriptor) -> bool {
    let Some(slot) = slot(fd) else { return false };
    let before = slot.swap(descriptor.encode(), Ordering::Relaxed);
    if let Descriptor::Tracked(meta) = Descriptor::decode(before) {
        // SAFETY: the address came from `into_raw`, and the swap made this the only one to take it back. A thread
        // that still uses the descriptor while another closes it is PostgreSQL's bug, which it does not have: it has
        // no threads.
        drop(unsafe { Meta::from_raw(meta) });
    }
    true
}

/// To be called before `fd` is closed.
#[inline]
pub fn forget(fd: c_int) {
    if get(fd) != Descriptor::Foreign {
        set(fd, Descriptor::Foreign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip() {
        let page = NonNull::new(std::ptr::without_provenance_mut(0x7FFF_1234_5000)).unwrap();
        let wal = Descriptor::Wal { segment_number: 0xFF_FFFF_FFFF };
        let all = [Descriptor::Foreign, wal, Descriptor::OtherTimeline, Descriptor::Tracked(page), Descriptor::Local];
        let kept = FileArea::ALL.map(|area| Descriptor::Kept { area });
        for descriptor in all.into_iter().chain(kept) {
            assert_eq!(Descriptor::decode(descriptor.encode()), descriptor);
        }
    }

    #[test]
    fn a_descriptor_out_of_the_table_is_foreign() {
        assert!(!set(-1, Descriptor::Local));
        assert!(!set(65_536, Descriptor::Local));
        assert_eq!((get(-1), get(65_536)), (Descriptor::Foreign, Descriptor::Foreign));
        assert!(set(65_535, Descriptor::Local));
        assert_eq!(get(65_535), Descriptor::Local);
        forget(65_535);
        assert_eq!(get(65_535), Descriptor::Foreign);
    }
}
